"""What a run answers to a set of videos; a video that gives no clip is set apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from actionfusion.data.loading import LabelledSource
from actionfusion.errors import VideoError, WeightsError
from actionfusion.evaluation.views import Views, cut_views
from actionfusion.inference.recognizer import Recognizer
from actionfusion.video.clip import Clip

BATCH_SIZE = 8


@dataclass(frozen=True)
class FailedVideo:
    """A video that gave no clip, and so no answer."""

    video: str
    kind: str
    message: str


@dataclass(frozen=True)
class Answers:
    """N videos that could be read, and the rest.

    Attributes:
        videos: their paths.
        targets: ``[N]`` their class numbers.
        probabilities: ``[N, K]``, the mean over each video's clips.
        single: ``[N, K]``, of the clip of eqs 13-14 alone.
        clips: how many the network saw.
        failed: videos that could not be read.
    """

    videos: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    single: npt.NDArray[np.float64]
    clips: int
    failed: tuple[FailedVideo, ...]


def answer(recognizer: Recognizer, sources: Sequence[LabelledSource], views: Views, title: str) -> Answers:
    """Ask a run about every video, in batches of ``BATCH_SIZE`` clips.

    Args:
        recognizer: of the run.
        sources: the videos.
        views: the clips of each.
        title: for the progress bar.

    Raises:
        WeightsError: the network's answer to a video is no number.
    """
    classes = len(recognizer.labels)
    answered: list[LabelledSource] = []
    failed: list[FailedVideo] = []

    def clips() -> Iterator[tuple[int, Clip]]:
        console = Console(stderr=True)
        for source in track(sources, title, console=console, transient=True, disable=not console.is_terminal):
            try:
                cut = cut_views(source.open(), recognizer.clip_settings, views)
            except VideoError as error:
                failed.append(FailedVideo(source.name, error.kind, str(error)))
                continue
            answered.append(source)
            for clip in cut:
                yield len(answered) - 1, clip

    rows: list[npt.NDArray[np.float32]] = [np.zeros((0, classes), np.float32)]
    owners: list[int] = []
    for batch in _batches(clips()):
        rows.append(recognizer.probabilities([clip for _, clip in batch]))
        owners += [owner for owner, _ in batch]
        if not np.isfinite(rows[-1]).all():
            name = answered[batch[int(np.argmin(np.isfinite(rows[-1]).all(1)))][0]].name
            reason = f"the network's answer to {name!r} is no number"
            raise WeightsError("run", reason, "train it again with a lower learning rate or in float32")
    each = np.concatenate(rows).astype(np.float64)
    owner = np.array(owners, np.int64)
    # The clips of a video come one after the other, its plain one first.
    first = np.searchsorted(owner, np.arange(len(answered)))
    means = np.add.reduceat(each, first) / np.bincount(owner, minlength=len(answered))[:, None] if answered else each
    return Answers(
        tuple(source.name for source in answered),
        np.array([source.target for source in answered], np.int64),
        means,
        each[first] if answered else each,
        len(each),
        tuple(failed),
    )


def _batches(clips: Iterator[tuple[int, Clip]]) -> Iterator[list[tuple[int, Clip]]]:
    batch: list[tuple[int, Clip]] = []
    for item in clips:
        batch.append(item)
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch
