from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

MakeClip = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_clips() -> MakeClip:
    """Random uint8 clips: RGB ``[B, T, 3, size, size]`` and flow codes ``[B, T, channels, size, size]``."""

    def make(clips: int = 2, frames: int = 3, size: int = 32, channels: int = 8) -> tuple[Tensor, Tensor]:
        rgb = torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8)
        flow = torch.randint(1, 256, (clips, frames, channels, size, size), dtype=torch.uint8)
        return rgb, flow

    return make


def _moving(direction, seed, frames=8, size=48):
    """A textured square on a textured ground that stands still, ``[T, 3, H, W]`` uint8."""
    import cv2

    generator = np.random.default_rng(seed)
    ground, square = (
        cv2.resize(
            generator.integers(0, 256, (cells, cells), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC
        )
        for cells, side in ((8, size), (5, 18))
    )
    start, clip = generator.integers(11, 20, 2), np.repeat(ground[None], frames, 0)
    for time in range(frames):
        x, y = np.rint(start + np.array(direction) * time).astype(int)
        clip[time, y : y + 18, x : x + 18] = square
    return torch.from_numpy(clip)[:, None].expand(-1, 3, -1, -1)


@pytest.fixture(scope="session")
def motions():
    """Makes clips of a square that goes right, left and down, one each of each seed, and their classes."""

    def made(seeds):
        directions = ((1.5, 0), (-1.5, 0), (0, 1.5))
        clips = [_moving(direction, 10 * seed + place) for seed in seeds for place, direction in enumerate(directions)]
        return torch.stack(clips), torch.arange(3).repeat(len(seeds))

    return made
