"""Record the split of a run as a table in its folder, so that later changes of a data set do not change it.

Evaluation uses this table and never makes a split again, so that training clips cannot become test clips.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path, PurePosixPath

from actionfusion.data.dataset import THE_SAME_ROOT, DataSettings, LabelledVideos, split_digest, with_leakage_note
from actionfusion.data.duplicates import Duplicate, clusters, equal_files
from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.folder import part_named
from actionfusion.data.layouts.table import read_rows
from actionfusion.data.listing import PARTS, Listing, Split, VideoEntry, canonical, some, sorted_entries
from actionfusion.data.manifest import write_table
from actionfusion.errors import DatasetError, RunFolderError, SettingsError
from actionfusion.run_folder import CONFIG, SPLIT, RunFolder, typed
from actionfusion.storage import PathLike

_COLUMNS = ("path", "label", "group", "double_of", "part")
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

    Videos that are no longer there stay in their parts; ``LabelledVideos.check_there`` names them.

    Args:
        folder: of the run.
        root: folder of the data set today, or its address.
        store: folder of prepared clips, or its address; none reads the videos themselves.

    Raises:
        SettingsError: no root was given, or an address that cannot be opened here.
        RunFolderError: the run does not say what it was trained on.
        DatasetError: not one video of the run's split is there, or one has another label.
    """
    recorded = folder.config.get("data")
    names = {part.name for part in fields(DataSettings)} - {"root", "store", "manifest", "missing"}
    if not isinstance(recorded, dict) or not names <= recorded.keys() or not (folder.path / SPLIT).is_file():
        remedy = "take a run with its split.csv, or measure on other videos: evaluate --split all-test"
        raise RunFolderError(folder.path, "does not say what it was trained on", remedy)
    kept = typed(DataSettings, {name: recorded[name] for name in names}, folder.path / CONFIG, "data")
    settings = replace(kept, root=root, store=store)
    name, notes = str(recorded.get("split_name")), recorded.get("split_notes", ())
    videos = reopen_split(folder.path / SPLIT, settings, folder.labels, name, notes)
    # Of names with accented letters, earlier versions took the hash as the disk stored them.
    table = [(row["part"], path) for path, row in read_split(folder.path / SPLIT).items()]
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
    path, listing = folder.path / SPLIT, videos.listing
    if not path.is_file():
        raise RunFolderError(path, "does not say which video was on which side of the split", _COPY_AGAIN)
    if [*map(canonical, listing.labels)] != [*map(canonical, folder.labels)]:
        reason = f"has the classes {some(listing.labels)}, and the run was begun with {some(folder.labels)}"
        raise DatasetError(listing.root, reason, THE_SAME_ROOT)
    rows = read_split(path)
    today = _found_again(listing, rows)
    _refuse_strangers(listing, rows, today, folder.labels, path)
    if gone := [video for video in rows if video not in today]:
        reason = f"{len(gone)} of the {len(rows)} videos of the run's split are not there: {some(gone)}"
        raise DatasetError(listing.root, reason, THE_SAME_ROOT)
    then = {index: rows[video]["part"] for video, index in today.items()}
    for part in PARTS:
        for index in videos.part(part):
            if then.get(index) != part:
                video = listing.entries[index].path
                reason = f"says another part of {video!r} than the run's settings give it, which is {part}"
                raise RunFolderError(path, reason, _COPY_AGAIN)


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
        DatasetError: the table cannot be read, or not one of its videos is there, or one has another label.
    """
    if settings.root is None:
        raise SettingsError("root", "is not given", "say where the videos of the data set are: --root DIR")
    listing = open_dataset(settings.dataset, settings.root, group_pattern=settings.group_pattern).present()
    rows = read_split(path)
    today = _found_again(listing, rows)
    _refuse_strangers(listing, rows, today, labels, path)
    _refuse_another_order(listing.select(today.values()), labels, path)
    entries = sorted_entries(
        replace(
            listing.entries[today[video]] if video in today else VideoEntry(video, cells["label"]),
            path=video,
            label=cells["label"],
            group=cells.get("group") or None,  # early versions recorded no duplicates
            double_of=cells.get("double_of") or None,
        )
        for video, cells in rows.items()
    )
    ordered = Listing(listing.dataset, listing.root, entries, tuple(labels), notes=listing.notes)
    found_as = {
        index: listing.entries[today[entry.path]].path if entry.path in today else None
        for index, entry in enumerate(entries)
    }
    recorded = [Duplicate(entry.double_of, entry.path, "near", 0.0) for entry in entries if entry.double_of]
    then = {listing.entries[index].path: video for video, index in today.items()}
    equal = [
        replace(pair, first=then[pair.first], second=then[pair.second])
        for pair in equal_files(listing.select(today.values()))
    ]
    # A manifest may have left out the first of the videos that show the same.
    names = dict.fromkeys([*(entry.path for entry in entries), *(pair.first for pair in recorded)])
    ordered = ordered.with_duplicates(clusters([*recorded, *equal], names))
    sides = {part: [at for at, entry in enumerate(entries) if rows[entry.path]["part"] == part] for part in PARTS}
    train, val, test = (tuple(sides[part]) for part in PARTS)
    split = with_leakage_note(ordered, Split(name, train, test, val, tuple(notes)))
    return LabelledVideos(ordered, split, settings, found_as)


def read_split(path: Path) -> dict[str, Mapping[str, str]]:
    """Read the table that ``write_split`` wrote: the cells of each row by the video's path.

    Raises:
        DatasetError: it cannot be read, or is another table.
    """
    cells = {}
    for row in read_rows(path, needed=("path", "label", "part"), once=_COLUMNS):
        if row.cells["part"] not in PARTS:
            reason = f"{row.position}, column part: {row.cells['part']!r} is none of {', '.join(PARTS)}"
            raise DatasetError(path, reason, _COPY_AGAIN)
        cells[row.cells["path"]] = row.cells
    return cells


def _found_again(listing: Listing, rows: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Find the position in the listing of each recorded path, however file systems store its accented letters.

    If none is there, the folders that all paths have in common may be others now: a layout may find its root further
    up or down where some of its folders are gone, and a table's root moves with its disk.
    """
    here = {canonical(entry.path): index for index, entry in enumerate(listing.entries)}
    if found := {video: here[canonical(video)] for video in rows if canonical(video) in here}:
        return found
    root = listing.root.as_posix() if isinstance(listing.root, Path) else str(listing.root)
    whole = [f"{root}/{entry.path}" for entry in listing.entries]
    best: dict[str, int] = {}
    for then, now in product(range(_common_folders(rows) + 1), range(_common_folders(whole) + 1)):
        here = {_below(path, now): index for index, path in enumerate(whole)}
        found = {
            video: here[below]
            for video, cells in rows.items()
            if (below := _below(video, then)) in here
            and canonical(listing.entries[here[below]].label) == canonical(cells["label"])
        }
        best = max(best, found, key=len)
    return best


