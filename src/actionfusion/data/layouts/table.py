"""Read a table of videos: CSV, TSV or Parquet with columns ``path`` and ``label``, perhaps ``group`` and ``split``.

``start`` and ``end`` (in seconds), or ``start_frame`` and ``end_frame``, make a row a segment of its video; see
``segments``.

    path,label,group,split
    jump/anna_1.mp4,jump,anna,train
    jump/ben_1.mp4,jump,ben,test

A path starts from the table's folder, or is absolute, or an address; it may also name a folder of pictures.  Further
columns do no harm, so a manifest of ``check`` is such a table; where it has a column ``status``, only the rows that say
``ok`` count.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from actionfusion.cells import from_cell
from actionfusion.data.layouts.folder import part_named
from actionfusion.data.layouts.tree import LeftOut, existing, holds_flow, is_picture, is_video, scan
from actionfusion.data.listing import (
    Kind,
    Listing,
    Split,
    VideoEntry,
    shown,
    some,
    sorted_entries,
    sorted_labels,
    spellings,
)
from actionfusion.data.segments import COLUMNS as SEGMENT_COLUMNS
from actionfusion.data.segments import Segment, WrongSegment, named_segment, segment_of
from actionfusion.errors import DatasetError
from actionfusion.remote_path import RemotePath
from actionfusion.storage import AnyPath, ask_many, beside, common_folder, relative

TEXT_SUFFIXES = frozenset((".csv", ".tsv"))
PARQUET_SUFFIXES = frozenset((".parquet", ".pq"))
_REQUIRED = ("path", "label")
_OPTIONAL = ("group", "split", "status", *SEGMENT_COLUMNS)
# What a manifest of check says of the videos, which are looked at anew.
_OF_CHECK = ("frames", "fps", "width", "height", "codec", "rotation", "hash", "reason", "double_of")
_OWN_PATH = "correct the path, or take the row out"
_OWN_COLUMNS = "path, label and, if wanted, group, split, start and end"

Locate = Callable[[str], "_Location"]


class _Location(NamedTuple):
    """Where a video is, or should be; no kind if it is a folder without pictures."""

    path: AnyPath
    kind: Kind | None
    flow_beside: bool = False


@dataclass(frozen=True)
class Row:
    """One row: its position in the table, such as ``line 7``, and its cells by column (names in lower case)."""

    position: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class _Video:
    """A valid row."""

    path: AnyPath
    kind: Kind
    label: str
    group: str | None
    part: str | None
    flow_beside: bool
    segment: Segment | None

    def entry(self, root: AnyPath) -> VideoEntry:
        path = relative(self.path, root)
        name = path if self.segment is None else f"{path}#{self.segment}"
        return VideoEntry(name, self.label, self.group, self.kind, segment=self.segment)


def open_table(given: AnyPath) -> Listing:
    """Read a table of videos.

    Args:
        given: the table, or the folder that holds it and no other table.

    Videos that are not there are of kind ``missing``.

    Raises:
        DatasetError: no table, a column missing, or a row that is wrong: the error names line and column.
    """
    table = _find_table(existing(given))
    rows = list(read_rows(table))
    if not rows:
        raise DatasetError(table, "has a header and no rows", "add a row for each video")
    left_out = [row for row in rows if row.cells.get("status", "ok") != "ok"]
    good = [row for row in rows if row.cells.get("status", "ok") == "ok"]
    locate, seen = _locator(table.parent, good), dict[str, tuple[str, str]]()
    videos = [_video(table, row, seen, locate) for row in good]
    if not videos:
        raise DatasetError(table, "every row has a status other than ok", "check the videos that it names")
    root = _root(table, videos)
    parts = {video.entry(root).path: video.part for video in videos}
    entries = sorted_entries(video.entry(root) for video in _with_groups(table, root, videos))
    notes = _notes(left_out, videos) + _notes_on_columns(table)
    official: dict[str, Split] = {}
    if "split" in rows[0].cells:
        official, missing = _column(entries, parts)
        notes += missing
    return Listing("csv", root, entries, sorted_labels(entries), official, tuple(notes))


def recognise_table(given: AnyPath) -> str | None:
    """Say by what this is recognised as a table of videos: its ending; a folder, by the one table in it."""
    if not given.is_dir():
        return f"{shown(given.name)} is a table" if _is_table(given) else None
    tables = [file for file in scan(given, LeftOut())[1] if _is_table(file)]
    if len(tables) != 1:
        return None
    try:
        next(read_rows(tables[0]), None)
    except DatasetError:
        return None
    return f"{shown(tables[0].name)} in it is a table with columns path and label"


def _is_table(file: AnyPath) -> bool:
    return file.suffix.lower() in TEXT_SUFFIXES | PARQUET_SUFFIXES


def _find_table(given: AnyPath) -> AnyPath:
    if not given.is_dir():
        if _is_table(given):
            return given
        raise DatasetError(given, "is no table by its ending", "give a .csv, .tsv or .parquet file")
    tables = [file for file in scan(given, LeftOut())[1] if _is_table(file)]
    if len(tables) > 1:
        raise DatasetError(given, f"holds several tables: {some([file.name for file in tables])}", "name one")
    if not tables:
        raise DatasetError(given, "holds no .csv, .tsv or .parquet file", "name the table")
    return tables[0]


def read_rows(
    table: AnyPath, needed: Sequence[str] = _REQUIRED, once: Sequence[str] = (*_REQUIRED, *_OPTIONAL)
) -> Iterator[Row]:
    """Yield the rows of a CSV, TSV or Parquet file, as text.

    Args:
        table: the file; its ending gives its format.
        needed: columns that must be there.
        once: columns that must not be there twice.

    Raises:
        DatasetError: a file of another format than its ending, or without these columns.
    """
    reader = _read_parquet if table.suffix.lower() in PARQUET_SUFFIXES else _read_text
    return reader(table, needed, once)


def _columns(
    table: AnyPath, names: Iterable[str], position: str, needed: Sequence[str], once: Sequence[str]
) -> list[str]:
    columns = [name.strip().lower() for name in names]
    counts = Counter(columns)
    if missing := [name for name in needed if name not in counts]:
        found = some([name for name in columns if name], most=12) or "nothing"
        reason = f"{position} has no column {' and no column '.join(missing)}, only {found}"
        more = f"{', '.join(needed[:-1])} and {needed[-1]}" if needed != _REQUIRED else _OWN_COLUMNS
        raise DatasetError(table, reason, f"name the columns {more}")
    if twice := [name for name in once if counts[name] > 1]:
        raise DatasetError(table, f"{position} names column {twice[0]!r} twice", "keep one of them")
    return columns


def _read_text(table: AnyPath, needed: Sequence[str], once: Sequence[str]) -> Iterator[Row]:
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(table, f"cannot be read ({error.strerror})", "give yourself the right to read it") from error
    except UnicodeDecodeError as error:
        raise DatasetError(table, f"is no UTF-8 text at byte {error.start}", "save it as UTF-8") from error
    if not text.strip():
        raise DatasetError(table, "is empty", "write a header path,label and a row for each video")
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    # Line ends are kept as they are, since a quoted name may hold one.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    columns: list[str] = []
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DatasetError(table, f"line {start} is no CSV: {error}", "check its quotes") from error
        position, start = f"line {start}", reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = _columns(table, cells, position, needed, once)
        elif len(cells) != len(columns):
            reason = f"{position} has {len(cells)} cells where the header has {len(columns)}"
            raise DatasetError(table, reason, "quote a cell that holds the separator or a line end")
        else:
            yield Row(position, dict(zip(columns, map(from_cell, cells), strict=True)))


def _read_parquet(table: AnyPath, needed: Sequence[str], once: Sequence[str]) -> Iterator[Row]:
    pa, parquet = import_pyarrow(table)
    try:
        source = table if isinstance(table, Path) else io.BytesIO(table.read_bytes())
        schema = parquet.read_schema(source)
        columns = _columns(table, schema.names, "its schema", needed, once)
        wanted = [name for name, column in zip(schema.names, columns, strict=True) if column in {*needed, *once}]
        rows = parquet.read_table(source, columns=wanted).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(table, f"is no readable Parquet file ({error})", "write it again") from error
    for number, row in enumerate(rows, start=1):
        cells = {name.strip().lower(): "" if value is None else str(value) for name, value in row.items()}
        yield Row(f"row {number}", cells)


def read_columns(table: AnyPath) -> list[str]:
    """Return the names of the columns of a table that has a row, in lower case.

    Raises:
        DatasetError: it cannot be read.
    """
    if table.suffix.lower() in PARQUET_SUFFIXES:
        source = table if isinstance(table, Path) else io.BytesIO(table.read_bytes())
        names: list[str] = import_pyarrow(table)[1].read_schema(source).names
        return [name.strip().lower() for name in names]
    row = next(read_rows(table, needed=(), once=()), None)
    return [] if row is None else list(row.cells)


def import_pyarrow(table: AnyPath) -> tuple[Any, Any]:
    """Import ``pyarrow`` and ``pyarrow.parquet``, which are slow to import, and only for Parquet.

    Raises:
        DatasetError: they are not installed; it names the table that wants them.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
        from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(table, "Parquet needs pyarrow", "pip install pyarrow, or take CSV") from error
    return pa, parquet


