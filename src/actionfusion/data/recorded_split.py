"""Record the split of a run as a table in its folder, so that later changes of a data set do not change it.

Evaluation uses this table and never makes a split again, so that training clips cannot become test clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from actionfusion.data.dataset import DataSettings, LabelledVideos, split_digest, with_leakage_note
from actionfusion.data.duplicates import Duplicate, clusters, equal_files
from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.table import read_rows
from actionfusion.data.listing import PARTS, Listing, Split, VideoEntry, canonical, match_names, some
from actionfusion.data.manifest import write_table
from actionfusion.errors import DatasetError, RunFolderError, SettingsError
from actionfusion.run_folder import CONFIG, SPLIT, RunFolder, typed
from actionfusion.storage import PathLike

_COLUMNS = ("path", "label", "group", "double_of", "part")
_THE_SAME_ROOT = "give the folder that the run was trained on"
_COPY_AGAIN = "copy the whole run folder again"


def write_split(path: Path, videos: LabelledVideos) -> None:
    """Write path within the data set, label, group, duplicate and part of each video of the split.

    Raises:
        OSError: it cannot be written.
    """
    rows = []
    for part in PARTS:
        for index in getattr(videos.split, part):
            entry = videos.listing.entries[index]
            rows.append((entry.path, entry.label, entry.group, entry.double_of, part))
    write_table(path, _COLUMNS, sorted(rows, key=lambda row: str(row[0])))


def reopen_data(folder: RunFolder, root: PathLike | None, store: PathLike | None) -> LabelledVideos:
    """Find the videos that a run was split on, split as they were then.

    Args:
        folder: of the run.
        root: folder of the data set today, or its address.
        store: folder of prepared clips, or its address; none reads the videos themselves.

    Raises:
        SettingsError: no root was given, or an address that cannot be opened here.
        RunFolderError: the run does not say what it was trained on.
        DatasetError: a video of the run's split is not there, or has another label.
    """
    recorded = folder.config.get("data")
    names = {part.name for part in fields(DataSettings)} - {"root", "store", "manifest", "missing"}
    if not isinstance(recorded, dict) or not names <= recorded.keys() or not (folder.path / SPLIT).is_file():
        raise RunFolderError(folder.path, "does not say what it was trained on", "train it with this version")
    kept = typed(DataSettings, {name: recorded[name] for name in names}, folder.path / CONFIG, "data")
    settings = replace(kept, root=root, store=store)
    name, notes = str(recorded.get("split_name")), recorded.get("split_notes", ())
    videos = reopen_split(folder.path / SPLIT, settings, folder.labels, name, notes)
    # Of names with accented letters, earlier versions took the hash as the disk stored them.
    table = [(row["part"], path) for path, row in _read_split(folder.path / SPLIT).items()]
    digests = {split_digest(table), split_digest((part, canonical(path)) for part, path in table)}
    if recorded.get("digest") not in digests:
        reason = f"is not the split of {CONFIG}: one of them was changed"
        raise RunFolderError(folder.path / SPLIT, reason, _COPY_AGAIN)
    return videos


def refuse_other_data(folder: RunFolder, videos: LabelledVideos) -> None:
    """See that a training goes on with the videos and classes that it was begun with.

    Raises:
        RunFolderError: the run does not say which they were.
        DatasetError: a class has another number, or a video another class or part, than in the run.
    """
    if not (folder.path / SPLIT).is_file():
        reason = "does not say which video was on which side of the split"
        raise RunFolderError(folder.path / SPLIT, reason, _COPY_AGAIN)
    rows = _read_split(folder.path / SPLIT)
    listing, rows = _as_spelled(videos.listing, rows, folder.labels)
    if listing.labels != folder.labels:
        reason = f"has the classes {some(listing.labels)}, and the run was begun with {some(folder.labels)}"
        raise DatasetError(listing.root, reason, _THE_SAME_ROOT)
    _refuse_strangers(listing, rows, folder.labels, folder.path / SPLIT)
    for part in PARTS:
        for index in videos.part(part):
            if rows.get(path := listing.entries[index].path, {}).get("part") != part:
                reason = f"says another part of {path!r} than the run's settings give it, which is {part}"
                raise RunFolderError(folder.path / SPLIT, reason, _COPY_AGAIN)


def reopen_split(
    path: Path, settings: DataSettings, labels: Sequence[str], name: str, notes: Sequence[str]
) -> LabelledVideos:
    """Find the videos of a split that ``write_split`` wrote again in a data set.

    Groups are as recorded.  Duplicates are as recorded, with the equal files of today: a root whose test videos are
    copies of training videos is not the one that was split.

    Args:
        path: the table.
        settings: where the data set is now; its split and manifest are not used.
        labels: the run's classes in the network's order.
        name: of the split.
        notes: of the split.

    Raises:
        SettingsError: no root was given.
        DatasetError: the table cannot be read, or one of its videos is not there, or has another label.
    """
    if settings.root is None:
        raise SettingsError("root", "is not given", "say where the videos of the data set are: --root DIR")
    listing = open_dataset(settings.dataset, settings.root, group_pattern=settings.group_pattern).present()
    rows = _read_split(path)
    listing, rows = _as_spelled(listing, rows, labels)
    _refuse_strangers(listing, rows, labels, path)
    listing = listing.select(index for index, entry in enumerate(listing.entries) if entry.path in rows)
    _refuse_another_order(listing, labels, path)
    sides: dict[str, list[int]] = {part: [] for part in PARTS}
    for index, entry in enumerate(listing.entries):
        sides[rows[entry.path]["part"]].append(index)
    train, val, test = (tuple(sides[part]) for part in PARTS)
    ordered = Listing(listing.dataset, listing.root, _as_then(listing, rows), tuple(labels), notes=listing.notes)
    recorded = [Duplicate(entry.double_of, entry.path, "near", 0.0) for entry in ordered.entries if entry.double_of]
    # A manifest may have left out the first of the videos that show the same.
    names = dict.fromkeys([*(entry.path for entry in ordered.entries), *(pair.first for pair in recorded)])
    ordered = ordered.with_duplicates(clusters([*recorded, *equal_files(ordered)], names))
    split = with_leakage_note(ordered, Split(name, train, test, val, tuple(notes)))
    return LabelledVideos(ordered, split, settings)


def _as_spelled(
    listing: Listing, rows: Mapping[str, Mapping[str, str]], labels: Sequence[str]
) -> tuple[Listing, dict[str, Mapping[str, str]]]:
    """Give the classes the run's spelling, and the rows the paths of today: accented letters have two forms."""
    paths = match_names(rows, (entry.path for entry in listing.entries))
    names = {here: label for label, here in match_names(labels, listing.labels).items()}
    entries = tuple(replace(entry, label=names.get(entry.label, entry.label)) for entry in listing.entries)
    listing = replace(listing, entries=entries, labels=tuple(names.get(label, label) for label in listing.labels))
    found: dict[str, Mapping[str, str]] = {}
    for path, cells in rows.items():
        double_of = cells.get("double_of", "")
        found[paths.get(path, path)] = {**cells, "double_of": paths.get(double_of, double_of)}
    return listing, found


