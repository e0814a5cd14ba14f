"""Fill the prepared store: every video once, on all cores.

An entry appears under its name only when it is whole and on the disk.  So whatever ends the work costs the videos
that were at work, and the next run goes on; it may end by Ctrl-C, a full disk, a kill or a power cut.  Several runs may
fill one store at once: each video is claimed by a lock on its temporary file, which the system drops with the process.

Videos and store may lie behind addresses.  The worker that prepares a remote video fetches it once, into a temporary
file that goes whatever happens.  Of a remote store see ``claims``: it has no locks.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from actionfusion.data.claims import EntryClaim, UploadClaim, claim_entry, remove_leftovers
from actionfusion.data.layouts.tree import frame_files
from actionfusion.data.source_files import at_hand, read_all_frames, source_hash, source_status, source_status_anew
from actionfusion.data.store import (
    DEFAULT_QUALITY,
    SourceIdentity,
    StoredVideo,
    check_quality,
    entry_path,
    write_stored_video,
)
from actionfusion.data.workers import WorkerDied, WorkerPool
from actionfusion.errors import ActionFusionError, DatasetError, VideoDamaged, VideoError, VideoMissing
from actionfusion.files import remove_scratch_of_the_dead
from actionfusion.places import AnyPlace, Place, ask_many, place
from actionfusion.remote_path import UNKNOWN_SIZE, RemotePath
from actionfusion.video.flow import FlowRecipe, flow_engine
from actionfusion.video.reading import count_frames

Progress = Callable[[int, int, str], None]
"""Called with the number of videos done, of all videos, and the name of the one just done."""

_SAMPLED_VIDEOS = 8
_SAMPLED_FRAMES = 24
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


@dataclass(frozen=True)
class PrepareFailure:
    """A video that gave no entry.

    Attributes:
        name: as given to ``prepare``.
        source: the video.
        kind: ``kind`` of the error, or ``error`` for one that nobody foresaw.
        message: one line for a person.
    """

    name: str
    source: Place
    kind: str
    message: str


@dataclass(frozen=True)
class PrepareReport:
    """What ``prepare`` did.

    Attributes:
        made: videos decoded and written.
        kept: videos whose entry was there already.
        failures: videos without an entry, in the order given.
        frames: in the entries of all videos, made and kept.
        size: bytes of these entries.
        estimated_size: bytes that the entries to be made were expected to take; None if none was to be made, none of
            the sampled videos could be read, or the store is remote.
        seconds: that it took.
    """

    made: int
    kept: int
    failures: tuple[PrepareFailure, ...]
    frames: int
    size: int
    estimated_size: int | None
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether any video gave no entry."""
        return bool(self.failures)


def prepare(
    items: Iterable[tuple[AnyPlace, str]],
    store: AnyPlace,
    recipe: FlowRecipe,
    *,
    quality: int = DEFAULT_QUALITY,
    workers: int | None = None,
    verify: bool = False,
    check_space: bool = True,
    progress: Progress | None = None,
) -> PrepareReport:
    """Make the entries that the store lacks.

    An entry is kept if it is whole, of this recipe and quality, and made from this very source: its time of change is
    that of the source, or else the hash of the source is that in the entry.  A video that cannot be read is reported,
    never replaced by another; what an older version of it left in the store is removed.

    What is remote is not fetched to find that out: an entry is kept if its source has the size that it had, and the
    time of its change is the entry's own (the entry of a remote store must not be older than its source).  Where a far
    side does not say times or sizes, the other alone counts; ``verify`` compares the hashes.

    Worker processes are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    Args:
        items: each video's file (or folder of pictures), here or behind an address, and its path within the data set,
            with forward slashes.
        store: folder of the store, or an address; made if it is not there.
        recipe: size and flow.
        quality: JPEG quality.
        workers: processes; one a core if None; 0 works in this process.
        verify: hold every byte of the entries against its checksum, and hash all sources, instead of a look at each
            entry's index.
        check_space: refuse to begin if the disk seems too small; what room a remote store has is not known.
        progress: called after each video.

    Raises:
        DatasetError: two videos of one name, a name outside the store, a store that cannot be written, or a disk that
            is full or seems too small.  What was made until then stays, and the next run goes on from there.
        SettingsError: ``workers``, ``quality`` or the recipe's engine is not possible, or an address cannot be opened
            here.
    """
    started = time.perf_counter()
    check_quality(quality)
    flow_engine(recipe.engine)
    folder = place(store)
    jobs = _jobs(items, folder, recipe, quality, verify=verify)
    tally = _Tally(jobs, folder, progress)
    try:
        with WorkerPool(workers) as pool:
            _reach(folder)
            _forget_listings(jobs)
            to_make = _inspect(pool, jobs, tally)
            estimated = _begin(pool, to_make, folder, check_space=check_space)
            _make(pool, to_make, tally)
    finally:
        remove_leftovers(folder)
        if any(map(_is_remote, jobs)):
            remove_scratch_of_the_dead()
    return tally.report(estimated, time.perf_counter() - started)


