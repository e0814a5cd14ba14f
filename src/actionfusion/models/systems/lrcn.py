"""LRCN: features of each frame, an LSTM over them, and an answer at every step.

    pictures [B, T, C, H, W] --backbone--> maps --pool--> [B, T, D] --LSTM--> [B, T, hidden] --> logits [B, T, K]

The loss is taken at every step, and a clip's scores are the mean of its steps' probabilities.

Source: Donahue, Hendricks, Guadarrama, Rohrbach, Venugopalan, Saenko and Darrell 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.backbones import BackboneName, backbone_facts, make_backbone
from actionfusion.models.layer_norm_lstm import LayerNormLSTM, NormName
from actionfusion.models.model import Clips, Features, ModelSettings, Source, VideoModel
from actionfusion.models.streaming import FrameReader, SampleReader, StreamShape
from actionfusion.models.systems.towers import FlowImage
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class LRCNSettings(ModelSettings):
    """Settings of LRCN.  The defaults are for real use on a light backbone; `original` has the sizes of the paper.

    Args:
        num_classes: K, classes to tell apart.
        frames: T, 16 in the paper; the network takes any number.
        image_size: height and width of the frames, in pixels.
        flow_size: height and width of the flow; none is ``image_size``.
        flow_channels: 2L, channels of the flow input.
        streams: rgb or flow; LRCN averages the scores of a network of each, the flow's with twice the weight.
        flow_input: stack (all 2L channels) or image (u, v and length of the middle flow frame, as in the paper, which
            pretrained filters of pictures fit).
        backbone: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths of a VGG.
        batch_norm: normalise after each convolution of a VGG, for training from scratch.
        pool: average or max, over all positions of a map.  Both forget where things are, so direction of motion is
            learned from flow, and hardly from pictures.
        hidden: units of the LSTM (256 for RGB and 1024 for flow in the paper).
        norm: none (a plain LSTM, the paper's), tf, gates, ba or batch; see models/layer_norm_lstm.py.
        dropout_features: share of the pooled features that training drops (0.9 of fc6 in the paper).
        dropout_lstm: share of the LSTM's outputs that training drops (0.5).

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**ModelSettings.LEAST, "hidden": 1}
    SHARES: ClassVar[tuple[str, ...]] = ("dropout_features", "dropout_lstm")

    frames: int = 16
    streams: StreamName = "rgb"
    flow_input: Literal["stack", "image"] = "stack"
    backbone: BackboneName = "efficientnet_lite0"
    batch_norm: bool = False
    pool: Literal["average", "max"] = "average"
    hidden: int = 256
    norm: NormName = "none"
    dropout_features: float = 0.5
    dropout_lstm: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow_input == "image" and self.flow_channels % 2:
            reason = f"{self.flow_channels} channels are no pairs of u and v"
            raise SettingsError("network.flow_channels", reason, "take an even number")
        if backbone_facts(self.backbone).map_size(self.size_of(self.streams)) < 1:
            reason = f"{self.size_of(self.streams)} px leave no map"
            raise SettingsError("network.image_size", reason, "take larger frames")

    @classmethod
    def original(cls, num_classes: int = 101, streams: StreamName = "rgb", **changes: Any) -> Self:
        """Make settings of the paper's sizes, on a VGG-16 in place of its CaffeNet.

        Args:
            num_classes: K.
            streams: rgb or flow.
            changes: other settings, by name.
        """
        values = {
            "streams": streams,
            "flow_input": "image",
            "backbone": "vgg16",
            "hidden": 256 if streams == "rgb" else 1024,
            "dropout_features": 0.9,
            **changes,
        }
        return cls(num_classes=num_classes, **values)

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and 64-pixel frames, which learn from scratch on a CPU.

        From flow that takes minutes.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "image_size": 64,
            "backbone": "narrow",
            "batch_norm": True,
            "pool": "max",
            "hidden": 64,
            "dropout_features": 0.0,
            "dropout_lstm": 0.0,
            **changes,
        }
        return cls(num_classes=num_classes, **values)


class LRCN(VideoModel):
    """The long-term recurrent convolutional network of Donahue et al. 2015, of one stream.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = LRCNSettings
    source: ClassVar[Source] = Source(
        "Donahue, Hendricks, Guadarrama, Rohrbach, Venugopalan, Saenko and Darrell, Long-term recurrent convolutional "
        "networks for visual recognition and description, CVPR 2015 (journal: PAMI 2017)",
        kept="an LSTM over features of each frame, an answer and a loss at every step, and the flow image",
        differs="the features are a backbone's pooled map, not fc6 of CaffeNet, whose weights pip cannot install",
        published={
            "ucf101": "82.34 % (official splits; scores of RGB and flow averaged 1:2); RGB alone 68.20 %, flow 77.28 %"
        },
    )
    explained_layer: ClassVar[str | None] = "maps"
    settings: LRCNSettings

    def __init__(self, settings: LRCNSettings | None = None) -> None:
        settings = settings or LRCNSettings()
        stream = settings.streams
        as_image = stream == "flow" and settings.flow_input == "image"
        channels = 3 if as_image else settings.channels_of(stream)
        backbone = make_backbone(settings.backbone, channels, batch_norm=settings.batch_norm)
        super().__init__(settings, {stream: backbone})
        if as_image:
            self.normalizers[stream] = nn.Sequential(self.normalizers[stream], FlowImage())
        self.maps = nn.Identity()
        self.dropout_features = nn.Dropout(settings.dropout_features)
        self.lstm = LayerNormLSTM(backbone.out_channels, settings.hidden, norm=settings.norm)
        self.dropout_lstm = nn.Dropout(settings.dropout_lstm)
        self.answer = nn.Linear(settings.hidden, settings.num_classes)

    @classmethod
    def streams(cls, settings: ModelSettings) -> tuple[StreamName, ...]:
        """Name the one stream of ``settings.streams``."""
        return (cast("LRCNSettings", settings).streams,)

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, T, K]`` of the backbone's maps."""
        return self._run_lstm(self._project(features))

    def _project(self, features: Features) -> Tensor:
        """Make the LSTM's input product of each frame, ``[B, T, 4 * hidden]``."""
        maps = self.maps(features[self.settings.streams])
        pooled = maps.mean((-2, -1)) if self.settings.pool == "average" else maps.amax((-2, -1))
        return self.lstm.project(self.dropout_features(pooled))

    def _run_lstm(self, projected: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.dropout_lstm(self.lstm.recur(projected)))
        return logits

    @property
    def memories(self) -> dict[str, LayerNormLSTM]:
        """The LSTM."""
        return {"lstm": self.lstm}

    @classmethod
    def stream_shape(cls, settings: ModelSettings) -> StreamShape:
        """Describe exact streaming: frames do not see each other before the LSTM."""
        del settings
        return StreamShape(looks_ahead=False, branches=("lstm",))

    def sample_reader(self) -> SampleReader:
        """Make the reader that runs the backbone and the LSTM's input product on new samples."""

        def read(clips: Clips) -> tuple[Tensor]:
            return (self._project(self.features(clips)),)

        return FrameReader(self, self.stream_shape(self.settings), read)

    def answer_window(self, readings: Mapping[str, Tensor]) -> Tensor:
        """Run the LSTM over the readings of a window."""
        return self.scores(self._run_lstm(readings["lstm"]))

    def keep_only_memory(self) -> Self:
        """Free everything before the LSTM's recurrence, its input product included."""
        super().keep_only_memory()
        self.lstm.keep_only_recurrence()
        return self
