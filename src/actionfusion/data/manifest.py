"""Read and write the manifest: the findings of ``check``, a row a video, as CSV or Parquet.

Training, prepare and evaluation take it (``--data.manifest``): videos that are not ``ok`` are left out, frames need not
be counted again, and duplicates stay on one side of the splits that are drawn.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from actionfusion.cells import as_cell
from actionfusion.data.layouts.table import PARQUET_SUFFIXES, TEXT_SUFFIXES, Row, import_pyarrow, read_rows
from actionfusion.data.listing import Listing, canonical, match_names, some
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.files import replacing, write_atomically

OK = "ok"
TOO_SHORT = "too_short"
_CHECK_AGAIN = "correct it, or run check again"
_FORMATS = ".csv, .tsv or .parquet"


@dataclass(frozen=True)
class ManifestRow:
    """One video.

    Attributes:
        path: from the data set's root, with forward slashes.
        label: name of its class.
        group: from the layout, or written in by hand; none if it is unknown.
        frames: that can be decoded; of a damaged video those before the fault.
        fps: mean rate in frames a second; none where the file does not say.
        width: of the picture as shown, in pixels; 0 where nothing could be read.
        height: likewise.
        codec: FFmpeg's name of it; empty where nothing could be read.
        rotation: clockwise turn in degrees that shows the stored picture upright.
        hash: SHA-256 of the file as hexadecimal digits; empty where it could not be read.
        status: ``ok``, ``too_short``, or the ``kind`` of the error in reading it.
        reason: the fault in words, or what is odd about a video without one; else empty.
        double_of: path of the first of the videos that show the same, this one among them; empty where it is the only
            one.
    """

    path: str
    label: str
    group: str | None = None
    frames: int = 0
    fps: float | None = None
    width: int = 0
    height: int = 0
    codec: str = ""
    rotation: int = 0
    hash: str = ""
    status: str = OK
    reason: str = ""
    double_of: str = ""


COLUMNS = tuple(field.name for field in fields(ManifestRow))
_WHOLE = ("frames", "width", "height", "rotation")
_NEEDED = ("path", "label", "frames", "status")


@dataclass(frozen=True)
class Manifest:
    """A manifest as read.

    Attributes:
        path: the file.
        rows: in its order.
        positions: where each row is in it, such as ``line 7``.
    """

    path: Path
    rows: tuple[ManifestRow, ...]
    positions: tuple[str, ...]

    def applied_to(self, listing: Listing) -> Listing:
        """Add frames, groups and duplicates to a listing; only videos with status ``ok`` stay.

        Raises:
            DatasetError: a video of the listing that has no row, a row with another label than its folder says, or no
                video left.
        """
        paths = match_names((row.path for row in self.rows), (entry.path for entry in listing.entries))
        row_of = {paths[row.path]: number for number, row in enumerate(self.rows) if row.path in paths}
        entries, kept = [], []
        for index, entry in enumerate(listing.entries):
            number = row_of.get(entry.path)
            if number is None:
                raise DatasetError(self.path, f"has no row for {entry.path!r}, which is in the data set", "check again")
            row = self.rows[number]
            if canonical(row.label) != canonical(entry.label):
                reason = f"{self.positions[number]}, column label: {row.label!r}, and the data set says {entry.label!r}"
                raise DatasetError(self.path, reason, _CHECK_AGAIN)
            double_of = paths.get(row.double_of, row.double_of) or None
            entries.append(replace(entry, group=row.group, frames=row.frames, double_of=double_of))
            if row.status == OK:
                kept.append(index)
        absent = [row.path for row in self.rows if row.path not in paths]
        note = [f"{len(absent)} rows of the manifest have no video here: {some(absent)}"] if absent else []
        known = replace(listing, entries=tuple(entries), notes=(*listing.notes, *note))
        if not kept:
            raise DatasetError(self.path, "no video in it is ok", "fix the videos, then check again")
        return known if len(kept) == len(entries) else known.select(kept, self._left_out(paths))

    def _left_out(self, here: Mapping[str, str]) -> str:
        faults = [row for row in self.rows if row.status != OK and row.path in here]
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(row.status for row in faults).items()))
        names = some([row.path for row in faults])
        return f"{len(faults)} videos that the manifest says are not ok were left out ({kinds}): {names}"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest that ``check`` wrote, perhaps edited by hand.

    Raises:
        DatasetError: no such file, no manifest, or a cell that cannot be; the error names line and column.
    """
    if not path.is_file():
        raise DatasetError(path, "there is no such manifest", "run check, which writes it")
    read = list(read_rows(path, needed=_NEEDED, once=COLUMNS))
    seen: dict[str, str] = {}
    rows = []
    for item in read:
        row = _row(path, item)
        if row.path in seen:
            raise _wrong(path, item, "path", f"{row.path!r} is in {seen[row.path]} already")
        seen[row.path] = item.position
        rows.append(row)
    if not rows:
        raise DatasetError(path, "has a header and no rows", "run check again")
    for item, row in zip(read, rows, strict=True):
        if row.double_of and row.double_of not in seen:
            raise _wrong(path, item, "double_of", f"there is no row of {row.double_of!r}")
    return Manifest(path, tuple(rows), tuple(item.position for item in read))


