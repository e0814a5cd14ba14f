"""Predict the class of each video of a set; a video that gives no clip is set apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from actionfusion.data.fetched_video import FetchedVideo
from actionfusion.data.loading import LabelledSource
from actionfusion.data.segment_source import SegmentSource
from actionfusion.data.store import StoredVideo
from actionfusion.errors import VideoError, WeightsError, printable
from actionfusion.evaluation.views import Views, cut_views
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.probe import ProbeHead
from actionfusion.plain_progress import PlainProgress
from actionfusion.terminal import Console
from actionfusion.video.clip import Clip, ClipSource
from actionfusion.video.clip_reader import clips_ahead
from actionfusion.video.rates import WHOLE, FrameRates, Pace, stored_rate
from actionfusion.video.video_source import VideoSource

BATCH_SIZE = 8


@dataclass(frozen=True)
class FailedVideo:
    """A video that gave no clip, and so no prediction."""

    video: str
    kind: str
    message: str


@dataclass(frozen=True)
class Predictions:
    """N videos that could be read, and the rest.

    Attributes:
        videos: their paths.
        targets: ``[N]`` their class numbers.
        probabilities: ``[N, K]``, the mean over each video's clips.
        single: ``[N, K]``, of the clip of eqs 13-14 alone.
        clips: how many the network saw.
        failed: videos that could not be read.
        probe: ``[N, K]``, of the linear probe beside the run, as ``probabilities``; None without one.
        notes: how videos were read whose frame rate is far from that of the run's training videos.
    """

    videos: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    single: npt.NDArray[np.float64]
    clips: int
    failed: tuple[FailedVideo, ...]
    probe: npt.NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()


def predict_videos(
    recognizer: Recognizer,
    sources: Sequence[LabelledSource],
    views: Views,
    title: str,
    probe: ProbeHead | None = None,
) -> Predictions:
    """Predict every video, in batches of ``BATCH_SIZE`` clips, while threads cut those that come next.

    Args:
        recognizer: of the run.
        sources: the videos.
        views: the clips of each.
        title: for the progress bar.
        probe: beside the run; the backbones run once for both, by PyTorch.

    Raises:
        WeightsError: a score of a video is not finite.
    """
    owners: list[LabelledSource] = []  # of the clips, which come video by video, the plain one first
    failed: list[FailedVideo] = []
    notes: list[str] = []

    def cut(source: LabelledSource) -> list[Clip]:
        opened = source.open()
        if note := pace_of(opened, recognizer.rates).note:
            notes.append(note)
        return cut_views(opened, recognizer.clip_settings, views)

    def clips(read: Iterable[tuple[LabelledSource, list[Clip] | VideoError]]) -> Iterator[Clip]:
        for number, (source, found) in enumerate(read, 1):
            lines(number, len(sources))
            if isinstance(found, VideoError):
                failed.append(FailedVideo(source.name, found.kind, printable(f"{found.reason}; {found.remedy}")))
                continue
            for clip in found:
                owners.append(source)
                yield clip

    rows = [np.zeros((0, len(recognizer.labels)), np.float32)]
    probe_rows = rows[:]
    on_a_gpu = recognizer.runtime.device != "cpu"
    console = Console(stderr=True)
    lines = PlainProgress(console, f"{title} part")
    with (
        closing(clips_ahead(cut, sources, overlap=on_a_gpu, clips_each=views.clips)) as read,
        nullcontext() if probe is None else recognizer.network.evaluating(),
    ):
        shown = track(read, title, len(sources), console=console, transient=True, disable=not console.is_terminal)
        waiting = clips(shown)
        while batch := list(islice(waiting, BATCH_SIZE)):
            scores, beside = _answers(recognizer, probe, batch)
            rows.append(scores)
            probe_rows.append(beside)
            refuse_infinite(scores, owners[-len(batch) :])
    each = np.concatenate(rows).astype(np.float64)
    starts = [number for number, source in enumerate(owners) if number == 0 or source is not owners[number - 1]]
    counts = np.diff([*starts, len(owners)])

    def means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.add.reduceat(values, starts) / counts[:, None] if starts else values

    return Predictions(
        tuple(owners[start].name for start in starts),
        np.array([owners[start].target for start in starts], np.int64),
        means(each),
        each[starts],
        len(each),
        tuple(failed),
        None if probe is None else means(np.concatenate(probe_rows).astype(np.float64)),
        tuple(f"{count} of {len(sources)} videos: {note}" for note, count in sorted(Counter(notes).items())),
    )


def pace_of(video: ClipSource, rates: FrameRates | None) -> Pace:
    """Tell how the frames of a video are taken for a run that was trained on videos of these rates."""
    if isinstance(video, VideoSource | FetchedVideo | SegmentSource):
        return video.pace
    if rates is None or not isinstance(video, StoredVideo):
        return WHOLE
    pace = rates.pace(stored_rate(video.times))
    return Pace(note=f"a store has all frames: {pace.note}") if pace.step > 1 else pace


def refuse_infinite(scores: npt.NDArray[np.float32], owners: Sequence[LabelledSource]) -> None:
    """Raise a WeightsError that names the first video whose scores are not finite."""
    finite = np.isfinite(scores).all(1)
    if not finite.all():
        reason = f"the network's scores of {owners[int(finite.argmin())].name!r} are not finite"
        raise WeightsError("run", reason, "train it again with a lower learning rate or in float32")


def _answers(
    recognizer: Recognizer, probe: ProbeHead | None, clips: Sequence[Clip]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute the probabilities ``[B, K]`` of the network, and of the probe from the same features; none without it."""
    if probe is None:
        scores = recognizer.probabilities(clips)
        return scores, scores[:0]
    network, features = recognizer.network, recognizer.features(clips)
    with torch.inference_mode():
        own, beside = network.scores(network.classify(features)), probe(features).softmax(-1)
    return own.cpu().numpy(), beside.cpu().numpy()
