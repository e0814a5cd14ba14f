"""What systems of one network a stream share: the streams, their backbones, and the mean of the streams' scores.

    pictures [B, T, C, H, W] --backbone--> maps [B, T, D, h, w] --tower--> [B, n, K]       for each stream
    logits [B, n * streams, K]: an answer for each step of each tower, RGB's first

The loss is the mean over all answers, so that each tower learns as if it were trained alone; a clip's scores are the
mean of their probabilities, those of flow with a weight of their own.

Source: Simonyan and Zisserman 2014, which most of these systems follow in this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.backbones import BackboneName, backbone_facts, make_backbone
from actionfusion.models.model import Features, VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.streams import STREAMS, StreamName


@dataclass(frozen=True)
class TowerSettings(ModelSettings):
    """Settings that systems of one network a stream share; a subclass adds its own.

    Args:
        num_classes: K, classes to tell apart.
        frames: T, sampled frames of a clip.
        image_size: height and width of the frames, in pixels.
        flow_size: height and width of the flow; none is ``image_size``.
        flow_channels: 2L, channels of the flow input.
        streams: both, or one of rgb and flow.
        flow_input: stack (all 2L channels) or image (u, v and length of the middle flow frame, which pretrained filters
            of pictures fit).
        flow_weight: share of flow's scores in the mean of both streams.
        backbone: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths of a VGG.
        batch_norm: normalise after each convolution of a VGG, for training from scratch.

    Attributes:
        OWN_LAYERS: whether ``backbone`` may be ``own``: no backbone, and the system's own layers on the pictures.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    SHARES: ClassVar[tuple[str, ...]] = ("flow_weight",)
    OWN_LAYERS: ClassVar[bool] = False

    streams: Literal["both", "rgb", "flow"] = "both"
    flow_input: Literal["stack", "image"] = "stack"
    flow_weight: float = 0.5
    backbone: BackboneName = "efficientnet_lite0"
    batch_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow_input == "image" and self.flow_channels % 2:
            reason = f"{self.flow_channels} channels are no pairs of u and v"
            raise SettingsError("network.flow_channels", reason, "take an even number")
        sizes = {stream: self.side_of(stream) for stream in self.reads}
        if min(sizes.values()) < 1:
            raise SettingsError("network.image_size", "the frames leave no map", "take larger frames")
        if len(set(sizes.values())) > 1:
            reason = f"{self.size_of('flow')} px leave a map of another size than the frames' {self.image_size} px"
            raise SettingsError("network.flow_size", reason, "take equal sizes")

    @property
    def reads(self) -> tuple[StreamName, ...]:
        """The streams, RGB first."""
        return STREAMS if self.streams == "both" else (self.streams,)

    @property
    def has_backbone(self) -> bool:
        """Whether a backbone reads the pictures; else the system's own layers do."""
        return not (self.OWN_LAYERS and self.backbone == "own")

    def side_of(self, stream: StreamName) -> int:
        """Return height and width of what a stream's tower reads: maps, or pictures where there is no backbone."""
        size = self.size_of(stream)
        return backbone_facts(self.backbone).map_size(size) if self.has_backbone else size


class FlowImage(nn.Module):
    """Turn normalised flow into a picture: u, v and their length of the middle flow frame.

    Source: Donahue et al. 2015.
    """

    def forward(self, flow: Tensor) -> Tensor:
        """Map ``[B, T, 2L, H, W]`` to ``[B, T, 3, H, W]``."""
        middle = flow.shape[2] // 4 * 2
        motion = flow[:, :, middle : middle + 2]
        return torch.cat((motion, torch.linalg.vector_norm(motion, dim=2, keepdim=True)), dim=2)


