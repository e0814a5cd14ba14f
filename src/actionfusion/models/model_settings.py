"""What every model says of itself: its settings, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from actionfusion.errors import SettingsError
from actionfusion.streams import StreamName


class Source(NamedTuple):
    """Where a model comes from.

    Attributes:
        citation: authors, title and year.
        kept: what of the original is here, in a sentence.
        differs: what differs and why, in a sentence; empty where nothing does.
        published: accuracies by data set, each with the protocol that it was measured under.
    """

    citation: str
    kept: str
    differs: str = ""
    published: Mapping[str, str] = {}


@dataclass(frozen=True)
class ModelSettings:
    """Facts of clips and classes that every model is built for; `train` takes them from the data and the clip settings.

    A subclass adds settings of its own; those of a ``Literal`` type are held to its choices here.

    Args:
        num_classes: K, classes to tell apart (101 in UCF101).
        frames: T, sampled frames of a clip; most models take any number.
        image_size: height and width of the frames, in pixels (224 in the paper).
        flow_size: height and width of the flow; none is ``image_size``.
        flow_channels: 2L, channels of the flow input (8 in the paper, for L = 4 flow frames).

    Attributes:
        LEAST: lowest values of numbers, by name.
        SHARES: names of settings from 0 up to, but not, 1.

    Raises:
        SettingsError: a value out of range.
    """

    LEAST: ClassVar[Mapping[str, int]] = {"num_classes": 2, "frames": 1, "image_size": 1, "flow_channels": 1}
    SHARES: ClassVar[tuple[str, ...]] = ()

    num_classes: int = 101
    frames: int = 17
    image_size: int = 224
    flow_size: int | None = None
    flow_channels: int = 8

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value, choices = getattr(self, name), get_args(kind)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))  # YAML has no tuples
            elif get_origin(kind) is Literal and value not in choices:
                raise SettingsError(f"network.{name}", f"{value!r} is no choice", f"choose one of {', '.join(choices)}")
        for name, least in self.LEAST.items():
            if getattr(self, name) < least:
                raise SettingsError(f"network.{name}", f"{getattr(self, name)} is too small", f"take {least} or more")
        for name in self.SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"network.{name}", f"{getattr(self, name)} is no share", "take 0 or more, under 1")
        if self.flow_size is not None and self.flow_size < 1:
            raise SettingsError("network.flow_size", f"{self.flow_size} is too small", "take 1 or more, or null")

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings small enough to learn from scratch on a CPU; the tests of the contract build a model of them.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return cls(num_classes=num_classes, **changes)

    def size_of(self, stream: StreamName) -> int:
        """Return height and width of a stream's pictures."""
        return self.flow_size if stream == "flow" and self.flow_size is not None else self.image_size

    def channels_of(self, stream: StreamName) -> int:
        """Return the channels of a stream's pictures."""
        return 3 if stream == "rgb" else self.flow_channels

    def shape_of(self, stream: StreamName) -> tuple[int, int, int]:
        """Return channels, height and width of a stream's pictures."""
        return self.channels_of(stream), self.size_of(stream), self.size_of(stream)
