"""Keep what people have written into a manifest when ``check`` writes it again, and write over no other file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from actionfusion.data.layouts.table import read_columns
from actionfusion.data.listing import match_names, some
from actionfusion.data.manifest import COLUMNS, Manifest, ManifestRow, read_manifest
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.files import refuse_foreign

# A user's own table has a path and a label; these no one writes by hand.
_OWN_COLUMNS = frozenset(("path", "label", "frames", "hash", "status", "reason"))
# Of these the user decides; of the others the video does.
_EDITED = ("group", "status", "reason", "double_of")
_OF_CONTENT = frozenset(_EDITED) - {"group"}


def read_earlier(out: Path) -> Manifest | None:
    """Read the manifest that an earlier check has left where a new one is to be written.

    Raises:
        SettingsError: another file is there.
        DatasetError: it was edited into no manifest, or has a column that writing it again would lose.
    """
    refuse_foreign(out, lambda path: set(read_columns(path)) >= _OWN_COLUMNS)
    if not out.is_file() or not out.stat().st_size:
        return None
    if added := [name for name in read_columns(out) if name not in COLUMNS]:
        reason = f"has columns of your own, which check would not keep: {some(added)}"
        raise DatasetError(out, reason, "choose another --out, or take them out")
    return read_manifest(out)


def refuse_another_set(earlier: Manifest, paths: Sequence[str]) -> None:
    """Refuse to replace the manifest of other videos.

    Args:
        earlier: what is there.
        paths: of the videos of this data set.

    Raises:
        SettingsError: it has none of these videos.
    """
    if not match_names((row.path for row in earlier.rows), paths):
        reason = f"is the manifest of other videos: not one of its {len(earlier.rows)} is in this data set"
        raise SettingsError(earlier.path, reason, "choose another --out")


def keep_edits(
    found: Sequence[ManifestRow], earlier: Manifest, written: Mapping[str, ManifestRow]
) -> tuple[list[ManifestRow], list[str]]:
    """Put the cells that were edited by hand into new rows.

    A group stays as it was written; status, reason and double_of stay while the file has the same bytes.

    Args:
        found: what this check found.
        earlier: the manifest as it is now.
        written: by path, what check itself had found when it wrote that manifest; where this is not known, a group
            that is not the layout's counts as edited.

    Returns:
        The rows, and a note on what was kept, what was not, and which rows are gone.
    """
    paths = {row.path for row in found}
    here = match_names((row.path for row in earlier.rows), paths)
    before = {here.get(row.path, row.path): row for row in earlier.rows}
    written = {here.get(path, path): row for path, row in written.items()}
    kept, undone = Counter[str](), Counter[str]()
    rows = []
    for row in found:
        old, base = before.get(row.path), written.get(row.path)
        if old is None:
            rows.append(row)
            continue
        names = COLUMNS if base is not None else ("group",) if old.group is not None else ()
        edited = {name: getattr(old, name) for name in names if getattr(old, name) != getattr(base or row, name)}
        same_bytes = bool(row.hash) and base is not None and row.hash == base.hash
        keeps = {
            name: cell
            for name, cell in edited.items()
            if name in _EDITED
            and (same_bytes or name not in _OF_CONTENT)
            and (name != "double_of" or not cell or cell in paths)
        }
        kept.update(name for name, cell in keeps.items() if cell != getattr(row, name))
        undone.update(name for name, cell in edited.items() if name not in keeps and cell != getattr(row, name))
        rows.append(replace(row, **keeps))
    gone = [path for path in before if path not in paths]
    notes = [f"kept as you edited them: {_counted(kept)}"] if kept else []
    notes += [f"edited, and set again to what the data set says: {_counted(undone)}"] if undone else []
    notes += [f"{len(gone)} rows of videos that are no longer there were dropped: {some(gone)}"] if gone else []
    return rows, notes


def _counted(cells: Counter[str]) -> str:
    return ", ".join(f"{name} of {count} videos" for name, count in cells.items())
