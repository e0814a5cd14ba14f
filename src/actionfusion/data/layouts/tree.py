"""Walk folders of videos: the functions that all layouts share.

Hidden files, files that are no video, names that are not valid UTF-8 and links that lead back into their own folder are
left out, and counted in a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, overload

from actionfusion.data.listing import VideoEntry, canonical, caseless, shown, some
from actionfusion.errors import DatasetError, VideoError
from actionfusion.remote_path import RemotePath
from actionfusion.storage import AnyPath, relative

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m2v",
    ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts",
    ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
# fmt: on
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"))
_FLOW_WORDS = frozenset(("flow", "flowx", "flowy", "x", "y", "u", "v"))
_DEEPEST = 16
_RIGHTS = "give yourself the right to read it, or remove it"


@dataclass
class LeftOut:
    """Files that a walk left out, counted for the notes."""

    hidden: int = 0
    loops: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    undecodable: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    loose: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Write one line for each kind that occurred."""
        lines = []
        if self.empty:
            lines.append(f"no video in {len(self.empty)} folders: {some(self.empty)}")
        if self.other:
            kinds = ", ".join(
                f"{count} {shown(suffix) or 'without ending'}" for suffix, count in sorted(self.other.items())
            )
            lines.append(f"{self.other.total()} files that are no video were ignored ({kinds})")
        if self.hidden:
            lines.append(f"{self.hidden} hidden files or folders were ignored")
        for kind, names in (
            ("videos are outside any class folder and were left out", self.loose),
            ("links lead back into their own folder and were ignored", self.loops),
            ("links lead nowhere and were ignored", self.broken),
            ("names are not valid UTF-8 and were left out, rename them", self.undecodable),
        ):
            if names:
                lines.append(f"{len(names)} {kind}: {some(names)}")
        return lines


def is_video(path: AnyPath) -> bool:
    """Decide by the ending whether a file is a video; its content is not read."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_picture(path: AnyPath) -> bool:
    """Decide by the ending whether a file is a picture."""
    return path.suffix.lower() in PICTURE_SUFFIXES


@overload
def frame_files(folder: Path) -> list[Path]: ...
@overload
def frame_files(folder: AnyPath) -> list[AnyPath]: ...
def frame_files(folder: AnyPath) -> list[Any]:
    """List the pictures of a video of kind ``frames`` in order of time; numbers in names are sorted as numbers.

    Pictures of optical flow that lie beside them are left out.

    Raises:
        VideoError: the folder holds several series of pictures, such as ``left_0001.jpg`` and ``right_0001.jpg``.
    """

    def order(path: AnyPath) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", canonical(path.name))
        return [(1, int(part), "") if number % 2 else (0, 0, part) for number, part in enumerate(parts)]

    _, files = scan(folder, LeftOut())
    series = _picture_series(files)
    frames = {names: numbers for names, numbers in series.items() if not _is_flow(names)} or series
    patterns = {(re.sub(r"\d+", "#", names.start), names.end, bool(names.suffix)) for names in frames}
    # The same numbers in each, as of two cameras: one after the other they would be no video.
    numbered = [set(numbers) for numbers in frames.values()]
    repeats = len(numbered) > 1 and len(numbered[0]) > 1 and all(numbers == numbered[0] for numbers in numbered)
    if len(patterns) > 1 or repeats:
        shown = [
            f"{names.start}*{names.end}{names.suffix}" if names.suffix else frames[names][0][0].name
            for names in sorted(frames)
        ]
        named = some(shown, most=6)
        raise VideoError(folder, f"several series of pictures: {named}", "keep one video's frames in it, and no others")
    return sorted((file for numbers in frames.values() for files in numbers.values() for file in files), key=order)


def holds_flow(files: Iterable[AnyPath]) -> bool:
    """Tell whether there are pictures of optical flow beside others."""
    return {_is_flow(names) for names in _picture_series(files)} == {True, False}


class _Names(NamedTuple):
    """What the names of a series have before and after their last number; all empty for names without a number."""

    start: str
    end: str
    suffix: str


def _picture_series(files: Iterable[AnyPath]) -> dict[_Names, dict[int, list[AnyPath]]]:
    """Sort pictures by the series that they are of, and by their numbers."""
    series: dict[_Names, dict[int, list[AnyPath]]] = {}
    for file in files:
        if is_picture(file):
            found = re.fullmatch(r"(.*?)(\d+)(\D*)", canonical(file.stem), re.DOTALL)
            names = (
                _Names(found[1].casefold(), found[3].casefold(), file.suffix.lower()) if found else _Names("", "", "")
            )
            series.setdefault(names, {}).setdefault(int(found[2]) if found else 0, []).append(file)
    return series


def _is_flow(names: _Names) -> bool:
    """Tell whether the pictures of a series are flow, such as ``flow_x_00001.jpg`` or ``00001_u.png``."""
    return not _FLOW_WORDS.isdisjoint(re.findall(r"[^\W\d_]+", f"{names.start} {names.end}"))


def scan(folder: AnyPath, left_out: LeftOut) -> tuple[list[AnyPath], list[AnyPath]]:
    """List the folders and the files of a folder, each sorted by name, without the hidden ones.

    Raises:
        DatasetError: the folder cannot be read.
    """
    folders, files = [], []
    try:
        listed: list[AnyPath] = [*folder.iterdir()]
        for path in sorted(listed, key=lambda path: (canonical(path.name), path.name)):
            name = path.name
            if name.startswith("."):
                left_out.hidden += 1
            elif name.encode(errors="ignore").decode() != name:
                left_out.undecodable.append(name)
            elif path.is_dir():
                folders.append(path)
            elif path.exists():
                files.append(path)
            else:
                left_out.broken.append(name)
    except OSError as error:
        raise DatasetError(folder, f"cannot be read ({error.strerror})", _RIGHTS) from error
    return folders, files


def _walk(
    folder: AnyPath, left_out: LeftOut, skip: frozenset[AnyPath], above: tuple[tuple[int, int], ...]
) -> Iterator[AnyPath]:
    if len(above) > _DEEPEST:
        raise DatasetError(folder, f"is {_DEEPEST} folders deep", "put the videos nearer to the top")
    identity = _identity(folder)
    if identity in above:
        left_out.loops.append(folder.name)
        return
    folders, files = scan(folder, left_out)
    for file in files:
        if is_video(file):
            yield file
        else:
            left_out.other[file.suffix.lower()] += 1
    for inner in folders:
        if inner not in skip:
            yield from _walk(inner, left_out, skip, (*above, identity))


def class_videos(root: AnyPath, left_out: LeftOut, skip: Iterable[AnyPath] = ()) -> dict[str, list[AnyPath]]:
    """List the videos of each class folder of ``root`` by the folder's name; folders without any are noted."""
    skip = frozenset(skip)
    folders, files = scan(root, left_out)
    left_out.other.update(file.suffix.lower() for file in files if not is_video(file))
    left_out.loose += [file.name for file in files if is_video(file)]
    found = {}
    for folder in folders:
        if folder in skip:
            continue
        videos = list(_walk(folder, left_out, skip, (_identity(root),)))
        if videos:
            found[folder.name] = videos
        else:
            left_out.empty.append(folder.name)
    return found