Wrong = Callable[[str, str, str], DatasetError]
"""Makes the error of a row of a column, a reason and a remedy."""


def _video(table: AnyPath, row: Row, seen: dict[str, tuple[str, str]], locate: Locate) -> _Video:
    def wrong(column: str, reason: str, remedy: str) -> DatasetError:
        return DatasetError(table, f"{row.position}, column {column}: {reason}", remedy)

    (path, kind, flow_beside), segment = _place(row, locate, wrong)
    written = row.cells["path"]
    if kind is None:
        raise wrong("path", f"{written!r} is a folder without pictures", _OWN_PATH)
    label = row.cells["label"].strip()
    if not label:
        raise wrong("label", "is empty", "write the class of the video")
    name = f"{path}#{segment}" if segment else str(path)
    if name in seen:
        position, other = seen[name]
        if other != label:
            raise wrong("label", f"label conflict: {written!r} is {other!r} in {position}", "keep the right one")
        raise wrong("path", f"{written!r} is in {position} already", "name every video once")
    seen[name] = (row.position, label)
    part = row.cells.get("split", "").strip()
    if part and part_named(part) is None:
        raise wrong("split", f"{part!r} is none of train, val and test", "write one of them, or leave it empty")
    group = row.cells.get("group", "").strip() or None
    return _Video(path, kind, label, group, part_named(part), flow_beside, segment)


