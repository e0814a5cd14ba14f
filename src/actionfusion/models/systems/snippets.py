"""Snippets: frames at which a binary code of the picture changes, a pyramid of time over them, and a linear answer.

    pooled maps [B, T, D] --signs of rotated PCA--> codes [B, T, bits] --where they change--> key frames
    key frames --1, 2 and 4 parts of them: mean, and mean change--> [B, 7 * 2D] --linear--> logits [B, K]

This is a reconstruction from the abstract.  No gradient trains it: the codes and the classifier are solved.

Sources: Ravanbakhsh, Mousavi, Rastegari, Murino and Davis 2015 (abstract); Gong, Lazebnik, Gordo and Perronnin 2013 for
the codes (iterative quantisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor

from actionfusion.errors import SettingsError
from actionfusion.models.backbones import backbone_facts
from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.probe import PoolingName, Probe, ProbeHead, ProbeSettings
from actionfusion.models.solving import DescribedClips, Numbers, SolveReport
from actionfusion.streams import StreamName

LEVELS = (1, 2, 4)
_ROTATIONS = 50


@dataclass(frozen=True)
class SnippetsSettings(ProbeSettings):
    """Settings of snippets.

    Args:
        frames: T; the model takes any number.
        streams: both, or one of rgb (the paper) and flow.
        changes: read how much each channel changes from key frame to key frame, beside its mean over them.
        bits: of a frame's code.
        changed_bits: bits by which a frame's code must differ from that of the frame before to make it a key frame.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**ProbeSettings.LEAST, "bits": 1, "changed_bits": 1}

    frames: int = 16
    streams: Literal["both", "rgb", "flow"] = "rgb"
    bits: int = 8
    changed_bits: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = backbone_facts(self.backbone).out_channels * len(Probe.streams(self))
        if not self.changed_bits <= self.bits <= channels:
            reason = f"{self.bits} is not between the {self.changed_bits} that must change and {channels} channels"
            raise SettingsError("network.bits", reason, "take a number between them")

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings on a VGG-16; the abstract gives no other size.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return cls(num_classes=num_classes, **{"backbone": "vgg16", **changes})


class SnippetHead(ProbeHead):
    """A linear classifier of key frames, over a pyramid of time.

    Args:
        channels: D of each stream's features.
        num_classes: K.
        pooling: max or average, over all positions of a map.
        changes: whether changes from key frame to key frame stand beside the means.
        bits: of a code.
        changed_bits: that make a key frame.
    """

    parts: ClassVar[int] = sum(LEVELS)
    centre: Tensor
    axes: Tensor

    def __init__(
        self,
        channels: Mapping[StreamName, int],
        num_classes: int,
        pooling: PoolingName = "max",
        *,
        changes: bool = True,
        bits: int = 8,
        changed_bits: int = 1,
    ) -> None:
        super().__init__(channels, num_classes, pooling, changes=changes)
        self.changed_bits = changed_bits
        self.register_buffer("centre", torch.zeros(sum(channels.values())))
        self.register_buffer("axes", torch.zeros(sum(channels.values()), bits))  # until solved, all codes are the same

    def key_frames(self, pooled: Tensor) -> Tensor:
        """Find the key frames, ``[B, T]`` of truth values, of pooled values ``[B, T, D]``; the first one always is."""
        codes = (pooled - self.centre) @ self.axes > 0
        changed = (codes[:, 1:] != codes[:, :-1]).sum(2) >= self.changed_bits
        return torch.cat((torch.ones_like(codes[:, :1, 0]), changed), 1)

    def summarize(self, pooled: Tensor) -> Tensor:
        """Make the means over the parts of the pyramid, and the changes, ``[B, F]`` of pooled values ``[B, T, D]``.

        Part k of n among m key frames, counted from 0, goes from k m / n rounded down to (k + 1) m / n rounded up, so
        that none is empty.
        """
        keys = self.key_frames(pooled)
        rank, count = keys.cumsum(1) - 1, keys.sum(1, keepdim=True)
        inside = torch.stack(
            [
                keys & (rank * level > part * count - level) & (rank * level < (part + 1) * count)
                for level in LEVELS
                for part in range(level)
            ],
            1,
        ).to(pooled.dtype)
        values = pooled
        if self.changes:
            before = keys[:, None] & (rank[:, None] == rank[:, :, None] - 1)
            moved = (pooled - before.to(pooled.dtype) @ pooled).abs() * (rank > 0)[..., None]
            values = torch.cat((pooled, moved), 2)
        return (inside / inside.sum(2, keepdim=True) @ values).flatten(1)

    @torch.no_grad()
    def learn_codes(self, frames: Tensor) -> None:
        """Find the codes' axes from frames ``[N, D]``."""
        centre, axes = rotated_axes(frames.double().cpu().numpy(), self.axes.shape[1])
        self.centre.copy_(torch.from_numpy(centre))
        self.axes.copy_(torch.from_numpy(axes))


