"""Read HMDB51: a folder a class, and three official splits of 51 small lists each.

Source: Kuehne and others, ICCV 2011, and the splits' own readme: ``<class>_test_split{1,2,3}.txt`` in
``testTrainMulti_7030_splits``, lines ``<video>.avi <id>`` with id 1 for training, 2 for testing, 0 for neither.  A name
ends in what the clip shows, ``_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>``; what comes before it is
the film that it was cut from, which is taken for its group.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from actionfusion.data.layouts.tree import (
    LeftOut,
    by_stem,
    class_videos,
    find_lists,
    find_root,
    folders_in,
    holds,
    lines_of,
    refuse_twins,
    sign_of_names,
    stem_key,
)
from actionfusion.data.listing import Listing, Split, VideoEntry, canonical, caseless, some, sorted_entries
from actionfusion.errors import DatasetError
from actionfusion.storage import AnyPath, relative

VIDEOS = 6_766
CLASSES = 51
_TAIL = re.compile(r"(?P<before>.+)_[fhlu]_(cm|nm)_np\d+_(ba|fr|le|ri)_(bad|goo|med)_\d+", re.IGNORECASE)
_LIST = re.compile(r"(?P<label>.+)_test_split(?P<number>[1-3])\.txt")
_ROOTS = ("hmdb51_org", "HMDB51", "hmdb51", "videos")
_LISTS = ("testTrainMulti_7030_splits", "test_train_splits")
_RESTORE = "restore the official line, or take it out"

Marks = dict[tuple[str, str], int]


def open_hmdb51(given: AnyPath) -> Listing:
    """Find HMDB51, whole or in part.

    Raises:
        DatasetError: no class folder in reach, two files of one name, or a list that is not in the official format.
    """
    root = find_root(
        given,
        lambda folder: any(_is_class(inner) for inner in folders_in(folder) if inner.name != folder.name),
        _ROOTS,
        "HMDB51 class folder with videos like April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        _is_class,
    )
    lists = find_lists(root, lambda name: _LIST.fullmatch(name) is not None, _LISTS)
    left_out = LeftOut()
    folders = class_videos(root, left_out, skip=[lists, *lists.parents] if lists else ())
    entries = sorted_entries(
        VideoEntry(relative(video, root), label, _film(video.stem, label))
        for label, videos in folders.items()
        for video in videos
    )
    refuse_twins(entries)
    notes = _notes(entries, len(folders)) + left_out.notes()
    official: dict[str, Split] = {}
    if lists is None:
        notes.append("official lists: no testTrainMulti_7030_splits in the root, beside it, one level above or below")
    else:
        official, missing = _official(lists, entries)
        notes += missing
    return Listing("hmdb51", root, entries, tuple(sorted(folders)), official, tuple(notes))


def recognise_hmdb51(root: AnyPath) -> str | None:
    """Say by what this folder is recognised as HMDB51: every video's name ends in the set's seven marks."""
    inner = ((folder, folder / folder.name) for folder in folders_in(root))  # doubled: see _is_class
    folders = (doubled if doubled.is_dir() else folder for folder, doubled in inner)
    return sign_of_names(folders, lambda _, stem: _TAIL.fullmatch(stem))


def _is_class(folder: AnyPath) -> bool:
    # The archive holds an archive a class, and unpacking each into a folder of its name gives two folders of that name.
    return holds(folder, _TAIL.fullmatch) or holds(folder / folder.name, _TAIL.fullmatch)


def _film(stem: str, label: str) -> str | None:
    match = _TAIL.fullmatch(canonical(stem))
    return match["before"].removesuffix(f"_{label}") if match else None


def _notes(entries: tuple[VideoEntry, ...], classes: int) -> list[str]:
    notes = []
    if len(entries) < VIDEOS:
        notes.append(f"{len(entries):,} of the set's {VIDEOS:,} videos and {classes} of its {CLASSES} classes are here")
    if odd := [entry.path for entry in entries if entry.group is None]:
        notes.append(f"{len(odd)} videos are not named in the set's way and have no group: {some(odd)}")
    return notes


def _official(lists: AnyPath, entries: tuple[VideoEntry, ...]) -> tuple[dict[str, Split], list[str]]:
    known = by_stem(entries)
    labels = {caseless(entry.label): entry.label for entry in entries}
    splits, notes = {}, []
    for number in (1, 2, 3):
        marks: Marks = {}
        without = []
        for fold, label in sorted(labels.items()):
            file = lists / f"{label}_test_split{number}.txt"
            if file.exists():
                marks |= _read_list(file, fold)
            else:
                without.append(file.name)
        if without:
            notes.append(f"official split {number}: {len(without)} lists not found: {some(without)}")
        if absent := len(marks.keys() - known.keys()):
            notes.append(f"official split {number}: {absent:,} of its {len(marks):,} videos are not here")
        train, test = (
            tuple(sorted(known[key] for key, found in marks.items() if found == mark and key in known))
            for mark in (1, 2)
        )
        if train and test:
            splits[f"official-{number}"] = Split(f"hmdb51 official {number}", train, test)
        else:
            notes.append(f"official split {number} is not offered: one of its parts has no video here")
    return splits, notes


def _read_list(file: AnyPath, fold: str) -> Marks:
    marks: Marks = {}
    for line, text in lines_of(file):
        name, _, mark = text.rpartition(" ")
        if not name or mark not in {"0", "1", "2"}:
            raise DatasetError(file, f"line {line} is {text!r}, not <video>.avi and 0, 1 or 2", _RESTORE)
        key = stem_key(fold, PurePosixPath(name.strip()).name)
        if key in marks:
            raise DatasetError(file, f"line {line} names {name.strip()!r} again", _RESTORE)
        marks[key] = int(mark)
    return marks
