"""Estimate what ``prepare`` will take, from the first frames of a few videos: bytes, and time by flow engine."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from actionfusion.data.outcomes import PrepareJob
from actionfusion.data.pools import Pool
from actionfusion.data.segment_source import read_segment_frames, segment_bounds
from actionfusion.data.source_videos import at_hand, guess_frames, source_status
from actionfusion.data.store import Contents, SourceIdentity, write_stored_video
from actionfusion.plain_progress import duration
from actionfusion.remote_path import RemotePath
from actionfusion.storage import ask_many
from actionfusion.video.flow import EngineName, encoded_field, grey_picture
from actionfusion.video.pictures import resized
from actionfusion.video.reading import Frame

QUICKER: tuple[EngineName, ...] = ("dis", "dis-fast")
"""Flow engines that are timed beside the recipe's own, where that is slower."""

_SAMPLED_VIDEOS = 8
_SAMPLED_FRAMES = 24
_TIMED_FIELDS = 3
_WORTH_SAYING = 60.0


@dataclass(frozen=True)
class Estimate:
    """What the entries to be made will take.

    Attributes:
        videos: to be made.
        frames: of them.
        size: bytes of their entries.
        seconds: of work, by the engine of the flow, the recipe's own first; on one core.
        processes: that work at once; None where it is not known, as on a cluster.
    """

    videos: int
    frames: int
    size: int
    seconds: Mapping[str, float]
    processes: int | None

    def lines(self) -> list[str]:
        """Say it to the user: the size and the time, and by which other flow engine it would be quicker."""
        about = f"about {self.frames:,} frames of {self.videos} videos, {amount(self.size)}"
        if self.processes is None or not self.seconds:
            return [f"estimated: {about}"]
        times = {engine: seconds / self.processes for engine, seconds in self.seconds.items()}
        (own, needed), *others = times.items()
        work = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        lines = [f"estimated: {about}, and {duration(needed)} of {work}"]
        quicker = [f"{duration(seconds)} with {engine}" for engine, seconds in others if 2 * seconds < needed]
        if quicker and needed > _WORTH_SAYING:
            how = f"--flow.engine {others[-1][0]}, or clip.flow.engine of a recipe (train with the same)"
            lines.append(f"flow by {own} takes the most of it; it would be {' and '.join(quicker)}: {how}")
        return lines


@dataclass(frozen=True)
class _Sample:
    entry: int
    source: int
    frames: int
    seconds: Mapping[str, float]


def estimate(pool: Pool, jobs: Sequence[PrepareJob], processes: int | None) -> Estimate | None:
    """Estimate from a few videos spread over the list; None where not one of them can be read."""
    chosen = [jobs[number * len(jobs) // _SAMPLED_VIDEOS] for number in range(_SAMPLED_VIDEOS)]
    samples = [found for _, found in pool.run(_sample, list(dict.fromkeys(chosen))) if isinstance(found, _Sample)]
    sampled = sum(sample.source for sample in samples)
    if not sampled:
        return None
    remote = any(isinstance(place, RemotePath) for job in jobs for place in (job.source, job.entry))
    each = (size for _, size in ask_many(_source_size, jobs)) if remote else map(_source_size, jobs)
    share = sum(each) / sampled
    return Estimate(
        len(jobs),
        round(sum(sample.frames for sample in samples) * share),
        round(sum(sample.entry for sample in samples) * share),
        {
            engine: share * sum(sample.frames * sample.seconds[engine] for sample in samples)
            for engine in samples[0].seconds
        },
        processes,
    )


def _source_size(job: PrepareJob) -> int:
    with suppress(OSError):
        return max(source_status(job.source)[0], 0)
    return 0


def _sample(job: PrepareJob) -> _Sample | None:
    """Estimate the bytes and frames of a video's entry, and the seconds of a frame by each engine."""
    buffer = io.BytesIO()
    source = SourceIdentity(job.name, 0, "")
    # The flow of any engine takes about as many bytes, and TV-L1 a hundred times as long.
    contents = replace(job.contents, flow=replace(job.contents.flow, engine="dis"))
    try:
        with at_hand(job.source) as video:
            began = time.perf_counter()
            with closing(read_segment_frames(video, job.contents.decoded_size, job.segment)) as frames:
                first = list(islice(frames, _SAMPLED_FRAMES))
            count = write_stored_video(buffer, first, contents, source, job.quality)
            seconds = (time.perf_counter() - began) / count
            fields = _seconds_a_field(first, job.contents)
            without = max(seconds - fields.get("dis", 0.0), 0.0)
            begin, end = (0, guess_frames(video)) if job.segment is None else segment_bounds(video, job.segment)
            num_frames = end - begin
            each = {engine: without + field for engine, field in fields.items()} or {"no flow": seconds}
            return _Sample(len(buffer.getvalue()) * num_frames // count, source_status(video)[0], num_frames, each)
    except Exception:  # noqa: BLE001  It is reported when the video is prepared.
        return None


def _seconds_a_field(frames: Sequence[Frame], contents: Contents) -> dict[str, float]:
    """Time the flow of a frame by the recipe's engine and the quicker ones; zeros for a video of one frame."""
    if not contents.has_flow:
        return {}
    size = contents.flow.size
    greys = [grey_picture(resized(frame.image, size), size) for frame in frames[: _TIMED_FIELDS + 1]]
    found: dict[str, float] = {}
    for engine in dict.fromkeys((contents.flow.engine, *QUICKER)):
        recipe = replace(contents.flow, engine=engine)
        began = time.perf_counter()
        for one, other in pairwise(greys):
            encoded_field(one, other, recipe)
        found[engine] = (time.perf_counter() - began) / max(len(greys) - 1, 1)
    return found


def amount(size: int) -> str:
    """Write a number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
