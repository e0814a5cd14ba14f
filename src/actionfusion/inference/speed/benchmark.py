"""The command ``benchmark``: how fast a run answers on this machine, in every runtime and precision that is here."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.table import Table

from actionfusion.devices import find_device
from actionfusion.errors import QuantizationRefused, RuntimeUnavailable, SettingsError, printable
from actionfusion.files import cannot_write, refuse_foreign, refuse_unwritable, scratch_folder, write_atomically
from actionfusion.hub import local_run
from actionfusion.inference.exports.exported import is_export
from actionfusion.inference.given_videos import refuse_address
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.backend import (
    PACKAGES,
    PRECISIONS,
    BackendName,
    PrecisionName,
    RuntimeName,
    check_precision,
)
from actionfusion.inference.runtimes.choice import not_exportable
from actionfusion.inference.runtimes.packages import needed, version_of
from actionfusion.inference.runtimes.prepared import Artifact, find_prepared
from actionfusion.inference.runtimes.sub_models import clip_model
from actionfusion.inference.speed.measured import (
    GENERATED,
    Times,
    measure_times,
    parts_of_cutting,
    write_generated,
)
from actionfusion.inference.speed.peaks import machine_peaks
from actionfusion.run_folder import RunFolder, open_run
from actionfusion.settings import read_json
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.timing import Neighbours, rounded, spread
from actionfusion.version import __version__

FORMAT = "actionfusion benchmark 1"
# Of a probability; a prediction that is this near is the same for most uses.
CLOSE = 0.01
# Of the whole path: what another runtime must save to be worth preparing.
WORTH_IT = 0.05


class Case(NamedTuple):
    """A runtime in a precision."""

    runtime: BackendName
    precision: PrecisionName

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


@dataclass(frozen=True)
class Row:
    """What was measured of a case.

    Attributes:
        case: runtime and precision.
        device: where it ran.
        times: seconds.
        probabilities: ``[K]`` of the clip.
    """

    case: Case
    device: str
    times: Times
    probabilities: npt.NDArray[np.float32] = field(repr=False)

    @property
    def median(self) -> float:
        """Median seconds of the whole path."""
        return float(np.median(self.times.whole))


@dataclass(frozen=True)
class BenchmarkReport:
    """What ``benchmark`` measured; times are in seconds.

    Attributes:
        run: name of the run's folder.
        model: its name in the table of models.
        video: name of the file; "generated" if none was given.
        device: of PyTorch.
        flops: of a clip; None where a model computes outside PyTorch.
        peaks: operations a second at most, by precision.
        cutting: seconds of decode, flow and clip; without flow where the model reads none.
        rows: a case each, PyTorch in fp32 first.
        left_out: cases that were not measured, with the reason.
        others: share of the machine that other processes kept busy, 0 to 1.
    """

    run: str
    model: str
    video: str
    device: str
    flops: int | None
    peaks: dict[str, float]
    cutting: dict[str, list[float]]
    rows: tuple[Row, ...]
    left_out: tuple[tuple[Case, str], ...]
    others: float

    def difference(self, row: Row) -> float:
        """Return the largest difference of a row's probabilities from those of PyTorch in fp32."""
        return float(np.abs(row.probabilities - self.rows[0].probabilities).max())

    @property
    def advised(self) -> tuple[Row, str]:
        """The row that is advised, and why."""
        reference = self.rows[0]
        close = [row for row in self.rows if self.difference(row) <= CLOSE]
        best = min(close, key=lambda row: row.median)
        ratios = [mine / other for mine, other in zip(reference.times.whole, best.times.whole, strict=True)]
        if best is not reference and min(ratios) < 1 + WORTH_IT:
            reason = f"none is {WORTH_IT:.0%} faster from file to answer in every round, and PyTorch needs no preparing"
            return reference, reason
        faster = float(np.median(ratios))
        apart = [str(row.case) for row in self.rows if row not in close and row.median < best.median]
        without = (
            f"; {', '.join(apart)} is faster, but more than {CLOSE:g} off PyTorch's probabilities" if apart else ""
        )
        if best is reference:
            return best, f"the fastest from file to answer{without}"
        return best, f"{faster:.2g} times as fast as PyTorch in fp32 from file to answer{without}"

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints and ``--out`` writes; each time has its median, lowest and highest."""
        best, reason = self.advised
        return {
            "format": FORMAT,
            "run": self.run,
            "model": self.model,
            "video": self.video,
            "date": time.strftime("%Y-%m-%d"),
            "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "device": self.device},
            "others_share_of_the_machine": self.others,
            "versions": {"actionfusion": __version__, "python": platform.python_version()}
            | {name: version_of(name) for name in PACKAGES.values() if version_of(name)},
            "tflop_a_clip": None if self.flops is None else rounded(self.flops / 1e12),
            "peak_tflops": {name: rounded(value / 1e12) for name, value in self.peaks.items()},
            "cutting_seconds": {name: spread(seconds) for name, seconds in self.cutting.items()},
            "rows": [self._row_json(row) for row in self.rows],
            "left_out": [{**case._asdict(), "reason": reason} for case, reason in self.left_out],
            "advised": {**best.case._asdict(), "reason": reason},
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        network = spread(row.times.network)
        rate = None if self.flops is None else self.flops / network["median"]
        peak = self.peaks.get(row.case.precision)
        return {
            **row.case._asdict(),
            "device": row.device,
            "repetitions": len(row.times.whole),
            "whole_seconds": spread(row.times.whole),
            "network_seconds": network,
            "step_seconds": spread(row.times.step),
            "clips_a_second": rounded(1 / row.median),
            "tflops": None if rate is None else rounded(rate / 1e12),
            "share_of_peak": None if rate is None or peak is None else rounded(rate / peak),
            "largest_difference": rounded(self.difference(row)),
            "same_label": bool(row.probabilities.argmax() == self.rows[0].probabilities.argmax()),
        }


def benchmark(
    run: Path,
    video: str | Path | None = None,
    *,
    runtime: RuntimeName = "auto",
    repetitions: int = 5,
    most_seconds: float = 20.0,
    device: str | None = None,
    root: PathLike | None = None,
    store: PathLike | None = None,
    json: bool = False,
    out: Path | None = None,
) -> BenchmarkReport:
    """Measure how fast a run answers here, in every runtime and precision there is, beside what the machine can do.

    Measured are the whole path from the file to the answer, decoding, flow, the network and a step of a stream, and in
    the same call the fastest large products of every library.  A runtime that is not prepared yet is prepared first,
    and kept in the run folder as ``predict`` does; int8 only if it is prepared already, or with ``root``.

    Args:
        run: the run folder that ``train`` wrote, or its name on the hub.
        video: a video file; none generates one of 10 seconds, 320x240, 25 frames a second.
        runtime: auto for all of them, or torch, openvino or onnx for that one beside PyTorch in fp32.
        repetitions: of each time, at most; one more goes before and is not counted.
        most_seconds: for the repetitions of one time, of which there are two at least.
        device: of PyTorch: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
        root: folder of the data set that the run was trained on, or its address, for int8 to be prepared with.
        store: folder of its prepared clips, or its address, likewise.
        json: print JSON instead of tables.
        out: a JSON file to write too.

    Returns:
        What was measured.

    Raises:
        RunFolderError, WeightsError, HubError: as ``predict``.
        VideoError: the video cannot be read.
        SettingsError: a number out of range, an export, or ``out`` is a file that this command did not write.
        OutputError: ``out`` cannot be written; what was measured is printed.
    """
    _refuse_settings(runtime, repetitions, most_seconds)
    if out is not None:
        refuse_foreign(out, lambda path: read_json(path).get("format") == FORMAT)
        refuse_unwritable(out)
    path = local_run(run)
    if is_export(path):
        raise SettingsError(path, "is an export", "give the run itself, whose runtimes are compared")
    folder = open_run(path)
    with ExitStack() as held:
        given = _generated(held) if video is None else Path(video)
        if video is not None:
            refuse_address(video)
        where = str(find_device(device))
        session = _Session(folder, given, runtime, repetitions, most_seconds, where, root, store)
        report = session.measure("generated" if video is None else given.name)
    text = dumps(report.as_json(), indent=1, ensure_ascii=False)
    try:
        if out is not None:
            write_atomically(out, text + "\n")
    except OSError as error:
        raise cannot_write(out or path, error, "free some space, or choose another --out") from error
    finally:
        if json:
            print(text)  # noqa: T201
        else:
            _show(report)
    return report


def _refuse_settings(runtime: RuntimeName, repetitions: int, most_seconds: float) -> None:
    if runtime not in ("auto", *PRECISIONS):
        raise SettingsError("runtime", f"{runtime!r} is none", f"choose auto, {', '.join(PRECISIONS)}")
    if repetitions < 2:
        raise SettingsError("repetitions", f"{repetitions} show no spread", "take 2 or more")
    if not most_seconds > 0:
        raise SettingsError("most_seconds", f"nothing is measured in {most_seconds} seconds", "take more than 0")


def _generated(held: ExitStack) -> Path:
    """Write a generated video into a folder that goes with ``held``, and say so."""
    sizes = "{seconds} s, {width}x{height}, {rate} frames a second".format(**GENERATED)
    Console(stderr=True).print(Text(f"no video was given: a generated one is taken ({sizes})"), soft_wrap=True)
    return write_generated(held.enter_context(scratch_folder()) / "generated.mp4")


@dataclass(frozen=True)
class _Session:
    """One call of ``benchmark``; the fields are its arguments."""

    folder: RunFolder
    video: Path
    runtime: RuntimeName
    repetitions: int
    most_seconds: float
    device: str
    root: PathLike | None
    store: PathLike | None

    def measure(self, name: str) -> BenchmarkReport:
        """Measure all cases.

        Raises:
            ActionFusionError: PyTorch in fp32 does not answer.
        """
        folder, neighbours = self.folder, Neighbours()
        reference = Case("torch", "fp32")
        recognizers = {reference: self._load(reference)}  # first, so that a bad run or video is known at once
        clip = recognizers[reference].clip(self.video)
        left_out = []
        for case in _cases(self.runtime):
            try:
                self._refuse(case)
                recognizers[case] = self._load(case)
            except (RuntimeUnavailable, QuantizationRefused, SettingsError) as error:
                left_out.append((case, f"{error.subject} {error.reason}; {error.remedy}"))
        peaks = self._peaks()
        self._say("decoding and flow")
        cutting = parts_of_cutting(self.video, folder.clip, folder.rates, self.repetitions, self.most_seconds)
        self._say(f"network, whole path and steps of {', '.join(map(str, recognizers))}, in turn")
        times = measure_times(recognizers, self.video, clip, self.repetitions, self.most_seconds)
        for precision, peak in self._peaks().items():
            peaks[precision] = max(peaks[precision], peak)
        exportable = folder.model_class.exportable
        return BenchmarkReport(
            run=folder.path.resolve().name,
            model=folder.model,
            video=name,
            device=self.device,
            flops=folder.flops if exportable else None,
            peaks=peaks,
            cutting=cutting,
            rows=tuple(
                Row(case, each.runtime.device, times[case], each.probabilities([clip])[0])
                for case, each in recognizers.items()
            ),
            left_out=tuple(left_out),
            others=neighbours.share(),
        )

    def _load(self, case: Case) -> Recognizer:
        self._say(f"loading {case}")
        recognizer = Recognizer.load(
            self.folder,
            runtime=case.runtime,
            precision=case.precision,
            device=self.device if case.runtime == "torch" else None,
            root=self.root,
            store=self.store,
        )
        _ = recognizer.stepper  # prepared now, if need be
        return recognizer

    def _refuse(self, case: Case) -> None:
        """Refuse a case that cannot be measured here, or that nobody asked to prepare.

        Raises:
            RuntimeUnavailable: the runtime is not installed, not for this machine, or not for this model.
            SettingsError: int8 is not prepared.
        """
        folder = self.folder
        if case.runtime == "torch":
            return
        if not folder.model_class.exportable:
            raise not_exportable(case.runtime)
        check_precision(case.runtime, case.precision)
        sub_model = clip_model(folder.load_network, folder.model_class, folder.network, folder.clip)
        prepared, _ = find_prepared(Artifact(folder, sub_model, case.runtime, case.precision))
        if prepared is not None:
            return
        if case.precision == "int8":
            if self.root is None:
                raise SettingsError("int8", "is not prepared beside this run", "give --root, the folder of its videos")
            needed("nncf", extra="int8")
        needed("onnx", "onnxscript", extra=case.runtime)

    def _peaks(self) -> dict[str, float]:
        self._say("what the machine can do")
        return machine_peaks(find_device(self.device))

    @staticmethod
    def _say(text: str) -> None:
        Console(stderr=True).print(Text(printable(text)), soft_wrap=True)


def _cases(wanted: RuntimeName) -> Iterator[Case]:
    """List the runtimes that are wanted in every precision that each offers, but PyTorch in fp32."""
    for runtime, precisions in PRECISIONS.items():
        if wanted in ("auto", runtime):
            yield from (Case(runtime, each) for each in precisions if (runtime, each) != ("torch", "fp32"))


def _show(report: BenchmarkReport) -> None:
    console, found = Console(), report.as_json()
    console.print(_rows_table(found))
    words = "times in ms: median (lowest–highest); off: largest difference of a probability from PyTorch's in fp32"
    console.print(Text(words), soft_wrap=True)
    console.print(_parts_table(found))
    for case, reason in report.left_out:
        console.print(Text(printable(f"not measured: {case}: {reason}")), soft_wrap=True)
    best, reason = report.advised
    console.print(Text(printable(f"advised: {best.case} ({reason})")), soft_wrap=True)
    if report.others > 0.2:
        note = f"note: other processes kept {report.others:.0%} of the machine busy meanwhile; measure again alone"
        console.print(Text(note), soft_wrap=True)


def _rows_table(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("runtime")
    for name in ("file to answer", "clips/s", "network", "step", "of peak", "off"):
        table.add_column(name, justify="right")
    for row in found["rows"]:
        share = row["share_of_peak"]
        table.add_row(
            " ".join([row["runtime"], row["precision"], *([row["device"]] if row["device"] != "cpu" else [])]),
            _milliseconds(row["whole_seconds"]),
            f"{row['clips_a_second']:.3g}",
            _milliseconds(row["network_seconds"]),
            _milliseconds(row["step_seconds"]),
            "–" if share is None else f"{share:.0%}",
            f"{row['largest_difference']:.1g}",
        )
    return table


def _parts_table(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    words = {"decode": "decoding", "flow": "flow after it", "clip": "cutting the clip, as predict does"}
    for name, seconds in found["cutting_seconds"].items():
        table.add_row(words[name], _milliseconds(seconds))
    flops = found["tflop_a_clip"]
    table.add_row("the network's operations, GFLOP a clip", "not known" if flops is None else f"{1e3 * flops:.3g}")
    for precision, peak in found["peak_tflops"].items():
        table.add_row(f"the machine's peak in {precision}, TFLOP/s", f"{peak:.3g}")
    return table


def _milliseconds(seconds: dict[str, float]) -> str:
    """Write a median with its lowest and highest."""
    median, low, high = (f"{1e3 * seconds[name]:.3g}" for name in ("median", "low", "high"))
    return f"{median} ({low}–{high})"
