"""Fill the prepared store: every video once, on all cores.

An entry appears under its name only when it is whole and on the disk.  So Ctrl-C, a full disk, a kill or a power cut
costs only the videos in work, and the next run goes on.  Several runs may fill one store at once: each entry has a
lock, which the system drops with the process.

On a cluster a machine may end at any moment.  Its video is begun again on another machine: an entry that has its name
by then is kept; if the machine was only disconnected and its process still holds the lock, the other waits.  On a file
system without locks both may make the entry, under different temporary names; both write the same bytes.

Videos and store may be remote.  The worker that prepares a remote video fetches it once, into a temporary file that is
always removed.  A remote store has no locks, see ``entry_lock``.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path

from actionfusion.data.entry_lock import NewEntry, lock_entry, remove_leftovers
from actionfusion.data.estimate import Estimate, amount, estimate
from actionfusion.data.outcomes import PrepareJob, PrepareOutcome, PrepareReport, Progress, Tally, store_fault
from actionfusion.data.pools import Pool, open_pool
from actionfusion.data.segment_source import read_segment_frames
from actionfusion.data.segments import Segment
from actionfusion.data.shared_folders import Landmark, landmarks, where_seen
from actionfusion.data.source_videos import (
    at_hand,
    source_hash,
    source_status,
    source_status_anew,
)
from actionfusion.data.store import (
    DEFAULT_QUALITY,
    Contents,
    SourceIdentity,
    StoredVideo,
    check_quality,
    entry_path,
    refuse_foreign_entry,
    write_stored_video,
)
from actionfusion.data.workers import WorkerDied, WorkerPool
from actionfusion.errors import ActionFusionError, DatasetError, VideoDamaged, VideoError, VideoMissing
from actionfusion.files import remove_scratch_of_the_dead
from actionfusion.remote_path import UNKNOWN_SIZE, RemotePath
from actionfusion.storage import AnyPath, PathLike, ask_many, to_path
from actionfusion.video.flow import FlowRecipe, flow_engine
from actionfusion.video.threads import usable_cores

_LOOKS_A_TASK = 64
_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


def prepare(
    items: Iterable[tuple[PathLike, str] | tuple[PathLike, str, Segment | None]],
    store: PathLike,
    recipe: FlowRecipe | Contents,
    *,
    quality: int = DEFAULT_QUALITY,
    workers: int | None = None,
    ray: str | None = None,
    verify: bool = False,
    check_space: bool = True,
    progress: Progress | None = None,
    begins: Callable[[Estimate], object] | None = None,
) -> PrepareReport:
    """Make the entries that the store lacks.

    An entry is kept if it is whole, of this recipe and quality, and made from this source: both have the same time of
    change, or else the entry records the hash of the source.  A video that cannot be read is reported, never replaced
    by another; the entry of an older version of it is removed.

    A remote source is not fetched for this: its entry is kept if size and time of change are the recorded ones (the
    entry of a remote store must not be older than its source).  If a server does not say times or sizes, the other
    alone counts; ``verify`` compares the hashes.

    Worker processes are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    On a Ray cluster all machines, this one among them, must see the videos and the store under the same absolute paths
    (a network disk), and have the same version of this package.  A machine that does not ends the work with an error
    that names it: it would report videos as missing or fill a local folder.

    Args:
        items: each video's file (or folder of pictures), here or behind an address, and its path within the data set,
            with forward slashes; and, if it is not to be kept whole, its segment, which the path then ends with.
        store: folder of the store, or an address; made if it is not there.
        recipe: of the flow, with frames of its size; or what else is to be kept.
        quality: JPEG quality.
        workers: processes; one a core if None; 0 works in this process.  On a cluster the most videos at once, as many
            as it has CPUs if None.
        ray: address of a Ray cluster to work on: ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``.
        verify: check every byte of the entries against its checksum, and hash all sources, instead of reading only
            each entry's index.
        check_space: refuse to begin if the disk seems too small; the room of a remote store is not known.
        progress: called after each video.
        begins: called before the first entry is made, with what all will take; not where a store is remote.

    Raises:
        DatasetError: two videos of one name, a name outside the store, a store that cannot be written, or a disk that
            is full or seems too small.  Entries made until then stay, and the next run goes on from there.
        SettingsError: ``workers``, ``ray``, ``quality`` or the recipe's engine is not possible, or an address cannot be
            opened here.
        ClusterError: the cluster does not answer, is lost, or its machines differ.
    """
    started = time.perf_counter()
    check_quality(quality)
    contents = recipe if isinstance(recipe, Contents) else Contents.of_flow(recipe)
    flow_engine(contents.flow.engine)
    folder = to_path(store)
    jobs = _jobs(items, folder, contents, quality, verify=verify)
    if ray is not None:  # The machines of a cluster work in folders of their own.
        folder = folder.absolute()
        jobs = [replace(job, source=job.source.absolute(), entry=job.entry.absolute()) for job in jobs]
    tally = Tally(jobs, folder, progress)
    try:
        with open_pool(workers, ray) as pool:
            _forget_listings(folder, jobs)
            to_make = _inspect(pool, jobs, tally, on_cluster=ray is not None)
            processes = None if ray is not None else usable_cores() if workers is None else max(workers, 1)
            estimated = _begin(pool, to_make, folder, processes, check_space=check_space)
            if estimated is not None and begins is not None:
                begins(estimated)
            with landmarks((job.source for job in to_make), folder) if ray and to_make else nullcontext(()) as to_see:
                _make(pool, to_make, tally, to_see)
    finally:
        remove_leftovers(folder)
        if any(map(_is_remote, jobs)):
            remove_scratch_of_the_dead()
    return tally.report(None if estimated is None else estimated.size, time.perf_counter() - started)


def _jobs(
    items: Iterable[tuple[PathLike, str] | tuple[PathLike, str, Segment | None]],
    store: AnyPath,
    contents: Contents,
    quality: int,
    *,
    verify: bool,
) -> list[PrepareJob]:
    jobs = [
        PrepareJob(to_path(source), name, entry_path(store, name), contents, quality, verify, *segment)
        for source, name, *segment in items
    ]
    entry, count = Counter(job.entry for job in jobs).most_common(1)[0] if jobs else (store, 1)
    if count > 1:
        raise DatasetError(entry, f"{count} videos would have this one entry", "give each video a path of its own")
    return jobs


def _is_remote(job: PrepareJob) -> bool:
    return isinstance(job.source, RemotePath) or isinstance(job.entry, RemotePath)


def _forget_listings(store: AnyPath, jobs: Sequence[PrepareJob]) -> None:
    """Drop earlier listings of this process, and check that a remote store answers before a long decoding for it."""
    if isinstance(store, RemotePath):
        try:
            store.forget_all()
            store.exists()
        except OSError as error:
            raise store_fault(store, error.errno, error.strerror or str(error)) from error
    systems = {job.source.system: job.source for job in jobs if isinstance(job.source, RemotePath)}
    for source in systems.values():
        with suppress(OSError):  # Each of its videos will be reported.
            source.forget_all()


def _inspect(pool: Pool, jobs: Sequence[PrepareJob], tally: Tally, *, on_cluster: bool) -> list[PrepareJob]:
    """Find the jobs that are due."""
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
        # A network disk answers slowly, but many machines at a time; and a few look-ups cost less than a task.
        batches = [jobs[start : start + _LOOKS_A_TASK] for start in range(0, len(jobs), _LOOKS_A_TASK)]
        for batch, outcomes in pool.run(_inspect_entries, batches):
            yield from zip(batch, repeat(outcomes) if isinstance(outcomes, WorkerDied) else outcomes, strict=False)
    elif any(map(_is_remote, jobs)):
        yield from ask_many(inspect_entry, jobs)
    else:
        # Reading an index takes less time than sending a task to a process, and a run with nothing to do needs none.
        yield from WorkerPool(0).run(inspect_entry, jobs)


def _begin(
    pool: Pool, jobs: Sequence[PrepareJob], store: AnyPath, processes: int | None, *, check_space: bool
) -> Estimate | None:
    """Check that the store can be written and has room, and estimate the bytes and the time."""
    if not jobs:
        return None
    if isinstance(store, RemotePath):
        remove_leftovers(store)
        return None
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store):
            pass
    except OSError as error:
        raise store_fault(store, error.errno, error.strerror or str(error)) from error
    remove_leftovers(store)
    found = estimate(pool, jobs, processes)
    replaced = sum(_entry_size(job) for job in jobs)
    free = shutil.disk_usage(store).free
    if check_space and found is not None and found.size - replaced > free:
        reason = f"about {amount(found.size)} are needed for {len(jobs)} videos, and {amount(free)} are free"
        raise DatasetError(store, reason, "free some space, or take a smaller size or another disk")
    return found


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
    # Entries of other runs are waited for once all the rest is done.
    for job, outcome in pool.run(partial(where_seen, to_see, partial(prepare_video, wait_for_others=True)), busy):
        tally.add(job, _survived(pool, job, outcome))


def _survived(pool: Pool, job: PrepareJob, outcome: PrepareOutcome | WorkerDied) -> PrepareOutcome:
    if isinstance(outcome, PrepareOutcome):
        # It was not there when this run began: the first try made it, and its machine was lost before it reported.
        again = outcome.status == "kept" and job in pool.repeated
        return replace(outcome, status="made") if again else outcome
    reason = f"the process that read it died ({outcome})"
    return _failed(VideoError(job.source, reason, "leave it out, or see whether the machine ran out of memory"))


def _failed(error: ActionFusionError) -> PrepareOutcome:
    return PrepareOutcome("failed", kind=error.kind, message=str(error))


def inspect_entry(job: PrepareJob) -> PrepareOutcome:
    """Decide whether a video's entry can be ``kept`` or is ``due``."""
    try:
        stored = StoredVideo(job.entry)
        if job.verify:
            stored.verify()
        size = job.entry.stat().st_size
        alike = (stored.contents, stored.quality, stored.source.name) == (job.contents, job.quality, job.name)
        if alike and _same_source(job, stored.source):
            return PrepareOutcome("kept", stored.num_frames, size)
    except (DatasetError, VideoError, OSError):
        pass
    return PrepareOutcome("due")


