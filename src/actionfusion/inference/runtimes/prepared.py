"""A sub-model of a run made ready for another runtime, once, and kept in the run folder.

``RUN/prepared/{part}-{runtime}-{precision}/`` holds the model, what OpenVINO compiled of it, and ``prepared.json``:
of which weights, settings and versions it was made, and what it answers to an example.  It is asked that again at each
start.  What no longer fits, is damaged or answers otherwise is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actionfusion.errors import ActionFusionError, RuntimeUnavailable, WeightsError, printable
from actionfusion.files import (
    remove_scratch_of_the_dead,
    replacing_folder,
    scratch_folder,
    take_lock,
    write_atomically,
)
from actionfusion.inference.runtimes.backend import (
    COMPILED,
    PACKAGES,
    Backend,
    BackendName,
    OpenVINOBackend,
    PrecisionName,
    TorchBackend,
    check_precision,
    open_model,
    openvino_machine,
)
from actionfusion.inference.runtimes.onnx_file import MODEL, export_onnx
from actionfusion.inference.runtimes.packages import version_of
from actionfusion.inference.runtimes.quantization import RunClips, calibration_inputs, kept_labels, measure, quantise
from actionfusion.inference.runtimes.sub_models import Array, SubModel
from actionfusion.run_folder import WEIGHTS, RunFolder, is_there
from actionfusion.settings import plain, read_json
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.version import __version__

FORMAT = 2
ABOUT = "prepared.json"
PREPARED = "prepared"
XML = "model.xml"
# Of every output, against eager PyTorch; where values are large, of their size.
TOLERANCE = 1e-4
# The same in 8 bits, or in bfloat16, of the size of the largest value: CPUs differ in how they round on the way.
COARSE_TOLERANCE = 0.05
_MOST_ANSWERS = 64


@dataclass(frozen=True)
class Artifact:
    """A sub-model of a run, to prepare for a runtime and precision.

    Attributes:
        run: the run.
        sub_model: of its model.
        runtime: openvino or onnx.
        precision: of the multiplications.
        root: where the run's videos are, for int8.
        store: where they are prepared.
    """

    run: RunFolder
    sub_model: SubModel
    runtime: BackendName
    precision: PrecisionName
    root: PathLike | None = None
    store: PathLike | None = None

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.run.path / PREPARED / f"{self.sub_model.name}-{self.runtime}-{self.precision}"

    def fingerprint(self) -> dict[str, Any]:
        """Collect everything but the weights that the prepared model depends on, as JSON would return it."""
        versions = {"actionfusion": __version__} | {
            name: version_of(name)
            for name in ("torch", PACKAGES[self.runtime], *(("nncf",) if self.precision == "int8" else ()))
        }
        return {
            "format": FORMAT,
            "part": self.sub_model.name,
            "runtime": self.runtime,
            "precision": self.precision,
            "inputs": [plain(spec) for spec in self.sub_model.inputs],
            "outputs": list(self.sub_model.outputs),
            "model_name": self.run.model,
            "network": plain(self.run.network),
            "clip": plain(self.run.clip),
            "versions": versions,
        }


@dataclass(frozen=True)
class Prepared:
    """A folder with a prepared sub-model.

    Attributes:
        folder: where it is.
        about: what its ``prepared.json`` says.
    """

    folder: Path
    about: Mapping[str, Any] = field(repr=False)

    @property
    def model(self) -> Path:
        """The model's file."""
        return self.folder / str(self.about["model"])


def weights_digest(run: RunFolder) -> str:
    """Return the SHA-256 of the run's weights.

    Raises:
        WeightsError: there are none.
    """
    return str(_identity(_weights(run))["sha256"])


