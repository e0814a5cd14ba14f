"""The average of other models' probabilities, which is a model like any other.

    clips --each member--> probabilities [B, K] --weighted mean--> [B, K]

Source: the late fusion of Simonyan and Zisserman 2014, which two streams, or seeds, are commonly joined by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models import model_class
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.settings import build
from actionfusion.streams import STREAMS, StreamName

_BY_COMMAND = "make one of runs: actionfusion average RUN RUN --out RUN"


@dataclass(frozen=True)
class AverageSettings(ModelSettings):
    """Settings of an average.

    Args:
        members: ``model``, ``network`` and ``weight`` of each: its name in the table, its settings, and its share,
            which is divided by the sum of all.

    Raises:
        SettingsError: fewer than two members, one that cannot be built, or that reads or answers something else.
    """

    members: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.members) < 2:
            raise SettingsError("network.members", f"there are {len(self.members)}", _BY_COMMAND)
        for number, (kind, settings) in enumerate(self.kinds):
            place, weight = f"network.members.{number}", self.members[number].get("weight")
            if not kind.exportable:
                raise SettingsError(place, f"{kind.__name__} works outside PyTorch", "average networks alone")
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
                raise SettingsError(f"{place}.weight", f"{weight!r} is no share", "take a number above 0")
            facts = [settings.num_classes, *(settings.shape_of(stream) for stream in kind.streams(settings))]
            if facts != [self.num_classes, *(self.shape_of(stream) for stream in kind.streams(settings))]:
                raise SettingsError(place, f"reads or answers something else ({facts})", _BY_COMMAND)

    @cached_property
    def kinds(self) -> tuple[tuple[type[VideoModel], ModelSettings], ...]:
        """Class and settings of each member."""
        found = []
        for number, member in enumerate(self.members):
            place = f"network.members.{number}"
            kind = model_class(build(str, member.get("model"), place, within="model"))
            found.append((kind, build(kind.Settings, member.get("network"), place, within="network")))
        return tuple(found)


class Average(VideoModel):
    """The weighted mean of the probabilities of other models, which all read the same clip.

    Args:
        settings: of the members.
    """

    Settings: ClassVar[type[ModelSettings]] = AverageSettings
    source: ClassVar[Source] = Source(
        "The mean of the probabilities of several runs", kept="each run as it was trained"
    )
    settings: AverageSettings

    def __init__(self, settings: AverageSettings) -> None:
        super().__init__(settings)
        self.normalizers.clear()  # each member has its own
        self.members = nn.ModuleList(kind(own) for kind, own in settings.kinds)
        total = sum(member["weight"] for member in settings.members)
        self.shares = tuple(float(member["weight"] / total) for member in settings.members)

    @classmethod
    def streams(cls, settings: ModelSettings) -> tuple[StreamName, ...]:
        """Name what any of the members reads."""
        read = {stream for kind, own in cast("AverageSettings", settings).kinds for stream in kind.streams(own)}
        return tuple(stream for stream in STREAMS if stream in read)

    def stream_features(self, stream: StreamName, pictures: Tensor) -> Tensor:
        """Give the pictures as they came: each member normalises them itself."""
        del stream
        return pictures

    def folded(self) -> Self:
        """Make an average of folded members; see `VideoModel.folded`."""
        made = super().folded()
        made.members = nn.ModuleList(cast("VideoModel", member).folded() for member in self.members)
        return made

    def classify(self, features: Mapping[StreamName, Tensor]) -> Tensor:
        """Make logits ``[B, K]``, the logarithms of the mean probabilities, of pictures ``[B, T, C, H, W]``."""
        mean = torch.zeros(())
        for member, share in zip(self.members, self.shares, strict=True):
            own = cast("VideoModel", member)
            given = {stream: features[stream] for stream in own.reads}
            mean = mean.to(given[own.reads[0]].device) + share * own.scores(own(**given))
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
