"""Backends that run a sub-model: PyTorch, OpenVINO or ONNX Runtime, behind one small protocol.

OpenVINO and ONNX Runtime run on the CPU, from a file that ``prepared.py`` or ``export.py`` made.  Each is given
its precision; none may choose a lower one by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from actionfusion.errors import RuntimeUnavailable, SettingsError
from actionfusion.inference.runtimes.packages import is_installed, needed
from actionfusion.inference.runtimes.sub_models import Array, SubModel, TensorSpec, check_inputs

BackendName = Literal["torch", "openvino", "onnx"]
RuntimeName = Literal["auto", "torch", "openvino", "onnx"]
PrecisionName = Literal["fp32", "bf16", "int8"]

PRECISIONS: Mapping[BackendName, tuple[PrecisionName, ...]] = {
    "torch": ("fp32", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnx": ("fp32", "int8"),
}
# The package that each imports.
PACKAGES: Mapping[BackendName, str] = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}
COMPILED = "compiled.blob"


class Backend(Protocol):
    """A sub-model, ready to run."""

    @property
    def name(self) -> BackendName:
        """Which runtime it is."""
        ...

    @property
    def precision(self) -> PrecisionName:
        """What it multiplies in."""
        ...

    @property
    def takes_batches(self) -> bool:
        """Whether the first axis of the inputs may be larger than the sub-model says."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute outputs by name from inputs by name.

        Raises:
            SettingsError: an input is missing, or has another shape or type.
        """
        ...


class TorchBackend:
    """PyTorch, eager, on any device.

    Args:
        sub_model: what to run.
        precision: fp32, or bf16 for the multiplications that autocast turns to it.
        device: where; its weights are moved there.
    """

    name: BackendName = "torch"
    takes_batches = True

    def __init__(self, sub_model: SubModel, precision: PrecisionName, device: torch.device) -> None:
        self.precision: PrecisionName = precision
        self.device = device
        self._sub_model = sub_model
        self._module = sub_model.make_module().eval().to(device)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute outputs by name; the network checks the shapes."""
        given = []
        for spec in self._sub_model.inputs:
            if spec.name not in inputs:
                raise SettingsError(spec.name, "this input is missing", f"give {spec.dtype} {list(spec.shape)}")
            given.append(torch.from_numpy(inputs[spec.name]).to(self.device))
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            made = self._module(*given)
        outputs = made if isinstance(made, tuple) else (made,)
        return {name: value.cpu().numpy() for name, value in zip(self._sub_model.outputs, outputs, strict=True)}


class OpenVINOBackend:
    """OpenVINO on the CPU.

    Args:
        compiled: the model, compiled for this machine, and the memory that holds it.
        precision: what it was compiled for.
        inputs: what it takes.
        outputs: names of what it gives, in its order.
    """

    name: BackendName = "openvino"

    def __init__(
        self,
        compiled: tuple[Any, Any],
        precision: PrecisionName,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[str, ...],
    ) -> None:
        self.precision: PrecisionName = precision
        self._inputs, self._outputs = inputs, outputs
        self.takes_batches = inputs[0].shape[0] == -1
        self._request = compiled[0].create_infer_request()
        self._memory = compiled[1]  # the model may read its weights from there
        self._lock = threading.Lock()  # a request runs one clip at a time

    def compiled(self) -> bytes:
        """Give the model as it was compiled for this machine, which ``import_openvino`` loads."""
        model = self._request.get_compiled_model().export_model()
        return bytes(model.getvalue() if hasattr(model, "getvalue") else model)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute outputs by name."""
        check_inputs(self._inputs, inputs)
        given = {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in self._inputs}
        with self._lock:
            self._request.infer(given)
            return {
                name: self._request.get_output_tensor(index).data.copy() for index, name in enumerate(self._outputs)
            }


class OnnxBackend:
    """ONNX Runtime on the CPU.

    Args:
        session: the model, loaded.
        precision: of the model.
        inputs: what it takes.
        outputs: names of what it gives.
    """

    name: BackendName = "onnx"

    def __init__(
        self, session: Any, precision: PrecisionName, inputs: tuple[TensorSpec, ...], outputs: tuple[str, ...]
    ) -> None:
        self.precision: PrecisionName = precision
        self._session, self._inputs, self._outputs = session, inputs, outputs
        self.takes_batches = inputs[0].shape[0] == -1

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute outputs by name."""
        check_inputs(self._inputs, inputs)
        made = self._session.run(list(self._outputs), {spec.name: inputs[spec.name] for spec in self._inputs})
        return dict(zip(self._outputs, made, strict=True))


def check_precision(name: BackendName, precision: PrecisionName) -> None:
    """Check that a runtime offers a precision here.

    Raises:
        SettingsError: no such precision.
        RuntimeUnavailable: the runtime is not installed, or this CPU cannot multiply so.
    """
    if precision not in get_args(PrecisionName):
        raise SettingsError("precision", f"{precision!r} is none", f"choose {', '.join(get_args(PrecisionName))}")
    if precision not in PRECISIONS[name]:
        others = [other for other, offered in PRECISIONS.items() if precision in offered]
        reason = f"{precision} is not offered by runtime {name}"
        raise SettingsError("precision", reason, f"choose {' or '.join(PRECISIONS[name])}, or {' or '.join(others)}")
    needed(PACKAGES[name], extra=name)
    if name == "openvino" and precision == "bf16" and "BF16" not in openvino_core().get_property("CPU", _CAPABILITIES):
        raise RuntimeUnavailable("bf16", "this CPU has no bfloat16 multiplications", "take fp32 or int8")


