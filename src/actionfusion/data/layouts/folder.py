"""Read a folder of videos: a folder a class, with ``train/``, ``val/`` and ``test/`` above or below, if they are there.

    clips/jump/a.mp4            clips/train/jump/a.mp4          clips/jump/train/a.mp4
    clips/run/b.mp4             clips/test/jump/c.mp4           clips/jump/test/c.mp4

The name of the first folder is the class, however deep the videos are in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from actionfusion.data.layouts.tree import LeftOut, class_videos, find_root, folders_in, is_video, scan
from actionfusion.data.listing import (
    PARTS,
    Listing,
    Part,
    Split,
    VideoEntry,
    caseless,
    some,
    sorted_entries,
    sorted_labels,
)
from actionfusion.errors import DatasetError
from actionfusion.storage import AnyPath, relative

_PART_WORDS: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "valset": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "testset": "test",
}
# As in videos_train, rawframes_val, train_256, test-set.
_BESIDE_PART = frozenset(("videos", "video", "clips", "rawframes", "frames", "rgb", "data", "dataset", "set", "split"))


def open_folder(given: AnyPath) -> Listing:
    """Find the class folders, and the parts above or below them.

    Groups are not known; ``Listing.grouped_by`` finds them in the file names.

    Raises:
        DatasetError: no class folder in reach, several folders of one part, or folders that are data sets themselves.
    """
    root = find_root(given, _fits, (), "class folders with videos")
    parts = _parts(root)
    return _open_parts(root, parts) if parts else _open_classes(root)


def recognise_folder(root: AnyPath) -> str | None:
    """Say by what this folder is recognised as a folder of classes; one whose classes are further down is not.

    Raises:
        DatasetError: the same folders are in each of its folders, so either may be the classes.
    """
    if not _fits(root):
        return None
    if parts := _parts(root):
        return f"a folder for each class in each of {', '.join(folder.name for folder in parts)}"
    if repeated := _repeated_folders(root):
        reason = f"holds the same folders in each of its folders ({some(repeated)}), so either may be the classes"
        remedy = f"if {some([folder.name for folder in folders_in(root)])} are, say --data.dataset folder"
        raise DatasetError(root, reason, f"{remedy}; else move the videos of each class into one folder")
    return "a folder for each class"


def part_named(name: str) -> Part | None:
    """Tell which part of a split a name means, such as ``Training`` or ``videos_val``; None if it means none."""
    words = re.findall(r"[^\W\d_]+", caseless(name))
    named = [_PART_WORDS[word] for word in words if word in _PART_WORDS]
    known = all(word in _PART_WORDS or word in _BESIDE_PART for word in words)
    return named[0] if len(named) == 1 and known else None


def is_part(folder: AnyPath) -> bool:
    """Tell whether this is the train, val or test folder of a data set."""
    return part_named(folder.name) is not None and bool(_parts(folder.parent))


def _parts(root: AnyPath) -> list[AnyPath]:
    """Find the folders train, val and test of a root, which hold class folders and no videos of their own."""
    named = [folder for folder in folders_in(root) if part_named(folder.name) and _holds_classes(folder)]
    kinds = {part_named(folder.name) for folder in named}
    return named if "train" in kinds or len(kinds) > 1 else []


def _holds_classes(folder: AnyPath) -> bool:
    folders, files = scan(folder, LeftOut())
    return not any(is_video(file) for file in files) and any(_holds_videos(inner) for inner in folders)


def _holds_videos(folder: AnyPath, depth: int = 3) -> bool:
    folders, files = scan(folder, LeftOut())
    return any(is_video(file) for file in files) or (
        depth > 1 and any(_holds_videos(inner, depth - 1) for inner in folders)
    )


def _fits(folder: AnyPath) -> bool:
    inner = folders_in(folder)
    if _parts(folder) or any(any(is_video(file) for file in scan(one, LeftOut())[1]) for one in inner):
        return True
    # Videos deeper down: one such folder is more likely the root itself, two are classes with folders of their own.
    return sum(_holds_videos(one) for one in inner) > 1


def _repeated_folders(root: AnyPath) -> list[str]:
    """Find two or more folders of the same names in all folders of a root; numbers alone are no class names."""
    inner = [
        {one.name for one in folders_in(folder) if _holds_videos(one)}
        for folder in folders_in(root)
        if _holds_videos(folder)
    ]
    common = sorted(set.intersection(*inner)) if len(inner) > 1 else []
    named = [name for name in common if not name.isdecimal() and part_named(name) is None]
    return named if len(named) > 1 else []


def _open_classes(root: AnyPath) -> Listing:
    left_out = LeftOut()
    folders = class_videos(root, left_out)
    for label in folders:
        if inner := _parts(root / label):
            reason = f"holds {some([folder.name for folder in inner])} with a folder for each class, as a data set does"
            raise DatasetError(root / label, reason, "give this folder alone, or move it out of the folder of classes")
    entries = sorted_entries(
        VideoEntry(relative(video, root), label) for label, videos in folders.items() for video in videos
    )
    notes = left_out.notes()
    if repeated := _repeated_folders(root):
        notes.append(f"the same folders are in each class: {some(repeated)}; if those are the classes, sort by them")
    names = {entry.path: PurePosixPath(entry.path).parts for entry in entries}
    sides = {path: part_named(parts[1]) if len(parts) > 2 else None for path, parts in names.items()}
    split = _own_split(entries, sides)
    if split and (idle := sum(side is None for side in sides.values())):
        notes.append(f"{idle} videos are in no train, val or test folder of their class, and in no part of that split")
    return Listing("folder", root, entries, sorted_labels(entries), {"folders": split} if split else {}, tuple(notes))


def _open_parts(root: AnyPath, parts: list[AnyPath]) -> Listing:
    counts = Counter(part_named(folder.name) for folder in parts)
    if several := [folder.name for folder in parts if counts[part_named(folder.name)] > 1]:
        reason = f"holds several folders of one part: {some(several)}"
        raise DatasetError(root, reason, "join them, or move all but one out of it")
    left_out = LeftOut()
    sides: dict[str, Part | None] = {}
    found = []
    for folder in parts:
        for label, videos in class_videos(folder, left_out).items():
            found += [VideoEntry(relative(video, root), label) for video in videos]
            sides |= {relative(video, root): part_named(folder.name) for video in videos}
    entries = sorted_entries(found)
    notes = left_out.notes()
    outside = [folder.name for folder in folders_in(root) if folder not in parts and _holds_videos(folder)]
    if outside:
        notes.append(f"{len(outside)} folders beside its parts were left out: {some(outside)}")
    split = _own_split(entries, sides)
    official = {"folders": split} if split else {}
    if not split:
        names = " and ".join(f"{folder.name}/" for folder in parts)
        notes.append(f"there is {names} alone, which makes no split")
    return Listing("folder", root, entries, sorted_labels(entries), official, tuple(notes))


def _own_split(entries: tuple[VideoEntry, ...], sides: Mapping[str, Part | None]) -> Split | None:
    train, val, test = (
        tuple(index for index, entry in enumerate(entries) if sides[entry.path] == part) for part in PARTS
    )
    if train and test:
        return Split("folders: train, val, test" if val else "folders: train, test", train, test, val)
    if train and val:
        note = "there is no test/, so val/ is tested on and may not choose the weights as well"
        return Split("folders: train, val as test", train, val, notes=(note,))
    return None
