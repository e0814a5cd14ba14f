"""One sample of a stream as a sub-model, for any runtime; see `SampleReader` for what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from actionfusion.inference.runtimes.sub_models import Array, Run, SubModel, TensorSpec, picture_specs
from actionfusion.inference.stepping import ExactStepper, FloatArray, Pictures
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.models.streaming import StreamShape
from actionfusion.streams import StreamName
from actionfusion.video.clip import ClipSettings

OPENED, STILL_OPEN = "opened", "still_open"


def step_model(
    make_network: Callable[[], VideoModel],
    model_class: type[VideoModel],
    settings: ModelSettings,
    clip: ClipSettings,
    shape: StreamShape,
) -> SubModel:
    """Make the sub-model of one sample: each stream's pictures ``[1, C, H, W]``, uint8, and the open sums before it.

    Where the model joins no neighbours nothing is ever open, and that input and output are not there.

    Args:
        make_network: gives the network; called when its weights are needed.
        model_class: the model's class.
        settings: the model's.
        clip: T, and what is cut for each sample.
        shape: of what is read of a sample.
    """
    inputs = picture_specs(settings, clip.streams, 1)
    opened = TensorSpec(OPENED, shape.opened, "float32")

    @cache
    def memory() -> VideoModel:
        return make_network().keep_only_memory()

    def answer(run: Run, given: Mapping[str, Array]) -> Array:
        stepper = ExactStepper(memory(), shape, clip, StepRun(run, shape, takes_batches=False))
        pictures = {name: given[name][0].astype(np.uint8) for name in clip.streams}
        windows = stepper.read(pictures, range(clip.frames), stepper.start())
        return stepper.answers(windows[-1:])[0].probabilities[None]

    return SubModel(
        name="step",
        make_module=lambda: _Step(make_network(), clip.streams).eval(),
        inputs=(*inputs, opened) if shape.looks_ahead else inputs,
        outputs=(STILL_OPEN, *shape.branches) if shape.looks_ahead else shape.branches,
        quantised=model_class.quantized_layers,
        answer=answer,
    )


class StepRun:
    """A `SampleStep` of a runtime's runs.

    Args:
        run: runs the sub-model.
        shape: of what goes in and comes out.
        takes_batches: whether several samples can go in at once.
    """

    def __init__(self, run: Run, shape: StreamShape, *, takes_batches: bool) -> None:
        self._run = run
        self._shape = shape
        self._takes_batches = takes_batches

    def __call__(self, pictures: Pictures, opened: FloatArray) -> list[FloatArray]:
        """Read samples as `SampleReader.forward` does."""
        count = len(next(iter(pictures.values())))
        size = count if self._takes_batches else 1
        rows: dict[str, list[Array]] = {name: [] for name in self._shape.branches}
        for start in range(0, count, size):
            given: dict[str, Array] = {name: array[start : start + size] for name, array in pictures.items()}
            if self._shape.looks_ahead:
                given[OPENED] = opened
            made = self._run(given)
            opened = np.asarray(made.get(STILL_OPEN, opened), np.float32)
            for name, row in rows.items():
                row.append(made[name])
        return [opened, *(np.concatenate(row).astype(np.float32, copy=False) for row in rows.values())]


class _Step(nn.Module):
    """`SampleReader` with outputs in single precision, and without what never changes."""

    def __init__(self, network: VideoModel, streams: tuple[StreamName, ...]) -> None:
        super().__init__()
        self.reader = network.sample_reader()
        self.streams = streams

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Read N samples of the streams in their order, and the open sums where there are any."""
        clips = dict(zip(self.streams, inputs, strict=False))
        if len(inputs) > len(self.streams):
            return tuple(made.float() for made in self.reader(clips, inputs[-1]))
        _, *readings = self.reader(clips, torch.empty(0))
        return tuple(reading.float() for reading in readings)
