"""Fill the prepared store: every video once, on all cores.

An entry appears under its name only when it is whole and on the disk.  So whatever ends the work costs the videos
that were at work, and the next run goes on; it may end by Ctrl-C, a full disk, a kill or a power cut.  Several runs may
fill one store at once: each video is claimed by a lock on its temporary file, which the system drops with the process.

The same goes for a cluster, where a machine may end at any moment.  What it was at is begun again on another: if its
entry had its name by then, it is kept, and else made; if the machine was merely cut off and its process still holds the
lock, that is waited for.  A file system without locks may let both make it, each under a name of its own; both write
the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path

import cv2
import numpy as np

from actionfusion.data.claims import EntryClaim, claim_entry, remove_leftovers
from actionfusion.data.layouts.tree import frame_files
from actionfusion.data.outcomes import PrepareJob, PrepareOutcome, PrepareReport, Progress, Tally, store_fault
from actionfusion.data.pools import Pool, open_pool
from actionfusion.data.shared_folders import Landmark, landmarks, where_seen
from actionfusion.data.store import (
    DEFAULT_QUALITY,
    SourceIdentity,
    StoredVideo,
    check_quality,
    entry_path,
    write_stored_video,
)
from actionfusion.data.workers import WorkerDied, WorkerPool
from actionfusion.errors import ActionFusionError, DatasetError, NoFrames, VideoDamaged, VideoError, VideoMissing
from actionfusion.video.flow import FlowRecipe, flow_engine
from actionfusion.video.reading import Frame, count_frames, iterate_frames

# A folder of pictures says nothing of its rate; clips go by frame numbers, and this only labels them with times.
PICTURES_A_SECOND = 25.0
_SAMPLED_VIDEOS = 8
_SAMPLED_FRAMES = 24
_LOOKS_A_TASK = 64
_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


def prepare(
    items: Iterable[tuple[str | os.PathLike[str], str]],
    store: str | os.PathLike[str],
    recipe: FlowRecipe,
    *,
    quality: int = DEFAULT_QUALITY,
    workers: int | None = None,
    ray: str | None = None,
    verify: bool = False,
    check_space: bool = True,
    progress: Progress | None = None,
) -> PrepareReport:
    """Make the entries that the store lacks.

    An entry is kept if it is whole, of this recipe and quality, and made from this very source: its time of change is
    that of the source, or else the hash of the source is that in the entry.  A video that cannot be read is reported,
    never replaced by another; what an older version of it left in the store is removed.

    Worker processes are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    On a Ray cluster all machines, this one among them, must see the videos and the store under the same absolute paths
    (a network disk), and have the same version of this package.  One that does not is named and ends the work, lest it
    call videos missing or fill a folder of its own.

    Args:
        items: each video's file (or folder of pictures) and its path within the data set, with forward slashes.
        store: folder of the store; made if it is not there.
        recipe: size and flow.
        quality: JPEG quality.
        workers: processes; one a core if None; 0 works in this process.  On a cluster the most videos at once, as many
            as it has CPUs if None.
        ray: address of a Ray cluster to work on: ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``.
        verify: hold every byte of the entries against its checksum, and hash all sources, instead of a look at each
            entry's index.
        check_space: refuse to begin if the disk seems too small.
        progress: called after each video.

    Raises:
        DatasetError: two videos of one name, a name outside the store, a store that cannot be written, or a disk that
            is full or seems too small.  What was made until then stays, and the next run goes on from there.
        SettingsError: ``workers``, ``ray``, ``quality`` or the recipe's engine is not possible.
        ClusterError: the cluster does not answer, is lost, or its machines differ.
    """
    started = time.perf_counter()
    check_quality(quality)
    flow_engine(recipe.engine)
    folder = Path(store)
    jobs = _jobs(items, folder, recipe, quality, verify=verify)
    if ray is not None:  # The machines of a cluster work in folders of their own.
        folder = folder.absolute()
        jobs = [replace(job, source=job.source.absolute(), entry=job.entry.absolute()) for job in jobs]
    tally = Tally(jobs, folder, progress)
    try:
        with open_pool(workers, ray) as pool:
            to_make = _inspect(pool, jobs, tally, on_cluster=ray is not None)
            estimated = _begin(pool, to_make, folder, check_space=check_space)
            with landmarks((job.source for job in to_make), folder) if ray and to_make else nullcontext(()) as to_see:
                _make(pool, to_make, tally, to_see)
    finally:
        remove_leftovers(folder)
    return tally.report(estimated, time.perf_counter() - started)


def _jobs(
    items: Iterable[tuple[str | os.PathLike[str], str]], store: Path, recipe: FlowRecipe, quality: int, *, verify: bool
) -> list[PrepareJob]:
    jobs = [PrepareJob(Path(source), name, entry_path(store, name), recipe, quality, verify) for source, name in items]
    entry, count = Counter(job.entry for job in jobs).most_common(1)[0] if jobs else (store, 1)
    if count > 1:
        raise DatasetError(entry, f"{count} videos would have this one entry", "give each video a path of its own")
    return jobs


def _inspect(pool: Pool, jobs: Sequence[PrepareJob], tally: Tally, *, on_cluster: bool) -> list[PrepareJob]:
    """The jobs that are to be done."""
    due = set()
    for job, outcome in _looks(pool, jobs, on_cluster=on_cluster):
        if isinstance(outcome, WorkerDied) or outcome.status != "kept":
            due.add(job.name)
        else:
            tally.add(job, outcome)
    return [job for job in jobs if job.name in due]


def _looks(
    pool: Pool, jobs: Sequence[PrepareJob], *, on_cluster: bool
) -> Iterator[tuple[PrepareJob, PrepareOutcome | WorkerDied]]:
    if any(job.verify for job in jobs):
        yield from pool.run(inspect_entry, jobs)
    elif on_cluster:
        # A network disk answers one machine slowly, and many at once; and a few looks cost less than a task.
        batches = [jobs[start : start + _LOOKS_A_TASK] for start in range(0, len(jobs), _LOOKS_A_TASK)]
        for batch, outcomes in pool.run(_inspect_entries, batches):
            yield from zip(batch, repeat(outcomes) if isinstance(outcomes, WorkerDied) else outcomes, strict=False)
    else:
        # To look at an index takes less than to send a task to a process, and a run with nothing to do needs none.
        yield from WorkerPool(0).run(inspect_entry, jobs)


def _begin(pool: Pool, jobs: Sequence[PrepareJob], store: Path, *, check_space: bool) -> int | None:
    """See that the store can be written and has room; the bytes that are expected."""
    if not jobs:
        return None
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store):
            pass
    except OSError as error:
        raise store_fault(store, error.errno, error.strerror or str(error)) from error
    remove_leftovers(store)
    need = _estimate(pool, jobs)
    replaced = sum(_entry_size(job) for job in jobs)
    free = shutil.disk_usage(store).free
    if check_space and need is not None and need - replaced > free:
        reason = f"about {_amount(need)} are needed for {len(jobs)} videos, and {_amount(free)} are free"
        raise DatasetError(store, reason, "free some space, or take a smaller size or another disk")
    return need


def _entry_size(job: PrepareJob) -> int:
    try:
        return job.entry.stat().st_size
    except OSError:
        return 0


def _make(pool: Pool, jobs: Sequence[PrepareJob], tally: Tally, to_see: Sequence[Landmark]) -> None:
    busy = []
    for job, outcome in pool.run(partial(where_seen, to_see, prepare_video), jobs):
        if isinstance(outcome, PrepareOutcome) and outcome.status == "busy":
            busy.append(job)
        else:
            tally.add(job, _survived(pool, job, outcome))
    # What another run was at, once all the rest is done.
    for job, outcome in pool.run(partial(where_seen, to_see, _prepare_video_in_turn), busy):
        tally.add(job, _survived(pool, job, outcome))


def _survived(pool: Pool, job: PrepareJob, outcome: PrepareOutcome | WorkerDied) -> PrepareOutcome:
    if isinstance(outcome, PrepareOutcome):
        # It was not there when this run began: the first try made it, and its machine did not live to say so.
        again = outcome.status == "kept" and job in pool.repeated
        return replace(outcome, status="made") if again else outcome
    reason = f"the process that read it died ({outcome})"
    return _failed(VideoError(job.source, reason, "leave it out, or see whether the machine ran out of memory"))


def _failed(error: ActionFusionError) -> PrepareOutcome:
    return PrepareOutcome("failed", kind=error.kind, message=str(error))


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _estimate(pool: Pool, jobs: Sequence[PrepareJob]) -> int | None:
    """Bytes that the entries will take, from the first frames of a few videos spread over the list."""
    sample = [jobs[number * len(jobs) // _SAMPLED_VIDEOS] for number in range(_SAMPLED_VIDEOS)]
    sizes = [result for _, result in pool.run(_sample, list(dict.fromkeys(sample))) if isinstance(result, tuple)]
    sampled = sum(source for _, source in sizes)
    if not sampled:
        return None
    total = 0
    for job in jobs:
        with suppress(OSError):
            total += _stat(job.source)[0]
    return sum(entry for entry, _ in sizes) * total // sampled


def _sample(job: PrepareJob) -> tuple[int, int] | None:
    """Expected bytes of a video's entry, and bytes of the video."""
    buffer = io.BytesIO()
    source = SourceIdentity(job.name, 0, "")
    # The flow of any engine takes about as many bytes, and TV-L1 a hundred times as long.
    recipe = replace(job.recipe, engine="dis")
    try:
        with closing(_read_frames(job.source, job.recipe.size)) as frames:
            first = write_stored_video(buffer, islice(frames, _SAMPLED_FRAMES), recipe, source, job.quality)
        count = len(frame_files(job.source)) if job.source.is_dir() else count_frames(job.source)
        return len(buffer.getvalue()) * count // first, _stat(job.source)[0]
    except Exception:  # noqa: BLE001  Whatever it is, it is reported when the turn comes to the video.
        return None


