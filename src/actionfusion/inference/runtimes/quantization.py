"""A network in 8 bits: calibrated on clips that the run was trained on, and held to its own accuracy on others.

Post-training, by NNCF: all convolutions, and the linear layers that the model names (``quantized_layers``).  What an
LSTM computes stays as it is: of the fusion network it is a hundredth of the arithmetic, and it feeds back into itself.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from actionfusion.errors import (
    ActionFusionError,
    QuantizationRefused,
    RuntimeUnavailable,
    SettingsError,
    VideoError,
)
from actionfusion.inference.runtimes.backend import Backend, BackendName, read_openvino
from actionfusion.inference.runtimes.onnx_file import products_to_quantise, quiet
from actionfusion.inference.runtimes.packages import needed
from actionfusion.inference.runtimes.sub_models import Array, Run, SubModel
from actionfusion.plain_progress import PlainProgress, duration
from actionfusion.run_folder import SPLIT, RunFolder, evaluation_path
from actionfusion.settings import EVALUATION_BYTES, read_json
from actionfusion.storage import PathLike
from actionfusion.terminal import Console
from actionfusion.video.clip import cut_clip
from actionfusion.video.clip_reader import clips_ahead

CALIBRATION_CLIPS = 48
# Long clips are as many as hold the 300 pictures that NNCF measures ranges on by default: each costs a run of all.
CALIBRATION_FRAMES = 300
CALIBRATION_STEPS = 8
GATE_CLIPS = 400
# Of the labels that evaluate kept, so many are computed again.
CHECKED_LABELS = 3
LARGEST_LOSS = 0.01
CalibrationPart = Literal["train", "val", "test"]

_PREPARE = "actionfusion predict RUN VIDEO --precision int8 --root DATA, once, or stream or export likewise"


@dataclass(frozen=True)
class Int8Accuracy:
    """The cost of 8 bits on clips that the run was not trained on.

    Attributes:
        part: of the run's split: val, or test where it has no validation part.
        clips: that both answered.
        available: videos of that part; ``clips`` are spread evenly over them if there are too many.
        unreadable: videos left out because they could not be read.
        correct_fp32: top-1 hits of the network as it is.
        correct_int8: top-1 hits in 8 bits.
        agreeing: clips for which both give the same label.
        calibration_clips: of the training part, that the ranges were measured on.
        kept_fp32: clips whose label in fp32 is the one that ``evaluate`` found with the same weights.
    """

    part: str
    clips: int
    available: int
    unreadable: int
    correct_fp32: int
    correct_int8: int
    agreeing: int
    calibration_clips: int
    kept_fp32: int = 0

    @property
    def loss(self) -> float:
        """Top-1 accuracy lost, 0 to 1."""
        return (self.correct_fp32 - self.correct_int8) / self.clips

    @property
    def is_too_dear(self) -> bool:
        """Whether more than one point is lost, in whole clips: of 51 to 149 clips one may be, of fewer none."""
        return self.correct_fp32 - self.correct_int8 > round(LARGEST_LOSS * self.clips)

    def as_json(self) -> dict[str, Any]:
        """Return the counts and their accuracies."""
        accuracies = {"top1_fp32": self.correct_fp32 / self.clips, "top1_int8": self.correct_int8 / self.clips}
        return asdict(self) | accuracies

    def __str__(self) -> str:
        return (
            f"top-1 {self.correct_int8} of {self.clips} in int8, {self.correct_fp32} in fp32, "
            f"{self.agreeing} labels the same ({self.part} part, {self.available} videos"
            f"{', fp32 as evaluate found it' if self.kept_fp32 else ''})"
        )


class CutClip(NamedTuple):
    """The inputs of a video's clip, its class, and its name in the split."""

    inputs: dict[str, Array]
    target: int
    video: str