@dataclass(frozen=True)
class PrepareJob:
    """One video to prepare, all that a worker on any machine needs to know.

    Attributes:
        source: the video.
        name: its path within the data set.
        entry: where the store keeps it.
        recipe: size and flow.
        quality: JPEG quality.
        verify: whether an entry that is there already is read in full.
    """

    source: Place
    name: str
    entry: Place
    recipe: FlowRecipe
    quality: int
    verify: bool = False


@dataclass(frozen=True)
class PrepareOutcome:
    """What became of one video.

    Attributes:
        status: ``made``; ``kept``; ``due`` (still to be made); ``busy`` (another process is making it); ``failed``;
            ``unwritable`` (the store's fault, not the video's).
        frames: in the entry.
        size: bytes of the entry.
        kind: of the error.
        message: of the error.
        code: the system's number of the error that a store gave.
    """

    status: Literal["made", "kept", "due", "busy", "failed", "unwritable"]
    frames: int = 0
    size: int = 0
    kind: str = ""
    message: str = ""
    code: int = 0


def _jobs(
    items: Iterable[tuple[AnyPlace, str]], store: Place, recipe: FlowRecipe, quality: int, *, verify: bool
) -> list[PrepareJob]:
    jobs = [PrepareJob(place(source), name, entry_path(store, name), recipe, quality, verify) for source, name in items]
    entry, count = Counter(job.entry for job in jobs).most_common(1)[0] if jobs else (store, 1)
    if count > 1:
        raise DatasetError(entry, f"{count} videos would have this one entry", "give each video a path of its own")
    return jobs


def _is_remote(job: PrepareJob) -> bool:
    return isinstance(job.source, RemotePath) or isinstance(job.entry, RemotePath)


class _Tally:
    """Counts what has become of the videos."""

    def __init__(self, jobs: Sequence[PrepareJob], store: Place, progress: Progress | None) -> None:
        self._jobs, self._store, self._progress = jobs, store, progress
        self._outcomes: dict[str, PrepareOutcome] = {}

    def _count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self._outcomes.values())

    def add(self, job: PrepareJob, outcome: PrepareOutcome) -> None:
        """Note an outcome; a store that cannot be written ends the work here."""
        if outcome.status == "unwritable":
            done = self._count("made") + self._count("kept")
            raise _store_fault(
                self._store, outcome.code, outcome.message, f"; {done} of {len(self._jobs)} videos are in it"
            )
        self._outcomes[job.name] = outcome
        if self._progress is not None:
            self._progress(len(self._outcomes), len(self._jobs), job.name)

    def report(self, estimated: int | None, seconds: float) -> PrepareReport:
        """Everything together."""
        failures = [
            PrepareFailure(job.name, job.source, self._outcomes[job.name].kind, self._outcomes[job.name].message)
            for job in self._jobs
            if self._outcomes[job.name].status == "failed"
        ]
        outcomes = self._outcomes.values()
        return PrepareReport(
            made=self._count("made"),
            kept=self._count("kept"),
            failures=tuple(failures),
            frames=sum(outcome.frames for outcome in outcomes),
            size=sum(outcome.size for outcome in outcomes),
            estimated_size=estimated,
            seconds=seconds,
        )


def _reach(store: Place) -> None:
    """See that a remote store answers, before a night's work is decoded for it."""
    if isinstance(store, RemotePath):
        try:
            store.forget_all()
            store.exists()
        except OSError as error:
            raise _store_fault(store, error.errno, error.strerror or str(error)) from error


def _forget_listings(jobs: Sequence[PrepareJob]) -> None:
    """What a file system has listed before, in this process, may have changed since."""
    systems = {job.source.system: job.source for job in jobs if isinstance(job.source, RemotePath)}
    for source in systems.values():
        with suppress(OSError):  # Each of its videos will be reported.
            source.forget_all()


def _inspect(pool: WorkerPool, jobs: Sequence[PrepareJob], tally: _Tally) -> list[PrepareJob]:
    """The jobs that are to be done."""
    due = set()
    if any(job.verify for job in jobs):
        inspected = pool.run(inspect_entry, jobs)
    elif any(map(_is_remote, jobs)):
        inspected = ask_many(inspect_entry, jobs)
    else:
        # To look at an index takes less than to send a task to a process, and a run with nothing to do needs none.
        inspected = WorkerPool(0).run(inspect_entry, jobs)
    for job, outcome in inspected:
        if isinstance(outcome, WorkerDied) or outcome.status != "kept":
            due.add(job.name)
        else:
            tally.add(job, outcome)
    return [job for job in jobs if job.name in due]


def _begin(pool: WorkerPool, jobs: Sequence[PrepareJob], store: Place, *, check_space: bool) -> int | None:
    """See that the store can be written and has room; the bytes that are expected."""
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
        raise _store_fault(store, error.errno, error.strerror or str(error)) from error
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


