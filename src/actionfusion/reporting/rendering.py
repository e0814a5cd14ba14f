"""What every page is made with: the templates, the words for numbers, and the one script that a page may run."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actionfusion.files import cannot_write, refuse_foreign, write_atomically

NOTHING = "–"
_TEMPLATES = Path(__file__).parent / "templates"
# What the templates write at the head of a page.
_GENERATOR = b'<meta name="generator" content="actionfusion">'
_HEAD_BYTES = 1 << 14


def environment() -> Environment:
    """Load the templates with their filters; what a template shows is escaped unless it is markup of ours."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=percent,
        range=range_text,
        decimal=decimal,
        signed=signed,
        plural=plural,
        share=share,
        points=points,
        words=words,
    )
    # A page without the script shows the same, unsorted.
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    # The script is a file of ours, not text from outside, and its hash is the only one that the page's policy names.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    made.globals.update(script=Markup(script), script_hash=f"sha256-{digest}")  # noqa: S704
    return made


def refuse_other_page(path: Path) -> None:
    """Refuse to write a page over a file that is no page of ours, before the work.

    Raises:
        SettingsError: it is something else.
    """
    refuse_foreign(path, lambda page: _GENERATOR in page.read_bytes()[:_HEAD_BYTES])


def write_page(path: Path, page: str) -> None:
    """Write a page whole or not at all.

    Raises:
        OutputError: it cannot be written.
        SettingsError: something else is there.
    """
    refuse_other_page(path)
    try:
        write_atomically(path, page)
    except OSError as error:
        raise cannot_write(path, error, "free some space, or choose another --out") from error


def known(value: object) -> TypeGuard[float]:
    """Return whether it is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def percent(value: float | None) -> str:
    """Write a share 0..1 as a percentage."""
    if not known(value):
        return NOTHING
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%".replace("-", "−")


def range_text(interval: Sequence[float] | None) -> str:
    """Write an interval of shares."""
    if interval is None or not all(map(known, interval)):
        return NOTHING
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}\N{NO-BREAK SPACE}%"


def points(value: float | None) -> str:
    """Write a difference of two shares in percentage points, always with its sign."""
    if not known(value):
        return NOTHING
    rounded = round(100 * value, 1)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f}"


def signed(value: float) -> str:
    """Write two decimals, always with a sign."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def decimal(value: float | None) -> str:
    """Write three decimals."""
    return f"{value:.3f}" if known(value) else NOTHING


def plural(count: int, noun: str) -> str:
    """Count things, such as ``1 clip`` and ``2 clips``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def share(value: float) -> str:
    """Write a length for a style attribute, never beyond its track."""
    return f"{100 * min(max(value, 0.0), 1.0) if known(value) else 0.0:.2f}%"


def words(numbers: Sequence[Any]) -> str:
    """Write an order of rows as the script reads it."""
    return " ".join(map(str, numbers))