def is_offered(name: BackendName, precision: PrecisionName) -> bool:
    """Return whether ``check_precision`` would pass."""
    if precision not in PRECISIONS[name] or not is_installed(PACKAGES[name]):
        return False
    try:
        check_precision(name, precision)
    except RuntimeUnavailable:
        return False
    return True


_CAPABILITIES = "OPTIMIZATION_CAPABILITIES"


@cache
def openvino_core() -> Any:
    """Open OpenVINO, once in a process, and never close it.

    A core gives its thread a stack for signal handlers, and puts the one before it back when it closes.  Of two cores
    the first to come must not be the first to go: the second would put back a stack that is no longer there, and the
    next signal with a handler, be it Ctrl-C or the end of a child, would end the process silently.
    """
    try:
        from openvino import Core  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError) as error:  # it wants a home too
        reason = f"cannot be imported ({' '.join(str(error).split())})"
        raise RuntimeUnavailable("openvino", reason, "pip install 'actionfusion[openvino]'") from error
    return Core()


def openvino_machine() -> str:
    """Name what compiled models depend on: the CPU, and the precisions it can multiply in."""
    core = openvino_core()
    capabilities = ",".join(sorted(core.get_property("CPU", _CAPABILITIES)))
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {capabilities}"


def read_openvino(path: Path) -> Any:
    """Read the model in a ``.onnx`` or ``.xml`` file.

    What follows from constants alone is computed here: left to the compiler, it costs a pretrained light network
    speed.  Not in a quantised model, whose weights it would turn back into fp32.

    Raises:
        RuntimeUnavailable: OpenVINO is not installed.
        RuntimeError: the file is damaged.
    """
    model = openvino_core().read_model(path)
    if path.suffix == ".onnx":
        from openvino.passes import ConstantFolding, Manager  # noqa: PLC0415

        passes = Manager()
        passes.register_pass(ConstantFolding())
        passes.run_passes(model)
    return model


def compile_openvino(model: Any, precision: PrecisionName) -> Any:
    """Compile the model for this CPU, for the least time of a single answer.

    Raises:
        RuntimeUnavailable: OpenVINO is not installed.
        RuntimeError: it cannot be compiled.
    """
    return openvino_core().compile_model(model, "CPU", _openvino_settings(precision))


def import_openvino(path: Path, precision: PrecisionName) -> tuple[Any, Any]:
    """Load a compiled model of the same machine and version of OpenVINO, with the memory that holds it.

    Raises:
        RuntimeError: it is damaged, or another machine's.
    """
    from openvino import Tensor  # noqa: PLC0415

    mapped = Tensor(np.memmap(path, dtype=np.uint8, mode="r"))
    return openvino_core().import_model(mapped, "CPU", _openvino_settings(precision)), mapped


def _openvino_settings(precision: PrecisionName) -> dict[str, str]:
    # Left alone it multiplies in bfloat16 wherever the CPU can.
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }


def open_onnx(
    path: Path, precision: PrecisionName, inputs: tuple[TensorSpec, ...], outputs: tuple[str, ...]
) -> OnnxBackend:
    """Open a file in ONNX Runtime.

    Raises:
        RuntimeUnavailable: it is not installed.
        Exception: of many kinds, where the file is damaged.
    """
    try:
        from onnxruntime import InferenceSession, SessionOptions  # noqa: PLC0415
    except ImportError as error:
        reason = f"cannot be imported ({' '.join(str(error).split())})"
        raise RuntimeUnavailable("onnxruntime", reason, "pip install 'actionfusion[onnx]'") from error
    options = SessionOptions()
    options.log_severity_level = 3  # errors
    return OnnxBackend(InferenceSession(path, options, providers=["CPUExecutionProvider"]), precision, inputs, outputs)


def open_model(
    path: Path,
    name: BackendName,
    precision: PrecisionName,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[str, ...],
    *,
    compiled: Path | None = None,
) -> Backend:
    """Open a model file in a runtime.

    Args:
        path: ``.onnx``, or OpenVINO's ``.xml``.
        name: openvino or onnx.
        precision: of the multiplications.
        inputs: what the model takes.
        outputs: names of what it gives.
        compiled: the same model as OpenVINO compiled it on this machine, which starts sooner.

    Raises:
        RuntimeUnavailable: the runtime is not installed.
        Exception: of many kinds, where a file is damaged.
    """
    if name == "onnx":
        return open_onnx(path, precision, inputs, outputs)
    if compiled is not None:
        return OpenVINOBackend(import_openvino(compiled, precision), precision, inputs, outputs)
    model = compile_openvino(read_openvino(path), precision)
    return OpenVINOBackend((model, None), precision, inputs, outputs)
