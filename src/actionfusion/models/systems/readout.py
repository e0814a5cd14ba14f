"""What systems of feature maps end with: a map becomes values, and values become logits.

    maps [..., D, h, w] --pool, or flatten and fc--> [..., F] --linear--> logits [..., K]

The papers flatten the map into fully connected layers, which want many clips.  For few, a channel's largest value over
the picture is read, layer-normalised, since the maps of pictures and of flow are of different sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.systems.towers import TowerSettings


@dataclass(frozen=True)
class ReadoutSettings(TowerSettings):
    """Settings of systems that read feature maps; a subclass adds its own.

    Args:
        pool: max or average, over all positions of a map; none keeps the positions apart, as the papers do.
        fc: units of each fully connected layer after that; the papers have two.
        dropout: share of each of them that training drops, or where there is none, of what is pooled.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    SHARES: ClassVar[tuple[str, ...]] = (*TowerSettings.SHARES, "dropout")

    pool: Literal["max", "average", "none"] = "max"
    fc: tuple[int, ...] = ()
    dropout: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(units < 1 for units in self.fc):
            raise SettingsError("network.fc", f"{list(self.fc)} has a layer without units", "take 1 or more for each")

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and 32-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {
            "image_size": 32, "flow_channels": 8, "backbone": "narrow", "batch_norm": True, "dropout": 0.0, **changes
        }  # fmt: skip
        return cls(num_classes=num_classes, **values)


class Readout(nn.Module):
    """Read maps by pooling or flattening, and by fully connected layers.

    Args:
        settings: how.
        channels: D.
        side: height and width of the maps.

    Attributes:
        out_features: F.

    Raises:
        SettingsError: no position is left of the map.
    """

    def __init__(self, settings: ReadoutSettings, channels: int, side: int) -> None:
        super().__init__()
        if side < 1:
            raise SettingsError("network.image_size", "the frames leave no map", "take larger frames")
        self.pool = settings.pool
        widths = (channels * side**2 if settings.pool == "none" else channels, *settings.fc)
        self.fc = nn.Sequential()
        for before, units in pairwise(widths):
            self.fc.extend([nn.Linear(before, units), nn.ReLU(), nn.Dropout(settings.dropout)])
        if not settings.fc:
            self.fc.append(nn.Dropout(settings.dropout))
        self.out_features = widths[-1]

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[..., D, h, w]`` to ``[..., F]``."""
        if self.pool == "none":
            values = maps.flatten(-3)
        else:
            pooled = maps.amax((-2, -1)) if self.pool == "max" else maps.mean((-2, -1))
            values = F.layer_norm(pooled, pooled.shape[-1:])
        read: Tensor = self.fc(values)
        return read


def make_classifier(settings: ReadoutSettings, channels: int, side: int) -> nn.Sequential:
    """Make the layers from maps ``[..., D, h, w]`` to logits ``[..., K]``; arguments as for `Readout`."""
    readout = Readout(settings, channels, side)
    return nn.Sequential(readout, nn.Linear(readout.out_features, settings.num_classes))
