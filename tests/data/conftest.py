"""Small videos for the tests of data: a textured scene in which two things move."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

SIZE = (96, 128)


def scene_frames(seed: int = 0, motion: int = 0, count: int = 40) -> list[np.ndarray]:
    """Frames ``[96, 128, 3]``: the scene follows the seed, the ways of the two squares follow the motion."""
    rng = np.random.default_rng([seed, 1])
    wall = cv2.resize(rng.integers(40, 216, (6, 8, 3), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    ways = np.random.default_rng([motion, 2])
    phases, speeds = ways.uniform(0, 2 * np.pi, (2, 2)), ways.uniform(0.05, 0.15, (2, 2))
    frames = []
    for number in range(count):
        picture = wall.copy()
        for which, colour in enumerate(((250, 250, 250), (5, 5, 5))):
            turn = np.sin(phases[which] + speeds[which] * number)
            y, x = ((turn + 1) / 2 * (SIZE[0] - 30, SIZE[1] - 30)).astype(int)
            picture[y : y + 30, x : x + 30] = colour
        frames.append(picture)
    return frames


def write_frames(path: Path, frames: list[np.ndarray], codec: str = "libx264", **options: str) -> Path:
    """Code frames as a video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def make_frames():
    return scene_frames


@pytest.fixture(scope="session")
def make_video():
    return write_frames