class Towers(VideoModel):
    """A network for each stream, whose scores are averaged.

    A subclass defines `make_tower`, or `add_towers` and `answers`.

    Args:
        settings: of the subclass's ``Settings``; their defaults with 101 classes where none are given.

    Attributes:
        maps: passes the streams' maps on side by side, ``[B, T, D, h, w]``, for `explain`.
        towers: what follows the backbone, by stream: ``[B, T, D, h, w]`` to logits ``[B, n, K]``.
    """

    explained_layer: ClassVar[str | None] = "maps"
    settings: TowerSettings

    def __init__(self, settings: TowerSettings | None = None) -> None:
        settings = settings or cast("TowerSettings", self.Settings())
        backbones, channels = {}, dict[StreamName, int]()
        for stream in settings.reads:
            as_image = stream == "flow" and settings.flow_input == "image"
            channels[stream] = 3 if as_image else settings.channels_of(stream)
            if settings.has_backbone:
                backbone = make_backbone(settings.backbone, channels[stream], batch_norm=settings.batch_norm)
                backbones[stream], channels[stream] = backbone, backbone.out_channels
        super().__init__(settings, backbones)
        if "flow" in self.reads and settings.flow_input == "image":
            self.normalizers["flow"] = nn.Sequential(self.normalizers["flow"], FlowImage())
        self.maps = nn.Identity()
        self.add_towers(channels)

    @classmethod
    def streams(cls, settings: ModelSettings) -> tuple[StreamName, ...]:
        """Name the streams of ``settings.streams``."""
        return cast("TowerSettings", settings).reads

    def add_towers(self, channels: Mapping[StreamName, int]) -> None:
        """Add what follows the streams' backbones, whose maps have so many channels."""
        self.towers = nn.ModuleDict({stream: self.make_tower(stream, width) for stream, width in channels.items()})

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make what follows a stream's backbone: from maps ``[B, T, D, h, w]`` of D channels to logits."""
        raise NotImplementedError

    def answers(self, stream: StreamName, maps: Tensor) -> Tensor:
        """Make a stream's logits ``[B, n, K]`` of its maps ``[B, T, D, h, w]``."""
        logits: Tensor = self.towers[stream](maps)
        return logits

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, n * streams, K]``, RGB's first."""
        return torch.cat([self.answers(stream, maps) for stream, maps in self.stream_maps(features).items()], 1)

    def stream_maps(self, features: Features) -> dict[StreamName, Tensor]:
        """Pass the maps of all streams through ``maps``, and give them back by stream, RGB's first."""
        widths = [features[stream].shape[2] for stream in self.reads]
        maps = self.maps(torch.cat([features[stream] for stream in self.reads], 2)).split(widths, 2)
        return dict(zip(self.reads, maps, strict=True))

    def take_weights(self) -> list[Tensor]:
        """Take what each tower kept of the last clips as its ``weights``, where it kept any."""
        towers: list[Any] = list(self.towers.values())
        found: list[Tensor] = [tower.weights for tower in towers if tower.weights is not None]
        for tower in towers:
            tower.weights = None
        return found

    def log_scores(self, logits: Tensor) -> Tensor:
        """Compute log-probabilities ``[B, K]`` of the weighted mean of all answers' probabilities."""
        return (logits.float().log_softmax(-1) + self._weights(logits).log()[:, None]).logsumexp(1)

    def scores(self, logits: Tensor) -> Tensor:
        """Compute probabilities ``[B, K]``: the weighted mean of all answers'."""
        return (logits.float().softmax(-1) * self._weights(logits)[:, None]).sum(1)

    def _weights(self, logits: Tensor) -> Tensor:
        """Weigh the answers ``[n * streams]``."""
        flow = self.settings.flow_weight
        shares = torch.tensor([1 - flow, flow] if len(self.reads) == 2 else [1.0])
        steps = self.step_weights(logits.shape[1] // len(self.reads))
        return torch.outer(shares, steps).flatten().to(logits.device)

    def step_weights(self, steps: int) -> Tensor:
        """Weigh the steps of a tower's answers ``[n]``, 1 in sum: all alike."""
        return torch.full((steps,), 1 / steps)
