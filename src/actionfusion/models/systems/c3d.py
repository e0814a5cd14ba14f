"""C3D: 3-D convolutions over 16 consecutive frames, from pixels to classes.

    rgb [B, 16, 3, 112, 112] --8 convolutions 3x3x3, 5 poolings--> [B, 512, 1, 4, 4] --fc6, fc7, fc8--> [B, K]

Source: Tran, Bourdev, Fergus, Torresani and Paluri 2015, and their published network definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.model import Features, VideoModel
from actionfusion.models.model_settings import ModelSettings, Source

# Name and width of each convolution, in `width`s; then the kernel of the pooling after it, or None.
_LAYERS = (
    ("conv1", 1, (1, 2, 2)),
    ("conv2", 2, (2, 2, 2)),
    ("conv3a", 4, None),
    ("conv3b", 4, (2, 2, 2)),
    ("conv4a", 8, None),
    ("conv4b", 8, (2, 2, 2)),
    ("conv5a", 8, None),
    ("conv5b", 8, (2, 2, 2)),
)
_LEAST_LENGTH = 16  # leaves one position: four poolings before the last halve space, and all but the first time


@dataclass(frozen=True)
class C3DSettings(ModelSettings):
    """Settings of C3D.  The defaults are the paper's.

    Args:
        num_classes: K, classes to tell apart.
        frames: T, 16 in the paper, or more.
        image_size: height and width of the frames, in pixels (112 in the paper), 16 or more.
        flow_size: not read.
        flow_channels: not read.
        width: channels of the first convolution; the last ones have eight times as many.
        fc_width: units of fc6 and fc7.
        dropout: share of fc6 and fc7 that training drops.

    Raises:
        SettingsError: a value out of range.
    """

    LEAST: ClassVar[Mapping[str, int]] = {
        **ModelSettings.LEAST, "frames": _LEAST_LENGTH, "image_size": _LEAST_LENGTH, "width": 1, "fc_width": 1,
    }  # fmt: skip
    SHARES: ClassVar[tuple[str, ...]] = ("dropout",)

    frames: int = 16
    image_size: int = 112
    width: int = 64
    fc_width: int = 4096
    dropout: float = 0.5

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of an eighth of the widths on 32-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {"image_size": 32, "width": 8, "fc_width": 128, "dropout": 0.0, **changes}
        return cls(num_classes=num_classes, **values)


class C3D(VideoModel):
    """The 3-D convolutional network of Tran et al. 2015: 78,409,573 parameters for 101 classes.

    Args:
        settings: the paper's with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = C3DSettings
    source: ClassVar[Source] = Source(
        "Tran, Bourdev, Fergus, Torresani and Paluri, Learning spatiotemporal features with 3D convolutional networks, "
        "ICCV 2015",
        kept="all layers, and by the default settings their sizes and the dropout; the last pooling rounds up",
        differs="the recipe has an eighth of the widths on frames of 32 pixels, four apart, and the answer is fc8's, "
        "where the published figures are those of an SVM on fc6; frames are normalised by ImageNet's mean and "
        "spread, not by the mean clip of Sports-1M; convolutions start as He et al. 2015, since a Gaussian of 0.01 "
        "does not train from scratch on small sets",
        published={
            "ucf101": "82.3 % (official splits; pretrained on Sports-1M, fc6 of a video's clips averaged, linear SVM); "
            "85.2 % of three networks"
        },
    )
    recipe: ClassVar[str] = "c3d"
    fixed_frames: ClassVar[bool] = True
    explained_layer: ClassVar[str | None] = "conv5b"
    quantized_layers: ClassVar[tuple[str, ...]] = ("fc6", "fc7")
    settings: C3DSettings

    def __init__(self, settings: C3DSettings | None = None) -> None:
        settings = settings or C3DSettings()
        super().__init__(settings)
        channels = 3
        for name, widths, _ in _LAYERS:
            convolution = nn.Conv3d(channels, widths * settings.width, 3, padding=1)
            if not convolution.weight.is_meta:  # else PyTorch would load all of torch.compile to draw nothing
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
            self.add_module(name, convolution)
            channels = convolution.out_channels
        side = -(-(settings.image_size // 16) // 2)
        self.fc6 = nn.Linear(channels * (settings.frames // 16) * side**2, settings.fc_width)
        self.fc7 = nn.Linear(settings.fc_width, settings.fc_width)
        self.fc8 = nn.Linear(settings.fc_width, settings.num_classes)
        self.dropout = nn.Dropout(settings.dropout)

    @classmethod
    def wrong_in_bfloat16(cls, settings: ModelSettings) -> bool:
        """Return whether a convolution sees two frames, as in clips of 16."""
        return 2 in (settings.frames // shrink for shrink in (1, 2, 4, 8))

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, K]`` of normalised frames ``[B, T, 3, H, W]``; errors as for `run_to_fc6`."""
        values = self.dropout(self.run_to_fc6(features["rgb"]))
        values = self.dropout(F.relu(self.fc7(values)))
        logits: Tensor = self.fc8(values)
        return logits

    def run_to_fc6(self, frames: Tensor) -> Tensor:
        """Make the values of fc6, ``[B, fc_width]``, of normalised frames ``[B, T, 3, H, W]``.

        Raises:
            SettingsError: frames of another shape than these settings say.
        """
        settings = self.settings
        wanted = [settings.frames, 3, settings.image_size, settings.image_size]
        if list(frames.shape[1:]) != wanted:
            reason = f"shape {list(frames.shape)}, wanted [B, {', '.join(map(str, wanted))}]"
            raise SettingsError("rgb", reason, "cut clips with the model's own settings")
        maps = frames.transpose(1, 2)
        for name, _, pooling in _LAYERS:
            maps = F.relu(self.get_submodule(name)(maps))
            if pooling is not None:
                if name == "conv5b":  # Caffe rounds up: what is left of a row or column is pooled too
                    maps = F.pad(maps, (0, maps.shape[-1] % 2, 0, maps.shape[-2] % 2))
                maps = F.max_pool3d(maps, pooling)
        return F.relu(self.fc6(maps.flatten(1)))

    def explained_maps(self, output: Tensor) -> Tensor:
        """Show ``[B, C, t, h, w]`` as ``[B, t, C, h, w]``."""
        return output.transpose(1, 2)
