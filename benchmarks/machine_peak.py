"""Operations a second that libraries reach on large products, in each precision: what a machine can do at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from measuring import seconds_of

SIDE = 4096
REPETITIONS = 5
# Of a convolution like those of VGG-16's third block.
CHANNELS, PICTURE, PICTURES = 256, 56, 17


def openvino_peaks() -> dict[str, dict[str, float]]:
    """By precision: OpenVINO's product of square matrices, and its 3x3 convolution."""
    import openvino as ov  # noqa: PLC0415
    from openvino import opset13 as ops  # noqa: PLC0415
    from openvino.properties import hint  # noqa: PLC0415

    generator = np.random.default_rng(0)
    core = ov.Core()

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
        return flops / min(seconds_of(request.infer, REPETITIONS))

    def product(left: Any, right: Any) -> Any:
        return ops.matmul(left, right, transpose_a=False, transpose_b=True)

    def convolution(left: Any, right: Any) -> Any:
        return ops.relu(ops.convolution(left, right, [1, 1], [1, 1], [1, 1], [1, 1]))

    kinds = ["fp32", "int8"]
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        kinds.append("bf16")
    pictures = [PICTURES, CHANNELS, PICTURE, PICTURE]
    kernels = [CHANNELS, CHANNELS, 3, 3]
    return {
        kind: {
            "openvino product": rate([SIDE, SIDE], [SIDE, SIDE], product, 2.0 * SIDE**3, kind),
            "openvino convolution": rate(
                pictures, kernels, convolution, 2.0 * PICTURES * PICTURE**2 * CHANNELS**2 * 9, kind
            ),
        }
        for kind in kinds
    }


def integer_peaks() -> dict[str, float]:
    """PyTorch's product of int8 matrices."""
    left = torch.randint(-127, 128, (SIDE, SIDE), dtype=torch.int8)
    return {"torch product": 2.0 * SIDE**3 / min(seconds_of(lambda: torch._int_mm(left, left), REPETITIONS))}
