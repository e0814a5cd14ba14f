"""A clip and a video that are the same for ever: integer arithmetic, and an encoder without loss."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]

FRAMES, SIZE = 48, 64


def pictures(count: int = FRAMES, size: int = SIZE) -> UInt8Array:
    """Give RGB pictures ``[count, size, size, 3]``: a light square that moves over a fixed pattern."""
    y, x, channel = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    pattern = (x * x // 9 + y * (7 + channel) + x * y // 5) % 120
    made = np.repeat(pattern[None], count, axis=0)
    side = size // 4
    for index, picture in enumerate(made):
        top, left = index // 2 % (size - side), index % (size - side)
        picture[top : top + side, left : left + side] = (pattern[:side, :side] + 240) // 2 + np.array([60, 30, 0])
    return made.astype(np.uint8)


def arrays(frames: int, channels: int, size: int) -> tuple[UInt8Array, UInt8Array]:
    """Give what a network reads of a clip: RGB ``[T, 3, H, W]`` and flow codes ``[T, channels, H, W]``, 1 to 255."""
    rgb = np.ascontiguousarray(pictures(frames, size).transpose(0, 3, 1, 2))
    t, c, y, x = np.meshgrid(*map(np.arange, (frames, channels, size, size)), indexing="ij")
    flow = 128 + (t * 5 + c * 11 + y * 3 + x * (2 + c % 3)) % 61 - 30
    return rgb, flow.astype(np.uint8)


def write_video(path: Path) -> Path:
    """Write the pictures as FFV1 in Matroska, RGB without loss, 25 frames a second."""
    with av.open(path, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "bgr0"
        stream.codec_context.thread_count = 1
        for picture in pictures():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")))
        out.mux(stream.encode(None))
    return path