def _wrong(path: Path, row: Row, column: str, reason: str) -> DatasetError:
    return DatasetError(path, f"{row.position}, column {column}: {reason}", _CHECK_AGAIN)


def _row(path: Path, row: Row) -> ManifestRow:
    cells: dict[str, Any] = {name: row.cells[name] for name in COLUMNS if name in row.cells}
    for name in ("path", "label", "status"):
        if not cells[name].strip():
            raise _wrong(path, row, name, "is empty")
    for name in _WHOLE:
        if name in cells:
            cells[name] = _whole_number(path, row, name, cells[name])
    if "fps" in cells:
        cells["fps"] = _rate(path, row, cells["fps"])
    if cells["status"] == OK and cells["frames"] < 1:
        raise _wrong(path, row, "frames", f"{cells['frames']}, and the status is ok")
    cells["group"] = cells.get("group", "").strip() or None
    return ManifestRow(**cells)


def _whole_number(path: Path, row: Row, column: str, text: str) -> int:
    try:
        number = int(text.strip() or 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 53:
        raise _wrong(path, row, column, f"{text!r:.40} is no whole number from 0 up to 2^53")
    return number


def _rate(path: Path, row: Row, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 < rate < float("inf"):
        raise _wrong(path, row, "fps", f"{text!r} is no rate in frames a second")
    return rate


def check_format(path: Path) -> None:
    """Check before the work that a manifest can be written there.

    Raises:
        SettingsError: another ending than .csv, .tsv and .parquet, or Parquet without pyarrow.
        DatasetError: the folder cannot be written.
    """
    if path.suffix.lower() not in TEXT_SUFFIXES | PARQUET_SUFFIXES:
        raise SettingsError("out", f"{path.name!r} does not end like a table", f"let it end in {_FORMATS}")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        import_pyarrow(path)


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    """Write a whole manifest, as CSV, TSV or Parquet by its ending.

    Raises:
        SettingsError: another ending.
        OSError: it cannot be written; what was there before stays.
    """
    check_format(path)
    if path.suffix.lower() in PARQUET_SUFFIXES:
        _write_parquet(path, rows)
    else:
        write_table(path, COLUMNS, (astuple(row) for row in rows))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write CSV, or TSV by the ending; an empty cell where a value is None, and no formula (``as_cell``)."""
    text = io.StringIO(newline="")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(as_cell, row) for row in rows)
    write_atomically(path, text.getvalue())


def _write_parquet(path: Path, rows: Sequence[ManifestRow]) -> None:
    pa, parquet = import_pyarrow(path)
    kinds: Mapping[str, Any] = {"str": pa.string(), "int": pa.int64(), "float | None": pa.float64()}
    schema = pa.schema([(field.name, kinds.get(str(field.type), pa.string())) for field in fields(ManifestRow)])
    table = pa.table({name: [getattr(row, name) for row in rows] for name in COLUMNS}, schema=schema)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)