def _inspect_entries(jobs: Sequence[PrepareJob]) -> list[PrepareOutcome]:
    return [inspect_entry(job) for job in jobs]


def _same_source(job: PrepareJob, made_from: SourceIdentity) -> bool:
    size, modified = source_status(job.source)
    if size not in (made_from.size, UNKNOWN_SIZE):
        return False
    if not job.verify:
        if _times_agree(job.entry, modified):
            return True
        if isinstance(job.source, RemotePath):  # Fetching it for its hash costs as much as preparing it.
            return False
    with at_hand(job.source) as video:
        if source_hash(video) != made_from.sha256:
            return False
    if isinstance(job.entry, Path):
        with suppress(OSError):  # This only saves the next run the hash.
            os.utime(job.entry, ns=(modified, modified))
    return True


def _times_agree(entry: AnyPath, modified: int) -> bool:
    own = entry.stat().st_mtime_ns
    if isinstance(entry, Path):
        return own == modified
    # A remote entry has the time of its upload.
    return not own or not modified or own // 10**9 >= modified // 10**9


def prepare_video(job: PrepareJob, *, wait_for_others: bool = False) -> PrepareOutcome:
    """Make one entry, unless it is there or another process makes it.

    Does not raise for a fault of the video or of the store.

    Args:
        job: the video.
        wait_for_others: wait for another process that is making the same entry, instead of coming back ``busy``.
    """
    try:
        job.entry.parent.mkdir(parents=True, exist_ok=True)
        with lock_entry(job.entry, wait=wait_for_others) as new:
            if new is None:
                return PrepareOutcome("busy")
            found = inspect_entry(job)
            return found if found.status == "kept" else _fill(job, new)
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


def _fill(job: PrepareJob, new: NewEntry) -> PrepareOutcome:
    refuse_foreign_entry(job.entry)
    try:
        before = source_status_anew(job.source)
        with at_hand(job.source) as video:
            size = before[0] if video is job.source else source_status(video)[0]
            source = SourceIdentity(job.name, size, source_hash(video))
            with closing(read_segment_frames(video, job.contents.decoded_size, job.segment)) as frames:
                count = write_stored_video(new.stream, frames, job.contents, source, job.quality)
        if source_status_anew(job.source) != before:
            raise VideoDamaged(job.source, "changed while it was read", "prepare it when it is complete")
    except VideoMissing:
        raise
    except VideoError:
        # The source is there and is no video: training would take the entry of an older version for it.
        job.entry.unlink(missing_ok=True)
        raise
    return PrepareOutcome("made", count, new.publish(before[1]))