def _make(pool: WorkerPool, jobs: Sequence[PrepareJob], tally: _Tally) -> None:
    busy = []
    for job, outcome in pool.run(prepare_video, jobs):
        if isinstance(outcome, PrepareOutcome) and outcome.status == "busy":
            busy.append(job)
        else:
            tally.add(job, _survived(job, outcome))
    # What another run was at, once all the rest is done.
    for job, outcome in pool.run(_prepare_video_in_turn, busy):
        tally.add(job, _survived(job, outcome))


def _survived(job: PrepareJob, outcome: PrepareOutcome | WorkerDied) -> PrepareOutcome:
    if isinstance(outcome, PrepareOutcome):
        return outcome
    reason = f"the process that read it died ({outcome})"
    return _failed(VideoError(job.source, reason, "leave it out, or see whether the machine ran out of memory"))


def _failed(error: ActionFusionError) -> PrepareOutcome:
    return PrepareOutcome("failed", kind=error.kind, message=str(error))


def _store_fault(store: Place, code: int | None, reason: str, done: str = "") -> DatasetError:
    if isinstance(store, RemotePath):
        remedy = "check the connection and your rights, and run it again, which goes on from there"
        if code in _DISK_FULL:
            remedy = f"free some space, there or in {tempfile.gettempdir()}, and run it again"
        return DatasetError(store, f"cannot be written ({reason}){done}", remedy)
    if code in _DISK_FULL:
        remedy = "free some space and run it again, which goes on from there"
        return DatasetError(store, f"the disk is full ({reason}){done}", remedy)
    return DatasetError(store, f"cannot be written ({reason}){done}", "choose a folder that you may write to")


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _estimate(pool: WorkerPool, jobs: Sequence[PrepareJob]) -> int | None:
    """Bytes that the entries will take, from the first frames of a few videos spread over the list."""
    sample = [jobs[number * len(jobs) // _SAMPLED_VIDEOS] for number in range(_SAMPLED_VIDEOS)]
    sizes = [result for _, result in pool.run(_sample, list(dict.fromkeys(sample))) if isinstance(result, tuple)]
    sampled = sum(source for _, source in sizes)
    if not sampled:
        return None
    each = (size for _, size in ask_many(_source_size, jobs)) if any(map(_is_remote, jobs)) else map(_source_size, jobs)
    return sum(entry for entry, _ in sizes) * sum(each) // sampled


def _source_size(job: PrepareJob) -> int:
    with suppress(OSError):
        return max(source_status(job.source)[0], 0)
    return 0


def _sample(job: PrepareJob) -> tuple[int, int] | None:
    """Expected bytes of a video's entry, and bytes of the video."""
    buffer = io.BytesIO()
    source = SourceIdentity(job.name, 0, "")
    # The flow of any engine takes about as many bytes, and TV-L1 a hundred times as long.
    recipe = replace(job.recipe, engine="dis")
    try:
        with at_hand(job.source) as video:
            with closing(read_all_frames(video, job.recipe.size)) as frames:
                first = write_stored_video(buffer, islice(frames, _SAMPLED_FRAMES), recipe, source, job.quality)
            count = len(frame_files(video)) if video.is_dir() else count_frames(video)
            return len(buffer.getvalue()) * count // first, source_status(video)[0]
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
    except (DatasetError, VideoError, OSError):
        pass
    return PrepareOutcome("due")


def _same_source(job: PrepareJob, made_from: SourceIdentity) -> bool:
    size, modified = source_status(job.source)
    if size not in (made_from.size, UNKNOWN_SIZE):
        return False
    if not job.verify:
        if _times_agree(job.entry, modified):
            return True
        if isinstance(job.source, RemotePath):  # Once it is fetched for its hash, it is as well prepared.
            return False
    with at_hand(job.source) as video:
        if source_hash(video) != made_from.sha256:
            return False
    if isinstance(job.entry, Path):
        with suppress(OSError):  # Only spares the next run the hash.
            os.utime(job.entry, ns=(modified, modified))
    return True


def _times_agree(entry: Place, modified: int) -> bool:
    own = entry.stat().st_mtime_ns
    if isinstance(entry, Path):
        return own == modified
    # Its time is that of the upload.
    return not own or not modified or own // 10**9 >= modified // 10**9


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


def _fill(job: PrepareJob, claim: EntryClaim | UploadClaim) -> PrepareOutcome:
    try:
        before = source_status_anew(job.source)
        with at_hand(job.source) as video:
            size = before[0] if video is job.source else source_status(video)[0]
            source = SourceIdentity(job.name, size, source_hash(video))
            with closing(read_all_frames(video, job.recipe.size)) as frames:
                count = write_stored_video(claim.stream, frames, job.recipe, source, job.quality)
        if source_status_anew(job.source) != before:
            raise VideoDamaged(job.source, "changed while it was read", "prepare it when it is complete")
    except VideoMissing:
        raise
    except VideoError:
        # The source is there and is no video: what an older version of it left would pass for it in training.
        job.entry.unlink(missing_ok=True)
        raise
    return PrepareOutcome("made", count, claim.publish(before[1]))
