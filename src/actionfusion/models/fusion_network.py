"""The spatiotemporal fusion network: two backbones, 3-D fusion, and three layer-norm LSTMs, from a clip to logits.

    rgb  [B, T, 3, H, W]  --backbone-->  [B, T, D, h, w] --+
                                                           +--fusion--> X_conv [B, T, C, h, w]
    flow [B, T, 2L, H, W] --backbone-->  [B, T, D, h, w] --+

    X_conv --reduce-----------------------> LN_LSTM* [B, T, hidden] --+
    X_conv --2x2 max pool--> fc6 = X_fc --> LN_LSTM* [B, T, hidden] --+--> LN_LSTM (last state) --> head [B, K]

Source: Ou and Sun 2019, sections 3.1 to 3.6.  docs/model_card.md shows it with its shapes, and says what was decided
where the paper leaves a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.backbones import BackboneName, backbone_facts, make_backbone
from actionfusion.models.fusion import RGB_SHARE, ConvFusion, FusionName, make_fusion
from actionfusion.models.heads import HeadName, make_head
from actionfusion.models.layer_norm_lstm import LayerNormLSTM, NormName
from actionfusion.models.model import Features, VideoModel
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.reduction import ConvReduceName, norm_each_stream, reduce_map
from actionfusion.models.streaming import FrameReader, NeighbourReader, SampleReader, StreamShape
from actionfusion.models.weights import Checkpoint
from actionfusion.streams import StreamName

StreamsName = Literal["both", "rgb", "flow"]
BranchesName = Literal["both", "conv", "fc"]
TemporalHeadName = Literal["lstm", "single", "mean"]


# The paper's structure of both branches and three LSTMs, at a size that few clips can teach.
_PAPER: Mapping[str, Any] = {
    "branches": "both",
    "fc6_width": 256,
    "temporal_head": "lstm",
    "hidden": 64,
    "head": "scaled",
}


@dataclass(frozen=True)
class FusionNetworkSettings(ModelSettings):
    """Settings of the fusion network.  The defaults are the practical mode; `faithful` and `tiny` change some of them.

    Args:
        num_classes: K, classes to tell apart (101 in UCF101).
        frames: T; the network takes any number.
        image_size: height and width of the frames, in pixels (224 in the paper).
        flow_size: height and width of the flow; none is ``image_size``.
        flow_channels: 2L, channels of the flow input (8 in the paper, for L = 4 flow frames).
        streams: both, or one of rgb and flow; one stream's map is X_conv as it is, without fusion.
        backbone: vgg16 (the paper), efficientnet_lite0, narrow, timm:NAME, or the widths of a VGG with M for each 2x2
            max pooling, such as [8, M, 16, M, 32].
        batch_norm: normalise after each convolution of a VGG and of the fusion; for training from scratch, and absent
            from the VGG-16.
        fusion: conv3d (the paper), conv2d, sum, max or concat.
        fusion_time_kernel: sampled frames that conv3d joins, 3 (the paper) or 1.
        fusion_space_kernel: height and width of the kernel of conv3d and conv2d, 3 (the paper) or 1.
        fusion_relu: rectify what conv3d and conv2d give.
        fusion_rgb_share: part of the picture's map in their start, 0 to 1 (0.25); the flow's map has the rest.
        fusion_fc: fuse at fc6 too (Fig. 3, right): it reads both streams' own maps beside the fused one.
        branches: what the LSTMs see: both, or one of conv (the fused map) and fc (fc6 of it).
        conv_reduce: how the conv branch sees the map: flatten (the paper), pool (2x2 max, then flatten), average, or
            max over all positions, which keeps what is small in the picture and forgets where it is.
        fc6_width: width of the first fully connected layer (4096 in VGG-16).
        temporal_head: lstm (the paper), single, which has no LSTM* but gives the last LSTM the branches' features as
            they are, or mean, the average over time of these features.
        hidden: units of the LSTM* of each branch, and with the linear head of the last LSTM too (101 in the paper);
            with the other heads the last LSTM has a unit for each class.
        merge_dim: width of a linear map between the branches and the last LSTM; 0 joins them as they are.
        norm: tf, gates, ba, batch or none; see models/layer_norm_lstm.py.
        norm_inputs: layer-norm the features of each branch before its LSTM*.
        norm_streams: layer-norm what the conv branch reads of each stream apart, so that neither outweighs the other;
            for one stream, or concat, which leaves them side by side.
        head: literal (logits are h itself), scaled (h times a learned factor) or linear (a dense layer).
        dropout_fc6: share of fc6 that training drops.
        dropout_lstm: share of the LSTM* outputs that training drops.
        dropout_last: share of the last LSTM's output that training drops, before the head.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**ModelSettings.LEAST, "fc6_width": 1, "hidden": 1, "merge_dim": 0}
    SHARES: ClassVar[tuple[str, ...]] = ("dropout_fc6", "dropout_lstm", "dropout_last")

    streams: StreamsName = "both"
    backbone: BackboneName = "vgg16"
    batch_norm: bool = False
    fusion: FusionName = "conv3d"
    fusion_time_kernel: int = 3
    fusion_space_kernel: int = 3
    fusion_relu: bool = True
    fusion_rgb_share: float = RGB_SHARE
    fusion_fc: bool = False
    branches: BranchesName = "both"
    conv_reduce: ConvReduceName = "pool"
    fc6_width: int = 4096
    temporal_head: TemporalHeadName = "lstm"
    hidden: int = 101
    merge_dim: int = 0
    norm: NormName = "tf"
    norm_inputs: bool = False
    norm_streams: bool = False
    head: HeadName = "scaled"
    dropout_fc6: float = 0.5
    dropout_lstm: float = 0.25
    dropout_last: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fusion_time_kernel", "fusion_space_kernel"):
            if getattr(self, name) not in (1, 3):
                raise SettingsError(f"network.{name}", f"{getattr(self, name)} is not offered", "choose 1 or 3")
        if not 0 <= self.fusion_rgb_share <= 1:
            reason = f"{self.fusion_rgb_share} is no share"
            raise SettingsError("network.fusion_rgb_share", reason, "take 0 to 1")
        needed = 2 if self.pools else 1
        if self.map_size < needed:
            reason = f"{self.image_size} px leave a map of {self.map_size}, under {needed}"
            raise SettingsError("network.image_size", reason, "take larger frames, or a backbone of a smaller stride")
        flow_map = backbone_facts(self.backbone).map_size(self.size_of("flow"))
        if self.streams == "both" and flow_map != self.map_size:
            reason = f"{self.flow_size} px leave a map of {flow_map}, and the frames one of {self.map_size}"
            raise SettingsError("network.flow_size", reason, "take sizes that give maps of one size")
        if self.fusion_fc and (self.streams != "both" or self.branches == "conv"):
            raise SettingsError("network.fusion_fc", "wants two streams, and fc6", "set it to false")
        if self.temporal_head == "mean" and self.head != "linear":
            reason = f"{self.head!r} takes a hidden state for logits, and the mean head has none"
            raise SettingsError("network.head", reason, "choose linear")
        if self.norm_streams and self.streams == "both" and self.fusion != "concat":
            reason = f"{self.fusion} has mixed the streams before they could be normalised apart"
            raise SettingsError("network.norm_streams", reason, "choose fusion concat, or set it to false")
        if self.last_hidden == 2 and self.temporal_head != "mean" and self.norm in {"tf", "gates", "ba"}:
            # Two values less their mean, over their spread, are (+1, -1) or (-1, +1): only a sign is left.
            reason = "layer norm over the last LSTM's 2 units leaves only a sign, which cannot be trained"
            raise SettingsError("network.head", reason, "choose linear for 2 classes, with more than 2 hidden units")

    @classmethod
    def faithful(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make the paper's settings as docs/model_card.md reads them: X_conv flattened, softmax of h itself.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {"conv_reduce": "flatten", "head": "literal", **changes}
        return cls(num_classes=num_classes, **values)

    @classmethod
    def practical(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings for real use: X_conv is pooled before it is flattened, and h gets a learned factor.

        Two classes get the linear head, since layer norm over two units cannot learn.  Asking for the literal head
        takes dropout off the last h, which would raise that head's loss floor.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {"head": "linear" if num_classes == 2 else "scaled", **changes}
        if values["head"] == "literal":
            values.setdefault("dropout_last", 0.0)
        return cls(num_classes=num_classes, **values)

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings for a CPU: a narrow backbone with batch norm on 64-pixel frames, trained from scratch.

        Nothing is dropped, the conv branch sees each channel's largest value over the map, and a dense layer ends it:
        so a small thing in a large picture is learned from a few hundred clips.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "image_size": 64,
            "backbone": "narrow",
            "batch_norm": True,
            "conv_reduce": "max",
            "fc6_width": 128,
            "hidden": 64,
            "head": "linear",
            "dropout_fc6": 0.0,
            "dropout_lstm": 0.0,
            "dropout_last": 0.0,
            **changes,
        }
        return cls(num_classes=num_classes, **values)

    @property
    def map_size(self) -> int:
        """Height and width of the backbones' and the fused maps."""
        stream: StreamName = "flow" if self.streams == "flow" else "rgb"
        return backbone_facts(self.backbone).map_size(self.size_of(stream))

    @property
    def pools(self) -> bool:
        """Whether any branch sees the fused map through the 2x2 max pooling."""
        return self.branches != "conv" or self.conv_reduce == "pool"

    @property
    def last_hidden(self) -> int:
        """Units of the last LSTM."""
        return self.hidden if self.head == "linear" else self.num_classes


class FusionNetwork(VideoModel):
    """The network of Ou and Sun 2019.

    What the paper's title calls attention is the last LSTM: it joins the fc branch, which says what a frame means, with
    the conv branch, which knows where things are (section 3.4, eq. 11).

    `features`, `fuse` and `classify_maps` are the parts of `forward`, for callers that keep intermediate results.

    Args:
        settings: the practical mode with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = FusionNetworkSettings
    source: ClassVar[Source] = Source(
        "Ou and Sun, Spatiotemporal information deep fusion network with frame attention mechanism for video action "
        "recognition, Journal of Electronic Imaging 28(2), 2019",
        kept="two VGG-16 streams, 3-D convolution at conv5_3, fc6, two LN_LSTM* and the LN_LSTM that joins them",
        differs="where the paper leaves a choice or contradicts itself; docs/model_card.md lists each",
        published={
            "ucf101": "95.3 % (random 7:3 of the videos)",
            "ucf11": "100 % (random 7:3 of the videos)",
            "ucfsports": "100 % (random 7:3 of the videos)",
        },
    )
    explained_layer: ClassVar[str | None] = "x_conv"
    quantized_layers: ClassVar[tuple[str, ...]] = ("fc6",)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rgb": {"streams": "rgb"},
        "flow": {"streams": "flow"},
        "paper": _PAPER,
        "paper_rgb": {**_PAPER, "streams": "rgb"},
        "paper_conv": {**_PAPER, "branches": "conv"},
        "paper_fc": {**_PAPER, "branches": "fc"},
        "paper_both": {**_PAPER, "fusion_fc": True},
        "paper_single": {**_PAPER, "temporal_head": "single"},
        "paper_no_norm": {**_PAPER, "norm": "none"},
        "paper_literal": {**_PAPER, "head": "literal"},
    }
    settings: FusionNetworkSettings

    def __init__(self, settings: FusionNetworkSettings | None = None) -> None:
        settings = settings or cast("FusionNetworkSettings", self.Settings())
        backbones = {
            stream: make_backbone(settings.backbone, settings.channels_of(stream), batch_norm=settings.batch_norm)
            for stream in self.streams(settings)
        }
        super().__init__(settings, backbones)
        self.map_size = settings.map_size  # torch.compile warns about the cache that the settings ask
        own = self.map_channels = next(iter(backbones.values())).out_channels
        self.fusion = None
        if settings.streams == "both":
            self.fusion = make_fusion(
                settings.fusion,
                self.map_channels,
                time_kernel=settings.fusion_time_kernel,
                space_kernel=settings.fusion_space_kernel,
                relu=settings.fusion_relu,
                batch_norm=settings.batch_norm,
                rgb_share=settings.fusion_rgb_share,
            )
            self.map_channels = self.fusion.out_channels
        self.all_channels = self.map_channels + (2 * own if settings.fusion_fc else 0)  # fc6 reads them
        self.x_conv = nn.Identity()  # what the branches read, fused or of one stream
        self.fc6 = None
        if settings.branches != "conv":
            self.fc6 = nn.Linear(self.all_channels * (self.map_size // 2) ** 2, settings.fc6_width)
            nn.init.xavier_uniform_(self.fc6.weight)
            nn.init.zeros_(self.fc6.bias)
        self.dropout_fc6 = nn.Dropout(settings.dropout_fc6)
        self.dropout_lstm = nn.Dropout(settings.dropout_lstm)
        self.dropout_last = nn.Dropout(settings.dropout_last)
        self._add_temporal_head()

    @classmethod
    def streams(cls, settings: ModelSettings) -> tuple[StreamName, ...]:
        """Name the streams of ``settings.streams``."""
        chosen = cast("FusionNetworkSettings", settings).streams
        return ("rgb", "flow") if chosen == "both" else (chosen,)

    def _add_temporal_head(self) -> None:
        settings, size = self.settings, self.map_size
        area = {"flatten": size**2, "pool": (size // 2) ** 2, "average": 1, "max": 1}[settings.conv_reduce]
        widths = {"conv": self.map_channels * area, "fc": settings.fc6_width}
        if settings.branches != "both":
            widths = {settings.branches: widths[settings.branches]}
        if settings.temporal_head == "mean":
            self.head = make_head("linear", sum(widths.values()), settings.num_classes)
            # What random weights say in directions that no training clip has would stay, and few clips have few.
            with torch.no_grad():
                for weight in self.head.parameters():
                    weight.mul_(0.01)
            return
        hidden, norm = settings.hidden, settings.norm
        self.branch_lstms = nn.ModuleDict()
        if settings.temporal_head == "lstm":
            for name, width in widths.items():
                self.branch_lstms[name] = LayerNormLSTM(width, hidden, norm=norm)
            widths = dict.fromkeys(widths, hidden)
        merged = sum(widths.values())
        self.merge: nn.Module = nn.Identity()
        if settings.merge_dim:
            self.merge = nn.Linear(merged, settings.merge_dim, bias=False)
            nn.init.xavier_uniform_(self.merge.weight)
            merged = settings.merge_dim
        self.last_lstm = LayerNormLSTM(merged, settings.last_hidden, norm=norm, return_sequence=False)
        self.head = make_head(settings.head, settings.last_hidden, settings.num_classes)

    @classmethod
    def faithful(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Build `FusionNetworkSettings.faithful`: 188.8 million parameters, 1.15 TFLOP for a clip of 17 frames."""
        return cls(FusionNetworkSettings.faithful(num_classes, **changes))

    @classmethod
    def practical(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Build `FusionNetworkSettings.practical`."""
        return cls(FusionNetworkSettings.practical(num_classes, **changes))

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Build `FusionNetworkSettings.tiny`."""
        return cls(FusionNetworkSettings.tiny(num_classes, **changes))

    @classmethod
    def wrong_in_bfloat16(cls, settings: ModelSettings) -> bool:
        """Return whether clips have two frames, where the 3-D convolution joins three."""
        own = cast("FusionNetworkSettings", settings)
        joins = own.fusion == "conv3d" and own.streams == "both" and own.fusion_time_kernel == 3
        return joins and own.frames == 2

    def fuse(self, features: Features) -> Tensor:
        """Make X_conv ``[B, T, C, h, w]`` of the backbones' maps (eqs 1 and 2); one stream's map is X_conv as it is.

        With ``fusion_fc`` both streams' maps follow its channels.
        """
        if missing := set(self.reads) - features.keys():
            raise SettingsError("features", f"stream {missing.pop()} is missing", f"give {' and '.join(self.reads)}")
        if self.fusion is None:
            return features[self.reads[0]]
        fused: Tensor = self.fusion(features["rgb"], features["flow"])
        return torch.cat((fused, features["rgb"], features["flow"]), 2) if self.settings.fusion_fc else fused

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, K]`` of the backbones' maps; with the literal head they are h itself.

        Raises:
            SettingsError: a stream is missing, or maps of another shape than these settings give.
        """
        return self.classify_maps(self.fuse(features))

    def classify_maps(self, maps: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of X_conv ``[B, T, C, h, w]`` (eqs 7 to 12).

        Raises:
            SettingsError: maps of another shape than these settings give.
        """
        sequences = self.branch_features(maps)
        if self.settings.temporal_head == "lstm":
            sequences = {name: self.branch_lstms[name](sequence) for name, sequence in sequences.items()}
        return self.conclude(sequences)

    def conclude(self, sequences: Mapping[str, Tensor]) -> Tensor:
        """Make logits ``[B, K]`` of what the branches give.

        Args:
            sequences: by the branch's name ``[B, T, hidden]`` of its LSTM*; with the other heads its features.
        """
        if self.settings.temporal_head == "mean":
            summary = torch.cat([sequence.mean(dim=1) for sequence in sequences.values()], dim=-1)
        else:
            states = self.settings.temporal_head == "lstm"
            hidden = [self.dropout_lstm(sequence) if states else sequence for sequence in sequences.values()]
            summary = self.last_lstm(self.merge(torch.cat(hidden, dim=-1)))
        logits: Tensor = self.head(self.dropout_last(summary))
        return logits

    def branch_features(self, maps: Tensor) -> dict[str, Tensor]:
        """Make what each branch's LSTM* reads of X_conv ``[B, T, C, h, w]``: ``[B, T, F]``, by the branch's name.

        Raises:
            SettingsError: maps of another shape than these settings give.
        """
        settings = self.settings
        wanted = (self.all_channels, self.map_size, self.map_size)
        if maps.ndim != 5 or tuple(maps.shape[2:]) != wanted:
            reason = f"shape {list(maps.shape)}, wanted [B, T, {', '.join(map(str, wanted))}]"
            raise SettingsError("maps", reason, "give what fuse of the same settings gives")
        maps = self.x_conv(maps)
        half = (self.map_size // 2, self.map_size // 2)
        pooled = F.max_pool2d(maps.flatten(0, 1), 2).reshape(*maps.shape[:3], *half) if settings.pools else maps
        features: dict[str, Tensor] = {}
        if settings.branches != "fc":
            own = slice(self.map_channels)
            features["conv"] = reduce_map(settings.conv_reduce, maps[:, :, own], pooled[:, :, own])
            if settings.norm_streams:
                features["conv"] = norm_each_stream(features["conv"], len(self.reads), self.map_channels)
        if self.fc6 is not None:
            features["fc"] = self.dropout_fc6(F.relu(self.fc6(pooled.flatten(2))))
        if settings.norm_inputs:
            features = {name: F.layer_norm(values, values.shape[-1:]) for name, values in features.items()}
        return features

    @property
    def memories(self) -> dict[str, LayerNormLSTM]:
        """LN_LSTM* of each branch and the last LN_LSTM; none with the mean head."""
        if self.settings.temporal_head == "mean":
            return {}
        return {name: self.branch_lstm(name) for name in self.branch_lstms} | {"last": self.last_lstm}

    def branch_lstm(self, name: str) -> LayerNormLSTM:
        """Return the LSTM* of a branch, typed."""
        return cast("LayerNormLSTM", self.branch_lstms[name])

    @classmethod
    def stream_shape(cls, settings: ModelSettings) -> StreamShape | None:
        """Describe how a stream is read sample by sample, with exact answers; not with ``fusion_fc``."""
        own = cast("FusionNetworkSettings", settings)
        if own.fusion_fc:
            return None
        looks_ahead = own.streams == "both" and own.fusion == "conv3d" and own.fusion_time_kernel == 3
        return StreamShape(
            looks_ahead,
            ("conv", "fc") if own.branches == "both" else (own.branches,),
            (3 if looks_ahead else 0, backbone_facts(own.backbone).out_channels, own.map_size, own.map_size),
        )

    def sample_reader(self) -> SampleReader:
        """Make the reader that runs backbones, fusion and the LSTM*s' input products on new samples."""
        shape = self.stream_shape(self.settings)
        assert shape is not None

        def read(maps: Tensor) -> list[Tensor]:
            readings = self.branch_features(maps)
            if self.settings.temporal_head == "lstm":
                readings = {name: self.branch_lstm(name).project(values) for name, values in readings.items()}
            return [readings[name] for name in shape.branches]

        if not shape.looks_ahead:
            return FrameReader(self, shape, lambda clips: read(self.fuse(self.features(clips))))
        return NeighbourReader(self, shape, cast("ConvFusion", self.fusion), self.features, read)

    def answer_window(self, readings: Mapping[str, Tensor]) -> Tensor:
        """Run the LSTMs and the head over the readings ``[B, n, F]`` of a window."""
        if self.settings.temporal_head == "lstm":
            readings = {name: self.branch_lstm(name).recur(sequence) for name, sequence in readings.items()}
        return self.scores(self.conclude(readings))

    def keep_only_memory(self) -> Self:
        """Free everything before the LSTM*s' recurrence, their input products included."""
        super().keep_only_memory()
        for part in (self.fusion, self.fc6):
            if part is not None:
                part.to("meta")
        if self.settings.temporal_head == "lstm":
            for name in self.branch_lstms:
                self.branch_lstm(name).keep_only_recurrence()
        return self

    def beside_backbones(self, given: Checkpoint) -> dict[str, Tensor]:
        """Take fc6 where the checkpoint has one; VGG-16's fits frames of 224 pixels."""
        found = next(iter(self.all_backbones().values())).dense_values(given)
        if self.fc6 is None or found is None:
            return {}
        return {"fc6.weight": found[0], "fc6.bias": found[1]}

    def pretrained_parameters(self) -> set[str]:
        """Name the backbones' pretrained parameters, and fc6 where there are weights of its shape."""
        shape = next(iter(self.all_backbones().values())).dense_shape
        fits = self.fc6 is not None and tuple(self.fc6.weight.shape) == shape
        return super().pretrained_parameters() | ({"fc6.weight", "fc6.bias"} if fits else set())
