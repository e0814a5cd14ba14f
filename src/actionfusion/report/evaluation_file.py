"""Read ``evaluation_<part>.json`` for a page, whoever wrote or changed it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.report.tables import Evaluation, check_evaluation
from actionfusion.settings import EVALUATION_BYTES, read_json

_REMEDY = "evaluate the run again"
_TEXTS = ("dataset", "split", "part")
_COUNTS = ("seed", "count", "correct")
_SHARES = ("top1", "confidence")
_ENTRIES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "per_class": {"label": str, "count": int, "correct": int, "interval": list},
    "failed": {"video": str, "kind": str, "message": str},
    "videos": {"video": str, "label": str, "predicted": str, "probabilities": list},
}


def read_evaluation(path: Path) -> Evaluation:
    """What ``evaluate`` wrote.

    Raises:
        RunFolderError: no such file, no JSON, or not what this version of ``evaluate`` writes.
    """
    found = read_json(path, RunFolderError, _REMEDY, largest=EVALUATION_BYTES, finite=False)
    try:
        _check_types(found)
        check_evaluation(found)
        _check_answers(found)
    except SettingsError as error:
        raise RunFolderError(path, error.reason, error.remedy) from error
    return found


def _check_types(found: Mapping[str, Any]) -> None:
    wanted: dict[str, type | tuple[type, ...]] = dict.fromkeys(_TEXTS, str)
    wanted |= dict.fromkeys(_COUNTS, int) | dict.fromkeys(_SHARES, (int, float))
    wanted |= dict.fromkeys(("interval", "labels", "confusion", *_ENTRIES), list)
    _refuse_other_types(found, wanted, "")
    if not all(isinstance(label, str) for label in found.get("labels", ())):
        raise SettingsError("evaluation", "not every label is a text", _REMEDY)
    cells = [cell for row in found.get("confusion", ()) for cell in (row if isinstance(row, list) else [None])]
    if not all(isinstance(cell, int) and cell >= 0 for cell in cells):
        raise SettingsError("evaluation", "its confusion matrix holds something else than counts", _REMEDY)
    for name, parts in _ENTRIES.items():
        for number, entry in enumerate(found.get(name, ()), 1):
            where = f"entry {number} of {name}"
            if not isinstance(entry, dict) or not parts.keys() <= entry.keys():
                raise SettingsError("evaluation", f"{where} is of another version", _REMEDY)
            _refuse_other_types(entry, parts, f" in {where}")


def _check_answers(found: Mapping[str, Any]) -> None:
    labels = set(found["labels"])
    for entry in found["videos"]:
        if not {entry["label"], entry["predicted"]} <= labels:
            raise SettingsError("evaluation", f"{entry['video']!r} has a label that is not listed", _REMEDY)
        row = entry["probabilities"]
        if len(row) != len(found["labels"]) or not all(isinstance(value, int | float) for value in row):
            raise SettingsError("evaluation", f"{entry['video']!r} has not one number a label", _REMEDY)


def _refuse_other_types(values: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    for name, kind in wanted.items():
        if name in values and not isinstance(values[name], kind):
            raise SettingsError("evaluation", f"{name}{where} is {values[name]!r:.40}", _REMEDY)
