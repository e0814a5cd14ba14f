"""Read a table of videos: CSV, TSV or Parquet with columns ``path`` and ``label``, perhaps ``group`` and ``split``.

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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from actionfusion.data.layouts.folder import PARTS
from actionfusion.data.layouts.tree import LeftOut, existing, is_picture, is_video, scan
from actionfusion.data.listing import Kind, Listing, Split, VideoEntry, shown, some, sorted_entries
from actionfusion.errors import DatasetError
from actionfusion.remote_path import RemotePath
from actionfusion.storage import AnyPath, ask_many, beside, common_folder, relative

TEXT_SUFFIXES = frozenset((".csv", ".tsv"))
PARQUET_SUFFIXES = frozenset((".parquet", ".pq"))
_REQUIRED = ("path", "label")
_OPTIONAL = ("group", "split", "status")
_OWN_PATH = "correct the path, or take the row out"
_OWN_COLUMNS = "path, label and, if wanted, group and split"

Location = tuple[AnyPath | None, Kind | None]
Locate = Callable[[str], Location]


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


def open_table(given: AnyPath) -> Listing:
    """Read a table of videos.

    Args:
        given: the table, or the folder that holds it and no other table, or a folder beside it.

    Raises:
        DatasetError: no table, a column missing, or a row that is wrong: the error names line and column.
    """
    table = _find_table(existing(given))
    rows = list(read_rows(table))
    if not rows:
        raise DatasetError(table, "has a header and no rows", "add a row for each video")
    left_out = [row for row in rows if row.cells.get("status", "ok") != "ok"]
    good = [row for row in rows if row.cells.get("status", "ok") == "ok"]
    locate, seen = _locator(table.parent, good), dict[str, str]()
    videos = [_video(table, row, seen, locate) for row in good]
    if not videos:
        raise DatasetError(table, "every row has a status other than ok", "check the videos that it names")
    root = _root(table, videos)
    entries = sorted_entries(
        VideoEntry(relative(video.path, root), video.label, video.group, video.kind) for video in videos
    )
    notes = _notes(left_out, videos)
    official: dict[str, Split] = {}
    if "split" in rows[0].cells:
        official, missing = _column(entries, {relative(video.path, root): video.part for video in videos})
        notes += missing
    labels = tuple(sorted({entry.label for entry in entries}))
    return Listing("csv", root, entries, labels, official, tuple(notes))


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
    for folder in (given, given.parent):
        tables = [file for file in scan(folder, LeftOut())[1] if _is_table(file)]
        if len(tables) == 1:
            return tables[0]
        if tables:
            raise DatasetError(folder, f"holds several tables: {some([file.name for file in tables])}", "name one")
    raise DatasetError(given, "holds no .csv, .tsv or .parquet file, nor does the folder above", "name the table")


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
            yield Row(position, dict(zip(columns, cells, strict=True)))


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


def _video(table: AnyPath, row: Row, seen: dict[str, str], locate: Locate) -> _Video:
    def wrong(column: str, reason: str, remedy: str) -> DatasetError:
        return DatasetError(table, f"{row.position}, column {column}: {reason}", remedy)

    written = row.cells["path"]
    if not written.strip():
        raise wrong("path", "is empty", _OWN_PATH)
    path, kind = locate(written)
    if path is None:
        raise wrong("path", f"{written!r} is not there", _OWN_PATH)
    if kind is None:
        raise wrong("path", f"{written!r} is a folder without pictures", _OWN_PATH)
    name = str(path)
    if name in seen:
        raise wrong("path", f"{written!r} is in {seen[name]} already", "name every video once")
    seen[name] = row.position
    label = row.cells["label"].strip()
    if not label:
        raise wrong("label", "is empty", "write the class of the video")
    part = row.cells.get("split", "").strip()
    if part and part.casefold() not in PARTS:
        raise wrong("split", f"{part!r} is none of train, val and test", "write one of them, or leave it empty")
    return _Video(path, kind, label, row.cells.get("group", "").strip() or None, PARTS.get(part.casefold()))


def _locator(folder: AnyPath, rows: Iterable[Row]) -> Locate:
    """Return ``_locate`` for these rows; remote paths are looked up at the same time."""
    locate = partial(_locate, folder)
    written = [row.cells["path"] for row in rows if row.cells["path"].strip()]
    if any(isinstance(beside(folder, text), RemotePath) for text in written):
        return dict(ask_many(locate, written)).__getitem__
    return locate


def _locate(folder: AnyPath, written: str) -> Location:
    """Find the path and its kind; backslashes count as slashes if that finds the video."""
    for text in (written, written.strip(), written.strip().replace("\\", "/")):
        path = beside(folder, text)
        try:
            if path.is_file():
                return path, "file"
            if path.is_dir():
                pictures = any(is_picture(file) for file in scan(path, LeftOut())[1])
                return path, "frames" if pictures else None
        except (OSError, ValueError):
            continue
    return None, None


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
    if odd := [video.path.name for video in videos if video.kind == "file" and not is_video(video.path)]:
        notes.append(f"{len(odd)} files do not end like a video: {some(odd)}")
    return notes
