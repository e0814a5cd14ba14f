"""The contract of every backbone: 2-D layers from a picture of any number of channels to a feature map.

A backbone is one file with its facts and one line in ``backbones.BACKBONES``; no other code knows its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from actionfusion.errors import SettingsError, WeightsError
from actionfusion.models.weights import Checkpoint, FlowStart, read_checkpoint

# Of the pictures of ImageNet in 0..1, as torchvision and timm normalise them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """2-D layers that process each picture independently.

    A subclass makes its layers, sets the facts, and defines `units`, `stage_ends` and `first_layer`.

    Attributes:
        in_channels: channels of a picture: 3 for RGB, 2L for a stack of L flow frames.
        out_channels: channels of the map.
        stride: pixels of the picture for one position of the map.
        mean: of RGB in 0..1 that its pretrained weights expect.
        std: likewise.
        dense_shape: shape of the first fully connected layer's weight, where the pretrained weights have that layer.
        recompute_frames: None, or how many pictures at a time keep their activations while gradients are computed; the
            others' are computed again in the backward pass.
        num_frozen: how many of `units`, from the first on, are frozen.
        channels_last: whether pictures are stored channels last, the faster order of 2-D convolutions on CPUs, and on
            GPUs in half precision.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    dense_shape: ClassVar[tuple[int, int] | None] = None
    out_channels: int
    stride: int

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.recompute_frames: int | None = None
        self.num_frozen = 0
        self.channels_last = True

    @property
    def units(self) -> Sequence[nn.Module]:
        """The layers in the order in which a picture passes them."""
        raise NotImplementedError

    @property
    def stage_ends(self) -> Mapping[str, int]:
        """How many units there are up to the end of each stage, by the stage's name, in order."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, which `freeze` and `explain` go by."""
        return tuple(self.stage_ends)

    def map_size(self, image_size: int) -> int:
        """Return height and width of the map of a square picture."""
        return -(-image_size // self.stride)

    def freeze(self, through: str | None) -> None:
        """Keep the layers up to the end of a stage as they are, and let all others learn.

        Frozen layers keep nothing for the backward pass, and their batch norm stays with its running statistics.

        Args:
            through: a name of ``stages``, ``all``, or None to freeze nothing.

        Raises:
            SettingsError: no such stage.
        """
        ends, units = self.stage_ends, self.units
        if through not in (None, "all", *ends):
            raise SettingsError("training.freeze", f"{through!r} is no stage", f"choose {', '.join(ends)} or all")
        frozen = len(units) if through == "all" else ends[through] if through else 0
        # Layers without parameters, such as a pooling after the stage, are frozen with it.
        while 0 < frozen < len(units) and not any(True for _ in units[frozen].parameters()):
            frozen += 1
        self.num_frozen = frozen
        for index, layer in enumerate(units):
            layer.requires_grad_(index >= frozen)
        self.train(self.training)

    @property
    def is_frozen(self) -> bool:
        """Whether the whole backbone is frozen."""
        return self.num_frozen == len(self.units)

    def set_recompute(self, frames: int | None) -> None:
        """Set ``recompute_frames``.

        Raises:
            SettingsError: batch norm, whose statistics are over all frames at once.
        """
        if frames is not None and any(isinstance(module, _BatchNorm) for module in self.modules()):
            reason = "batch norm in the backbones takes its statistics over all frames at once"
            raise SettingsError("recompute_frames", reason, "set it to null, or take a backbone without batch norm")
        self.recompute_frames = frames

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode as for every module; frozen layers stay in evaluation mode."""
        super().train(mode)
        for layer in self.units[: self.num_frozen]:
            layer.eval()
        return self

    def norms(self) -> Iterator[tuple[nn.Module, str, str]]:
        """List the batch norms that read a convolution: their parent, and in it the convolution's name and their own.

        In all backbones but timm's, the one that is defined right after a convolution reads it.
        """
        for parent in self.modules():
            for (before, convolution), (name, norm) in pairwise(parent.named_children()):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    yield parent, before, name

    def folded(self) -> Self:
        """Copy the backbone with its batch norms folded into the convolutions before them, for evaluation alone.

        The maps are the same to float error, and sooner there on CPUs: see ``benchmarks/first_run.py``.
        """
        copy = deepcopy(self).eval().requires_grad_(requires_grad=False)
        for parent, before, name in list(copy.norms()):
            setattr(parent, before, fuse_conv_bn_eval(getattr(parent, before), getattr(parent, name)))
            setattr(parent, name, nn.Identity())
        return copy.to(memory_format=torch.channels_last) if self.channels_last else copy  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures ``[N, C, H, W]``, normalised, to ``[N, D, h, w]``.

        Pictures are independent, except for the statistics of batch norm in training.
        """
        if self.channels_last:
            pictures = pictures.contiguous(memory_format=torch.channels_last)
        units = self.units
        if not torch.is_grad_enabled() or not (self.num_frozen or self.recompute_frames):
            return _run(units, pictures)
        chunks = torch.split(pictures, self.recompute_frames or len(pictures))
        return torch.cat([self._run_with_gradients(units, chunk) for chunk in chunks])

    def _run_with_gradients(self, units: Sequence[nn.Module], pictures: Tensor) -> Tensor:
        """Run the frozen layers without gradients and the others with them."""
        with torch.no_grad():
            pictures = _run(units[: self.num_frozen], pictures)
        if self.is_frozen:
            return pictures
        learning = units[self.num_frozen :]
        if self.recompute_frames is None:
            return _run(learning, pictures)
        # Nothing in a backbone is random, so no state of random numbers has to be kept for the second computation.
        maps: Tensor = checkpoint(_run, learning, pictures, use_reentrant=False, preserve_rng_state=False)
        return maps

    def stage_maps(self, pictures: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """Return the maps ``[N, D, h, w]`` at the end of some stages, by name."""
        ends, found, done = self.stage_ends, dict[str, Tensor](), 0
        for stage in sorted(stages, key=lambda name: ends[name]):
            pictures = _run(self.units[done : ends[stage]], pictures)
            found[stage], done = pictures, ends[stage]
        return found

    def checkpoint(self, source: str | Path) -> Checkpoint:
        """Read pretrained weights: ``imagenet``, or a file.

        Raises:
            WeightsError: there are no such weights, or a file that is missing, unsafe or damaged.
        """
        if str(source) == "imagenet":
            return self.fetch_imagenet()
        return read_checkpoint(Path(source))

    def fetch_imagenet(self) -> Checkpoint:
        """Find the ImageNet weights of this backbone.

        Raises:
            WeightsError: there are none, or they are not here and cannot be fetched.
        """
        raise WeightsError("imagenet", "there are no pretrained weights of this backbone", "take --pretrained null")

    def translate(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Name a checkpoint's tensors as this backbone names them; those that it does not know may stay."""
        return tensors

    def first_layer(self) -> str:
        """Name the first layer, whose pretrained weights fit only pictures of three channels as they are."""
        raise NotImplementedError

    def pretrained_parameters(self) -> set[str]:
        """Name the parameters and statistics that pretrained weights have a value for as they are.

        The first layer of pictures of other than three channels is not among them, also where it starts from the mean
        of the RGB filters: it has never seen such pictures, and learns at the rate of new layers.
        """
        counters = {name for name in self.state_dict() if name.endswith("num_batches_tracked")}
        first = set() if self.in_channels == 3 else {f"{self.first_layer()}.{kind}" for kind in ("weight", "bias")}
        return set(self.state_dict()) - counters - first

    def pretrained_values(self, given: Checkpoint, flow_start: FlowStart = "random") -> dict[str, Tensor]:
        """Pick this backbone's values out of a checkpoint.

        Args:
            given: of pictures of three channels.
            flow_start: for pictures of another number of channels C, ``random`` leaves the first layer out.  ``mean``
                takes its bias, and for each channel the mean of the filters over RGB, as temporal segment networks
                (Wang et al. 2016) do.  Unlike them it scales that by 3/C, so that C equal channels give what a grey
                picture of these values gives: theirs has a batch norm after it that takes C/3 back, and VGG has none.

        Returns:
            By the backbone's own names.

        Raises:
            WeightsError: a tensor is missing, or has another shape.
        """
        tensors, state = self.translate(given.tensors), self.state_dict()
        known = self.pretrained_parameters()
        if flow_start == "mean" and self.in_channels != 3:
            weight, bias = (f"{self.first_layer()}.{kind}" for kind in ("weight", "bias"))
            known |= {weight, bias}
            if weight in tensors and tensors[weight].ndim > 1:
                filters, channels = tensors[weight].float(), self.in_channels
                mean = filters.mean(1, keepdim=True) * (filters.shape[1] / channels)
                tensors = {**tensors, weight: mean.repeat_interleave(channels, 1)}
        wanted = [name for name in state if name in known]
        if missing := [name for name in wanted if name not in tensors]:
            more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
            reason = f"it lacks {len(missing)} tensors: {', '.join(missing[:6])}{more}"
            is_run = any(name.startswith("backbones.") for name in given.tensors)
            remedy = "give the folder of the run" if is_run else f"give weights of {type(self).__name__}"
            raise WeightsError(given.source, reason, remedy)
        for name in wanted:
            if tensors[name].shape != state[name].shape:
                shapes = f"shape {list(tensors[name].shape)} where the network wants {list(state[name].shape)}"
                raise WeightsError(given.source, f"{name} has {shapes}", f"give weights of {type(self).__name__}")
        return {name: tensors[name] for name in wanted}

    def dense_values(self, given: Checkpoint) -> tuple[Tensor, Tensor] | None:
        """Pick weight and bias of the first fully connected layer after this backbone, where a checkpoint has it."""
        del given
        return None


def _run(units: Sequence[Callable[[Tensor], Tensor]], values: Tensor) -> Tensor:
    for unit in units:
        values = unit(values)
    return values
