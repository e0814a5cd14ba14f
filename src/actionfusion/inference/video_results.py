"""Results of several videos, each with its error if it has one, and how they are printed."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from typing import Protocol, Self, TypeVar

from rich.table import Table

from actionfusion.errors import VideoError
from actionfusion.terminal import Console, Text


class VideoResult(Protocol):
    """The result of one video."""

    @property
    def error(self) -> VideoError | None:
        """Why the video failed, or could not be read to its end."""
        ...

    def as_json(self) -> dict[str, object]:
        """Make its entry in the JSON list."""
        ...


Result = TypeVar("Result", bound=VideoResult)


class VideoResults(list[Result]):
    """Results in the order that the videos were given in."""

    @property
    def failed(self) -> bool:
        """Whether any video failed, or could not be read to its end."""
        return any(item.error for item in self)

    def show(self, table: Callable[[Self], Table], *, json: bool) -> None:
        """Print a table, or one JSON list, and the errors on standard error."""
        if json:
            print(dumps([item.as_json() for item in self], indent=2))  # noqa: T201
        else:
            Console().print(table(self), soft_wrap=False)
        console = Console(stderr=True)
        for item in self:
            if item.error:
                console.print(Text(f"error: {item.error}"), soft_wrap=True)


def error_as_json(error: VideoError | None) -> dict[str, str] | None:
    """Make the ``error`` of an entry."""
    return {"kind": error.kind, "message": str(error)} if error else None
