"""A timeline as a picture: time from left to right, a row a label, and a bar where it is seen."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from actionfusion.curves import PRINTED, own_style
from actionfusion.inference.timelines.untrimmed import Segment, VideoTimeline

NO_LABEL = "no label"
FAULT = "#b3261e"

_ROW_INCHES, _FRAME_INCHES = 0.32, 1.1
_PALEST = 0.25
# A bar narrower than this share of the picture has no room for its probability.
_NARROWEST_NAMED = 0.045
_LONGEST_NAME = 40


def draw_timeline(timeline: VideoTimeline) -> bytes:
    """Draw a video's segments as a PNG: the darker a bar, the more probable; equal segments give equal bytes.

    A video that could not be read to its end says so in red, with a line where the reading ended.
    """
    segments = timeline.segments
    rows: list[str | None] = list(dict.fromkeys(item.label for item in segments if item.label is not None))
    if any(item.label is None for item in segments):
        rows.append(None)
    content = io.BytesIO()
    with own_style():
        height = _FRAME_INCHES + _ROW_INCHES * max(len(rows), 1)
        figure = Figure(figsize=(9.2, height), facecolor=PRINTED.paper, layout="constrained")
        axes = figure.subplots()
        # A name may contain a $, which is not a formula here.
        axes.set_title(
            _shortened(Path(timeline.video).name), loc="left", fontweight="bold", color=PRINTED.ink, parse_math=False
        )
        for item in segments:
            _draw_bar(axes, item, rows.index(item.label), segments[-1].end)
        _mark_fault(axes, timeline)
        _label_axes(axes, rows, segments[-1].end if segments else 1.0)
        with warnings.catch_warnings():
            # A label in a script that matplotlib's font lacks shows as boxes; the other files show it correctly.
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            figure.savefig(content, format="png", dpi=160, metadata={"Software": None})
    return content.getvalue()


def _draw_bar(axes: Axes, item: Segment, row: int, end: float) -> None:
    length = item.end - item.start
    share = item.probability if item.probability is not None else 0.0
    color = PRINTED.grid if item.probability is None else _mix(_PALEST + (1 - _PALEST) * share)
    axes.broken_barh(
        [(item.start, length)], (row - 0.36, 0.72), facecolor=color, edgecolor=PRINTED.paper, linewidth=0.6
    )
    if item.probability is not None and length > _NARROWEST_NAMED * end:
        ink = PRINTED.paper if share > 0.45 else PRINTED.ink
        middle = item.start + length / 2
        axes.text(middle, row, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=7)


def _mix(share: float) -> tuple[float, float, float]:
    """Mix a share of the colour with the paper's."""
    ink, paper = to_rgb(PRINTED.validation), to_rgb(PRINTED.paper)
    red, green, blue = (share * of_ink + (1 - share) * of_paper for of_ink, of_paper in zip(ink, paper, strict=True))
    return red, green, blue


def _mark_fault(axes: Axes, timeline: VideoTimeline) -> None:
    if timeline.error is None:
        return
    title = f"read no further: {timeline.error.kind}" if timeline.segments else f"not read: {timeline.error.kind}"
    axes.set_title(title, loc="right", color=FAULT)
    if timeline.segments:
        axes.axvline(timeline.segments[-1].end, color=FAULT, linewidth=1.2, linestyle=(0, (2, 2)), clip_on=False)


def _label_axes(axes: Axes, rows: Sequence[str | None], end: float) -> None:
    axes.set_xlim(0, end)
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value, end)))
    axes.set_yticks(range(len(rows)), [_shortened(NO_LABEL if label is None else label) for label in rows])
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(PRINTED.muted)
    axes.grid(axis="x", color=PRINTED.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=4, labelcolor=PRINTED.muted)
    axes.tick_params(axis="y", labelcolor=PRINTED.ink)


def _clock(seconds: float, end: float) -> str:
    """Format seconds as seconds, minutes or hours, by the length of the video."""
    if end < 120:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    if end < 3600:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _shortened(text: str) -> str:
    # A file name's bytes that are no UTF-8 cannot be drawn.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