class RunClips:
    """Clips of the videos that a run was trained or tested on, cut again.

    Attributes:
        held_out: part of the split that int8 is compared on.
        to_calibrate: training clips to measure ranges on.

    Args:
        run: whose split names them.
        root: the data set's folder, or its address; a run does not say where that is on this machine.
        store: folder of prepared clips, or its address; none reads the videos themselves.

    Raises:
        SettingsError: no root was given, or the run names no videos.
        RunFolderError: the run does not say what it was trained on.
        DatasetError: a video of the run's split is not there, or the store does not fit.
    """

    def __init__(self, run: RunFolder, root: PathLike | None, store: PathLike | None = None) -> None:
        # Not above: without int8, prediction loads nothing that knows data sets.
        from actionfusion.data.recorded_split import reopen_data  # noqa: PLC0415

        if not (run.path / SPLIT).is_file():
            raise SettingsError("int8", f"{run.path} has no {SPLIT} to calibrate by", "take fp32, or train again")
        if root is None:
            reason = f"nothing is prepared for {run.path}, and to calibrate the videos it was trained on are needed"
            raise SettingsError("root", reason, f"say where they are: {_PREPARE}")
        self._clip, self._rates = run.clip, run.rates
        self.to_calibrate = min(CALIBRATION_CLIPS, -(-CALIBRATION_FRAMES // run.clip.frames))
        self._videos = reopen_data(run, root, store)
        self.held_out: CalibrationPart = "val" if self._videos.part("val") else "test"
        wanted: tuple[CalibrationPart, ...] = ("train", self.held_out)
        for part in wanted:
            if not self.count(part):
                raise SettingsError("int8", f"{run.path / SPLIT} names no {part} videos of the run", "take fp32")
        self._videos.check_there(wanted)
        self._videos.check_store(self._clip, wanted)

    def count(self, part: CalibrationPart) -> int:
        """Count the videos of a part."""
        return len(self._videos.part(part))

    def announced(self, sub_model: SubModel, seconds: float, kept: int) -> str:
        """Say how many clips 8 bits take, and the least time, without the correction of each layer's bias.

        Args:
            sub_model: to be quantised.
            seconds: of one of its answers in full precision.
            kept: labels in full precision that are known.
        """
        calibrated, held = min(self.to_calibrate, self.count("train")), min(GATE_CLIPS, self.count(self.held_out))
        # Ranges take as long as an answer, a stream's after one of all its steps; in 8 bits it is a third of it.
        whole = sub_model.takes_clips
        answers = calibrated * (1 if whole else 2) + max(held - kept, 0) + held / 3
        time = duration(answers * seconds * (1 if whole else self._clip.frames))
        return f"8 bits: {calibrated} clips to calibrate on and {held} to compare, at least {time}"

    def cut(self, part: CalibrationPart, limit: int) -> Generator[CutClip | None, None, None]:
        """Cut up to ``limit`` clips, spread evenly over a part; None for an unreadable video.

        A clip is ``[1, T, C, H, W]`` for each stream that the model reads.
        """
        indices, clip = self._videos.part(part), self._clip
        sources = self._videos.sources([indices[row] for row in _spread(len(indices), limit)], clip, self._rates)
        with closing(clips_ahead(lambda source: cut_clip(source.open(), clip), sources)) as read:
            for source, found in read:
                if isinstance(found, VideoError):
                    yield None
                else:
                    inputs: dict[str, Array] = {
                        str(name): array[None] for name, array in found.inputs(clip.streams).items()
                    }
                    yield CutClip(inputs, source.target, source.name)


def calibration_inputs(clips: RunClips, sub_model: SubModel, run: Run) -> tuple[list[dict[str, Array]], int]:
    """Collect a sub-model's inputs to measure ranges on, and count the training clips they came from.

    Args:
        clips: of the run.
        sub_model: to be quantised; the whole network takes the clips as they are.
        run: runs it in full precision, since a stream's later inputs need its earlier outputs.

    Raises:
        SettingsError: none of the clips can be read.
    """
    cut = [item.inputs for item in clips.cut("train", clips.to_calibrate) if item is not None]
    if not cut:
        raise SettingsError("int8", "not one training video of the run can be read", "take fp32")
    if sub_model.takes_clips:
        return cut, len(cut)
    found: list[dict[str, Array]] = []
    for clip in cut:
        given: list[dict[str, Array]] = []

        def recorded(inputs: Mapping[str, Array], given: list[dict[str, Array]] = given) -> dict[str, Array]:
            given.append(dict(inputs))
            return run(inputs)

        sub_model.answer(recorded, clip)
        found += [given[index] for index in _spread(len(given), CALIBRATION_STEPS)]
    return found, len(cut)


def _spread(count: int, limit: int) -> list[int]:
    """Choose up to ``limit`` of so many, evenly spread, the first and the last among them."""
    return [round(place) for place in np.linspace(0, count - 1, min(limit, count))]


def quantise(model: Path, sub_model: SubModel, samples: Sequence[dict[str, Array]], runtime: BackendName) -> Any:
    """Quantise a sub-model's ONNX model to 8 bits, as OpenVINO's or ONNX's object.

    Args:
        model: ``.onnx``.
        sub_model: what it was exported from.
        samples: inputs to measure ranges on.
        runtime: for which of the two; each reads its own form best.

    Raises:
        RuntimeUnavailable: NNCF is not installed, or cannot do it.
    """
    needed("nncf", "onnx", extra="int8")
    import onnx  # noqa: PLC0415

    plain = onnx.load(model, load_external_data=runtime == "onnx")
    kept = products_to_quantise(plain, sub_model)
    if runtime == "openvino":
        graph: Any = read_openvino(model)
        nodes = [(node.friendly_name, node.get_type_name()) for node in graph.get_ordered_ops()]
    else:
        graph, nodes = plain, [(node.name, node.op_type) for node in plain.graph.node]
    # OpenVINO splits a product with a bias, and marks its half behind a slash.
    ignored = [name for name, kind in nodes if kind in _LEFT_ALONE and name.split("/")[0] not in kept]
    try:
        with _nncf() as nncf:
            return nncf.quantize(
                graph,
                nncf.Dataset(list(samples)),
                preset=nncf.QuantizationPreset.MIXED,
                # Of a light network the fast one costs 5 % of the answers, and no time is saved by it.
                fast_bias_correction=False,
                subset_size=len(samples),
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            )
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = f"NNCF cannot quantise it ({' '.join(str(error).split())[:200]})"
        raise RuntimeUnavailable(f"sub-model {sub_model.name!r}", reason, "take fp32") from error


# What NNCF would quantise besides convolutions, by both formats' names.
_LEFT_ALONE = {
    *("Add", "Div", "Divide", "Gemm", "LayerNormalization", "MVN", "MatMul", "Max", "Maximum", "Mul", "Multiply"),
    *("ReduceMax", "ReduceMean", "Sub", "Subtract"),
}


@contextmanager
def _nncf() -> Iterator[Any]:
    """Import NNCF, silent, and without the usage reports that it would send."""
    setting = "NNCF_CI"
    before = os.environ.get(setting)
    os.environ[setting] = "1"
    try:
        with quiet("nncf", "openvino"):
            import nncf  # noqa: PLC0415

            yield nncf
    finally:
        if before is None:
            del os.environ[setting]
        else:
            os.environ[setting] = before


def kept_labels(run: RunFolder, part: CalibrationPart, weights: str) -> dict[str, int]:
    """Read which class ``evaluate`` found for each video of a part, none if not by these weights and one clip each.

    Args:
        run: the run.
        part: of its split.
        weights: SHA-256 of the run's weights.
    """
    with suppress(ActionFusionError, OSError, ValueError, KeyError, TypeError):
        found = read_json(evaluation_path(run.path, part), largest=EVALUATION_BYTES)
        if found["weights"] == weights and found["views"]["clips"] == len(found["videos"]):
            return {str(row["video"]): run.labels.index(row["predicted"]) for row in found["videos"]}
    return {}


def measure(
    sub_model: SubModel, fp32: Backend, int8: Backend, clips: RunClips, *, calibrated: int, kept: Mapping[str, int]
) -> Int8Accuracy:
    """Compare the labels of both on clips that the run was not trained on.

    Args:
        sub_model: what was quantised.
        fp32: runs it in full precision.
        int8: runs it in 8 bits.
        clips: of the run.
        calibrated: clips that the ranges were measured on.
        kept: labels in full precision that are known; not believed if the network gives one of the first otherwise.

    Raises:
        SettingsError: none of them can be read.
        QuantizationRefused: int8 is more than a point less accurate than fp32.
    """
    counts = dict.fromkeys(("clips", "unreadable", "correct_fp32", "correct_int8", "agreeing", "kept_fp32"), 0)

    def label(runtime: Backend, inputs: dict[str, Array]) -> int:
        return int(sub_model.answer(runtime.run, inputs).argmax())

    console = Console(stderr=True)
    lines = PlainProgress(console, "int8 against fp32")
    total = min(GATE_CLIPS, clips.count(clips.held_out))
    with console.status("") as status, closing(clips.cut(clips.held_out, GATE_CLIPS)) as cut:
        for number, item in enumerate(cut, 1):
            status.update(f"int8 against fp32: clip {number} of {total}")
            lines(number, total)
            if item is None:
                counts["unreadable"] += 1
                continue
            inputs, target, video = item
            small, plain = label(int8, inputs), kept.get(video)
            if plain is None or number <= CHECKED_LABELS:
                own = label(fp32, inputs)
                plain, kept = own, kept if plain in (None, own) else {}
            else:
                counts["kept_fp32"] += 1
            counts["clips"] += 1
            counts["correct_fp32"] += plain == target
            counts["correct_int8"] += small == target
            counts["agreeing"] += plain == small
    if not counts["clips"]:
        raise SettingsError("int8", f"not one {clips.held_out} video of the run can be read", "take fp32")
    result = Int8Accuracy(
        part=clips.held_out, available=clips.count(clips.held_out), calibration_clips=calibrated, **counts
    )
    if result.is_too_dear:
        raise QuantizationRefused("int8", f"it costs {result.loss:.1%} of the answers: {result}", "take fp32 or bf16")
    return result
