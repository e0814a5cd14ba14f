"""Write generated clips as video files, a folder a class under ``train``, ``val`` and ``test``."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace

from actionfusion.data.shapes import FRAME_RATE, FRAMES, SHAPE_CLASSES, SHAPE_GROUPS, SIZE, draw_scene
from actionfusion.data.shapes_pictures import render
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.settings import read_json

UInt8Array = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

SHAPE_SPLITS = ("train", "val", "test")
SETTINGS_FILE = "shapes.json"
# Increased with every change after which the same seed gives other pictures.
_DESIGN = 1
_MOST_PER_CLASS = 1_000_000


def write_clip(planes: UInt8Array, path: str | os.PathLike[str]) -> None:
    """Write pictures as an MP4 file: H.264 without loss, full-range BT.601, 25 frames a second.

    No chroma may leak into the luma, where flow would see it; lossy coding mixes them.

    Args:
        planes: ``[N, 3, H, W]`` uint8, Y, U, V at full resolution.
        path: the file, replaced whole; its folder must be there.

    Raises:
        SettingsError: planes of another shape or type, or without frames.
        OSError: the file cannot be written.
    """
    if planes.ndim != 4 or planes.shape[1] != 3 or planes.dtype != np.uint8 or not planes.size:
        raise SettingsError(path, f"{planes.dtype} {planes.shape} are no pictures", "give uint8 [N, 3, H, W]")
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(_encode(planes))
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def scene_seed(seed: int, split: str, index: int) -> int:
    """Give the seed of clip ``index`` of a split; no two (seed, split, index) share one."""
    return (seed * len(SHAPE_SPLITS) + SHAPE_SPLITS.index(split)) * _MOST_PER_CLASS + index


def make_shapes(
    root: str | os.PathLike[str],
    *,
    train_per_class: int,
    val_per_class: int,
    test_per_class: int,
    seed: int,
    progress: Progress | None = None,
) -> Path:
    """Make the generated data set: ``root/<split>/<class>/<class>_<index>.mp4`` and ``root/shapes.json``.

    Clips of one index in the two classes of a group are twins (see ``draw_scene``), so in every split what carries no
    label gives exactly chance.  Files that are there and whole stay as they are; a broken off run is taken up again.

    Args:
        root: the folder, made if need be.
        train_per_class: clips of each of the eight classes in ``train``; the same for ``val`` and ``test``.
        val_per_class: 0 gives no such split.
        test_per_class: 0 gives no such split.
        seed: 0 or more; the same seed gives the same pictures.
        progress: called after each clip with the number done and the number in all.

    Returns:
        ``root``.

    Raises:
        SettingsError: a negative seed, or a number of clips that cannot be.
        DatasetError: ``root`` holds something else, or clips made with other settings.
        OSError: a file cannot be written.
    """
    counts = dict(zip(SHAPE_SPLITS, (train_per_class, val_per_class, test_per_class), strict=True))
    _check(counts, seed)
    folder = Path(root)
    _record_settings(folder, _settings(counts, seed))
    total = len(SHAPE_CLASSES) * sum(counts.values())
    for done, (path, label, clip_seed) in enumerate(_clips(folder, counts, seed), start=1):
        if not _is_whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(render(draw_scene(label, clip_seed)), path)
        if progress:
            progress(done, total)
    return folder


def _check(counts: Mapping[str, int], seed: int) -> None:
    if seed < 0:
        raise SettingsError("shapes.seed", f"{seed} is negative", "take 0 or more")
    for split, count in counts.items():
        least = 1 if split == "train" else 0
        if not least <= count <= _MOST_PER_CLASS:
            raise SettingsError(
                f"shapes.{split}_per_class", f"{count} clips cannot be made", f"take {least} to {_MOST_PER_CLASS}"
            )


def _settings(counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    return {
        "design": _DESIGN,
        "seed": seed,
        **{f"{split}_per_class": count for split, count in counts.items()},
        "frames": FRAMES,
        "size": SIZE,
        "frame_rate": FRAME_RATE,
        "groups": {group: list(labels) for group, labels in SHAPE_GROUPS.items()},
    }


def _record_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Record first what the folder will hold, so that a later run never mixes two data sets in it."""
    file = folder / SETTINGS_FILE
    if folder.exists() and not folder.is_dir():
        raise DatasetError(folder, "is a file", "choose an empty or a new folder")
    if file.is_file():
        try:
            found = read_json(file)
        except SettingsError as error:
            raise DatasetError(file, f"not readable ({error.reason})", "delete the folder and make it again") from None
        if found != settings:
            raise DatasetError(folder, "holds generated clips of other settings", "choose another folder or delete it")
        return
    if folder.exists() and any(entry.name != f".{SETTINGS_FILE}.part" for entry in folder.iterdir()):
        raise DatasetError(folder, f"holds files but no {SETTINGS_FILE}", "choose an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    part.replace(file)


def _clips(folder: Path, counts: Mapping[str, int], seed: int) -> Iterator[tuple[Path, str, int]]:
    for split, count in counts.items():
        for label in SHAPE_CLASSES:
            for index in range(count):
                yield folder / split / label / f"{label}_{index:05d}.mp4", label, scene_seed(seed, split, index)


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with av.open(path) as container:
            return bool(container.streams.video) and sum(1 for _ in container.decode(video=0)) == FRAMES
    except av.FFmpegError:
        return False


def _encode(planes: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "ultrafast", "qp": "0"})
        stream.height, stream.width = planes.shape[2:]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.color_range = ColorRange.JPEG
        stream.codec_context.colorspace = Colorspace.ITU601
        # Threads cost more than they bring at this size, and the bytes would depend on their number.
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(planes):
            frame = _video_frame(picture)
            frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _video_frame(picture: UInt8Array) -> av.VideoFrame:
    height, width = picture.shape[1:]
    frame = av.VideoFrame(width, height, "yuv444p")
    for plane, values in zip(frame.planes, picture, strict=True):
        padded = np.zeros((height, plane.line_size), np.uint8)
        padded[:, :width] = values
        plane.update(padded.tobytes())
    return frame
