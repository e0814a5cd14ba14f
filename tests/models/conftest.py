from __future__ import annotations

from collections.abc import Callable, Iterator

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