def inspect_entry(job: PrepareJob) -> PrepareOutcome:
    """Whether a video's entry can be ``kept`` or its making is ``due``."""
    try:
        stored = StoredVideo(job.entry)
        if job.verify:
            stored.verify()
        size = job.entry.stat().st_size
        alike = (stored.recipe, stored.quality, stored.source.name) == (job.recipe, job.quality, job.name)
        if alike and _same_source(job, stored.source):
            return PrepareOutcome("kept", stored.num_frames, size)
    except (DatasetError, OSError):
        pass
    return PrepareOutcome("due")


def _inspect_entries(jobs: Sequence[PrepareJob]) -> list[PrepareOutcome]:
    return [inspect_entry(job) for job in jobs]


def _same_source(job: PrepareJob, made_from: SourceIdentity) -> bool:
    size, modified = _stat(job.source)
    if size != made_from.size:
        return False
    if modified == job.entry.stat().st_mtime_ns and not job.verify:
        return True
    if _hash(job.source) != made_from.sha256:
        return False
    with suppress(OSError):  # Only spares the next run the hash.
        os.utime(job.entry, ns=(modified, modified))
    return True


def prepare_video(job: PrepareJob, *, wait_for_others: bool = False) -> PrepareOutcome:
    """Make one entry, if it is not there and nobody else is at it.

    Never raises for a fault of the video or of the store.

    Args:
        job: the video.
        wait_for_others: wait for another process that is making the same entry, instead of coming back ``busy``.
    """
    try:
        job.entry.parent.mkdir(parents=True, exist_ok=True)
        with claim_entry(job.entry, wait=wait_for_others) as claim:
            if claim is None:
                return PrepareOutcome("busy")
            found = inspect_entry(job)
            return found if found.status == "kept" else _fill(job, claim)
    except ActionFusionError as error:
        return _failed(error)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NAME_REFUSED and error.filename is not None:
            return _failed(
                DatasetError(job.entry, f"the store's disk refuses this name ({reason})", "rename the video")
            )
        return PrepareOutcome("unwritable", message=reason, code=error.errno or 0)
    except Exception as error:  # noqa: BLE001  One video in a library's blind spot must not end a night's work.
        message = " ".join(f"{job.source}: {type(error).__name__}: {error}".split())
        return PrepareOutcome("failed", kind="error", message=message)


