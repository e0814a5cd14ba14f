"""The spatiotemporal fusion network: two VGG towers, 3-D fusion, and three layer-norm LSTMs, from a clip to logits.

    rgb  [B, T, 3, H, W]  --tower-->  [B, T, D, h, w] --+
                                                        +--fusion--> X_conv [B, T, C, h, w]
    flow [B, T, 2L, H, W] --tower-->  [B, T, D, h, w] --+

    X_conv --reduce-----------------------> LN_LSTM* [B, T, hidden] --+
    X_conv --2x2 max pool--> fc6 = X_fc --> LN_LSTM* [B, T, hidden] --+--> LN_LSTM (last state) --> head [B, K]

Source: Ou and Sun 2019, sections 3.1 to 3.6.  docs/model_card.md draws it with its shapes, and says what was decided
where the paper leaves a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.clip_input import ClipNormalizer
from actionfusion.models.fusion import RGB_SHARE, FusionName, make_fusion
from actionfusion.models.heads import HeadName, make_head
from actionfusion.models.layer_norm_lstm import LayerNormLSTM, NormName
from actionfusion.models.vgg16 import LAYOUTS, TowerLayout, TowerName, VGGTower, check_layout, map_size

StreamsName = Literal["both", "rgb", "flow"]
BranchesName = Literal["both", "conv", "fc"]
ConvReduceName = Literal["flatten", "pool", "average", "max"]
TemporalHeadName = Literal["lstm", "mean"]

_CHOICES: dict[str, Any] = {
    "streams": StreamsName,
    "fusion": FusionName,
    "branches": BranchesName,
    "conv_reduce": ConvReduceName,
    "temporal_head": TemporalHeadName,
    "norm": NormName,
    "head": HeadName,
}
_LEAST: dict[str, int] = {
    "num_classes": 2,
    "image_size": 1,
    "flow_channels": 1,
    "fc6_width": 1,
    "hidden": 1,
    "merge_dim": 0,
}
_SHARES = ("dropout_fc6", "dropout_lstm", "dropout_last")


@dataclass(frozen=True)
class FusionNetworkSettings:
    """What the network is made of.  The defaults are the practical mode; `faithful` and `tiny` change some of them.

    Args:
        num_classes: K, classes to tell apart (101 in UCF101).
        image_size: height and width of frames and flow, in pixels (224 in the paper).
        flow_channels: 2L, channels of the flow input (8 in the paper, for L = 4 fields).
        streams: both, or one of rgb and flow; one stream's map is X_conv as it is, without fusion.
        tower: vgg16, narrow, or a list of widths with M for each 2x2 max pooling, such as [8, M, 16, M, 32].
        batch_norm: normalise after each convolution of the towers and the fusion; for training from scratch, and absent
            from the VGG-16.
        fusion: conv3d (the paper), conv2d, sum, max or concat.
        fusion_time_kernel: sampled frames that conv3d joins, 3 (the paper) or 1.
        fusion_space_kernel: height and width of the kernel of conv3d and conv2d, 3 (the paper) or 1.
        fusion_relu: rectify what conv3d and conv2d give.
        fusion_rgb_share: part of the picture's map in their start, 0 to 1 (0.25); the flow's map has the rest.
        branches: what the LSTMs see: both, or one of conv (the fused map) and fc (fc6 of it).
        conv_reduce: how the conv branch sees the map: flatten (the paper), pool (2x2 max, then flatten), average, or
            max over all places, which keeps what is small in the picture and forgets where it is.
        fc6_width: width of the first fully connected layer (4096 in VGG-16).
        temporal_head: lstm (the paper), or mean, the average over time of the branches' features.
        hidden: units of the LSTM* of each branch, and with the linear head of the last LSTM too (101 in the paper);
            with the other heads the last LSTM has a unit for each class.
        merge_dim: width of a linear map between the branches and the last LSTM; 0 joins them as they are.
        norm: tf, gates, ba, batch or none; see models/layer_norm_lstm.py.
        norm_inputs: layer-norm the features of each branch before its LSTM*.
        head: literal (logits are h itself), scaled (h times a learned factor) or linear (a dense layer).
        dropout_fc6: share of fc6 that training drops.
        dropout_lstm: share of the LSTM* outputs that training drops.
        dropout_last: share of the last LSTM's output that training drops, before the head.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    num_classes: int = 101
    image_size: int = 224
    flow_channels: int = 8
    streams: StreamsName = "both"
    tower: TowerName | TowerLayout = "vgg16"
    batch_norm: bool = False
    fusion: FusionName = "conv3d"
    fusion_time_kernel: int = 3
    fusion_space_kernel: int = 3
    fusion_relu: bool = True
    fusion_rgb_share: float = RGB_SHARE
    branches: BranchesName = "both"
    conv_reduce: ConvReduceName = "pool"
    fc6_width: int = 4096
    temporal_head: TemporalHeadName = "lstm"
    hidden: int = 101
    merge_dim: int = 0
    norm: NormName = "tf"
    norm_inputs: bool = False
    head: HeadName = "scaled"
    dropout_fc6: float = 0.5
    dropout_lstm: float = 0.25
    dropout_last: float = 0.25

    def __post_init__(self) -> None:
        if not isinstance(self.tower, str):
            object.__setattr__(self, "tower", tuple(self.tower))  # YAML has a list
        self._check_each()
        self._check_together()

    def _check_each(self) -> None:
        for name, kind in _CHOICES.items():
            value, choices = getattr(self, name), get_args(kind)
            if value not in choices:
                raise SettingsError(f"network.{name}", f"{value!r} is no choice", f"choose one of {', '.join(choices)}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise SettingsError(f"network.{name}", f"{getattr(self, name)} is too small", f"take {least} or more")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"network.{name}", f"{getattr(self, name)} is no share", "take 0 or more, under 1")
        for name in ("fusion_time_kernel", "fusion_space_kernel"):
            if getattr(self, name) not in (1, 3):
                raise SettingsError(f"network.{name}", f"{getattr(self, name)} is not offered", "choose 1 or 3")
        if isinstance(self.tower, str) and self.tower not in LAYOUTS:
            raise SettingsError("network.tower", f"{self.tower!r} is no tower", f"choose one of {', '.join(LAYOUTS)}")
        check_layout(self.layout)

    def _check_together(self) -> None:
        if not 0 <= self.fusion_rgb_share <= 1:
            reason = f"{self.fusion_rgb_share} is no share"
            raise SettingsError("network.fusion_rgb_share", reason, "take 0 to 1")
        needed = 2 if self.pools else 1
        if self.map_size < needed:
            reason = f"{self.image_size} px leave a map of {self.map_size}, under {needed}"
            raise SettingsError("network.image_size", reason, "take larger frames, or a tower with fewer poolings")
        if self.temporal_head == "mean" and self.head != "linear":
            reason = f"{self.head!r} takes a hidden state for logits, and the mean head has none"
            raise SettingsError("network.head", reason, "choose linear")
        if self.last_hidden == 2 and self.temporal_head == "lstm" and self.norm in {"tf", "gates", "ba"}:
            # Two values less their mean, over their spread, are (+1, -1) or (-1, +1): nothing but a sign is left.
            reason = "layer norm over the last LSTM's 2 units leaves only a sign, which cannot be trained"
            raise SettingsError("network.head", reason, "choose linear for 2 classes, with more than 2 hidden units")

    @classmethod
    def faithful(cls, num_classes: int = 101, **changes: Any) -> Self:
        """The paper's network as `specification.md` reads it: X_conv flattened, softmax of h itself.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values: dict[str, Any] = {"conv_reduce": "flatten", "head": "literal", **changes}
        return replace(cls(), num_classes=num_classes, **values)

    @classmethod
    def practical(cls, num_classes: int = 101, **changes: Any) -> Self:
        """The same with X_conv pooled before it is flattened and a learned factor on h, for real use.

        Two classes get the linear head, since layer norm over two units cannot learn.  Asking for the literal head
        takes dropout off the last h, which would raise that head's loss floor.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values: dict[str, Any] = {"head": "linear" if num_classes == 2 else "scaled", **changes}
        if values["head"] == "literal":
            values.setdefault("dropout_last", 0.0)
        return replace(cls(), num_classes=num_classes, **values)

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """The same structure for a CPU: narrow towers with batch norm on 64-pixel frames, trained from scratch.

        Nothing is dropped, the conv branch sees each channel's largest value over the map, and a dense layer ends it:
        so a small thing in a large picture is learned from a few hundred clips.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values: dict[str, Any] = {
            "image_size": 64,
            "tower": "narrow",
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
        return replace(cls(), num_classes=num_classes, **values)

    @property
    def layout(self) -> TowerLayout:
        """The towers' layout, its name resolved."""
        return LAYOUTS[self.tower] if isinstance(self.tower, str) else self.tower

    @property
    def map_size(self) -> int:
        """Height and width of the towers' and the fused maps."""
        return map_size(self.image_size, self.layout)

    @property
    def pools(self) -> bool:
        """Whether any branch sees the fused map through the 2x2 max pooling."""
        return self.branches != "conv" or self.conv_reduce == "pool"

    @property
    def last_hidden(self) -> int:
        """Units of the last LSTM."""
        return self.hidden if self.head == "linear" else self.num_classes


class TowerMaps(NamedTuple):
    """What the towers give, ``[B, T, D, h, w]`` each; None for a stream that is not used."""

    rgb: Tensor | None
    flow: Tensor | None


class FusionNetwork(nn.Module):
    """The network of Ou and Sun 2019.

    **A clip goes in as it was cut, its values 0..255**, uint8 or floating point: RGB, and 8-bit flow codes in which 128
    is no motion.  The network normalises them itself, as its first operation; whoever scales them before is wrong.

    `tower_maps`, `fuse` and `classify` are the three parts of `forward`, for whoever keeps what lies between them.
    `freeze_towers` and `recompute_towers` say how the towers are trained; neither changes what the network computes,
    its settings or the names of its weights.

    Args:
        settings: what it is made of; the practical mode with 101 classes where none are given.
    """

    def __init__(self, settings: FusionNetworkSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or FusionNetworkSettings()
        self.normalizer = ClipNormalizer(settings.image_size, settings.flow_channels)
        self.rgb_tower = self._tower(3) if settings.streams != "flow" else None
        self.flow_tower = self._tower(settings.flow_channels) if settings.streams != "rgb" else None
        self.map_channels = next(width for width in reversed(settings.layout) if isinstance(width, int))
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
        self.fc6 = self._fc6() if settings.branches != "conv" else None
        self.dropout_fc6 = nn.Dropout(settings.dropout_fc6)
        self.dropout_lstm = nn.Dropout(settings.dropout_lstm)
        self.dropout_last = nn.Dropout(settings.dropout_last)
        self._add_temporal_head()

    def _tower(self, in_channels: int) -> VGGTower:
        return VGGTower(in_channels, self.settings.layout, batch_norm=self.settings.batch_norm)

    def _fc6(self) -> nn.Linear:
        layer = nn.Linear(self.map_channels * (self.settings.map_size // 2) ** 2, self.settings.fc6_width)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def _conv_features(self) -> int:
        size = self.settings.map_size
        area = {"flatten": size**2, "pool": (size // 2) ** 2, "average": 1, "max": 1}[self.settings.conv_reduce]
        return self.map_channels * area

    def _add_temporal_head(self) -> None:
        settings = self.settings
        widths = {"conv": self._conv_features(), "fc": settings.fc6_width}
        if settings.branches != "both":
            widths = {settings.branches: widths[settings.branches]}
        if settings.temporal_head == "mean":
            self.head = make_head("linear", sum(widths.values()), settings.num_classes)
            return
        hidden, norm = settings.hidden, settings.norm
        self.branch_lstms = nn.ModuleDict(
            {name: LayerNormLSTM(width, hidden, norm=norm) for name, width in widths.items()}
        )
        merged = hidden * len(widths)
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

    @property
    def towers(self) -> tuple[VGGTower, ...]:
        """The towers of the streams in use, the picture's first."""
        return tuple(tower for tower in (self.rgb_tower, self.flow_tower) if tower is not None)

    def freeze_towers(self, through: str | None) -> None:
        """Let both towers' layers be up to a convolution; what lies behind them learns.

        After `load_imagenet` the flow tower's first layer is still random, and a frozen one stays so.

        Args:
            through: the last frozen convolution, such as ``conv4_3``; ``all``; or None, to freeze nothing.

        Raises:
            SettingsError: no convolution of that name.
        """
        for tower in self.towers:
            tower.freeze(through)

    def recompute_towers(self, frames: int | None) -> None:
        """Trade time for memory: keep the towers' activations of so many frames at a time, and compute the rest twice.

        Loss and gradients stay as they are, to float error.

        Args:
            frames: frames a chunk, of the B x T of a batch; None keeps everything.

        Raises:
            SettingsError: less than one frame, or towers with batch norm, whose statistics are over all frames.
        """
        if frames is not None and frames < 1:
            raise SettingsError("recompute_frames", f"{frames} frames", "take 1 or more, or null")
        if frames is not None and self.settings.batch_norm:
            reason = "batch norm in the towers takes its statistics over all frames at once"
            raise SettingsError("recompute_frames", reason, "set it to null, or network.batch_norm to false")
        for tower in self.towers:
            tower.recompute_frames = frames

    def tower_maps(self, rgb: Tensor, flow: Tensor) -> TowerMaps:
        """Normalise a batch of clips and run each stream's tower over all its B x T frames at once.

        Args:
            rgb: ``[B, T, 3, H, W]``, 0..255.
            flow: ``[B, T, 2L, H, W]``, codes 0..255; wanted, and checked, also where the settings use rgb alone.

        Returns:
            The maps after the last ReLU, ``[B, T, D, h, w]``.

        Raises:
            SettingsError: shapes that do not fit the settings or each other.
        """
        pictures, motion = self.normalizer(rgb, flow)
        return TowerMaps(_each_frame(self.rgb_tower, pictures), _each_frame(self.flow_tower, motion))

    def fuse(self, maps: TowerMaps) -> Tensor:
        """Make X_conv ``[B, T, C, h, w]`` of the towers' maps (eqs 1 and 2); one stream's map is X_conv as it is."""
        if maps.rgb is not None and maps.flow is not None and self.fusion is not None:
            fused: Tensor = self.fusion(maps.rgb, maps.flow)
            return fused
        only = maps.flow if self.settings.streams == "flow" else maps.rgb
        if self.fusion is not None or only is None:
            raise SettingsError("maps", "a stream is missing", f"give the maps of streams {self.settings.streams!r}")
        return only

    def fused_maps(self, rgb: Tensor, flow: Tensor) -> Tensor:
        """X_conv ``[B, T, C, h, w]`` of a batch of clips; arguments and errors as for `tower_maps`."""
        return self.fuse(self.tower_maps(rgb, flow))

    def classify(self, maps: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of X_conv ``[B, T, C, h, w]`` (eqs 7 to 12); with the literal head they are h itself.

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
            sequences: by the branch's name ``[B, T, hidden]`` of its LSTM*; with the mean head its features.
        """
        if self.settings.temporal_head == "mean":
            summary = torch.cat([sequence.mean(dim=1) for sequence in sequences.values()], dim=-1)
        else:
            hidden = [self.dropout_lstm(sequence) for sequence in sequences.values()]
            summary = self.last_lstm(self.merge(torch.cat(hidden, dim=-1)))
        logits: Tensor = self.head(self.dropout_last(summary))
        return logits

    def branch_features(self, maps: Tensor) -> dict[str, Tensor]:
        """What each branch's LSTM* reads of X_conv ``[B, T, C, h, w]``: ``[B, T, F]``, by the branch's name.

        Raises:
            SettingsError: maps of another shape than these settings give.
        """
        settings = self.settings
        wanted = (self.map_channels, settings.map_size, settings.map_size)
        if maps.ndim != 5 or maps.shape[2:] != wanted:
            reason = f"shape {list(maps.shape)}, wanted [B, T, {', '.join(map(str, wanted))}]"
            raise SettingsError("maps", reason, "give what fused_maps of the same settings gives")
        half = (settings.map_size // 2, settings.map_size // 2)
        pooled = F.max_pool2d(maps.flatten(0, 1), 2).reshape(*maps.shape[:3], *half) if settings.pools else maps
        features: dict[str, Tensor] = {}
        if settings.branches != "fc":
            features["conv"] = _reduced(settings.conv_reduce, maps, pooled)
        if self.fc6 is not None:
            features["fc"] = self.dropout_fc6(F.relu(self.fc6(pooled.flatten(2))))
        if settings.norm_inputs:
            features = {name: F.layer_norm(values, values.shape[-1:]) for name, values in features.items()}
        return features

    def forward(self, rgb: Tensor, flow: Tensor, *, maps: bool = False) -> Tensor:
        """Classify a batch of clips, or of what the towers made of them before.

        Args:
            rgb: ``[B, T, 3, H, W]``, RGB 0..255, uint8 or floating point; or maps ``[B, T, D, h, w]``.
            flow: ``[B, T, 2L, H, W]``, flow codes 0..255 (128 is no motion), uint8 or floating point; or maps
                ``[B, T, D, h, w]``.  Of a stream that is not in use, any maps will do.
            maps: whether ``rgb`` and ``flow`` are the towers' maps, of any precision.

        Returns:
            Logits ``[B, K]``; with the literal head these are h itself, in (-1, 1).

        Raises:
            SettingsError: shapes that do not fit the settings or each other.
        """
        return self.classify(self.fuse(self._cast(rgb, flow)) if maps else self.fused_maps(rgb, flow))

    def _cast(self, rgb: Tensor, flow: Tensor) -> TowerMaps:
        """Stored maps, in the network's own precision."""
        dtype = self.normalizer.rgb_scale.dtype
        return TowerMaps(
            rgb.to(dtype) if self.rgb_tower is not None else None,
            flow.to(dtype) if self.flow_tower is not None else None,
        )


def _reduced(how: ConvReduceName, maps: Tensor, pooled: Tensor) -> Tensor:
    match how:
        case "flatten":
            return maps.flatten(2)
        case "pool":
            return pooled.flatten(2)
        case "average":
            return maps.mean(dim=(-2, -1))
        case "max":
            return maps.amax(dim=(-2, -1))


def _each_frame(tower: VGGTower | None, frames: Tensor) -> Tensor | None:
    if tower is None:
        return None
    maps: Tensor = tower(frames.flatten(0, 1))
    return maps.reshape(*frames.shape[:2], *maps.shape[1:])
