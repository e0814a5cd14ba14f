"""Write text into cells of CSV so that no spreadsheet takes it for a formula, and read it back.

Labels and names of files may come from a stranger.  A cell that starts like a formula gets an apostrophe in front, as
spreadsheets themselves mark text (OWASP, CSV Injection).
"""

from __future__ import annotations

import re

# Some spreadsheets drop spaces first, and some take the wide signs of East Asian keyboards.
_FORMULA = re.compile(r"['\s]*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")


def as_cell(value: object) -> object:
    """Return what is written for a value: text is marked as text if need be, None is empty, numbers stay."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def from_cell(text: str) -> str:
    """Return the text of a cell that ``as_cell`` has written."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
