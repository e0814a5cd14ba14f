"""The choice of a runtime for a run: the one asked for, or the fastest that is worth preparing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from actionfusion.devices import find_device
from actionfusion.errors import RuntimeUnavailable, SettingsError
from actionfusion.inference.runtimes.backend import (
    PACKAGES,
    PRECISIONS,
    BackendName,
    PrecisionName,
    RuntimeName,
    check_precision,
    is_offered,
)
from actionfusion.inference.runtimes.packages import is_installed
from actionfusion.inference.runtimes.prepared import Artifact, find_prepared

log = logging.getLogger("actionfusion.inference")

# The faster on CPUs first.
CPU_BACKENDS: tuple[BackendName, ...] = ("openvino", "onnx")
# On a smaller network PyTorch answers at once, and preparing takes longer than it saves on hundreds of videos.
WORTH_PREPARING = 100e9


@dataclass(frozen=True)
class RuntimeChoice:
    """The runtime of a run, and why.

    Attributes:
        name: torch, openvino or onnx.
        precision: fp32, bf16 or int8.
        reason: why it was taken, as a clause.
        device: of torch; the CPU for the others.
    """

    name: BackendName
    precision: PrecisionName
    reason: str
    device: str = "cpu"

    def __str__(self) -> str:
        where = f" on {self.device}" if self.name == "torch" else ""
        return f"{self.name} {self.precision}{where} ({self.reason})"


def choose(
    runtime: RuntimeName,
    precision: PrecisionName,
    device: str | None,
    *,
    artifact_of: Callable[[BackendName, PrecisionName], Artifact],
    flops: Callable[[], int],
    exportable: bool = True,
) -> RuntimeChoice:
    """Choose a runtime.

    Args:
        runtime: what was asked for.
        precision: of the multiplications.
        device: as asked for; None for whatever is best.
        artifact_of: what would be prepared for a runtime and precision.
        flops: counts the floating point operations of an answer.
        exportable: whether other runtimes than PyTorch can run the model.

    Raises:
        SettingsError: settings that do not go together.
        RuntimeUnavailable: the runtime asked for is not installed, not for this machine, or not for this model.
    """
    if runtime not in ("auto", *PRECISIONS):
        raise SettingsError("runtime", f"{runtime!r} is none", f"choose auto, {', '.join(PRECISIONS)}")
    if not exportable and runtime not in ("auto", "torch"):
        raise not_exportable(runtime)
    if not exportable and runtime == "auto":
        check_precision("torch", precision)
        choice = RuntimeChoice("torch", precision, "no other runs a model that describes clips itself", _device(device))
    elif runtime == "auto":
        choice = _fastest(precision, device, artifact_of, flops)
    else:
        check_precision(runtime, precision)
        if runtime != "torch" and device not in (None, "cpu"):
            raise SettingsError("device", f"runtime {runtime} runs on the CPU, not on {device}", "take runtime torch")
        choice = RuntimeChoice(runtime, precision, "as asked", _device(device) if runtime == "torch" else "cpu")
    log.info("runtime: %s", choice)
    return choice


def not_exportable(runtime: str) -> RuntimeUnavailable:
    """Make the error for a runtime that a model is asked for which only PyTorch runs."""
    reason = "the model describes clips by OpenCV and NumPy, which cannot be exported"
    return RuntimeUnavailable(runtime, reason, "take the run itself, with runtime torch")


def _device(device: str | None) -> str:
    return str(find_device(device))


def _fastest(
    precision: PrecisionName,
    device: str | None,
    artifact_of: Callable[[BackendName, PrecisionName], Artifact],
    flops: Callable[[], int],
) -> RuntimeChoice:
    if device not in {None, "cpu"} and precision not in PRECISIONS["torch"]:
        raise SettingsError("precision", f"{precision} is for CPUs, not for {device}", "take fp32 or bf16")
    where = _device(device)
    if where != "cpu" and precision in PRECISIONS["torch"]:
        return RuntimeChoice("torch", precision, "a device was named" if device else "there is a GPU", where)
    offered = [name for name in CPU_BACKENDS if is_offered(name, precision)]
    for name in offered:
        if find_prepared(artifact_of(name, precision))[0] is not None:
            return RuntimeChoice(name, precision, "it is prepared beside the run")
    able = [name for name in offered if is_installed("onnx") and is_installed("onnxscript")]
    if precision not in PRECISIONS["torch"]:
        if not able:
            check_precision("openvino", precision)
            raise RuntimeUnavailable("onnx", "is not installed", "pip install 'actionfusion[openvino]'")
        return RuntimeChoice(able[0], precision, f"the fastest with {precision}")
    if not able:
        names = " nor ".join(PACKAGES[name] for name in CPU_BACKENDS)
        return RuntimeChoice("torch", precision, f"neither {names} can be prepared here", where)
    cost = flops()
    if cost > WORTH_PREPARING:
        reason = f"the network takes {cost / 1e9:,.0f} GFLOP a clip, and there is no GPU"
        return RuntimeChoice(able[0], precision, reason)
    return RuntimeChoice("torch", precision, f"at {cost / 1e9:.2g} GFLOP a clip it answers at once", where)