def _identity(folder: AnyPath) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise DatasetError(folder, f"cannot be read ({error.strerror})", _RIGHTS) from error
    return status.st_dev, status.st_ino


def group_entry(video: AnyPath, root: AnyPath, label: str, pattern: re.Pattern[str]) -> VideoEntry:
    """Make the entry of a video whose name has a number of its group in it, as the pattern finds it."""
    match = pattern.fullmatch(video.stem)
    return VideoEntry(relative(video, root), label, f"{label}/g{int(match['group']):02d}" if match else None)


def find_root(
    given: AnyPath,
    fits: Callable[[AnyPath], bool],
    known: Iterable[str],
    looks_like: str,
    is_class: Callable[[AnyPath], bool] | None = None,
) -> AnyPath:
    """Find the folder of the data set: the given one, one below it, or the one above it where a class was given.

    Args:
        given: the user's path.
        fits: whether a folder holds the data set's folders.
        known: names that the folder has when unpacked; they are tried first, also two levels below.
        looks_like: what is looked for, for the error.
        is_class: whether a folder is by its contents or its name a class of this very data set; without it the folder
            above is never taken.

    Raises:
        DatasetError: nothing there, no folder, unreadable, empty, or no such folder in reach.
    """
    given = existing(given)
    if not given.is_dir():
        raise DatasetError(given, "is a file, not a folder", "point at the folder that holds the videos")
    folders, files = scan(given, LeftOut())
    if not folders and not files:
        raise DatasetError(given, "is empty", "unpack the data set into it, or check the path")
    known = list(known)
    named = [given / name for name in known]
    if fits(given):
        return given
    if unpacked := next((folder for folder in named if _safely(fits, folder)), None):
        return unpacked
    below = [folder for folder in folders if _safely(fits, folder)]
    if len(below) > 1:
        names = some([folder.name for folder in below])
        raise DatasetError(given, f"several folders in it look like {looks_like}: {names}", "point at one of them")
    above = [given.parent] if is_class is not None and _safely(is_class, given) else []
    for candidate in (*below, *above, *(first / name for first in named for name in known)):
        if _safely(fits, candidate):
            return candidate
    archives = [file.name for file in files if file.suffix.lower() in {".rar", ".zip", ".gz", ".tar", ".7z"}]
    if archives and not folders:
        raise DatasetError(given, f"holds only archives ({some(archives)})", "unpack them first")
    has = f"the folder above it has them: give {given.parent} if that is meant" if _safely(fits, given.parent) else ""
    reason = f"no {looks_like} in it or one level below"
    raise DatasetError(given, reason, has or "give the folder that holds the class folders")


