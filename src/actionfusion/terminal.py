"""All that is shown goes through here: no control character of a name reaches the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console, text
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from actionfusion.errors import printable


class Text(text.Text):
    """Rich's text, escaped before it is laid out: an escape is wider than its sign, and rich drops some signs."""

    def __init__(self, plain: str = "", *arguments: Any, **named: Any) -> None:
        super().__init__(_escaped(plain), *arguments, **named)


class Console(console.Console):
    """Rich's console, with the control characters of labels, names and addresses escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; what is no control code of rich's own is escaped."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(_escaped(segment.text), segment.style)


def _escaped(plain: str) -> str:
    return "\n".join(map(printable, plain.split("\n")))
