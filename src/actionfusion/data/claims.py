"""Who makes an entry of the prepared store: one process alone, and its temporary file goes when it dies.

An entry is written under a temporary name beside it.  A lock on that file, which the system drops with its process,
tells work that is going on from what a killed process has left.

Of machines that share a disk: the disk's server drops the lock of a machine that died, NFS 4 after its lease (90
seconds as a rule), NFS 3 when that machine is back.  Until then its entry is ``busy``, and waited for at the end.

A remote store has no locks.  There an entry is made in a temporary file of this machine, then uploaded: under another
name and renamed, but on object stores, which show an upload when it is complete.  So a reader never sees a part, and
two runs that fill one remote store at the same time may make the same entry twice, which does no harm: both upload the
same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from actionfusion.files import FORGOTTEN_SECONDS, scratch_folder, take_lock
from actionfusion.places import Place
from actionfusion.remote_path import RemotePath

_PARTIAL = re.compile(r"\.[0-9a-f]{32}(\.[0-9a-f]{32})?\.zip\.partial")
_UPLOADED_BY = re.compile(r"\.(?P<machine>[0-9a-f]{16})(?P<process>[0-9a-f]{8})[0-9a-f]{8}\.zip\.partial")


class EntryClaim:
    """The right to make an entry, with the temporary file that it is made in.

    Attributes:
        path: of the file.
        stream: the file, empty at first.
    """

    def __init__(self, entry: Path, path: Path, stream: IO[bytes], *, locked: bool) -> None:
        self.path, self.stream = path, stream
        self._entry, self._locked = entry, locked
        self._published = False

    def publish(self, modified_ns: int) -> int:
        """Bring the file to the disk and give it its name and time of change.

        Returns:
            Its size in bytes.
        """
        self.stream.flush()
        os.utime(self.path, ns=(modified_ns, modified_ns))
        os.fsync(self.stream.fileno())
        size = os.fstat(self.stream.fileno()).st_size
        if not self._locked:  # With a lock it stays open, so that nobody takes the file over before it has its name.
            self.stream.close()
        self.path.replace(self._entry)
        self._published = True
        return size

    def release(self) -> None:
        """Remove what was not published, then let go."""
        if not self._published:
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # A full disk refuses the rest, which is not wanted any more.
            self.stream.close()


class UploadClaim:
    """The making of an entry of a remote store, in a file of this machine.

    Attributes:
        stream: the file, empty at first.
    """

    def __init__(self, entry: RemotePath, path: Path, stream: IO[bytes]) -> None:
        self.stream = stream
        self._entry, self._path = entry, path

    def publish(self, modified_ns: int) -> int:  # noqa: ARG002  A far side sets times itself.
        """Upload the file; it takes its name when it is whole.

        Returns:
            Its size in bytes.
        """
        self.stream.flush()
        size = os.fstat(self.stream.fileno()).st_size
        if not self._entry.shows_parts:
            self._entry.put(self._path)
            return size
        partial = self._entry.with_name(f".{_digest(self._entry.name)}.{_writer()}.zip.partial")
        try:
            partial.put(self._path)
            partial.replace(self._entry)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        return size


@contextmanager
def claim_entry(entry: Place, *, wait: bool = False) -> Iterator[EntryClaim | UploadClaim | None]:
    """Claim the making of an entry, so that one process alone is at it.

    Args:
        entry: path of the entry, in a folder that is there.  Of a remote one, everyone gets a claim.
        wait: until the other process has ended its work, where there is one.

    Yields:
        The claim; None if another process has it.

    Raises:
        OSError: the folder cannot be written.
    """
    if isinstance(entry, RemotePath):
        with scratch_folder() as folder, (folder / "entry").open("x+b") as stream:
            yield UploadClaim(entry, folder / "entry", stream)
        return
    claim = _take_claim(entry, entry.with_name(f".{_digest(entry.name)}.zip.partial"), wait=wait)
    try:
        yield claim
    finally:
        if claim is not None:
            claim.release()


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _take_claim(entry: Path, path: Path, *, wait: bool) -> EntryClaim | None:
    while True:
        stream = _open(path)
        try:
            if not take_lock(stream.fileno(), wait=wait):
                stream.close()
                return None
        except OSError:
            # A file system without locks: nobody can tell a leftover from work, so each writer takes its own name.
            stream.close()
            path.unlink(missing_ok=True)
            path = path.with_name(path.name.replace(".zip", f".{uuid.uuid4().hex}.zip"))
            return EntryClaim(entry, path, _open(path), locked=False)
        if _is_at(stream, path):
            stream.truncate(0)
            return EntryClaim(entry, path, stream, locked=True)
        stream.close()  # Between opening and locking, its last holder had published or removed it.


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _is_at(stream: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_leftovers(store: Place) -> None:
    """Remove the temporary files of writers that have died.  Those at work are left alone.

    In a remote store they are known for dead if they ran on this machine, or are a day old.
    """
    if isinstance(store, RemotePath):
        if store.shows_parts:
            _remove_remote_leftovers(store)
        return
    for folder, _, names in os.walk(store):
        for name in filter(_PARTIAL.fullmatch, names):
            with suppress(OSError):
                _remove_if_left(Path(folder, name))


def _remove_if_left(path: Path) -> None:
    with path.open("r+b") as stream:
        try:
            left = take_lock(stream.fileno(), wait=False) and _is_at(stream, path)
        except OSError:
            left = time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS
        if left:
            path.unlink()


def _remove_remote_leftovers(folder: RemotePath) -> None:
    with suppress(OSError):  # The store may not be there yet.
        for path in folder.iterdir():
            if path.is_dir():
                _remove_remote_leftovers(path)
            elif _PARTIAL.fullmatch(path.name) and _is_of_the_dead(path):
                path.unlink(missing_ok=True)


def _writer() -> str:
    """A name for this upload that tells the machine and the process."""
    return f"{_machine()}{os.getpid():08x}{uuid.uuid4().hex[:8]}"


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]


def _is_of_the_dead(path: RemotePath) -> bool:
    modified = path.stat().st_mtime_ns / 1e9
    if modified and time.time() - modified > FORGOTTEN_SECONDS:
        return True
    match = _UPLOADED_BY.search(path.name)
    return match is not None and match["machine"] == _machine() and not _runs(int(match["process"], 16))


def _runs(process: int) -> bool:
    if sys.platform == "win32":  # Here the question itself would end it.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