def _common_folders(paths: Iterable[str]) -> int:
    """Count the folders that all paths begin with."""
    shared = posixpath.commonpath([str(PurePosixPath(canonical(path)).parent) for path in paths])
    return len(PurePosixPath(shared).parts)


def _below(path: str, depth: int) -> str:
    return "/".join(PurePosixPath(canonical(path)).parts[depth:])


def _refuse_strangers(
    listing: Listing,
    rows: Mapping[str, Mapping[str, str]],
    today: Mapping[str, int],
    labels: Sequence[str],
    path: Path,
) -> None:
    if strange := sorted({cells["label"] for cells in rows.values()} - set(labels)):
        reason = f"names class {strange[0]!r}, which is not among the run's labels"
        raise DatasetError(path, reason, _COPY_AGAIN)
    if not today:
        reason = f"not one of the {len(rows)} videos of the run's split is there: {some(list(rows))}"
        raise DatasetError(listing.root, reason, f"{THE_SAME_ROOT}; evaluate --split all-test measures on others")
    for video, index in today.items():
        label, then = canonical(listing.entries[index].label), canonical(rows[video]["label"])
        # Where the folder train/ is gone, the layout takes test/ for a class.
        if label != then and not (part_named(label) and video.startswith(f"{label}/")):
            reason = f"{video!r} is {label!r} here, and was {then!r} in the run's split"
            raise DatasetError(listing.root, reason, THE_SAME_ROOT)


def _refuse_another_order(listing: Listing, labels: Sequence[str], path: Path) -> None:
    """Refuse a label list in another order, which would give every prediction a wrong name."""
    here, known = [canonical(label) for label in listing.labels], [canonical(label) for label in labels]
    ours, theirs = [label for label in known if label in here], [label for label in here if label in known]
    # Earlier versions sorted the classes as the disk stored their letters.
    if ours != theirs and (all(map(str.isascii, ours)) or labels != sorted(labels)):
        own, other = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        reason = f"has {own!r} where the data set has {other!r}: the classes are in another order"
        raise DatasetError(path.with_name("labels.txt"), reason, _COPY_AGAIN)
