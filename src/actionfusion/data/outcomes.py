"""Collect what becomes of the videos that ``prepare`` works through."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from actionfusion.data.segments import Segment
from actionfusion.data.store import Contents
from actionfusion.errors import DatasetError
from actionfusion.remote_path import RemotePath
from actionfusion.storage import AnyPath

Progress = Callable[[int, int, str], None]
"""Called with the number of videos done, of all videos, and the name of the one just done."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class PrepareFailure:
    """A video without an entry.

    Attributes:
        name: as given to ``prepare``.
        source: the video.
        kind: ``kind`` of the error, or ``error`` for an unforeseen one.
        message: one line for people.
    """

    name: str
    source: AnyPath
    kind: str
    message: str


@dataclass(frozen=True)
class PrepareReport:
    """Results of ``prepare``.

    Attributes:
        made: videos decoded and written, also if the machine went down after writing and the second try found the
            entry.
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
        """Whether any video has no entry."""
        return bool(self.failures)


@dataclass(frozen=True)
class PrepareJob:
    """One video to prepare, with all that a worker on any machine needs.

    Attributes:
        source: the video.
        name: its path within the data set.
        entry: where the store keeps it.
        contents: what the entry holds of the video.
        quality: JPEG quality.
        verify: whether an entry that is there already is read in full.
        segment: of the source that is kept, where that is not the whole of it.
    """

    source: AnyPath
    name: str
    entry: AnyPath
    contents: Contents
    quality: int
    verify: bool = False
    segment: Segment | None = None


@dataclass(frozen=True)
class PrepareOutcome:
    """Result for one video.

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


class Tally:
    """Running count of outcomes."""

    def __init__(self, jobs: Sequence[PrepareJob], store: AnyPath, progress: Progress | None) -> None:
        self._jobs, self._store, self._progress = jobs, store, progress
        self._outcomes: dict[str, PrepareOutcome] = {}

    def _count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self._outcomes.values())

    def add(self, job: PrepareJob, outcome: PrepareOutcome) -> None:
        """Count an outcome; raise if the store cannot be written."""
        if outcome.status == "unwritable":
            done = self._count("made") + self._count("kept")
            raise store_fault(
                self._store, outcome.code, outcome.message, f"; {done} of {len(self._jobs)} videos are in it"
            )
        self._outcomes[job.name] = outcome
        if self._progress is not None:
            self._progress(len(self._outcomes), len(self._jobs), job.name)

    def report(self, estimated: int | None, seconds: float) -> PrepareReport:
        """Sum up."""
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


def store_fault(store: AnyPath, code: int | None, reason: str, done: str = "") -> DatasetError:
    """Build the error of a store that gave the system's error ``code``."""
    if isinstance(store, RemotePath):
        remedy = "check the connection and your rights, and run it again, which goes on from there"
        if code in _DISK_FULL:
            remedy = f"free some space, there or in {tempfile.gettempdir()}, and run it again"
        return DatasetError(store, f"cannot be written ({reason}){done}", remedy)
    if code in _DISK_FULL:
        remedy = "free some space and run it again, which goes on from there"
        return DatasetError(store, f"the disk is full ({reason}){done}", remedy)
    return DatasetError(store, f"cannot be written ({reason}){done}", "choose a folder that you may write to")
