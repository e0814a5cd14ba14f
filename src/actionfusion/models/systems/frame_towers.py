"""What systems share that read each frame by itself before they join them in time.

    maps [B, T, D, h, w] --read--> [B, T, F] --conclude--> [B, n, K]       for each stream

A stream of samples is then answered exactly: what `read` gives of a frame is kept, and `conclude` runs over a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.model import Clips
from actionfusion.models.model_settings import ModelSettings
from actionfusion.models.streaming import FrameReader, SampleReader, StreamShape
from actionfusion.models.systems.towers import Towers, TowerSettings
from actionfusion.models.weights import Checkpoint
from actionfusion.streams import StreamName

PoolName = Literal["average", "max", "fc6"]


class FrameTowers(Towers):
    """Towers that read each frame by itself first; a subclass defines `read` and `conclude`."""

    def read(self, stream: StreamName, maps: Tensor) -> Tensor:
        """Make of each frame's map, ``[B, T, D, h, w]``, what is kept of it: ``[B, T, F]``."""
        raise NotImplementedError

    def conclude(self, stream: StreamName, readings: Tensor) -> Tensor:
        """Make a stream's logits ``[B, n, K]`` of its readings ``[B, T, F]``."""
        raise NotImplementedError

    def answers(self, stream: StreamName, maps: Tensor) -> Tensor:
        """Make a stream's logits ``[B, n, K]`` of its maps ``[B, T, D, h, w]``."""
        return self.conclude(stream, self.read(stream, maps))

    @classmethod
    def stream_shape(cls, settings: ModelSettings) -> StreamShape:
        """Describe exact streaming: frames do not see each other in `read`."""
        return StreamShape(looks_ahead=False, branches=tuple(map(_branch, cls.streams(settings))))

    def sample_reader(self) -> SampleReader:
        """Make the reader that runs the backbones and `read` on new samples."""

        def read(clips: Clips) -> list[Tensor]:
            maps = self.stream_maps(self.features(clips))
            return [self.read(stream, each) for stream, each in maps.items()]

        return FrameReader(self, self.stream_shape(self.settings), read)

    def answer_window(self, readings: Mapping[str, Tensor]) -> Tensor:
        """Answer a window's readings."""
        return self.scores(torch.cat([self.conclude(stream, readings[_branch(stream)]) for stream in self.reads], 1))


def _branch(stream: StreamName) -> str:
    return f"{stream}_read"


@dataclass(frozen=True)
class PerceptSettings(TowerSettings):
    """Settings of systems that take one vector of each frame, which some papers call its percept.

    Args:
        flow_input: stack (all 2L channels) or image (u, v and length of the middle flow frame).
        pool: average or max over all positions of a map, or fc6, the first fully connected layer of a VGG.
        fc6_width: units of fc6 (4096 in VGG-16).

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**TowerSettings.LEAST, "fc6_width": 1}

    pool: PoolName = "average"
    fc6_width: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool == "fc6" and min(map(self.side_of, self.reads)) < 2:
            raise SettingsError("network.image_size", "the frames leave too small a map for fc6", "take larger frames")


class Percept(nn.Module):
    """Make one vector of each frame's map.

    Args:
        settings: which vector.
        stream: of the maps.
        channels: D.

    Attributes:
        width: F, length of the vector.
    """

    def __init__(self, settings: PerceptSettings, stream: StreamName, channels: int) -> None:
        super().__init__()
        self.pool, self.width, self.fc6 = settings.pool, channels, None
        if settings.pool == "fc6":
            side = settings.side_of(stream) // 2
            self.fc6, self.width = nn.Linear(channels * side**2, settings.fc6_width), settings.fc6_width

    def forward(self, maps: Tensor) -> Tensor:
        """Make ``[B, T, F]`` of ``[B, T, D, h, w]``."""
        if self.fc6 is not None:
            pooled = F.max_pool2d(maps.flatten(0, 1), 2).reshape(*maps.shape[:2], -1)
            return F.relu(self.fc6(pooled))
        return maps.amax((-2, -1)) if self.pool == "max" else maps.mean((-2, -1))


class PerceptTowers(FrameTowers):
    """Towers on one vector of each frame; a subclass defines `make_tower`, from ``[B, T, F]`` to ``[B, n, K]``."""

    settings: PerceptSettings

    def add_towers(self, channels: Mapping[StreamName, int]) -> None:
        """Add the percepts of each stream, and its tower on them."""
        super().add_towers(self.add_percepts(channels))

    def add_percepts(self, channels: Mapping[StreamName, int]) -> dict[StreamName, int]:
        """Add the percepts of each stream, and give their widths."""
        percepts = {stream: Percept(self.settings, stream, width) for stream, width in channels.items()}
        self.percepts = nn.ModuleDict(cast("dict[str, nn.Module]", percepts))
        return {stream: percept.width for stream, percept in percepts.items()}

    def read(self, stream: StreamName, maps: Tensor) -> Tensor:
        """Make the percepts ``[B, T, F]`` of a stream."""
        percepts: Tensor = self.percepts[stream](maps)
        return percepts

    def conclude(self, stream: StreamName, readings: Tensor) -> Tensor:
        """Run a stream's tower over its percepts ``[B, T, F]``."""
        logits: Tensor = self.towers[stream](readings)
        return logits

    def beside_backbones(self, given: Checkpoint) -> dict[str, Tensor]:
        """Take fc6 for each stream where the checkpoint has one."""
        found = next(iter(self.all_backbones().values())).dense_values(given)
        if self.settings.pool != "fc6" or found is None:
            return {}
        kinds = zip(("weight", "bias"), found, strict=True)
        return {f"percepts.{stream}.fc6.{kind}": values for kind, values in kinds for stream in self.reads}

    def pretrained_parameters(self) -> set[str]:
        """Name the backbones' pretrained parameters, and fc6 where there are weights of its shape."""
        shape = next(iter(self.all_backbones().values())).dense_shape
        dense = {
            f"{name}.{kind}"
            for name, layer in self.named_modules()
            for kind in ("weight", "bias")
            if name.endswith(".fc6") and isinstance(layer, nn.Linear) and tuple(layer.weight.shape) == shape
        }
        return super().pretrained_parameters() | dense