def rotated_axes(values: Numbers, bits: int) -> tuple[Numbers, Numbers]:
    """Find the axes whose signs are codes of values ``[N, D]``: PCA, rotated until the signs are near the values.

    It starts from PCA's own axes rather than from random ones, so that the same values give the same codes.

    Returns:
        The mean ``[D]``, and the axes ``[D, bits]``.
    """
    mean = values.mean(0)
    _, vectors = np.linalg.eigh(np.cov((values - mean).T, bias=True).reshape(len(mean), len(mean)))
    axes = vectors[:, ::-1][:, :bits]
    projected, rotation = (values - mean) @ axes, np.eye(bits)
    for _ in range(_ROTATIONS):
        signs = np.where(projected @ rotation > 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(signs.T @ projected)
        rotation = (left @ right).T
    return mean, axes @ rotation


class Snippets(Probe):
    """Key frames by binary codes, a pyramid of time, and a linear classifier.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = SnippetsSettings
    source: ClassVar[Source] = Source(
        "Ravanbakhsh, Mousavi, Rastegari, Murino and Davis, Action recognition with image based CNN features, arXiv "
        "1512.03980, 2015; it is not certain that the paper means this work",
        kept="a reconstruction from the abstract: features of frames, key frames by binary codes, a hierarchy of time, "
        "and a linear classifier",
        differs="all that the abstract leaves open: codes by PCA and iterative quantisation, 1, 2 and 4 parts; the "
        "features are a backbone's pooled map, not fc7, and logistic regression takes the place of the SVM",
        published={
            "ucf11": "89.5 % (as Ou and Sun 2019 quote it; protocol not known)",
            "ucfsports": "97.8 % (as Ou and Sun 2019 quote it; protocol not known)",
        },
    )
    settings: SnippetsSettings

    def make_head(self, channels: Mapping[StreamName, int]) -> SnippetHead:
        """Make the codes, and the classifier of key frames."""
        settings = self.settings
        return SnippetHead(
            channels,
            settings.num_classes,
            settings.pooling,
            changes=settings.changes,
            bits=settings.bits,
            changed_bits=settings.changed_bits,
        )

    @property
    def snippets(self) -> SnippetHead:
        """The head, typed."""
        return cast("SnippetHead", self.head)

    def describe(self, features: Features) -> Tensor:
        """Make the pooled values of all frames, ``[B, T * D]``: codes can be learned only from all clips."""
        return self._pooled(features).flatten(1)

    def answer_described(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips."""
        return self.head.answer_described(self.head.summarize(self._frames(values)))

    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the codes from the frames of all clips, then the weights of the linear classifier."""
        frames = self._frames(clips.values.to(self.snippets.centre))
        self.snippets.learn_codes(frames.flatten(0, 1))
        return self.head.solve(replace(clips, values=self.head.summarize(frames)))

    def _frames(self, values: Tensor) -> Tensor:
        return values.reshape(values.shape[0], -1, len(self.snippets.centre))

    def attention(self, features: Features) -> dict[str, Tensor]:
        """Give the shares ``[B, T]`` of the key frames in the mean over the whole clip; other frames have none."""
        keys = self.snippets.key_frames(self._pooled(features)).to(self.snippets.centre.dtype)
        return {"key frames": keys / keys.sum(1, keepdim=True)}
