"""Measure the frame rates of the videos that a run is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actionfusion.data.dataset import LabelledVideos
from actionfusion.data.store import StoredVideo
from actionfusion.errors import DatasetError, VideoError
from actionfusion.video.rates import FrameRates, frame_rate, stored_rate, summarize_rates

MOST_VIDEOS = 300
"""Videos that are asked, spread evenly over the training part: a file takes some milliseconds."""


def training_rates(videos: LabelledVideos) -> FrameRates | None:
    """Read the rates of training videos from the store or the files; None where they do not say.

    Folders of pictures state no rate, and remote files are not fetched for it.
    """
    train = videos.split.train
    rows = np.linspace(0, len(train) - 1, min(MOST_VIDEOS, len(train))).round().astype(int)
    return summarize_rates(_rate(videos, train[row]) for row in rows)


def _rate(videos: LabelledVideos, index: int) -> float | None:
    file = videos.file(index)
    if not isinstance(file, Path):
        return None
    try:
        if videos.store is not None:
            return stored_rate(StoredVideo(file).times)
        return frame_rate(file) if videos.listing.entries[index].kind == "file" else None
    except (VideoError, DatasetError):  # training meets the same fault, and reports it
        return None
