"""A folder that ``export`` wrote: a model, and ``model.json``, which describes how to use it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from actionfusion.errors import ActionFusionError, ExportError, RuntimeUnavailable, SettingsError, WeightsError
from actionfusion.inference.runtimes.backend import (
    PACKAGES,
    Backend,
    BackendName,
    PrecisionName,
    RuntimeName,
    check_precision,
    is_offered,
    open_model,
)
from actionfusion.inference.runtimes.choice import CPU_BACKENDS, RuntimeChoice
from actionfusion.inference.runtimes.prepared import COARSE_TOLERANCE
from actionfusion.inference.runtimes.sub_models import TensorSpec
from actionfusion.run_folder import fault_of_labels
from actionfusion.settings import build, build_each, field_kinds, read_json
from actionfusion.video.clip import ClipSettings
from actionfusion.video.rates import FrameRates

FORMAT = 2
ABOUT = "model.json"
CHECK = "check"
_AGAIN = "export the run again"
# What is read of ``model.json``; the rest is for other programs.
_ABOUT: Mapping[str, Any] = {
    "format": Literal["onnx", "openvino"],
    "precision": Literal["fp32", "int8"],
    "model": str,
    "files": Mapping[str, int],
    "labels": tuple[str, ...],
    "inputs": tuple[Mapping[str, Any], ...],
    "output": Mapping[str, Any],
    "clip": Mapping[str, Any],
}


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        folder: where it is.
        clip: what is cut from a video for it.
        labels: class names in its order.
        inputs: what it takes.
        about: all that ``model.json`` says.
    """

    folder: Path
    clip: ClipSettings
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    about: Mapping[str, Any] = field(repr=False)

    @property
    def rates(self) -> FrameRates | None:
        """The frame rates of the run's training videos; None where the export does not say.

        Raises:
            ExportError: they are no rates.
        """
        found = self.about.get("rates")
        return None if found is None else build(FrameRates, found, self.folder / ABOUT, ExportError, _AGAIN)

    @property
    def precision(self) -> PrecisionName:
        """Of the model: fp32 or int8."""
        return "int8" if self.about["precision"] == "int8" else "fp32"

    @property
    def model(self) -> Path:
        """The model's file."""
        return self.folder / str(self.about["model"])

    def no_network(self) -> NoReturn:
        """Refuse, since there are no weights for PyTorch.

        Raises:
            WeightsError: always.
        """
        raise WeightsError(self.folder, "is an export, without weights for PyTorch", "give the run that it is of")

    def open(
        self, runtime: RuntimeName, precision: PrecisionName | None, device: str | None
    ) -> tuple[Backend, RuntimeChoice]:
        """Open the model in a runtime.

        Args:
            runtime: auto, openvino, or onnx for a model in that format.
            precision: the model's own where None; bf16 of an fp32 model is OpenVINO's.
            device: the CPU, or None.

        Raises:
            SettingsError: settings that do not go together.
            RuntimeUnavailable: the runtime is not installed.
            ExportError: the model is damaged, or does not answer the clip beside it as is written there.
        """
        wanted = precision or self.precision
        if device not in (None, "cpu"):
            raise SettingsError("device", f"an export runs on the CPU, not on {device}", "give the run folder")
        if wanted != self.precision and (wanted, self.precision) != ("bf16", "fp32"):
            raise SettingsError("precision", f"{self.folder} is {self.precision}, not {wanted}", "export it so")
        readers: tuple[BackendName, ...] = CPU_BACKENDS if self.about["format"] == "onnx" else ("openvino",)
        choice = self._choose(runtime, wanted, readers)
        try:
            backend = open_model(self.model, choice.name, wanted, self.inputs, (self.about["output"]["name"],))
            self._check(backend, wanted)
        except ActionFusionError:
            raise
        except Exception as error:
            reason = f"cannot be loaded ({' '.join(str(error).split())[:200]})"
            raise ExportError(self.model, reason, _AGAIN) from error
        return backend, choice

    def _check(self, backend: Backend, precision: PrecisionName) -> None:
        """Hold the model to its answer to the clip beside it.

        Raises:
            ExportError: it answers otherwise, or the clip or the answer is not there.
        """
        path = self.folder / CHECK / "expected.json"
        expected = read_json(path, ExportError, _AGAIN)
        known = {name: expected.get(name) for name in ("probabilities", "tolerance")}
        kinds = {"probabilities": tuple[float, ...], "tolerance": float}
        made = build_each(kinds, known, path, ExportError, _AGAIN)
        wanted = np.array(made["probabilities"])
        output = str(self.about["output"]["name"])
        given = backend.run({spec.name: self._check_input(spec) for spec in self.inputs})[output][0]
        tolerance = COARSE_TOLERANCE if precision != "fp32" else min(made["tolerance"], COARSE_TOLERANCE)
        if wanted.shape != given.shape or not np.abs(given - wanted).max() <= tolerance:
            reason = f"the model does not answer its clip as {path.name} says"
            raise ExportError(path, reason, f"copy the whole folder again, or {_AGAIN}")
        about, again = self.folder / ABOUT, f"copy the whole folder again, or {_AGAIN}"
        if len(given) != len(self.labels):
            raise ExportError(about, f"has {len(self.labels)} labels for the model's {len(given)} answers", again)
        label = self.labels[int(wanted.argmax())]
        if expected.get("label", label) != label:
            reason = f"its labels are not the model's: {path.name} has {expected['label']!r:.60} where it has {label!r}"
            raise ExportError(about, reason, again)

    def _check_input(self, spec: TensorSpec) -> npt.NDArray[np.generic]:
        path, kind = self.folder / CHECK / f"{spec.name}.bin", np.dtype(spec.dtype)
        shape = [max(side, 1) for side in spec.shape]  # one clip, where any number goes in
        size = math.prod(shape) * kind.itemsize
        try:
            with path.open("rb") as file:
                data = file.read(size + 1)
        except OSError as error:
            raise ExportError(path, f"cannot be read ({error.strerror})", "copy the whole folder again") from error
        if len(data) != size:
            raise ExportError(path, f"has not the {size} bytes of {shape}", "copy the whole folder again")
        return np.frombuffer(data, kind).reshape(shape)

    def _choose(
        self, runtime: RuntimeName, precision: PrecisionName, readers: tuple[BackendName, ...]
    ) -> RuntimeChoice:
        format_name = self.about["format"]
        if runtime == "auto":
            for name in readers:
                if is_offered(name, precision):
                    return RuntimeChoice(name, precision, f"the fastest here that reads {format_name}")
            package = PACKAGES[readers[0]]
            reason = f"is not installed, and {self.folder} wants it" if precision != "bf16" else "has no bf16 here"
            raise RuntimeUnavailable(package, reason, f"pip install 'actionfusion[{readers[0]}]'")
        if runtime not in readers:
            reason = f"{runtime} does not read {format_name}"
            raise SettingsError("runtime", reason, f"choose {' or '.join(readers)}, or give the run folder")
        assert runtime != "torch"
        check_precision(runtime, precision)
        return RuntimeChoice(runtime, precision, "as asked")


