"""The linear probe: a linear classifier of what frozen backbones see, the honest baseline of every other model.

    pictures [B, T, C, H, W] --backbone--> maps --max--> [B, T, D] --mean, changes--> [B, 2D] --linear--> logits [B, K]

Its weights are solved from all training clips at once (`solving`); no gradient trains it.

Source: Alain and Bengio 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.backbones import BackboneName, backbone_facts, make_backbone
from actionfusion.models.model import Clips, Features, VideoModel
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.solving import DescribedClips, SolveReport, solve_logistic
from actionfusion.models.streaming import FrameReader, SampleReader, StreamShape
from actionfusion.streams import STREAMS, StreamName

PoolingName = Literal["max", "average"]


class ProbeHead(nn.Module):
    """A linear classifier of backbones' features, by itself or beside another model on the same features.

    Args:
        channels: D of each stream's features.
        num_classes: K.
        pooling: max or average, over all positions of a map.
        changes: whether the mean absolute change of the pooled values from frame to frame stands beside their mean.

    Attributes:
        streams: in the order of their values.
    """

    parts: ClassVar[int] = 1  # of a clip that are summarised, each by itself
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: Mapping[StreamName, int],
        num_classes: int,
        pooling: PoolingName = "max",
        *,
        changes: bool = True,
    ) -> None:
        super().__init__()
        self.streams = tuple(stream for stream in STREAMS if stream in channels)
        self.num_classes, self.pooling, self.changes = num_classes, pooling, changes
        width = sum(channels.values()) * (2 if changes else 1) * self.parts
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.linear = nn.Linear(width, num_classes)

    def pool(self, maps: Tensor) -> Tensor:
        """Pool maps ``[B, T, D, h, w]`` over their positions to ``[B, T, D]``."""
        return maps.amax((-2, -1)) if self.pooling == "max" else maps.mean((-2, -1))

    def summarize(self, pooled: Tensor) -> Tensor:
        """Make the mean over the frames, and the changes, ``[B, F]`` of pooled values ``[B, T, D]``."""
        mean = pooled.mean(1)
        if not self.changes:
            return mean
        moves = (pooled[:, 1:] - pooled[:, :-1]).abs().mean(1) if pooled.shape[1] > 1 else torch.zeros_like(mean)
        return torch.cat((mean, moves), 1)

    def describe(self, features: Features) -> Tensor:
        """Make the values ``[B, F]`` that are classified, of features ``[B, T, D, h, w]`` by stream."""
        dtype = self.mean.dtype
        return self.summarize(torch.cat([self.pool(features[stream].to(dtype)) for stream in self.streams], 2))

    def answer_described(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips ``[B, F]``."""
        logits: Tensor = self.linear((values - self.mean) / self.scale)
        return logits

    def forward(self, features: Features) -> Tensor:
        """Make logits ``[B, K]`` of features ``[B, T, D, h, w]`` by stream."""
        return self.answer_described(self.describe(features))

    @torch.no_grad()
    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the weights; arguments and errors as for `solve_logistic`."""
        solution, report = solve_logistic(clips, self.num_classes)
        own = (self.mean, self.scale, self.linear.weight, self.linear.bias)
        for tensor, values in zip(own, solution, strict=True):
            tensor.copy_(torch.from_numpy(values))
        return report


@dataclass(frozen=True)
class ProbeSettings(ModelSettings):
    """Settings of the linear probe.

    Args:
        num_classes: K, classes to tell apart.
        frames: T; the probe takes any number.
        image_size: height and width of the frames, in pixels.
        flow_size: height and width of the flow; none is ``image_size``.
        flow_channels: 2L, channels of the flow input.
        streams: both, or one of rgb and flow.
        backbone: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths of a VGG.
        pooling: max or average, over all positions of a map.
        changes: read how much each channel changes from frame to frame, beside its mean over the frames.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    frames: int = 8
    streams: Literal["both", "rgb", "flow"] = "both"
    backbone: BackboneName = "efficientnet_lite0"
    pooling: PoolingName = "max"
    changes: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        facts = backbone_facts(self.backbone)
        sizes = {facts.map_size(self.size_of(stream)) for stream in Probe.streams(self)}
        if min(sizes) < 1:
            raise SettingsError("network.image_size", "the frames leave no map", "take larger frames")
        if len(sizes) > 1:
            reason = f"{self.size_of('flow')} px leave a map of another size than the frames' {self.image_size} px"
            raise SettingsError("network.flow_size", reason, "take equal sizes")

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and 32-pixel frames, for tests.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"image_size": 32, "backbone": "narrow", **changes})


class Probe(VideoModel):
    """A linear classifier on backbones that stay as they are.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = ProbeSettings
    source: ClassVar[Source] = Source(
        "Alain and Bengio, Understanding intermediate layers using linear classifier probes, arXiv 1610.01644, 2016",
        kept="a linear classifier on the features of a network that it does not change",
        differs="it reads a clip: each channel's largest value in a frame, its mean over the frames, and its mean "
        "absolute change from frame to frame; it is solved (logistic regression), its penalty chosen over groups of "
        "the training part",
    )
    solved: ClassVar[bool] = True
    explained_layer: ClassVar[str | None] = "maps"
    settings: ProbeSettings

    def __init__(self, settings: ProbeSettings | None = None) -> None:
        settings = settings or cast("ProbeSettings", self.Settings())
        backbones = {
            stream: make_backbone(settings.backbone, settings.channels_of(stream)) for stream in self.streams(settings)
        }
        super().__init__(settings, backbones)
        self.maps = nn.Identity()
        self.head = self.make_head({stream: backbone.out_channels for stream, backbone in backbones.items()})

    def make_head(self, channels: Mapping[StreamName, int]) -> ProbeHead:
        """Make the classifier of features of so many channels."""
        settings = self.settings
        return ProbeHead(channels, settings.num_classes, settings.pooling, changes=settings.changes)

    @classmethod
    def streams(cls, settings: ModelSettings) -> tuple[StreamName, ...]:
        """Name the streams of ``settings.streams``."""
        chosen = cast("ProbeSettings", settings).streams
        return STREAMS if chosen == "both" else (chosen,)

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, K]`` of the backbones' maps."""
        return self.answer_described(self.describe(features))

    def describe(self, features: Features) -> Tensor:
        """Make the values ``[B, F]`` that are classified."""
        return self.head.summarize(self._pooled(features))

    def answer_described(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips."""
        return self.head.answer_described(values)

    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the weights of the linear classifier."""
        return self.head.solve(clips)

    def _pooled(self, features: Features) -> Tensor:
        """Pool the maps of all streams, side by side, to ``[B, T, D]``."""
        return self.head.pool(self.maps(torch.cat([features[stream] for stream in self.reads], 2)))

    @classmethod
    def stream_shape(cls, settings: ModelSettings) -> StreamShape:
        """Describe exact streaming: frames do not see each other before their pooled values."""
        del settings
        return StreamShape(looks_ahead=False, branches=("pooled",))

    def sample_reader(self) -> SampleReader:
        """Make the reader that pools the maps of new samples."""

        def read(clips: Clips) -> tuple[Tensor]:
            return (self._pooled(self.features(clips)),)

        return FrameReader(self, self.stream_shape(self.settings), read)

    def answer_window(self, readings: Mapping[str, Tensor]) -> Tensor:
        """Classify the pooled values of a window."""
        return self.scores(self.head.answer_described(self.head.summarize(readings["pooled"])))
