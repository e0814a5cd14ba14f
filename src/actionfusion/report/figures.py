"""A run's curves for the page: SVG whose colours are the style sheet's, so that it follows light and dark."""

from __future__ import annotations

import io
import re
from html import escape

from matplotlib.figure import Figure

from actionfusion.curves import Curves, Palette, Quantity, draw_curves, own_style

# Stand-ins that matplotlib writes into the SVG, each replaced there by a variable of the page's style sheet.
_PAGE = Palette("#010101", "#020202", "#030303", "#040404", "#050505", "#060606")
_VARIABLES = {
    _PAGE.ink: "var(--ink)",
    _PAGE.muted: "var(--muted)",
    _PAGE.grid: "var(--line)",
    _PAGE.train: "var(--train)",
    _PAGE.validation: "var(--accent)",
    _PAGE.paper: "var(--paper)",
}


def curves_svg(curves: Curves, quantity: Quantity, description: str) -> str:
    """One chart as an ``<svg>`` element for a page that defines the colours as CSS variables.

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
