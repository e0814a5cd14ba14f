"""Read UCF11 (the YouTube action set): ``UCF11_updated_mpg/<class>/v_<name>_NN/v_<name>_NN_MM.mpg``.

Source: Liu, Luo and Shah, CVPR 2009: 11 classes of 25 groups, 1,600 clips; each class folder also holds ``Annotation``
with ViPER files.  The usual protocol leaves one group number out of all classes at once, 25 times: ``VideoEntry.fold``.
"""

from __future__ import annotations

import re

from actionfusion.data.layouts.tree import (
    LeftOut,
    class_videos,
    find_root,
    folders_in,
    group_entry,
    holds,
    refuse_twins,
    sign_of_names,
)
from actionfusion.data.listing import Listing, VideoEntry, caseless, some, sorted_entries
from actionfusion.errors import DatasetError
from actionfusion.storage import AnyPath

VIDEOS = 1_600
GROUPS = 25
CLASSES = (
    "basketball",
    "biking",
    "diving",
    "golf_swing",
    "horse_riding",
    "soccer_juggling",
    "swing",
    "tennis_swing",
    "trampoline_jumping",
    "volleyball_spiking",
    "walking",
)
# The file's own name differs from its class: basketball holds v_shooting, horse_riding v_riding, walking v_walk_dog.
_NAME = re.compile(r"v_.+_(?P<group>\d+)_\d+", re.IGNORECASE)
_GROUP = re.compile(r"v_.+_\d+", re.IGNORECASE)
_ROOTS = ("UCF11_updated_mpg", "UCF11", "action_youtube_naudio")


def open_ucf11(given: AnyPath) -> Listing:
    """Find UCF11, whole or in part.

    A video's group is ``<class>/gNN``.  There are no official lists; the groups make the usual protocol.

    Raises:
        DatasetError: no class folder in reach, or two files of one name.
    """
    root = find_root(
        given,
        lambda folder: any(_is_class(inner) for inner in folders_in(folder)),
        _ROOTS,
        "UCF11 class folder with videos like v_shooting_01/v_shooting_01_01.mpg",
        _is_class,
    )
    left_out = LeftOut()
    annotations = [folder / "Annotation" for folder in folders_in(root)]
    folders = class_videos(root, left_out, skip=annotations)
    entries = sorted_entries(
        group_entry(video, root, label, _NAME) for label, videos in folders.items() for video in videos
    )
    refuse_twins(entries)
    return Listing("ucf11", root, entries, tuple(sorted(folders)), notes=tuple(_notes(entries, left_out)))


def recognise_ucf11(root: AnyPath) -> str | None:
    """Say by what this folder is recognised as UCF11: only classes of the set, of groups that name their videos."""
    classes = folders_in(root)
    if any(caseless(folder.name) not in CLASSES or holds(folder, lambda _: True) for folder in classes):
        return None
    groups = [group for folder in classes for group in folders_in(folder)]

    def of_the_set(group: str, stem: str) -> bool:
        return _GROUP.fullmatch(group) is not None and re.fullmatch(rf"{re.escape(group)}_\d+", stem) is not None

    return sign_of_names(groups, of_the_set)


def _is_class(folder: AnyPath) -> bool:
    if _GROUP.fullmatch(folder.name):
        return False
    if holds(folder, _NAME.fullmatch):
        return True
    try:
        groups = [inner for inner in folders_in(folder) if _GROUP.fullmatch(inner.name)]
    except DatasetError:
        return False
    return any(holds(group, _NAME.fullmatch) for group in groups)


def _notes(entries: tuple[VideoEntry, ...], left_out: LeftOut) -> list[str]:
    notes = []
    if len(entries) < VIDEOS:
        notes.append(f"{len(entries):,} of the set's {VIDEOS:,} videos are here")
    present = {entry.label for entry in entries}
    if absent := [label for label in CLASSES if label not in present]:
        notes.append(f"{len(absent)} of the {len(CLASSES)} classes have no video here: {some(absent)}")
    if unknown := sorted(present - set(CLASSES)):
        notes.append(f"{len(unknown)} folders are no class of UCF11: {some(unknown)}")
    groups: dict[str, set[str]] = {label: set() for label in sorted(present)}
    for entry in entries:
        groups[entry.label] |= {entry.group} if entry.group else set()
    if short := [f"{label} ({len(found)})" for label, found in groups.items() if len(found) < GROUPS]:
        notes.append(f"{len(short)} classes have fewer than {GROUPS} groups: {some(short)}")
    if odd := [entry.path for entry in entries if entry.group is None]:
        notes.append(f"{len(odd)} videos are not named v_<name>_NN_MM and have no group: {some(odd)}")
    return notes + left_out.notes()
