"""Operations a second that libraries reach on large products, in each precision: what a machine can do at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from actionfusion.inference.runtimes.backend import openvino_core
from actionfusion.inference.runtimes.packages import is_installed
from actionfusion.peak import matrix_peak
from actionfusion.timing import seconds_of

# Of a convolution like those of VGG-16's third block.
_CHANNELS, _PICTURE = 256, 56


def machine_peaks(
    device: torch.device, *, side: int = 1024, pictures: int = 4, repetitions: int = 3
) -> dict[str, float]:
    """Measure the operations a second of the fastest large product, by precision, with every library at hand.

    Args:
        device: of PyTorch; the other libraries are tried beside it where that is the CPU.
        side: of the square matrices.
        pictures: of the convolution.
        repetitions: of each product, of which the fastest counts.

    Returns:
        Of fp32 and bf16, and of int8 on a CPU.
    """
    found = {
        "fp32": [matrix_peak.__wrapped__(device, torch.float32)],
        "bf16": [matrix_peak.__wrapped__(device, torch.bfloat16)],
    }
    if device.type == "cpu":
        found["int8"] = [_integer_peak(side, repetitions)]
        if is_installed("openvino"):
            for precision, peak in _openvino_peaks(side, pictures, repetitions).items():
                found[precision].append(peak)
    return {precision: max(each) for precision, each in found.items()}


def _integer_peak(side: int, repetitions: int) -> float:
    """Measure PyTorch's product of int8 matrices."""
    left = torch.randint(-127, 128, (side, side), dtype=torch.int8)
    return 2.0 * side**3 / min(seconds_of(lambda: torch._int_mm(left, left), repetitions))


def _openvino_peaks(side: int, pictures: int, repetitions: int) -> dict[str, float]:
    """Measure OpenVINO's product of square matrices and its 3x3 convolution; the better of each precision."""
    import openvino as ov  # noqa: PLC0415
    from openvino import opset13 as ops  # noqa: PLC0415
    from openvino.properties import hint  # noqa: PLC0415

    generator, core = np.random.default_rng(0), openvino_core()

    def quantized(values: Any, low: float, high: float, levels: int) -> Any:
        ends = [ops.constant(np.float32(end)) for end in (low, high)]
        return ops.fake_quantize(values, *ends, *ends, levels)

    def rate(shape: list[int], weights: list[int], make: Callable[[Any, Any], Any], flops: float, kind: str) -> float:
        given = ops.parameter(shape, ov.Type.f32)
        kernel = ops.constant(generator.standard_normal(weights).astype(np.float32))
        left, right = given, kernel
        if kind == "int8":
            left, right = quantized(given, 0, 4, 256), quantized(kernel, -4, 4, 255)
        precision = ov.Type.bf16 if kind == "bf16" else ov.Type.f32
        model = core.compile_model(ov.Model([make(left, right)], [given]), "CPU", {hint.inference_precision: precision})
        request = model.create_infer_request()
        request.set_input_tensor(ov.Tensor(generator.random(shape, np.float32)))
        return flops / min(seconds_of(request.infer, repetitions))

    def product(left: Any, right: Any) -> Any:
        return ops.matmul(left, right, transpose_a=False, transpose_b=True)

    def convolution(left: Any, right: Any) -> Any:
        return ops.relu(ops.convolution(left, right, [1, 1], [1, 1], [1, 1], [1, 1]))

    kinds = ["fp32", "int8"]
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        kinds.append("bf16")
    batch, kernels = [pictures, _CHANNELS, _PICTURE, _PICTURE], [_CHANNELS, _CHANNELS, 3, 3]
    flops = 2.0 * pictures * _PICTURE**2 * _CHANNELS**2 * 9
    return {
        kind: max(
            rate([side, side], [side, side], product, 2.0 * side**3, kind),
            rate(batch, kernels, convolution, flops, kind),
        )
        for kind in kinds
    }
