"""Open data sets by the name of their layout, or by the layout that is recognised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from actionfusion.data.layouts.folder import is_part, open_folder, recognise_folder
from actionfusion.data.layouts.hmdb51 import open_hmdb51, recognise_hmdb51
from actionfusion.data.layouts.shapes import open_shapes, recognise_shapes
from actionfusion.data.layouts.table import open_table, recognise_table
from actionfusion.data.layouts.tree import LeftOut, existing, folders_in, scan
from actionfusion.data.layouts.ucf11 import open_ucf11, recognise_ucf11
from actionfusion.data.layouts.ucf101 import open_ucf101, recognise_ucf101
from actionfusion.data.layouts.ucfsports import open_ucfsports, recognise_ucfsports
from actionfusion.data.listing import Listing, notes_on_spelling, shown
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

# Each looks at a folder alone, not above or below it, and says by what it recognises its layout.
SIGNS: Mapping[str, Callable[[AnyPath], str | None]] = {
    "ucf101": recognise_ucf101,
    "ucf11": recognise_ucf11,
    "ucfsports": recognise_ucfsports,
    "hmdb51": recognise_hmdb51,
    "csv": recognise_table,
    "shapes": recognise_shapes,
}


def open_dataset(name: str | None, root: PathLike, group_pattern: str | None = None) -> Listing:
    """Find the videos of a data set.

    Args:
        name: one of ``LAYOUTS``; None recognises it.
        root: its folder (or the table), or an address that fsspec opens.  A folder one level above it does too, and in
            ucf101, ucf11, ucfsports and hmdb51, if these are named, one of its class folders; a note then says so.
        group_pattern: a regular expression that finds groups in the file names, see ``Listing.grouped_by``.

    Raises:
        SettingsError: an unknown layout, a pattern that is none, or an address that cannot be opened here.
        DatasetError: the folder does not have its layout, or looks like two, or the server fails.
    """
    if name is not None and name not in LAYOUTS:
        raise SettingsError("dataset", f"{name!r} is no layout", f"choose one of {', '.join(LAYOUTS)}")
    given, sign = to_path(root), None
    try:
        if name is None:
            name, sign = recognise(given)
        listing = replace(LAYOUTS[name](given), recognised_by=sign)
        if listing.root in given.absolute().parents and given.is_dir():
            note = f"{shown(given.name)} is one class of it, so the folder above was taken"
            listing = replace(listing, notes=(note, *listing.notes))
    except OSError as error:
        remedy = "check the connection and your rights"
        raise DatasetError(given, f"cannot be read ({error.strerror or error})", remedy) from error
    if group_pattern is not None:
        listing = listing.grouped_by(group_pattern)
    notes = notes_on_spelling("classes", listing.labels) + notes_on_spelling("groups", listing.groups)
    return replace(listing, notes=(*listing.notes, *notes))


def recognise(given: AnyPath) -> tuple[str, str | None]:
    """Find the layout of a folder (or of a table), and by what it is recognised.

    A folder with class folders is one of a known data set only where all that it holds looks like it.  If the folder
    itself looks like nothing, those in it are looked at; never the one above.

    Returns:
        The layout's name, with a sign such as ``names like v_Archery_g08_c01.avi``; ``folder`` without one where
        nothing is recognised, so that this layout says what it misses.

    Raises:
        DatasetError: no such folder, a file that is no table, a folder that looks like two layouts, or one that is only
            a part or a class of a data set.
    """
    given = existing(given)
    if not given.is_dir():
        if sign := recognise_table(given):
            return "csv", sign
        raise DatasetError(given, "is a file, and no table of videos", "give the folder that holds the class folders")
    if is_part(given):
        reason = f"is only one part of the data set in {given.parent.name!r}"
        raise DatasetError(given, reason, f"give {given.parent}, or say --data.dataset folder")
    if not (found := _signs(given)):
        near = [signs for folder in folders_in(given) if (signs := _signs_near(folder))]
        if not near and any(scan(given, LeftOut())) and _signs_near(given.parent):
            reason = "holds no folder for each class; the folder above it does, but is not the one that was given"
            raise DatasetError(given, reason, f"give {given.parent}, or sort the videos into a folder for each class")
        found = near[0] if len(near) == 1 else {}
    if len(found) > 1:
        looks = " and ".join(f"{name} ({sign})" for name, sign in found.items())
        raise DatasetError(given, f"looks like {looks}", "say which it is: --data.dataset NAME")
    return next(iter(found.items()), ("folder", None))


def _signs(place: AnyPath) -> dict[str, str]:
    """Find the layouts that a folder looks like, each with its sign; ``folder`` where it looks like no other."""
    found = {name: sign for name, look in SIGNS.items() if (sign := look(place))}
    # Known data sets are folders of classes too; a table beside class folders is another list of videos.
    if not found.keys() - {"csv"} and (sign := recognise_folder(place)):
        found["folder"] = sign
    return found


def _signs_near(place: AnyPath) -> dict[str, str]:
    """Do the same for a folder that nobody named, which may be one that cannot be read."""
    try:
        return _signs(place)
    except (DatasetError, OSError):
        return {}