def _place(row: Row, locate: Locate, wrong: Wrong) -> tuple[_Location, Segment | None]:
    """Find the video of a row, and its segment if it is not the whole."""
    written = row.cells["path"]
    if not written.strip():
        raise wrong("path", "is empty", _OWN_PATH)
    if "\0" in written:
        raise wrong("path", f"{written!r} is no name of a file", _OWN_PATH)
    try:
        segment = segment_of(row.cells)
    except WrongSegment as error:
        raise wrong(error.args[0], error.args[1], "correct it, or leave start and end empty") from error
    place = locate(written)
    file, named = named_segment(written.strip())
    if place.kind != "missing" or named is None:
        return place, segment
    if segment is not None:
        raise wrong("path", f"{written!r} names a segment, and other columns do too", "keep one of them")
    return locate(file), named


def _locator(folder: AnyPath, rows: Iterable[Row]) -> Locate:
    """Return ``_locate`` for these rows; remote paths are looked up at the same time."""
    locate = partial(_locate, folder)
    written = [row.cells["path"] for row in rows if row.cells["path"].strip()]
    written += [file for text in written for file, segment in [named_segment(text.strip())] if segment]
    if any(isinstance(beside(folder, text), RemotePath) for text in written):
        return dict(ask_many(locate, written)).__getitem__
    return locate


def _locate(folder: AnyPath, written: str) -> _Location:
    """Find the path and its kind.

    Backslashes count as slashes, and accented letters in either form, if that finds the video.
    """
    forms = (written, written.strip(), written.strip().replace("\\", "/"))
    for text in dict.fromkeys(spelling for form in forms for spelling in spellings(form)):
        path = beside(folder, text)
        try:
            if path.is_file():
                return _Location(path, "file")
            if path.is_dir():
                files = scan(path, LeftOut())[1]
                return _Location(path, "frames" if any(map(is_picture, files)) else None, holds_flow(files))
        except (OSError, ValueError):
            continue
    return _Location(beside(folder, written.strip().replace("\\", "/")), "missing")


