"""Learning to track, reduced: boxes around what moves become tracks, and the best window of a track names the action.

    rgb [B, T, 3, H, W] --proposals--> boxes --backbone on each region, linking--> R tracks
    windows of a track --mean of its regions' features, motion histogram--> [B, R * n, D] --machines, best--> [B, K]

Source: Weinzaepfel, Harchaoui and Schmid 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.backbones import BackboneName, backbone_facts, make_backbone
from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.solving import DescribedClips, SolveReport
from actionfusion.models.systems.described import DescribedSystem, full_precision, grey_pictures, has_values
from actionfusion.models.systems.machines import LinearMachine
from actionfusion.models.systems.motion import farneback
from actionfusion.models.systems.tracks import STMH_WIDTH, boxes_of, link, motion_histogram, proposals
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class LearningToTrackSettings(ModelSettings):
    """Settings of learning to track.

    Args:
        num_classes: K, classes to tell apart.
        frames: T, consecutive frames of a clip, 5 or more.
        image_size: height and width of the frames, in pixels.
        flow_size: not read.
        flow_channels: not read.
        backbone: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths of a VGG.
        region: height and width that regions are scaled to for the backbone, in pixels.
        regions: proposals of each frame.
        tracks: R, the most of a clip.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**ModelSettings.LEAST, "frames": 5, "regions": 1, "tracks": 1}

    frames: int = 16
    image_size: int = 128
    backbone: BackboneName = "efficientnet_lite0"
    region: int = 96
    regions: int = 4
    tracks: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if backbone_facts(self.backbone).map_size(self.region) < 1:
            raise SettingsError("network.region", f"{self.region} px leave no map", "take larger regions")

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """First frames, and those after the last, of a track's windows: all of it, and its halves by quarters."""
        pairs = self.frames - 1  # the last frame has no flow
        return ((0, pairs), *((pairs * start // 4, pairs * (start + 2) // 4) for start in range(3)))

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone on few small regions, for tests.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "frames": 6, "image_size": 32, "backbone": "narrow", "region": 16, "regions": 2, "tracks": 2, **changes,
        }  # fmt: skip
        return cls(num_classes=num_classes, **values)


class LearningToTrack(DescribedSystem):
    """Tracks of regions of Weinzaepfel et al., reduced to naming a clip's action.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = LearningToTrackSettings
    source: ClassVar[Source] = Source(
        "Weinzaepfel, Harchaoui and Schmid, Learning to track for spatio-temporal action localization, ICCV 2015",
        kept="proposals of each frame, features of regions, tracks that are linked by overlap and likeness, motion "
        "histograms of tracks, windows of several lengths, and a linear machine for each class; a clip has the score "
        "of its best window",
        differs="reduced: it learns from clips' classes and not from boxes; proposals are boxes whose motion stands "
        "out, since EdgeBoxes wants a model file; one backbone sees pictures alone; no detectors of an instance or "
        "class are trained while tracking; machines learn from whole tracks; the published figure "
        "measures where, not what",
        published={"ucfsports": "mAP 90.5 % (of localisation in space and time; no accuracy)"},
    )
    settings: LearningToTrackSettings

    def __init__(self, settings: LearningToTrackSettings | None = None) -> None:
        settings = settings or LearningToTrackSettings()
        backbone = make_backbone(settings.backbone, 3)
        super().__init__(settings, {"rgb": backbone})
        self.machine = LinearMachine(backbone.out_channels + STMH_WIDTH, settings.num_classes)

    @property
    def described_width(self) -> int:
        """R * windows * D."""
        return self.settings.tracks * len(self.settings.windows) * self.machine.in_features

    def stream_features(self, stream: StreamName, pictures: Tensor) -> Tensor:
        """Normalise pictures; the backbone sees their regions and not the whole of them."""
        normalized: Tensor = self.normalizers[stream](pictures)
        return normalized

    def describe(self, features: Features) -> Tensor:
        """Describe the windows of tracks of normalised pictures ``[B, T, 3, H, W]``; no row of a track is zero."""
        rgb, settings = features["rgb"], self.settings
        with torch.no_grad(), full_precision(rgb):
            if not has_values(rgb):  # the cost of its regions is counted
                side = settings.region
                self._look(rgb.new_zeros(len(rgb) * (settings.frames - 1) * settings.regions, 3, side, side))
                return rgb.new_zeros((len(rgb), self.described_width), dtype=torch.float16)
            values = rgb.new_zeros((len(rgb), self.described_width), dtype=torch.float16)
            for row, (clip, pictures) in enumerate(zip(rgb, self.pictures_of(rgb), strict=True)):
                described = self._describe_clip(clip, grey_pictures(pictures)).flatten()
                values[row, : len(described)] = described.to(values)
            return values

    def _describe_clip(self, clip: Tensor, grey: npt.NDArray[np.uint8]) -> Tensor:
        """Describe the windows of one clip's tracks, ``[n, D]``."""
        flows = [farneback(first, second) for first, second in pairwise(grey)]
        boxes = [proposals(flow, self.settings.regions) for flow in flows]
        counts, side = [len(each) for each in boxes], (self.settings.region, self.settings.region)
        scenes = clip.movedim(1, -1).cpu().numpy()
        crops = [
            cv2.resize(scene[top:bottom, left:right], side, interpolation=cv2.INTER_LINEAR)
            for scene, each in zip(scenes, boxes, strict=False)
            for left, top, right, bottom in each
        ]
        looks = self._look(torch.from_numpy(np.stack(crops)).movedim(-1, 1).to(clip)).split_with_sizes(counts)
        rows = []
        for track in link(boxes, [each.cpu().numpy() for each in looks], self.settings.tracks):
            places = boxes_of(track, boxes)
            for start, stop in self.settings.windows:
                seen = [looks[time][track[time]] for time in range(start, stop) if track[time] >= 0]
                look = F.normalize(torch.stack(seen).mean(0), dim=0) if seen else torch.zeros_like(looks[0][0])
                moves = motion_histogram(grey[start:stop], flows[start:stop], places[start:stop])
                rows.append(torch.cat((look, torch.from_numpy(moves).to(look))))
        return torch.stack(rows)

    def _look(self, regions: Tensor) -> Tensor:
        """Make the backbone's mean over each region ``[n, 3, S, S]``, ``[n, C]`` of length 1."""
        backbone = self.backbone("rgb")
        assert backbone is not None
        return F.normalize(backbone(regions).mean((-2, -1)), dim=1)

    def answer_values(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]``, of each class the best of all windows."""
        windows = self._windows(values)
        margins = self.machine(windows).masked_fill(~windows.any(-1, keepdim=True), -torch.inf).amax(1)
        return torch.where(margins.isfinite(), margins, self.machine.bias)

    def _windows(self, values: Tensor) -> Tensor:
        """Show described clips as their tracks' windows, ``[B, R * windows, D]``."""
        return values.reshape(len(values), -1, self.machine.in_features)

    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the machines from the whole tracks of all clips; a held-out clip is counted by its first track."""
        whole = self._windows(clips.values)[:, :: len(self.settings.windows)]
        rows, tracks = whole.any(-1).nonzero(as_tuple=True)
        several = replace(
            clips,
            values=whole[rows, tracks],
            targets=clips.targets[rows],
            videos=tuple(clips.videos[row] for row in rows),
            groups=tuple(clips.groups[row] for row in rows),
        )
        return self.machine.solve(several.values.float(), several)
