"""Open data sets by the name of their layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from actionfusion.data.layouts.folder import open_folder
from actionfusion.data.layouts.hmdb51 import open_hmdb51
from actionfusion.data.layouts.shapes import open_shapes
from actionfusion.data.layouts.table import open_table
from actionfusion.data.layouts.ucf11 import open_ucf11
from actionfusion.data.layouts.ucf101 import open_ucf101
from actionfusion.data.layouts.ucfsports import open_ucfsports
from actionfusion.data.listing import Listing
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.storage import AnyPath, PathLike, to_path

LAYOUTS: Mapping[str, Callable[[AnyPath], Listing]] = {
    "ucf101": open_ucf101,
    "ucf11": open_ucf11,
    "ucfsports": open_ucfsports,
    "hmdb51": open_hmdb51,
    "folder": open_folder,
    "csv": open_table,
    "shapes": open_shapes,
}


def open_dataset(name: str, root: PathLike, group_pattern: str | None = None) -> Listing:
    """Find the videos of a data set.

    Args:
        name: one of ``LAYOUTS``.
        root: its folder (or the table), or an address that fsspec opens; one level above or below does too.
        group_pattern: a regular expression that finds groups in the file names, see ``Listing.grouped_by``.

    Raises:
        SettingsError: an unknown layout, a pattern that is none, or an address that cannot be opened here.
        DatasetError: the folder does not have its layout, or the server fails.
    """
    if name not in LAYOUTS:
        raise SettingsError("dataset", f"{name!r} is no layout", f"choose one of {', '.join(LAYOUTS)}")
    given = to_path(root)
    try:
        listing = LAYOUTS[name](given)
    except OSError as error:
        remedy = "check the connection and your rights"
        raise DatasetError(given, f"cannot be read ({error.strerror or error})", remedy) from error
    return listing.grouped_by(group_pattern) if group_pattern is not None else listing
