"""Read the generated clips, and make them first if they are not there.

Clips of one number in the two classes of a group are twins, alike in all but what distinguishes the classes.  They make
one group, ``<split>/<ability>/<number>``, so that no split tears them apart.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from rich.progress import Progress

from actionfusion.data.layouts.folder import open_folder
from actionfusion.data.listing import Listing
from actionfusion.data.shapes import SHAPE_GROUPS
from actionfusion.data.shapes_files import SETTINGS_FILE, make_shapes
from actionfusion.errors import DatasetError
from actionfusion.storage import AnyPath
from actionfusion.terminal import Console

TRAIN_PER_CLASS, TEST_PER_CLASS = 100, 25


def open_shapes(given: AnyPath) -> Listing:
    """Open generated clips; fill a missing or empty local folder with 800 training and 200 test clips.

    Raises:
        DatasetError: the folder holds something else.
    """
    if isinstance(given, Path):
        try:
            if not (given / SETTINGS_FILE).is_file():
                _make(given)
        except (OSError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            reason = f"generated clips cannot be written there ({getattr(error, 'strerror', None) or error})"
            raise DatasetError(given, reason, "choose another folder") from error
    listing = open_folder(given)
    abilities = {label: ability for ability, labels in SHAPE_GROUPS.items() for label in labels}
    if strange := [label for label in listing.labels if label not in abilities]:
        raise DatasetError(given, f"holds a class {strange[0]!r} that is not generated", "open it as a folder")
    entries = []
    for entry in listing.entries:
        split, *_, name = PurePosixPath(entry.path).parts
        number = PurePosixPath(name).stem.rpartition("_")[2]
        entries.append(replace(entry, group=f"{split}/{abilities[entry.label]}/{number}"))
    return replace(listing, dataset="shapes", entries=tuple(entries))


def recognise_shapes(root: AnyPath) -> str | None:
    """Say by what this folder is recognised as generated clips: the file of their settings."""
    return f"its {SETTINGS_FILE}" if (root / SETTINGS_FILE).is_file() else None


def _make(folder: Path) -> None:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("generating clips", total=None)
        make_shapes(
            folder,
            train_per_class=TRAIN_PER_CLASS,
            val_per_class=0,
            test_per_class=TEST_PER_CLASS,
            seed=0,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
