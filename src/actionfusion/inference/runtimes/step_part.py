"""One sample of a stream as a part of the network, for any runtime; see `SampleReader` for what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from actionfusion.inference.runtimes.parts import Array, Part, Run, TensorSpec
from actionfusion.inference.stepping import FloatArray, Stepper, UInt8Array
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.fusion_streaming import stream_shape
from actionfusion.models.streaming import SampleReader, StreamShape
from actionfusion.video.clip import ClipSettings
from actionfusion.video.samples import Sample

OPENED, STILL_OPEN = "opened", "still_open"


def step_part(make_network: Callable[[], FusionNetwork], settings: FusionNetworkSettings, clip: ClipSettings) -> Part:
    """One sample: ``rgb`` ``[1, 3, H, W]`` and ``flow`` ``[1, 2L, H, W]``, uint8, and what is open of those before.

    Where the fusion joins no neighbours nothing is ever open, and that input and output are not there.

    Args:
        make_network: gives the network; called when its weights are needed.
        settings: the network's.
        clip: T, L and the flow recipe.
    """
    shape = stream_shape(settings)
    size = settings.image_size
    inputs = (
        TensorSpec("rgb", (1, 3, size, size), "uint8"),
        TensorSpec("flow", (1, settings.flow_channels, size, size), "uint8"),
    )
    opened = TensorSpec(OPENED, shape.opened, "float32")

    @cache
    def memory() -> FusionNetwork:
        return make_network().keep_only_memory()

    def answer(run: Run, given: Mapping[str, Array]) -> Array:
        stepper = Stepper(memory(), clip, StepRun(run, shape, takes_batches=False))
        answers, _ = stepper.answer(_samples(given["rgb"][0], given["flow"][0]), stepper.start())
        return answers[-1].probabilities[None]

    return Part(
        name="step",
        make_module=lambda: _Step(make_network()).eval(),
        inputs=(*inputs, opened) if shape.looks_ahead else inputs,
        outputs=(STILL_OPEN, *shape.branches) if shape.looks_ahead else shape.branches,
        quantised=("reader.network.fc6",),
        answer=answer,
    )


class StepRun:
    """A `SampleStep` of a runtime's runs.

    Args:
        run: runs the part.
        shape: of what goes in and comes out.
        takes_batches: whether several samples can go in at once.
    """

    def __init__(self, run: Run, shape: StreamShape, *, takes_batches: bool) -> None:
        self._run = run
        self._shape = shape
        self._takes_batches = takes_batches

    def __call__(self, rgb: UInt8Array, flow: UInt8Array, opened: FloatArray) -> list[FloatArray]:
        """As `SampleReader.forward`."""
        size = len(rgb) if self._takes_batches else 1
        rows: dict[str, list[Array]] = {name: [] for name in self._shape.branches}
        for start in range(0, len(rgb), size):
            given: dict[str, Array] = {"rgb": rgb[start : start + size], "flow": flow[start : start + size]}
            if self._shape.looks_ahead:
                given[OPENED] = opened
            made = self._run(given)
            opened = np.asarray(made.get(STILL_OPEN, opened), np.float32)
            for name, row in rows.items():
                row.append(made[name])
        return [opened, *(np.concatenate(row).astype(np.float32, copy=False) for row in rows.values())]


class _Step(nn.Module):
    """`SampleReader` with outputs in single precision, and without what never changes."""

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.reader = SampleReader(network)

    def forward(self, rgb: Tensor, flow: Tensor, opened: Tensor | None = None) -> tuple[Tensor, ...]:
        if opened is not None:
            return tuple(made.float() for made in self.reader(rgb, flow, opened))
        _, *readings = self.reader(rgb, flow, torch.empty(0))
        return tuple(reading.float() for reading in readings)


def _samples(rgb: Array, flow: Array) -> list[Sample]:
    return [
        Sample(place, float(place), picture.astype(np.uint8), fields.astype(np.uint8))
        for place, (picture, fields) in enumerate(zip(rgb, flow, strict=True))
    ]