def is_export(folder: Path) -> bool:
    """Return whether ``export`` wrote a folder, of any version."""
    return (folder / ABOUT).is_file()


def open_export(folder: Path) -> Export:
    """Read an export's ``model.json``, and check that its files are there.

    Raises:
        ExportError: it is incomplete, damaged, or of another version.
    """
    path = folder / ABOUT
    about = read_json(path, ExportError, _AGAIN)
    version = about.get("export_format")
    if version is None:
        raise ExportError(path, "is no description of a model", _AGAIN)
    if version not in (1, FORMAT):
        written = f"written by actionfusion {about.get('version')}"
        reason = f"is of export format {version}, {written}; this reads 1 to {FORMAT}"
        raise ExportError(path, reason, "export the run again with this version, or use that one")
    if version == 1:
        about["clip"] = _clip_of_format_1(about)
    if absent := [name for name in _ABOUT if name not in about]:
        raise ExportError(path, f"misses something ({', '.join(absent)})", _AGAIN)
    known = build_each(_ABOUT, {name: about[name] for name in _ABOUT}, path, ExportError, _AGAIN)
    if absent := sorted(field_kinds(ClipSettings).keys() - known["clip"].keys()):
        raise ExportError(path, f"misses something (clip.{absent[0]})", _AGAIN)
    clip = build(ClipSettings, known["clip"], path, ExportError, _AGAIN, within="clip")
    specs = [
        build(TensorSpec, {name: item.get(name) for name in field_kinds(TensorSpec)}, path, ExportError, _AGAIN)
        for item in known["inputs"]
    ]
    build(str, known["output"].get("name"), path, ExportError, _AGAIN, within="output.name")
    if known["model"] not in known["files"] or any(Path(name).name != name for name in known["files"]):
        raise ExportError(path, "does not say what the model is, or names files elsewhere", _AGAIN)
    for name, size in known["files"].items():
        file = folder / name
        if not file.is_file():
            raise ExportError(file, "is missing", f"copy the whole folder, or {_AGAIN}")
        if file.stat().st_size != size:
            reason = f"has {file.stat().st_size} bytes, not {size}"
            raise ExportError(file, reason, f"copy the whole folder, or {_AGAIN}")
    return Export(folder, clip, _sound_labels(known["labels"], path), tuple(specs), about)


def _sound_labels(labels: tuple[str, ...], path: Path) -> tuple[str, ...]:
    if fault := fault_of_labels(labels):
        raise ExportError(path, fault, _AGAIN)
    return labels


def _clip_of_format_1(about: Mapping[str, Any]) -> dict[str, Any]:
    """Make clip settings from the description of version 0.1, whose models all took both streams."""
    sampling = about.get("sampling")
    names = {"frames": "frames", "flow_fields": "flow_frames"}
    known = sampling if isinstance(sampling, Mapping) else {}
    stated = {new: known[old] for old, new in names.items() if old in known}
    constant = {"streams": ["rgb", "flow"], "size": None, "sampling": "spread", "stride": 1}
    return {**stated, **({"flow": about["flow_recipe"]} if "flow_recipe" in about else {}), **constant}