def find_prepared(artifact: Artifact) -> tuple[Prepared | None, str]:
    """Find what is prepared and still fits, or None with the reason (empty if nothing is prepared).

    Raises:
        WeightsError: the run has no weights.
    """
    weights = _weights(artifact.run)
    path = artifact.folder / ABOUT
    if not artifact.folder.exists():
        return None, ""
    try:
        about = read_json(path)
        expected = artifact.fingerprint()
        for name, value in expected.items():
            if about.get(name) != value:
                return None, f"it was made with another {name}"
        known = {weights: about["weights"]} | {artifact.folder / name: each for name, each in about["files"].items()}
        _check_files(artifact, about)
        if about["seal"] != _seal(about):
            return None, "it is not of one piece"
        now = {file: _identity(file, identity) for file, identity in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, "it is damaged"
    for file, identity in known.items():
        if now[file]["sha256"] != identity["sha256"]:
            return None, "the weights have changed" if file == weights else f"its {file.name} is damaged"
    if now != known:
        # The same bytes in another location, such as a copied run: the next start need not read them again.
        about |= {"weights": now.pop(weights), "files": {file.name: identity for file, identity in now.items()}}
        with suppress(OSError):
            write_atomically(path, json.dumps(about, indent=1))
    return Prepared(artifact.folder, about), ""


def _check_files(artifact: Artifact, about: Mapping[str, Any]) -> None:
    """Raise KeyError if something is missing, or ValueError for a file outside the folder."""
    needed = {"model", "files", "answers"} | ({"int8"} if artifact.precision == "int8" else set())
    if not needed <= about.keys() or about["model"] not in about["files"]:
        raise KeyError(*needed)
    if outside := [name for name in about["files"] if Path(name).name != name]:
        raise ValueError(outside[0])


def open_artifact(artifact: Artifact, *, keep: ExitStack) -> Backend:
    """Open a backend for a sub-model of a run: from what is prepared beside it, or prepared now.

    Args:
        artifact: what is wanted; not runtime torch.
        keep: holds the temporary folder of what cannot be kept beside the run; it must outlive the runtime.

    Raises:
        RuntimeUnavailable: packages are missing, or the runtime's answers are not the network's.
        WeightsError: the run's weights are missing or damaged.
        SettingsError: int8 wants the run's videos, and they are not there.
        QuantizationRefused: int8 costs more than a point of accuracy.
    """
    return open_prepared(artifact, keep=keep)[0]


def open_prepared(artifact: Artifact, *, keep: ExitStack) -> tuple[Backend, Prepared]:
    """Open a backend as ``open_artifact`` does, and return the prepared folder too."""
    check_precision(artifact.runtime, artifact.precision)
    prepared, stale = find_prepared(artifact)
    if prepared is not None:
        try:
            backend = _open(artifact, prepared)
            if _answers_as(artifact, backend, prepared.about["answers"]):
                return backend, prepared
            stale = "it does not answer as it did"
        except ActionFusionError:
            raise
        except Exception as error:  # noqa: BLE001 - each runtime raises what it likes on a damaged file
            stale = f"it cannot be loaded ({' '.join(str(error).split())[:100]})"
    fresh = prepare(artifact, stale=stale, keep=keep, beyond=prepared)
    try:
        return _open(artifact, fresh), fresh
    except ActionFusionError:
        raise
    except Exception as error:
        reason = f"cannot load what it prepared ({' '.join(str(error).split())[:200]})"
        raise RuntimeUnavailable(artifact.runtime, reason, "take runtime torch") from error


def _open(artifact: Artifact, prepared: Prepared) -> Backend:
    sub_model = artifact.sub_model
    machine = prepared.about.get("machine")
    return open_model(
        prepared.model,
        artifact.runtime,
        artifact.precision,
        sub_model.inputs,
        sub_model.outputs,
        compiled=prepared.folder / COMPILED if machine and machine == openvino_machine() else None,
    )


def prepare(artifact: Artifact, *, stale: str, keep: ExitStack, beyond: Prepared | None = None) -> Prepared:
    """Make a sub-model ready and keep it beside the run, or, where nothing can be written there, for this process.

    Args:
        artifact: what is wanted.
        stale: why what is there cannot be used, for the message; empty if nothing is there.
        keep: holds the temporary folder, if one is needed.
        beyond: what is there and fits by its hashes, but cannot be used.

    Raises:
        As for ``open_artifact``.
    """
    again = f" again, since {stale}" if stale else ""
    _say(f"preparing {artifact.runtime} {artifact.precision} of {artifact.run.path}{again}")
    samples = RunClips(artifact.run, artifact.root, artifact.store) if artifact.precision == "int8" else None
    with ExitStack() as locked:
        try:
            artifact.folder.parent.mkdir(exist_ok=True)
            locked.enter_context(_one_process_at_a_time(artifact.folder.parent / ".lock"))
            other, _ = find_prepared(artifact)
            if other is not None and (beyond is None or other.about != beyond.about):
                return other
            return _prepare_beside(artifact, samples)
        except ActionFusionError:
            raise
        except OSError as error:
            _say(f"{artifact.folder.parent} cannot be written ({error.strerror or error}): made for this process alone")
    remove_scratch_of_the_dead()
    folder = keep.enter_context(scratch_folder())
    return _make(artifact, folder, samples)


def _prepare_beside(artifact: Artifact, samples: RunClips | None) -> Prepared:
    try:
        with replacing_folder(artifact.folder) as folder:
            made = _make(artifact, folder, samples)
            if artifact.folder.exists():
                shutil.rmtree(artifact.folder)
    except ActionFusionError:
        raise
    except OSError:
        # Without locks another process may have been faster; its model is as good.
        other, _ = find_prepared(artifact)
        if other is None:
            raise
        return other
    return Prepared(artifact.folder, made.about)


@contextmanager
def _one_process_at_a_time(path: Path) -> Iterator[None]:
    """Let one process prepare; others wait and then find its result.  Where locks are not available, none waits."""
    lock = None
    with suppress(OSError):
        lock = take_lock(path)
        if lock is None:
            _say("another process prepares it: waiting")
            lock = take_lock(path, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _make(artifact: Artifact, folder: Path, samples: RunClips | None) -> Prepared:
    about: dict[str, Any] = artifact.fingerprint()
    # Before the weights are loaded, so that a change meanwhile is noticed.
    about["weights"] = _identity(_weights(artifact.run))
    with _step("loading the network"):
        module = artifact.sub_model.make_module()
    sub_model = replace(artifact.sub_model, make_module=lambda: module)
    artifact = replace(artifact, sub_model=sub_model)
    with _step("exporting the network"):
        export_onnx(sub_model, folder / MODEL)
    with _step("comparing its answers with PyTorch's"):
        fp32 = open_model(folder / MODEL, artifact.runtime, "fp32", sub_model.inputs, sub_model.outputs)
        about["difference"], about["answers"], seconds = _difference(sub_model, fp32)
    about["model"], backend = MODEL, fp32
    if samples is not None:
        kept = kept_labels(artifact.run, samples.held_out, about["weights"]["sha256"])
        _say(samples.announced(sub_model, seconds, len(kept)))
        about["model"], about["int8"], backend = _make_int8(artifact, folder, samples, fp32, kept)
    elif artifact.precision == "bf16":
        with _step("compiling it for bfloat16"):
            backend = open_model(folder / MODEL, artifact.runtime, "bf16", sub_model.inputs, sub_model.outputs)
    del fp32
    if artifact.precision != "fp32":
        about["answers"] = _answers(artifact, backend)
    if isinstance(backend, OpenVINOBackend):
        (folder / COMPILED).write_bytes(backend.compiled())
        about["machine"] = openvino_machine()
    if samples is not None:
        for file in folder.glob(f"{MODEL}*"):
            file.unlink()
    about["files"] = {file.name: _identity(file) for file in sorted(folder.iterdir())}
    about["seal"] = _seal(about)
    write_atomically(folder / ABOUT, json.dumps(about, indent=1))
    return Prepared(folder, about)


def _seal(about: Mapping[str, Any]) -> str:
    """Hash which weights, files, settings and answers belong together; not where they lie, and on which machine."""
    files = {name: identity["sha256"] for name, identity in about["files"].items()}
    rest = {name: value for name, value in about.items() if name not in ("weights", "files", "machine", "seal")}
    text = json.dumps({"weights": about["weights"]["sha256"], "files": files} | rest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _answers(artifact: Artifact, backend: Backend) -> dict[str, list[float]]:
    """Ask for the example's outputs, of each some values spread over it."""
    return _some_values(backend.run(artifact.sub_model.example()))


def _some_values(outputs: Mapping[str, Array]) -> dict[str, list[float]]:
    spread = {name: value.reshape(-1)[:: -(-value.size // _MOST_ANSWERS) or 1] for name, value in outputs.items()}
    return {name: [float(item) for item in values] for name, values in spread.items()}


def _answers_as(artifact: Artifact, backend: Backend, wanted: Mapping[str, list[float]]) -> bool:
    """Check that a model answers the example as was written down, within what its precision allows."""
    given = _answers(artifact, backend)
    tolerance = TOLERANCE if artifact.precision == "fp32" else COARSE_TOLERANCE
    if given.keys() != wanted.keys() or any(len(given[name]) != len(wanted[name]) for name in given):
        return False
    pairs = [(np.asarray(given[name]), np.asarray(wanted[name], np.float64)) for name in given]
    scales = [max(1.0, float(np.abs(want).max(initial=0))) for _, want in pairs]
    return all(np.abs(got - want).max(initial=0) <= tolerance * s for (got, want), s in zip(pairs, scales, strict=True))


def _difference(sub_model: SubModel, fp32: Backend) -> tuple[float, dict[str, list[float]], float]:
    """Measure the largest difference between eager PyTorch and the runtime, fp32, on random values.

    Returns:
        It, some of PyTorch's values, and the seconds that the runtime took.

    Raises:
        RuntimeUnavailable: it is larger than tolerated.
    """
    import torch  # noqa: PLC0415

    example = sub_model.example()
    wanted = TorchBackend(sub_model, "fp32", torch.device("cpu")).run(example)
    began = time.perf_counter()
    made = fp32.run(example)
    seconds = time.perf_counter() - began
    # Not Python's max, which passes over what is no number.
    off = [np.abs(value - made[name]).max(initial=0) for name, value in wanted.items()]  # type: ignore[operator]
    scales = [np.maximum(1, np.abs(value).max(initial=0)) for value in wanted.values()]
    worst = float(np.max(np.divide(off, scales), initial=0))
    if not worst <= TOLERANCE:
        reason = f"its answers are {worst:.1g} off PyTorch's, more than {TOLERANCE:g}"
        raise RuntimeUnavailable(fp32.name, reason, "take runtime torch")
    return worst, _some_values(wanted), seconds


def _make_int8(
    artifact: Artifact, folder: Path, samples: RunClips, fp32: Backend, kept: Mapping[str, int]
) -> tuple[str, dict[str, Any], Backend]:
    """Make the model in 8 bits, if its answers are good enough; give its file, its accuracy and the model itself."""
    sub_model = artifact.sub_model
    with _step("cutting clips to calibrate on"):
        cut, count = calibration_inputs(samples, sub_model, fp32.run)
    with _step(f"quantising on {count} clips"):
        name = _save_int8(quantise(folder / MODEL, sub_model, cut, artifact.runtime), folder, artifact.runtime)
    del cut
    int8 = open_model(folder / name, artifact.runtime, "int8", sub_model.inputs, sub_model.outputs)
    accuracy = measure(sub_model, fp32, int8, samples, calibrated=count, kept=kept)
    _say(str(accuracy))
    return name, accuracy.as_json(), int8


def _save_int8(model: Any, folder: Path, runtime: BackendName) -> str:
    if runtime == "openvino":
        from openvino import save_model  # noqa: PLC0415

        save_model(model, folder / XML, compress_to_fp16=False)
        return XML
    import onnx  # noqa: PLC0415

    name = "int8.onnx"
    onnx.save(model, folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=1024)
    return name


def _weights(run: RunFolder) -> Path:
    path = run.path / WEIGHTS
    if not is_there(path, WeightsError):
        raise WeightsError(path, "the run has no weights", "train the run again, or copy the whole run folder")
    return path


def _identity(path: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a file's SHA-256, size, time and inode; if the last three equal ``known``, the file is not read."""
    status = path.stat()
    mark = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    if known is not None and {name: known.get(name) for name in mark} == mark:
        return {"sha256": known["sha256"], **mark}
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), **mark}


def _say(text: str) -> None:
    Console(stderr=True).print(Text(printable(text)), soft_wrap=True)


@contextmanager
def _step(text: str) -> Iterator[None]:
    """Show the current step, where there is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(text)):
        yield