def existing(given: AnyPath) -> AnyPath:
    """Make the path absolute and look whether something is there; a server is asked again.

    Raises:
        DatasetError: nothing is there, or it may not be looked at.
    """
    given = given.expanduser().absolute()
    try:
        if isinstance(given, RemotePath):
            given.forget_all()
        given.stat()
    except FileNotFoundError as error:
        raise DatasetError(given, "there is no such file or folder", "check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(given, f"cannot be looked at ({reason})", "check the path and your rights") from error
    return given


def _safely(fits: Callable[[AnyPath], bool], candidate: AnyPath) -> bool:
    # A neighbour that may not be read is no reason to fail; one that is part of the data set fails when it is walked.
    try:
        return candidate.is_dir() and fits(candidate)
    except (DatasetError, OSError):
        return False


def holds(folder: AnyPath, matches: Callable[[str], object]) -> bool:
    """Check whether the folder itself holds a video whose stem matches; an unreadable folder does not."""
    try:
        return any(is_video(file) and matches(file.stem) for file in scan(folder, LeftOut())[1])
    except DatasetError:
        return False


def sign_of_names(folders: Iterable[AnyPath], matches: Callable[[str, str], object]) -> str | None:
    """Say by which names a data set is recognised; None where there is no video, or one has another name.

    Args:
        folders: that hold the videos.
        matches: called with the name of the folder and the stem of each video in it.
    """
    videos = [(folder, file) for folder in folders for file in scan(folder, LeftOut())[1] if is_video(file)]
    if not videos or not all(matches(folder.name, file.stem) for folder, file in videos):
        return None
    return f"names like {shown(videos[0][1].name)}"


def folders_in(folder: AnyPath) -> list[AnyPath]:
    """List its folders without the hidden ones.

    Raises:
        DatasetError: it cannot be read.
    """
    return scan(folder, LeftOut())[0]


def find_lists(root: AnyPath, marks: Callable[[str], bool], known: Iterable[str]) -> AnyPath | None:
    """Find the folder with the official lists: in the root, beside it, or one level above or below.

    Args:
        root: folder of the class folders.
        marks: whether a file name is the name of such a list.
        known: names that the folder has when unpacked.
    """
    known = list(known)
    near = [base / name for base in (root, root.parent, root.parent.parent) for name in known]
    near += [root, root.parent]
    for base in (root, root.parent):
        with suppress(DatasetError):
            near += scan(base, LeftOut())[0]
    inner = [folder / name for folder in near for name in known]
    for folder in (*near, *inner):
        with suppress(OSError):
            if any(marks(file.name) for file in folder.iterdir()):
                return folder
    return None


def lines_of(file: AnyPath) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of an official list, with their numbers from 1.

    Raises:
        DatasetError: the list cannot be read as text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(file, f"cannot be read ({error.strerror})", "give yourself the right to read it") from error
    except UnicodeDecodeError as error:
        raise DatasetError(file, f"is no text at byte {error.start}", "unpack the official list again") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def refuse_twins(entries: Iterable[VideoEntry]) -> None:
    """Refuse two files of one name in layouts whose file names identify videos.

    Raises:
        DatasetError: two do, in two classes or with two endings.
    """
    first: dict[str, str] = {}
    for entry in entries:
        name = stem_key("", entry.path)[1]
        if name in first:
            raise DatasetError(entry.path, f"is by its name the same video as {first[name]!r}", "keep one of the two")
        first[name] = entry.path


def by_stem(entries: Iterable[VideoEntry]) -> dict[tuple[str, str], int]:
    """Index the entries by class and name as official lists give them, whatever the case and the container."""
    return {stem_key(entry.label, entry.path): index for index, entry in enumerate(entries)}


def stem_key(label: str, path: str) -> tuple[str, str]:
    """Reduce class and path to a key that two spellings of one video share."""
    return caseless(label), caseless(PurePosixPath(path).stem)
