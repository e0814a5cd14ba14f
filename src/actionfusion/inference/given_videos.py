"""Find and open the videos that a person means: files, folders of videos, and folders of pictures that are one video.

Folders are read as training reads them, so by the room that knows data sets; it is imported where a folder is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from actionfusion.errors import DatasetError, SettingsError, VideoError, VideoMissing, VideoUnreadable, printable
from actionfusion.run_folder import CONFIG, LABELS
from actionfusion.terminal import Text
from actionfusion.video.clip import Clip, ClipSettings, ClipSource, cut_clip
from actionfusion.video.rates import WHOLE, FrameRates, Pace, frame_rate
from actionfusion.video.reading import Frame, iterate_frames
from actionfusion.video.sources import find_source, without_secrets
from actionfusion.video.video_source import VideoSource

Given = str | Path

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_DEEPEST = 16


def expanded(given: Sequence[Given]) -> list[Given]:
    """Put the videos below each folder in its place, in the order of their names, and say how many they are.

    A folder that holds pictures and no video is one video.  One that holds nothing stays, and has its error where it
    is read.  Addresses lose their passwords, since they are shown.
    """
    found: list[Given] = []
    for item in given:
        if _is_address(item):
            found.append(without_secrets(str(item)))
            continue
        inner: list[Path] = []
        with suppress(VideoError):  # reading the folder meets the same fault, and reports it
            inner = list(_videos_in(Path(item))) if _is_folder(item) else []
        found += inner or [item]
        if inner and inner != [Path(item)]:
            folders = sum(path.is_dir() for path in inner)
            pictures = f", of them {folders} as folders of pictures" if folders else ""
            Console(stderr=True).print(Text(printable(f"{item}: {len(inner)} videos{pictures}")), soft_wrap=True)
    return found


def open_given(video: Given, clip: ClipSettings, rates: FrameRates | None = None) -> tuple[ClipSource, Pace]:
    """Open a video file, or a folder of pictures; of a long file only what is needed is decoded.

    Args:
        video: the file or folder.
        clip: what is to be cut of it.
        rates: of the run's training videos.

    Returns:
        The video, and how its frames are taken.

    Raises:
        VideoError: the file cannot be opened; an address, or a folder without pictures.
    """
    if not (folder := _picture_folder(video)):
        source = VideoSource(Path(video), clip.flow, frame_size=clip.frame_size, seek=True, rates=rates)
        return source, source.pace
    from actionfusion.data.source_videos import PictureFolderSource  # noqa: PLC0415

    return PictureFolderSource(folder, clip.flow, clip.frame_size), WHOLE


def cut_paced(source: ClipSource, pace: Pace, clip: ClipSettings) -> Clip:
    """Cut the clip of what `open_given` opened; its positions are frames of the file.

    Raises:
        VideoError: the video cannot be read.
    """
    cut = cut_clip(source, clip)
    return replace(cut, positions=np.array([pace.source(int(at)) for at in cut.positions]))


def pace_of(video: Given, rates: FrameRates | None) -> Pace:
    """Find how the frames of a video file are taken; all of them of a folder of pictures.

    Raises:
        VideoError: as ``open_given``.
    """
    return WHOLE if rates is None or _picture_folder(video) else rates.pace(frame_rate(video))


def frames_of(video: Given, size: int, wanted: Callable[[int], bool]) -> Generator[Frame, None, None]:
    """Decode a video file, or a folder of pictures; see ``iterate_frames``.

    Raises:
        VideoError: as ``iterate_frames`` and ``open_given``.
    """
    if not (folder := _picture_folder(video)):
        yield from iterate_frames(video, wanted=wanted, size=size)
        return
    from actionfusion.data.source_videos import read_source_frames  # noqa: PLC0415

    with closing(read_source_frames(folder, size)) as frames:
        yield from (frame for frame in frames if wanted(frame.index))


def refuse_address(video: Given) -> None:
    """Raise VideoMissing for an address, which is not fetched."""
    if _is_address(video):
        reason = "is an address; videos are taken from files, folders of videos and folders of pictures"
        remedy = "fetch it first"
        with suppress(SettingsError):
            find_source(str(video))
            remedy += ", or let `actionfusion stream` read it"
        raise VideoMissing(without_secrets(str(video)), reason, remedy)


def _picture_folder(video: Given) -> Path | None:
    refuse_address(video)
    if not _is_folder(video):
        return None
    if next(_videos_in(Path(video)), None) != Path(video):
        reason = "this is a folder, and not one that holds one video as pictures"
        raise VideoMissing(video, reason, "give a video file, or a folder of pictures")
    return Path(video)


def _is_folder(video: Given) -> bool:
    try:
        return Path(video).is_dir()
    except (OSError, ValueError):
        return False


def _is_address(video: Given) -> bool:
    return bool(_ADDRESS.match(str(video))) and not _exists(Path(video))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _videos_in(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Find the videos below a folder; it is one itself where it holds pictures and no video."""
    from actionfusion.data.layouts.tree import LeftOut, is_picture, is_video, scan  # noqa: PLC0415

    real = folder.resolve()
    if real in above or len(above) > _DEEPEST:
        return
    try:
        folders, files = scan(folder, LeftOut())
    except DatasetError as error:
        if above:  # whoever opens it meets the same fault, and the others are found
            yield folder
            return
        raise VideoUnreadable(folder, error.reason, error.remedy) from error
    if (folder / CONFIG).is_file() and (folder / LABELS).is_file():
        return  # a run, whose picture is of its training
    videos = [Path(str(file)) for file in files if is_video(file)]
    if not videos and any(is_picture(file) for file in files):
        yield folder
        return
    yield from videos
    for inner in folders:
        yield from _videos_in(Path(str(inner)), (*above, real))
