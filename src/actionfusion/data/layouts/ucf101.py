"""Read UCF101: a folder a class, ``v_<Class>_gNN_cNN.avi``, and three official splits in separate lists.

Source: Soomro, Zamir and Shah, CRCV-TR-12-01, 2012: 13,320 clips, 101 classes, 25 groups in each class.  The lists come
as ``ucfTrainTestlist/{trainlist,testlist}0{1,2,3}.txt`` and ``classInd.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from actionfusion.data.layouts.tree import (
    LeftOut,
    by_stem,
    class_videos,
    find_lists,
    find_root,
    folders_in,
    group_entry,
    holds,
    lines_of,
    refuse_twins,
    sign_of_names,
    stem_key,
)
from actionfusion.data.listing import Listing, Split, VideoEntry, caseless, some, sorted_entries
from actionfusion.errors import DatasetError
from actionfusion.storage import AnyPath

VIDEOS = 13_320
_NAME = re.compile(r"v_(?P<label>.+)_g(?P<group>\d+)_c\d+", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,9}")
_LIST = re.compile(r"(train|test)list0[1-3]\.txt")
_ROOTS = ("UCF-101", "UCF101", "videos")
_LISTS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask")
_RESTORE = "restore the official line, or take it out"

# By caseless name: the set itself spells HandstandPushups in two ways.
Index = Mapping[str, tuple[int, str]]


def open_ucf101(given: AnyPath) -> Listing:
    """Find UCF101, whole or in part.

    A video's group is ``<Class>/gNN``.  Classes come in the order of ``classInd.txt``, those without a video left out.

    Raises:
        DatasetError: no class folder in reach, two files of one name, or a list that is not in the official format.
    """
    root = find_root(
        given,
        lambda folder: any(_is_class(inner) for inner in folders_in(folder)),
        _ROOTS,
        "UCF101 class folder with videos like v_Archery_g01_c01.avi",
        _is_class,
    )
    lists = find_lists(root, lambda name: _LIST.fullmatch(name) is not None, _LISTS)
    left_out = LeftOut()
    folders = class_videos(root, left_out, skip=[lists, *lists.parents] if lists else ())
    index = _read_index(lists / "classInd.txt") if lists else {}
    entries = sorted_entries(
        group_entry(video, root, index.get(caseless(folder), (0, folder))[1], _NAME)
        for folder, videos in folders.items()
        for video in videos
    )
    refuse_twins(entries)
    notes = _notes(entries, index, left_out)
    official: dict[str, Split] = {}
    if lists is None:
        notes.append("official lists: no folder ucfTrainTestlist in the root, beside it, one level above or below")
    else:
        official, missing = _official(lists, entries, index)
        notes += missing
    labels = {entry.label for entry in entries}
    last = len(index) + 1
    order = sorted(labels, key=lambda label: (index.get(caseless(label), (last,))[0], label))
    return Listing("ucf101", root, entries, tuple(order), official, tuple(notes))


def _is_class(folder: AnyPath) -> bool:
    return holds(folder, _NAME.fullmatch)


def recognise_ucf101(root: AnyPath) -> str | None:
    """Say by what this folder is recognised as UCF101: every video is named after its class folder and its group."""

    def of_the_set(label: str, stem: str) -> bool:
        name = _NAME.fullmatch(stem)
        return name is not None and caseless(name["label"]) == caseless(label)

    return sign_of_names(folders_in(root), of_the_set)


def _notes(entries: tuple[VideoEntry, ...], index: Index, left_out: LeftOut) -> list[str]:
    notes = []
    if len(entries) < VIDEOS:
        notes.append(f"{len(entries):,} of the set's {VIDEOS:,} videos are here")
    present = {caseless(entry.label) for entry in entries}
    absent = [name for _, name in index.values() if caseless(name) not in present]
    if absent:
        notes.append(f"{len(absent)} of the {len(index)} classes of classInd.txt have no video here: {some(absent)}")
    if unknown := sorted({entry.label for entry in entries if index and caseless(entry.label) not in index}):
        notes.append(f"{len(unknown)} folders are no class of classInd.txt and come last: {some(unknown)}")
    if odd := [entry.path for entry in entries if entry.group is None]:
        notes.append(f"{len(odd)} videos are not named v_<Class>_gNN_cNN and have no group: {some(odd)}")
    named = ((entry, _NAME.fullmatch(PurePosixPath(entry.path).stem)) for entry in entries)
    if moved := [entry.path for entry, name in named if name and caseless(name["label"]) != caseless(entry.label)]:
        notes.append(f"{len(moved)} videos are in another folder than the class of their name: {some(moved)}")
    return notes + left_out.notes()


def _read_index(file: AnyPath) -> Index:
    if not file.exists():
        return {}
    index: dict[str, tuple[int, str]] = {}
    for line, text in lines_of(file):
        number, _, name = text.partition(" ")
        name = name.strip()
        if not _NUMBER.fullmatch(number) or not name:
            raise DatasetError(file, f"line {line} is {text!r}, not a number and a class", _RESTORE)
        if caseless(name) in index:
            raise DatasetError(file, f"line {line} names class {name!r} again", _RESTORE)
        index[caseless(name)] = (int(number), name)
    return index


def _official(lists: AnyPath, entries: tuple[VideoEntry, ...], index: Index) -> tuple[dict[str, Split], list[str]]:
    known = by_stem(entries)
    splits, notes = {}, []
    for number in (1, 2, 3):
        files = {part: lists / f"{part}list{number:02d}.txt" for part in ("train", "test")}
        if gone := [file.name for file in files.values() if not file.exists()]:
            notes.append(f"official split {number}: {' and '.join(gone)} not found")
            continue
        listed = {part: _read_list(file, index) for part, file in files.items()}
        for key, line in listed["test"].items():
            if key in listed["train"]:
                reason = f"line {line} is in {files['train'].name} too, on line {listed['train'][key]}"
                raise DatasetError(files["test"], reason, _RESTORE)
        parts, counts = {}, []
        for part, keys in listed.items():
            parts[part] = tuple(sorted(known[key] for key in keys if key in known))
            if len(parts[part]) < len(keys):
                counts.append(f"{len(keys) - len(parts[part]):,} of {len(keys):,} in {files[part].name}")
        if counts:
            notes.append(f"official split {number}: videos that are not here: {', '.join(counts)}")
        if parts["train"] and parts["test"]:
            splits[f"official-{number}"] = Split(f"ucf101 official {number}", parts["train"], parts["test"])
            if idle := len(entries) - len(parts["train"]) - len(parts["test"]):
                notes.append(f"official split {number}: {idle:,} videos are in neither list")
        else:
            notes.append(f"official split {number} is not offered: one of its parts has no video here")
    return splits, notes


def _read_list(file: AnyPath, index: Index) -> dict[tuple[str, str], int]:
    """Read class and name of each video of the list, with the line."""
    listed: dict[tuple[str, str], int] = {}
    for line, text in lines_of(file):
        name, _, number = text.rpartition(" ")
        if not (name and _NUMBER.fullmatch(number)):
            name, number = text, ""
        parts = PurePosixPath(name.strip().replace("\\", "/")).parts
        if len(parts) < 2:
            raise DatasetError(file, f"line {line} is {text!r}, not <Class>/<video>.avi", _RESTORE)
        expected = index.get(caseless(parts[-2]))
        if number and expected and int(number) != expected[0]:
            reason = f"line {line} gives {parts[-2]} the number {number}, classInd.txt gives it {expected[0]}"
            raise DatasetError(file, reason, _RESTORE)
        key = stem_key(parts[-2], parts[-1])
        if key in listed:
            raise DatasetError(file, f"line {line} names {name!r} again, it is on line {listed[key]} already", _RESTORE)
        listed[key] = line
    return listed
