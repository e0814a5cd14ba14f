"""Open videos that a run was not split on, to measure it on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from actionfusion.data.dataset import DataSettings, LabelledVideos
from actionfusion.data.layouts import open_dataset
from actionfusion.data.listing import Listing, Part, Split, VideoEntry, canonical, caseless, some
from actionfusion.data.recorded_split import read_split
from actionfusion.data.splits import make_split
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.run_folder import SPLIT, RunFolder
from actionfusion.storage import AnyPath, to_path

ALL_TEST = "all-test"


def open_other(run: RunFolder, settings: DataSettings, part: Part) -> LabelledVideos:
    """Find labelled videos for a run to be measured on, with its classes in the order of its outputs.

    What is measured is the test part of what comes back; the rest of the split was not in this run's training.

    Args:
        run: whose classes they have.
        settings: where they are; no layout recognises it, no split takes all videos.
        part: side of their split.

    Raises:
        SettingsError: no root was given, or an unknown split or layout.
        DatasetError: no such data set, a class that the run does not know, or no video in that part.
    """
    if settings.root is None:
        raise SettingsError("root", "is not given", "say where the videos are: --root DIR")
    listing = _within(open_dataset(settings.dataset, settings.root), to_path(settings.root))
    listing, settings = _as_the_run(listing, run.labels), replace(settings, dataset=listing.dataset)
    found = make_split(listing, settings.split or ALL_TEST)
    chosen = getattr(found, part)
    if not chosen:
        raise DatasetError(listing.root, f"split {found.name!r} has no {part} part", "choose another --part or --split")
    seen = _count_named_alike(run, [listing.entries[index] for index in chosen])
    notes = [
        "measured on other videos than those that the run was split on",
        f"{seen or 'none'} of these {len(chosen)} videos have the name and class of a video that the run was trained on"
        + ("; if they are the same, the accuracy flatters" if seen else "; their pictures are not compared"),
    ]
    name = found.name if part == "test" else f"{found.name}, {part} part"
    kept = Split(name, (), chosen, notes=tuple(notes))
    return LabelledVideos(listing, kept, settings, named_as_trained=seen)


def _count_named_alike(run: RunFolder, entries: Sequence[VideoEntry]) -> int:
    """Count the videos whose path may be that of a training video of the run, and of no other video of the run.

    The one may begin further up than the other, since roots differ.
    """
    if not (run.path / SPLIT).is_file():
        return 0
    part_of, parts_below = dict[tuple[str, str], str](), defaultdict[tuple[str, str], set[str]](set)
    for path, cells in read_split(run.path / SPLIT).items():
        keys = _tails(path, cells["label"])
        part_of[keys[0]] = cells["part"]
        for key in keys:
            parts_below[key].add(cells["part"])

    def parts(entry: VideoEntry) -> set[str]:
        keys = _tails(entry.path, entry.label)
        return parts_below.get(keys[0], set()) | {part_of[key] for key in keys if key in part_of}

    return sum(parts(entry) == {"train"} for entry in entries)


def _tails(path: str, label: str) -> list[tuple[str, str]]:
    """List a path without its first folders, from none to all, each with the class."""
    names = PurePosixPath(canonical(path)).parts
    return [(canonical(label), "/".join(names[start:])) for start in range(len(names))]


def _within(listing: Listing, given: AnyPath) -> Listing:
    """Keep the videos below the folder that was given; a layout may have climbed above it."""
    given = given.expanduser().absolute()
    root = listing.root
    if not (isinstance(given, Path) and isinstance(root, Path) and given.is_dir() and root in given.parents):
        return listing
    return listing.select(index for index in range(len(listing.entries)) if given in listing.path(index).parents)


def _as_the_run(listing: Listing, labels: tuple[str, ...]) -> Listing:
    """Give the listing the run's classes.

    Raises:
        DatasetError: it has another one.
    """
    spelled = {canonical(label): label for label in labels}
    if strange := [label for label in listing.labels if canonical(label) not in spelled]:
        near = {caseless(label): label for label in labels}.get(caseless(strange[0]))
        reason = f"has {len(strange)} classes that the run does not know: {some(strange)}"
        reason += f"; its own are {some(labels)}" if near is None else f"; its own is written {near!r}"
        remedy = "rename them, leave them out by a table (--dataset csv), or take a run that knows them"
        raise DatasetError(listing.root, reason, remedy)
    entries = tuple(replace(entry, label=spelled[canonical(entry.label)]) for entry in listing.entries)
    return replace(listing, entries=entries, labels=labels)
