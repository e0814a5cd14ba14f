"""Read a folder of videos: a folder a class, with ``train/``, ``val/`` and ``test/`` above if they are there.

    clips/jump/a.mp4            clips/train/jump/a.mp4
    clips/run/b.mp4             clips/test/jump/c.mp4

The name of the first folder is the class, however deep the videos are in it.
"""

from __future__ import annotations

from actionfusion.data.layouts.tree import LeftOut, class_videos, find_root, folders_in, is_video, scan
from actionfusion.data.listing import Listing, Split, VideoEntry, caseless, some, sorted_entries
from actionfusion.storage import AnyPath, relative

PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def open_folder(given: AnyPath) -> Listing:
    """Find the class folders, and the parts above them.

    Groups are not known; ``Listing.grouped_by`` finds them in the file names.

    Raises:
        DatasetError: no class folder in reach.
    """
    root = find_root(given, _fits, (), "folder for each class with videos in it")
    if is_part(root):
        root = root.parent
    parts = _parts(root)
    return _open_parts(root, parts) if parts else _open_classes(root)


def recognise_folder(root: AnyPath) -> str | None:
    """Say by what this folder is recognised as a folder of classes; one whose classes are further down is not."""
    if not _fits(root):
        return None
    return "a folder for each class in each of its parts" if _parts(root) else "a folder for each class"


def is_part(folder: AnyPath) -> bool:
    """Tell whether this is the train, val or test folder of a data set."""
    return _part(folder) is not None and bool(_parts(folder.parent))


def _part(folder: AnyPath) -> str | None:
    return PARTS.get(caseless(folder.name))


def _parts(root: AnyPath) -> list[AnyPath]:
    """Find the folders train, val and test of a root, which hold class folders and no videos of their own."""
    named = [folder for folder in folders_in(root) if _part(folder) and _holds_classes(folder)]
    return named if any(_part(folder) == "train" for folder in named) else []


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


def _open_classes(root: AnyPath) -> Listing:
    left_out = LeftOut()
    folders = class_videos(root, left_out)
    entries = sorted_entries(
        VideoEntry(relative(video, root), label) for label, videos in folders.items() for video in videos
    )
    return Listing("folder", root, entries, _labels(entries), notes=tuple(left_out.notes() + _case_notes(entries)))


def _open_parts(root: AnyPath, parts: list[AnyPath]) -> Listing:
    left_out = LeftOut()
    sides: dict[str, str] = {}
    found = []
    for folder in parts:
        for label, videos in class_videos(folder, left_out).items():
            found += [VideoEntry(relative(video, root), label) for video in videos]
            sides |= {relative(video, root): PARTS[caseless(folder.name)] for video in videos}
    entries = sorted_entries(found)
    notes = left_out.notes() + _case_notes(entries)
    outside = [folder.name for folder in folders_in(root) if folder not in parts and _holds_videos(folder)]
    if outside:
        notes.append(f"{len(outside)} folders beside train/ were left out: {some(outside)}")
    split = _own_split(entries, sides)
    official = {"folders": split} if split else {}
    if not split:
        notes.append("there is train/, but no test/ or val/ with videos beside it")
    return Listing("folder", root, entries, _labels(entries), official, tuple(notes))


def _own_split(entries: tuple[VideoEntry, ...], sides: dict[str, str]) -> Split | None:
    train, val, test = (
        tuple(index for index, entry in enumerate(entries) if sides[entry.path] == part)
        for part in ("train", "val", "test")
    )
    if train and test:
        return Split("folders: train, val, test" if val else "folders: train, test", train, test, val)
    if train and val:
        note = "there is no test/, so val/ is tested on and may not choose the weights as well"
        return Split("folders: train, val as test", train, val, notes=(note,))
    return None


def _labels(entries: tuple[VideoEntry, ...]) -> tuple[str, ...]:
    return tuple(sorted({entry.label for entry in entries}))


def _case_notes(entries: tuple[VideoEntry, ...]) -> list[str]:
    spellings: dict[str, set[str]] = {}
    for entry in entries:
        spellings.setdefault(caseless(entry.label), set()).add(entry.label)
    return [
        f"classes that differ only in how they are written: {some(sorted(names))}"
        for _, names in sorted(spellings.items())
        if len(names) > 1
    ]
