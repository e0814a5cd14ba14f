"""The two things that are seen of a video, by name; the one word that cutting clips and models share."""

from __future__ import annotations

from typing import Literal

StreamName = Literal["rgb", "flow"]

STREAMS: tuple[StreamName, ...] = ("rgb", "flow")
