"""Read UCF Sports: ``ucf_sports_actions/ucf action/<Class>-<View>/<NNN>/`` with an .avi, or only its pictures.

Source: Rodriguez, Ahmed and Shah, CVPR 2008, and the set's own page: 150 sequences of ten actions.  The page counts
Diving 14, Golf Swing 18, Kicking 20, Lifting 6, Riding Horse 12, Running 13, SkateBoarding 12, Swing-Bench 20,
Swing-Side 13 and Walking 22; the archive has 13 folders, by view.  Golf-Swing-Back (5), -Front (8) and -Side (5) are
the 18, Kicking-Front (10) and -Side (10) the 20, and the others are one folder each.  Some sequences of Diving-Side
come as JPEG frames alone.  Groups are not known.
"""

from __future__ import annotations

from collections.abc import Iterator

from actionfusion.data.layouts.tree import LeftOut, find_root, folders_in, is_picture, is_video, scan
from actionfusion.data.listing import Listing, VideoEntry, caseless, shown, some, sorted_entries, sorted_labels
from actionfusion.storage import AnyPath, relative

VIDEOS = 150
MERGED = {
    "diving-side": "Diving",
    "golf-swing-back": "Golf Swing",
    "golf-swing-front": "Golf Swing",
    "golf-swing-side": "Golf Swing",
    "kicking-front": "Kicking",
    "kicking-side": "Kicking",
    "lifting": "Lifting",
    "riding-horse": "Riding Horse",
    "run-side": "Running",
    "skateboarding-front": "SkateBoarding",
    "swing-bench": "Swing-Bench",
    "swing-sideangle": "Swing-Side",
    "walk-front": "Walking",
}
_ROOTS = ("ucf action", "ucf_action", "ucfaction", "ucf_sports_actions")


def open_ucfsports(given: AnyPath) -> Listing:
    """Find UCF Sports, whole or in part; its 13 folders become the ten actions that are reported on.

    Raises:
        DatasetError: no class folder in reach.
    """
    root = find_root(
        given,
        lambda folder: any(_is_class(inner) for inner in folders_in(folder)),
        _ROOTS,
        "UCF Sports class folder such as Diving-Side or Golf-Swing-Back",
        _is_class,
    )
    left_out, several, unknown = LeftOut(), list[str](), list[str]()
    found: list[VideoEntry] = []
    folders, files = scan(root, left_out)
    left_out.other.update(file.suffix.lower() for file in files)
    for folder in folders:
        videos = list(_sequences(folder, left_out, several))
        if not videos:
            left_out.empty.append(folder.name)
        elif _key(folder.name) not in MERGED:
            unknown.append(folder.name)
        label = MERGED.get(_key(folder.name), folder.name)
        found += [
            VideoEntry(relative(path, root), label, kind="frames" if path.is_dir() else "file") for path in videos
        ]
    entries = sorted_entries(found)
    notes = _notes(entries, several, unknown) + left_out.notes()
    return Listing("ucfsports", root, entries, sorted_labels(entries), notes=tuple(notes))


def recognise_ucfsports(root: AnyPath) -> str | None:
    """Say by what this folder is recognised as UCF Sports: only class folders of the set, of numbered sequences."""
    folders = folders_in(root)
    sequences = [sequence.name for folder in folders for sequence in folders_in(folder)]
    if not sequences or not all(_key(folder.name) in MERGED for folder in folders):
        return None
    named = f"class folders like {shown(folders[0].name)}, and numbered sequences in them"
    return named if all(name.isdecimal() for name in sequences) else None


def _is_class(folder: AnyPath) -> bool:
    return _key(folder.name) in MERGED


def _key(name: str) -> str:
    return caseless(name).replace(" ", "-").replace("_", "-")


def _sequences(folder: AnyPath, left_out: LeftOut, several: list[str]) -> Iterator[AnyPath]:
    """Yield the .avi of each numbered folder, or the folder itself if it holds only pictures."""
    folders, files = scan(folder, left_out)
    yield from (file for file in files if is_video(file))
    left_out.other.update(file.suffix.lower() for file in files if not is_video(file))
    for inner in folders:
        below, contents = scan(inner, left_out)
        videos = [file for file in contents if is_video(file)]
        pictures = any(is_picture(file) for file in contents)
        if len(videos) > 1:
            several.append(f"{folder.name}/{inner.name}")
        if videos:
            yield videos[0]
        elif pictures:
            yield inner
        elif deeper := [one for one in below if any(is_picture(file) for file in scan(one, left_out)[1])]:
            yield deeper[0]
        else:
            left_out.empty.append(f"{folder.name}/{inner.name}")
        # Pictures beside an .avi are its own frames, and gt holds boxes: neither is worth a line.
        left_out.other.update(file.suffix.lower() for file in contents if not is_video(file) and not is_picture(file))


def _notes(entries: tuple[VideoEntry, ...], several: list[str], unknown: list[str]) -> list[str]:
    notes = []
    if len(entries) < VIDEOS:
        notes.append(f"{len(entries)} of the set's {VIDEOS} videos are here")
    present = {entry.label for entry in entries}
    if absent := sorted(set(MERGED.values()) - present):
        notes.append(f"{len(absent)} of the 10 classes have no video here: {some(absent)}")
    if unknown:
        notes.append(f"{len(unknown)} folders are none of the set's 13 and are classes of their own: {some(unknown)}")
    if several:
        notes.append(f"{len(several)} sequences hold more than one video, the first was taken: {some(several)}")
    return notes
