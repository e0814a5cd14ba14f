"""SGSH: saliency guides 3-D SIFT and histograms of oriented flow, before a support vector machine.

    rgb [B, T, 3, H, W] --corners in salient regions, 3-D SIFT--> [B, M, 256] --words--> [B, V]
                        --flow, oriented histograms--> [B, 30], beside it --chi-square machine--> logits [B, K]

Source: Abdulmunem, Lai and Sun 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actionfusion.errors import SettingsError
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.solving import DescribedClips, SolveReport
from actionfusion.models.systems.described import DescribedSystem, UInt8Array, grey_pictures
from actionfusion.models.systems.encoders import BagOfWords, ChannelEncoder
from actionfusion.models.systems.machines import ChiSquareMachine
from actionfusion.models.systems.motion import farneback
from actionfusion.models.systems.salient_motion import SIFT_WIDTH, hoof, key_points, salient_regions, sift_3d


@dataclass(frozen=True)
class SGSHSettings(ModelSettings):
    """Settings of SGSH.

    Args:
        num_classes: K, classes to tell apart.
        frames: T, consecutive frames of a clip, 2 or more.
        image_size: height and width of the frames, in pixels.
        flow_size: not read.
        flow_channels: not read.
        salience: what is salient has so many times the mean of its picture's saliency (3 in Hou and Zhang).
        samples: M, the most key points of a clip.
        side: height and width of a key point's neighbourhood, in pixels, even.
        depth: frames of it, even.
        bins: of the oriented histograms of flow (30 in the paper of Chaudhry et al.).
        words: V, of the bag.
        learned: the most descriptors of the training clips that words are found from, evenly from all.

    Raises:
        SettingsError: a value out of range.
    """

    LEAST: ClassVar[Mapping[str, int]] = {
        **ModelSettings.LEAST, "frames": 2, "samples": 1, "side": 2, "depth": 2, "bins": 1, "words": 1, "learned": 1,
    }  # fmt: skip

    frames: int = 32
    image_size: int = 128
    salience: float = 3.0
    samples: int = 500
    side: int = 16
    depth: int = 8
    bins: int = 30
    words: int = 1000
    learned: int = 100_000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("side", "depth"):
            if getattr(self, name) % 2:
                raise SettingsError(f"network.{name}", f"{getattr(self, name)} is odd", "take an even number")

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of few key points in 32-pixel frames and few words, for tests.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "frames": 8, "image_size": 32, "salience": 1.5, "samples": 40, "side": 8, "depth": 4, "words": 8, **changes,
        }  # fmt: skip
        return cls(num_classes=num_classes, **values)


class SGSH(DescribedSystem):
    """Saliency guided 3-D SIFT and HOOF.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = SGSHSettings
    source: ClassVar[Source] = Source(
        "Abdulmunem, Lai and Sun, Saliency guided local and global descriptors for effective action recognition, "
        "Computational Visual Media 2(1), 2016",
        kept="frames without anything salient are left out, 3-D SIFT at key points in salient regions in a bag of "
        "words, HOOF beside it, and a support vector machine on both",
        differs="it follows the abstract, since sizes were not to be had: saliency is the spectral residual, key "
        "points are corners, 3-D SIFT is not turned to its main direction, HOOF is the mean over the clip, the kernel "
        "is chi-square, and a clip of T consecutive frames is read and not the whole video",
        published={"ucfsports": "90.9 % (as the paper's table gives it; its protocol was not to be had)"},
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {"words": 500}}
    settings: SGSHSettings

    def __init__(self, settings: SGSHSettings | None = None) -> None:
        settings = settings or SGSHSettings()
        super().__init__(settings)
        self.encoder = ChannelEncoder({"sift": SIFT_WIDTH}, partial(BagOfWords, words=settings.words))
        self.machine = ChiSquareMachine(1, settings.words + settings.bins, settings.num_classes)

    @property
    def rows(self) -> tuple[str, ...]:
        """The machine's tensors of training clips."""
        return tuple(f"machine.{name}" for name in ChiSquareMachine.ROWS)

    @property
    def described_width(self) -> int:
        """The bins of HOOF, then M * 256."""
        return self.settings.bins + self.settings.samples * SIFT_WIDTH

    def describe_pictures(self, pictures: UInt8Array) -> npt.NDArray[np.float32]:
        """Describe flow and key points of one clip; of a clip without anything salient its flow alone."""
        grey, settings = grey_pictures(pictures), self.settings
        salient = salient_regions(grey, settings.salience)
        shown = [time for time in range(len(grey) - 1) if salient[time].any()]
        flows = [hoof(farneback(grey[time], grey[time + 1]), settings.bins) for time in shown or range(len(grey) - 1)]
        local = sift_3d(grey, key_points(grey, salient, settings.samples), settings.side, settings.depth)
        return np.concatenate((np.mean(flows, 0), local.ravel()))

    def answer_values(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips."""
        logits: Tensor = self.machine(self._encode(values))
        return logits

    def _encode(self, values: Tensor) -> Tensor:
        """Make histograms ``[B, 1, V + bins]`` of described clips."""
        return torch.cat((self.encoder(self._descriptors(values)), values[:, : self.settings.bins]), 1)[:, None]

    def _descriptors(self, values: Tensor) -> Tensor:
        return values[:, self.settings.bins :].reshape(len(values), self.settings.samples, SIFT_WIDTH)

    @torch.no_grad()
    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the words, then the machine."""
        self.encoder.solve(self._descriptors(clips.values), self.settings.learned)
        return self.machine.solve(self.each(self._encode, clips.values), clips)
