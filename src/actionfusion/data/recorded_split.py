"""The split of a run as a table in its folder: which video was on which side, whatever a data set becomes later.

Evaluation goes by this table and never draws a split again: so clips that a run was trained on cannot become its test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actionfusion.data.dataset import DataSettings, LabelledVideos
from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.table import Row, read_rows
from actionfusion.data.listing import Listing, Split, some
from actionfusion.data.manifest import write_table
from actionfusion.errors import DatasetError, SettingsError

PARTS = ("train", "val", "test")
_COLUMNS = ("path", "label", "group", "part")
_THE_SAME_ROOT = "give the folder that the run was trained on"


def write_split(path: Path, videos: LabelledVideos) -> None:
    """Write who is on which side: path within the data set, label, group and part of each video of the split.

    Raises:
        OSError: it cannot be written.
    """
    rows = []
    for part in PARTS:
        for index in getattr(videos.split, part):
            entry = videos.listing.entries[index]
            rows.append((entry.path, entry.label, entry.group, part))
    write_table(path, _COLUMNS, sorted(rows))


def reopen_split(
    path: Path, settings: DataSettings, labels: Sequence[str], name: str, notes: Sequence[str]
) -> LabelledVideos:
    """The videos of a split that ``write_split`` wrote, found again in a data set.

    Args:
        path: the table.
        settings: where the data set lies now; its split and manifest have no say.
        labels: the run's classes in the network's order.
        name: of the split.
        notes: what there was to know about it.

    Raises:
        SettingsError: no root was given.
        DatasetError: the table cannot be read, or one of its videos is not there, or has another label.
    """
    if settings.root is None:
        raise SettingsError("root", "is not given", "say where the videos of the data set are: --root DIR")
    listing = open_dataset(settings.dataset, settings.root, group_pattern=settings.group_pattern)
    recorded = {row.cells["path"]: (row.cells["label"], row.cells["part"]) for row in _rows(path)}
    _refuse_strangers(listing, recorded, labels)
    kept = [index for index, entry in enumerate(listing.entries) if entry.path in recorded]
    listing = listing.select(kept)
    sides: dict[str, list[int]] = {part: [] for part in PARTS}
    for index, entry in enumerate(listing.entries):
        sides[recorded[entry.path][1]].append(index)
    train, val, test = (tuple(sides[part]) for part in PARTS)
    ordered = Listing(listing.dataset, listing.root, listing.entries, tuple(labels), notes=listing.notes)
    return LabelledVideos(ordered, Split(name, train, test, val, tuple(notes)), settings)


def _rows(path: Path) -> list[Row]:
    rows = list(read_rows(path, needed=("path", "label", "part"), once=_COLUMNS))
    for row in rows:
        if row.cells["part"] not in PARTS:
            reason = f"{row.place}, column part: {row.cells['part']!r} is none of {', '.join(PARTS)}"
            raise DatasetError(path, reason, "copy the whole run folder again")
    return rows


def _refuse_strangers(listing: Listing, recorded: dict[str, tuple[str, str]], labels: Sequence[str]) -> None:
    label_of = {entry.path: entry.label for entry in listing.entries}
    if gone := [video for video in recorded if video not in label_of]:
        reason = f"{len(gone)} of the {len(recorded)} videos of the run's split are not there: {some(gone)}"
        raise DatasetError(listing.root, reason, _THE_SAME_ROOT)
    for video, (label, _) in recorded.items():
        if label_of[video] != label or label not in labels:
            reason = f"{video!r} is {label_of[video]!r} here, and was {label!r} in the run's split"
            raise DatasetError(listing.root, reason, _THE_SAME_ROOT)