def _with_groups(table: AnyPath, root: AnyPath, videos: list[_Video]) -> list[_Video]:
    """Give the segments of a video one group, so that no split tears them apart: that of the table, else the video.

    Raises:
        DatasetError: the table gives them several.
    """
    groups: dict[str, set[str]] = {}
    for video in videos:
        if video.segment is not None:
            groups.setdefault(relative(video.path, root), set()).update([video.group] if video.group else [])
    if torn := [(file, sorted(names)) for file, names in sorted(groups.items()) if len(names) > 1]:
        file, names = torn[0]
        raise DatasetError(table, f"segments of {file!r} have several groups: {some(names)}", "give them one group")
    grouped = []
    for video in videos:
        file = relative(video.path, root)
        group = video.group or (next(iter(groups[file]), file) if file in groups else None)
        grouped.append(replace(video, group=group))
    return grouped


def _root(table: AnyPath, videos: Iterable[_Video]) -> AnyPath:
    """Find the table's folder, or the folder that also holds the videos outside it."""
    folders: set[AnyPath] = {video.path.parent for video in videos}
    # A table on this machine may name videos that are all behind addresses.
    if not all(isinstance(folder, RemotePath) for folder in folders) or isinstance(table, RemotePath):
        folders.add(table.parent)
    try:
        return common_folder(folders)
    except ValueError as error:
        raise DatasetError(table, "names videos on several drives or servers", "put them on one") from error


def _column(entries: tuple[VideoEntry, ...], parts: Mapping[str, str | None]) -> tuple[dict[str, Split], list[str]]:
    train, val, test, idle = (
        tuple(index for index, entry in enumerate(entries) if parts[entry.path] == part)
        for part in ("train", "val", "test", None)
    )
    notes = [f"{len(idle)} videos have an empty split and are in no part of it"] if idle else []
    if not train or not (test or val):
        return {}, [*notes, "column split is not offered: it names no video for training, or none for testing"]
    if test:
        return {"column": Split("column: split", train, test, val)}, notes
    note = "no row says test, so the val rows are tested on and may not choose the weights as well"
    return {"column": Split("column: split, val as test", train, val, notes=(note,))}, notes


def _notes(left_out: list[Row], videos: list[_Video]) -> list[str]:
    notes = []
    if left_out:
        kinds = Counter(row.cells["status"] for row in left_out)
        counts = ", ".join(f"{count} {shown(status) or 'without one'}" for status, count in sorted(kinds.items()))
        notes.append(f"{len(left_out)} rows have a status other than ok and were left out ({counts})")
    if gone := [video.path.name for video in videos if video.kind == "missing"]:
        notes.append(f"{len(gone)} of the {len(videos)} videos that the table names are not there: {some(gone)}")
    if odd := [video.path.name for video in videos if video.kind == "file" and not is_video(video.path)]:
        notes.append(f"{len(odd)} files do not end like a video: {some(odd)}")
    if segments := [video for video in videos if video.segment is not None]:
        files = len({str(video.path) for video in segments})
        notes.append(
            f"{len(segments)} segments of {files} videos; an end is not part of its segment, and frames count from 0"
        )
    if flow := [video.path.name for video in videos if video.flow_beside]:
        notes.append(f"pictures of flow beside the frames were left out in {len(flow)} folders: {some(flow)}")
    return notes


def _notes_on_columns(table: AnyPath) -> list[str]:
    names = [name for name in read_columns(table) if name and name not in {*_REQUIRED, *_OPTIONAL, *_OF_CHECK}]
    if not names:
        return []
    like_times = any(re.search("start|begin|onset|end|stop|offset", name) for name in names)
    hint = f"; segments are read from {', '.join(SEGMENT_COLUMNS)}" if like_times else ""
    return [f"columns that are not read: {some(names, most=12)}{hint}"]
