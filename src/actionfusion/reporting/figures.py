"""Charts for the page: SVG whose colours are the style sheet's, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from actionfusion.curves import Curves, Palette, Quantity, draw_curves, own_style, quieten
from actionfusion.evaluation.calibration import ReliabilityBin
from actionfusion.reporting.rendering import known

# Stand-ins that matplotlib writes into the SVG, each replaced there by a variable of the page's style sheet.
_PAGE = Palette("#010101", "#020202", "#030303", "#040404", "#050505", "#060606")
_GOOD = "#070707"
SERIES = 6
_SERIES = [f"#0801{number:02x}" for number in range(1, SERIES + 1)]
_VARIABLES = {
    _PAGE.ink: "var(--ink)",
    _PAGE.muted: "var(--muted)",
    _PAGE.grid: "var(--line)",
    _PAGE.train: "var(--train)",
    _PAGE.validation: "var(--accent)",
    _PAGE.paper: "var(--paper)",
    _GOOD: "var(--good)",
} | {stand_in: f"var(--s{number})" for number, stand_in in enumerate(_SERIES, 1)}


def reliability_bins(given: object) -> list[ReliabilityBin]:
    """Read the bins of an evaluation; incomplete ones are left out, and all where none has predictions."""
    found = []
    for item in given if isinstance(given, list | tuple) else ():
        if not isinstance(item, Mapping) or not all(known(item.get(name)) for name in ("low", "high", "count")):
            continue
        low, high, count = float(item["low"]), float(item["high"]), int(item["count"])
        if known(item.get("confidence")) and known(item.get("accuracy")):
            found.append(ReliabilityBin(low, high, count, float(item["confidence"]), float(item["accuracy"])))
        else:
            found.append(ReliabilityBin(low, high, 0, None, None))
    return found if any(part.count for part in found) else []


def curves_svg(curves: Curves, quantity: Quantity, description: str) -> str:
    """Draw one chart as an ``<svg>`` element for a page that defines the colours as CSS variables.

    Args:
        curves: the epochs.
        quantity: what is drawn; its ids are set apart by this name, so that two charts fit into one page.
        description: what a screen reader says.
    """
    text = io.StringIO()
    with own_style():
        figure = Figure(figsize=(4.0, 2.4))
        draw_curves(figure.add_axes((0.115, 0.13, 0.875, 0.79)), curves, quantity, _PAGE)
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _for_page(text.getvalue(), f"{quantity}-", description)


def overlay_svg(runs: Sequence[Curves | None], quantity: Quantity, description: str) -> str:
    """Draw the curves of several runs in one chart, each run in its own colour.

    Validation is solid and training dashed; where no run was validated, training is solid.

    Args:
        runs: in the order of the style sheet's series, None for one without epochs; after ``SERIES`` runs the colours
            begin again.
        quantity: what is drawn.
        description: what a screen reader says.
    """
    text = io.StringIO()
    with own_style():
        figure = Figure(figsize=(4.0, 2.4))
        axes = figure.add_axes((0.115, 0.13, 0.875, 0.79))
        highest = 0.0
        validated = any(curves is not None and curves.has_validation for curves in runs)
        for number, curves in enumerate(runs):
            if curves is None:
                continue
            colour = _SERIES[number % SERIES]
            train, validation = curves.of(quantity)
            for column, dashes in ((train, (0, (4, 2)) if validated else "-"), (validation, "-")):
                drawn = np.isfinite(column)
                if drawn.any():
                    marker = "o" if drawn.sum() == 1 else ""  # a line of one point is not seen
                    axes.plot(
                        curves.epochs[drawn],
                        column[drawn],
                        color=colour,
                        linestyle=dashes,
                        linewidth=1.4,
                        marker=marker,
                        markersize=4,
                    )
                    highest = max(highest, float(column[drawn].max()))
        last = max((int(curves.epochs[-1]) for curves in runs if curves is not None), default=1)
        axes.set_xlim(0.25, last + max(last * 0.02, 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        if quantity == "accuracy":
            _share_axis(axes, "y")
        else:
            axes.set_ylim(0, highest * 1.06 or 1.0)
            axes.yaxis.set_major_locator(MaxNLocator(5))
        quieten(axes, _PAGE)
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _for_page(text.getvalue(), f"{quantity}-", description)


def reliability_svg(bins: Sequence[ReliabilityBin], description: str) -> str:
    """Draw how often predictions are correct against their probability, and how many there are of each.

    Args:
        bins: side by side, from 0 to 1.
        description: what a screen reader says.
    """
    text = io.StringIO()
    with own_style():
        figure = Figure(figsize=(4.0, 3.4))
        axes = figure.add_axes((0.115, 0.34, 0.835, 0.62))
        below = figure.add_axes((0.115, 0.09, 0.835, 0.18))
        filled = [astuple(part) for part in bins if part.count]
        low, high, counts, confidence, accuracy = np.array(filled, np.float64).reshape(-1, 5).T
        bars: dict[str, Any] = {"align": "edge", "linewidth": 0.8, "edgecolor": _PAGE.paper, "color": _GOOD}
        axes.bar(low, accuracy, high - low, **bars)
        axes.plot([0, 1], [0, 1], color=_PAGE.muted, linewidth=1, linestyle=(0, (2, 2)))
        axes.plot(confidence, accuracy, "o", markersize=4, color=_PAGE.validation, clip_on=False, zorder=4)
        below.bar(low, counts, high - low, **bars | {"color": _PAGE.train})
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        _share_axis(axes, "y")
        for part in (axes, below):
            _share_axis(part, "x")
            quieten(part, _PAGE)
        axes.tick_params(labelbottom=False)
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _for_page(text.getvalue(), "reliability-", description)


def _share_axis(axes: Axes, name: str) -> None:
    axis = axes.xaxis if name == "x" else axes.yaxis
    (axes.set_xlim if name == "x" else axes.set_ylim)(0, 1)
    axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))


def _for_page(svg: str, prefix: str, description: str) -> str:
    svg = svg[svg.index("<svg") :]
    # A style element inside the picture would rule the whole page, and the first patch is the white background.
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="patch_1">.*?</g>\s*', "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    # The page's own font; matplotlib before 3.11 names size and family in one.
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    view = re.search(r'viewBox="[^"]+"', svg)
    assert view is not None
    opening = f'<svg {view[0]} role="img" aria-label="{escape(description)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