def _prepare_video_in_turn(job: PrepareJob) -> PrepareOutcome:
    return prepare_video(job, wait_for_others=True)


def _fill(job: PrepareJob, claim: EntryClaim) -> PrepareOutcome:
    try:
        before = _stat(job.source)
        source = SourceIdentity(job.name, before[0], _hash(job.source))
        with closing(_read_frames(job.source, job.recipe.size)) as frames:
            count = write_stored_video(claim.stream, frames, job.recipe, source, job.quality)
        if _stat(job.source) != before:
            raise VideoDamaged(job.source, "changed while it was read", "prepare it when it is complete")
    except VideoMissing:
        raise
    except VideoError:
        # The source is there and is no video: what an older version of it left would pass for it in training.
        job.entry.unlink(missing_ok=True)
        raise
    return PrepareOutcome("made", count, claim.publish(before[1]))


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Tells the faults of a video's disk from those of the store's."""
    try:
        yield
    except VideoError:
        raise
    except (OSError, DatasetError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise VideoMissing(source, f"cannot be read ({reason})", "check the path and your rights") from error


def _read_frames(source: Path, size: int) -> Generator[Frame, None, None]:
    """All frames of a video file or of a folder of pictures, ``size`` x ``size``."""
    with _reading(source):
        yield from _read_pictures(source, size) if source.is_dir() else iterate_frames(source, size=size)


def _read_pictures(folder: Path, size: int) -> Iterator[Frame]:
    files = frame_files(folder)
    if not files:
        raise NoFrames(folder, "not one picture in this folder", "leave it out")
    for number, path in enumerate(files):
        data = np.fromfile(path, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if picture is None:
            raise VideoDamaged(path, "this picture cannot be decoded", "replace it, or leave the video out")
        shrinks = min(picture.shape[:2]) >= size
        scaled = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        rgb = cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        yield Frame(number, number / PICTURES_A_SECOND, rgb)


def _files(source: Path) -> list[Path]:
    return frame_files(source) if source.is_dir() else [source]


def _stat(source: Path) -> tuple[int, int]:
    """Bytes and latest change, in nanoseconds, of a file or of a folder's pictures."""
    with _reading(source):
        stats = [path.stat() for path in _files(source)]
        if not all(stat.S_ISREG(status.st_mode) for status in stats):
            raise VideoMissing(source, "this is not a file", "give the path of a video file")  # A pipe would block.
        return sum(status.st_size for status in stats), max((status.st_mtime_ns for status in stats), default=0)


def _hash(source: Path) -> str:
    """SHA-256 of a file; of a folder, that of its pictures' names and hashes."""
    with _reading(source):
        if not source.is_dir():
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        lines = [f"{path.name}\0{_hash(path)}\0" for path in _files(source)]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