def _as_then(listing: Listing, rows: Mapping[str, Mapping[str, str]]) -> tuple[VideoEntry, ...]:
    """Give the entries with the groups and duplicates of the table; early versions recorded no duplicates."""
    return tuple(
        replace(
            entry,
            group=rows[entry.path].get("group", entry.group) or None,
            double_of=rows[entry.path].get("double_of") or None,
        )
        for entry in listing.entries
    )


def _read_split(path: Path) -> dict[str, Mapping[str, str]]:
    """Read the table that ``write_split`` wrote: the cells of each row by the video's path."""
    cells = {}
    for row in read_rows(path, needed=("path", "label", "part"), once=_COLUMNS):
        if row.cells["part"] not in PARTS:
            reason = f"{row.position}, column part: {row.cells['part']!r} is none of {', '.join(PARTS)}"
            raise DatasetError(path, reason, _COPY_AGAIN)
        cells[row.cells["path"]] = row.cells
    return cells


def _refuse_strangers(
    listing: Listing, rows: Mapping[str, Mapping[str, str]], labels: Sequence[str], path: Path
) -> None:
    if strange := sorted({cells["label"] for cells in rows.values()} - set(labels)):
        reason = f"names class {strange[0]!r}, which is not among the run's labels"
        raise DatasetError(path, reason, _COPY_AGAIN)
    label_of = {entry.path: entry.label for entry in listing.entries}
    if gone := [video for video in rows if video not in label_of]:
        reason = f"{len(gone)} of the {len(rows)} videos of the run's split are not there: {some(gone)}"
        raise DatasetError(listing.root, reason, _THE_SAME_ROOT)
    for video, cells in rows.items():
        if label_of[video] != cells["label"]:
            reason = f"{video!r} is {label_of[video]!r} here, and was {cells['label']!r} in the run's split"
            raise DatasetError(listing.root, reason, _THE_SAME_ROOT)


def _refuse_another_order(listing: Listing, labels: Sequence[str], path: Path) -> None:
    """Refuse a label list in another order, which would give every prediction a wrong name."""
    known = set(listing.labels)
    ours = [label for label in labels if label in known]
    # Earlier versions sorted the classes as the disk stored their letters.
    if ours != list(listing.labels) and (all(map(str.isascii, ours)) or ours != sorted(ours)):
        here, there = next(pair for pair in zip(ours, listing.labels, strict=True) if pair[0] != pair[1])
        reason = f"has {here!r} where the data set has {there!r}: the classes are in another order"
        raise DatasetError(path.with_name("labels.txt"), reason, _COPY_AGAIN)
