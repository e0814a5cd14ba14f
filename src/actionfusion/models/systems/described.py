"""What classical systems share: a clip's pictures are described outside PyTorch, and everything after is solved.

    rgb [B, T, 3, H, W] --OpenCV and NumPy--> values [B, F], 16 bits --vocabularies, machines--> logits [B, K]

Local descriptors vary in number.  Of each clip a fixed number M of them is kept, as rows of zeros where there are
fewer, so that a clip has F = M * D values: with 1000 trajectories of 426 numbers 0.85 MB, and 0.85 GB for a thousand
clips, which `solve` holds at once.  No descriptor is a row of zeros.  Half precision holds these values, which are
shares of histograms, to a thousandth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from actionfusion.models.model import Features, VideoModel
from actionfusion.models.normalizer import Normalizer

UInt8Array = npt.NDArray[np.uint8]


class DescribedSystem(VideoModel):
    """A model that describes RGB clips by other libraries than PyTorch; a subclass defines what follows.

    Args:
        settings: of the subclass's ``Settings``.
    """

    recipe: ClassVar[str] = "trajectories"
    solved: ClassVar[bool] = True
    exportable: ClassVar[bool] = False
    fixed_frames: ClassVar[bool] = True

    @property
    def described_width(self) -> int:
        """F, the width of a described clip."""
        raise NotImplementedError

    def describe_pictures(self, pictures: UInt8Array) -> npt.NDArray[np.float32]:
        """Describe one clip's pictures ``[T, H, W, 3]``, 0..255, in at most F values; zeros fill up the others."""
        raise NotImplementedError

    def answer_values(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips ``[B, F]`` in the network's own precision."""
        raise NotImplementedError

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, K]`` of normalised pictures."""
        return self.answer_described(self.describe(features))

    def describe(self, features: Features) -> Tensor:
        """Describe normalised pictures ``[B, T, 3, H, W]`` as ``[B, F]``, in half precision."""
        rgb = features["rgb"]
        values = rgb.new_zeros((len(rgb), self.described_width), dtype=torch.float16)
        if not has_values(rgb):
            return values
        for row, clip in enumerate(self.pictures_of(rgb)):
            with full_precision(values):
                described = torch.from_numpy(self.describe_pictures(clip))
            values[row, : described.numel()] = described.flatten().to(values)
        return values

    def pictures_of(self, rgb: Tensor) -> UInt8Array:
        """Give pictures ``[B, T, H, W, 3]``, 0..255, of normalised ones ``[B, T, 3, H, W]``."""
        normalizer = cast("Normalizer", self.normalizers["rgb"])
        pictures = ((rgb.detach() - normalizer.shift) / normalizer.scale).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(pictures.movedim(2, -1).cpu().numpy())

    def answer_described(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips ``[B, F]``, a clip at a time, in full precision."""
        with full_precision(values):
            return self.each(self.answer_values, values)

    def each(self, function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """Apply a function to described clips ``[N, F]``, one at a time in the network's own precision."""
        own = next(self.parameters())
        return torch.cat([function(values[row : row + 1].to(own)) for row in range(len(values))])


def full_precision(tensor: Tensor) -> torch.autocast:
    """Make a context in which nothing of the tensor's device is computed in half precision."""
    return torch.autocast("cpu" if tensor.is_meta else tensor.device.type, enabled=False)


def has_values(tensor: Tensor) -> bool:
    """Tell whether a tensor has values, and not the shape alone, as where costs are counted."""
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def grey_pictures(pictures: UInt8Array) -> UInt8Array:
    """Turn RGB pictures ``[T, H, W, 3]`` grey, ``[T, H, W]``."""
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]).astype(np.uint8, copy=False)
