"""Who makes an entry of the prepared store: one process alone, and its temporary file goes when it dies.

An entry is written under a temporary name beside it.  A lock on that file, which the system drops with its process,
tells work that is going on from what a killed process has left.

Of machines that share a disk: the disk's server drops the lock of a machine that died, NFS 4 after its lease (90
seconds as a rule), NFS 3 when that machine is back.  Until then its entry is ``busy``, and waited for at the end.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_PARTIAL = re.compile(r"\.[0-9a-f]{32}(\.[0-9a-f]{32})?\.zip\.partial")
_FORGOTTEN_SECONDS = 24 * 3600


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Take the lock of an open file; False if another process has it.

    Raises:
        OSError: there are no locks here.
    """
    if sys.platform == "win32":
        raise OSError("no locks of this kind")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


@contextmanager
def claim_entry(entry: Path, *, wait: bool = False) -> Iterator[EntryClaim | None]:
    """Claim the making of an entry, so that one process alone is at it.

    Args:
        entry: path of the entry, in a folder that is there.
        wait: until the other process has ended its work, where there is one.

    Yields:
        The claim; None if another process has it.

    Raises:
        OSError: the folder cannot be written.
    """
    digest = hashlib.sha256(os.fsencode(entry.name)).hexdigest()[:32]
    claim = _take_claim(entry, entry.with_name(f".{digest}.zip.partial"), wait=wait)
    try:
        yield claim
    finally:
        if claim is not None:
            claim.release()


def _take_claim(entry: Path, path: Path, *, wait: bool) -> EntryClaim | None:
    while True:
        stream = _open(path)
        try:
            if not _lock(stream.fileno(), wait=wait):
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


def remove_leftovers(store: Path) -> None:
    """Remove the temporary files of writers that have died.  Those at work are left alone."""
    for folder, _, names in os.walk(store):
        for name in filter(_PARTIAL.fullmatch, names):
            with suppress(OSError):
                _remove_if_left(Path(folder, name))


def _remove_if_left(path: Path) -> None:
    with path.open("r+b") as stream:
        try:
            left = _lock(stream.fileno(), wait=False) and _is_at(stream, path)
        except OSError:
            left = time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS
        if left:
            path.unlink()
