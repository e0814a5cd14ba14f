"""Sub-models as other runtimes see them: a module with named inputs and outputs of fixed shapes.

The whole network from a clip to probabilities is one; a single sample of a stream is another (`step_model`).  The same
code exports, prepares, quantises and runs both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.streams import StreamName
from actionfusion.video.clip import ClipSettings

Array = npt.NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""What `Backend.run` is."""


@dataclass(frozen=True)
class TensorSpec:
    """An input by name, shape and NumPy's name of its type, such as ``uint8``; a first size of -1 is any number."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def batched(self, count: int) -> Self:
        """Return the same with another number of clips, -1 for any."""
        return replace(self, shape=(count, *self.shape[1:]))

    def takes(self, value: Array) -> bool:
        """Check the shape and type of a value."""
        free = self.shape[:1] == (-1,) and value.ndim > 0 and len(value) > 0
        wanted = (len(value), *self.shape[1:]) if free else self.shape
        return value.shape == wanted and value.dtype == np.dtype(self.dtype)


@dataclass(frozen=True)
class SubModel:
    """A module and how it is called.

    Attributes:
        name: short, for folders.
        make_module: gives the module, in evaluation mode on the CPU; called only where its weights are needed.
        inputs: in the order of its arguments.
        outputs: names, in the order of what it returns.
        quantised: the model's linear layers that int8 may hold in 8 bits, by their names in it; all convolutions are.
        answer: the probabilities ``[1, K]`` of a clip (``rgb`` and ``flow`` as the whole network takes them) by runs of
            the sub-model.
    """

    name: str
    make_module: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    quantised: tuple[str, ...] = ()
    answer: Callable[[Run, Mapping[str, Array]], Array] = lambda run, clip: run(clip)["probabilities"]

    @property
    def takes_clips(self) -> bool:
        """Whether its inputs are clips ``[1, T, C, H, W]``, and not one sample with what is remembered of others."""
        return all(len(spec.shape) == 5 for spec in self.inputs)

    def batched(self, count: int) -> Self:
        """Return the same for another number of clips at a time, -1 for any."""
        return replace(self, inputs=tuple(spec.batched(count) for spec in self.inputs))

    def example(self, seed: int = 0) -> dict[str, Array]:
        """Make inputs of random values: 0..255 for integers, else of a standard normal distribution."""
        generator = np.random.default_rng(seed)
        made: dict[str, Array] = {}
        for spec in self.inputs:
            if np.issubdtype(np.dtype(spec.dtype), np.integer):
                made[spec.name] = generator.integers(0, 256, spec.shape).astype(spec.dtype)
            else:
                made[spec.name] = generator.standard_normal(spec.shape).astype(spec.dtype)
        return made


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Check the names, shapes and types of inputs.

    Raises:
        SettingsError: one does not match; the message names what was wanted and what came.
    """
    for spec in specs:
        if spec.name not in inputs:
            raise SettingsError(spec.name, "this input is missing", f"give {spec.dtype} {list(spec.shape)}")
        came = inputs[spec.name]
        if not spec.takes(came):
            reason = f"{came.dtype} {list(came.shape)}, wanted {spec.dtype} {list(spec.shape)}"
            raise SettingsError(spec.name, reason, "give what the runtime was prepared for, or take runtime torch")


class _Probabilities(nn.Module):
    """A model from the streams of a clip, in the order of its inputs, to scores."""

    def __init__(self, network: VideoModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, *clips: Tensor) -> Tensor:
        given = dict(zip(self.network.reads, clips, strict=True))
        return self.network.scores(self.network(**given))


def picture_specs(network: ModelSettings, streams: Sequence[StreamName], *before: int) -> tuple[TensorSpec, ...]:
    """Describe the streams of a model as inputs ``[*before, C, H, W]``, uint8."""
    return tuple(TensorSpec(name, (*before, *network.shape_of(name)), "uint8") for name in streams)


def clip_model(
    make_network: Callable[[], VideoModel], model_class: type[VideoModel], settings: ModelSettings, clip: ClipSettings
) -> SubModel:
    """Make the sub-model of the whole model: streams of a clip ``[1, T, C, H, W]``, uint8, to probabilities ``[1, K]``.

    Args:
        make_network: gives it; called when its weights are needed.
        model_class: the model's class.
        settings: the model's.
        clip: what is cut from a video for it.
    """
    return SubModel(
        name="clip",
        make_module=lambda: _Probabilities(make_network()).eval(),
        inputs=picture_specs(settings, clip.streams, 1, clip.frames),
        outputs=("probabilities",),
        quantised=model_class.quantized_layers,
    )
