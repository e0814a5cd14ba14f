"""Let one process alone make an entry of the prepared store, and remove what killed processes have left.

An entry is written under a temporary name beside it, with a lock file of its own.  The system drops the lock with its
process.  Of machines that share a disk, the disk's server drops the lock of a machine that died: NFS 4 after its lease
(90 seconds as a rule), NFS 3 when that machine is back.  Until then the entry is ``busy``, and waited for at the end.

A remote store has no locks.  There an entry is made in a temporary file of this machine, then uploaded: under another
name and renamed, except on object stores, which show an upload when it is complete.  So a reader never sees a part.
Two runs that fill one remote store at the same time may make an entry twice; both upload the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from actionfusion.files import is_forgotten, release_and_remove, remove_left_over, scratch_folder, take_lock
from actionfusion.remote_path import RemotePath
from actionfusion.storage import AnyPath

_TEMPORARY = re.compile(r"(?P<entry>\.[0-9a-f]{32})(\.(?P<writer>[0-9a-f]{32}))?\.zip\.(partial|lock)")


class NewEntry:
    """An entry in the making.

    Attributes:
        path: the temporary file.
        stream: that file, open and empty at first.
    """

    def __init__(self, entry: AnyPath, path: Path) -> None:
        self.path, self.stream = path, path.open("w+b")
        self._entry = entry

    def publish(self, modified_ns: int) -> int:
        """Write the file to the disk and give it its name and time of change; a remote store sets times itself.

        Returns:
            Its size in bytes.
        """
        self.stream.flush()
        os.utime(self.path, ns=(modified_ns, modified_ns))
        os.fsync(self.stream.fileno())
        self.stream.close()
        size = self.path.stat().st_size
        if isinstance(self._entry, Path):
            self.path.replace(self._entry)
        else:
            _upload(self.path, self._entry)
        return size

    def discard(self) -> None:
        """Remove the file unless it was published."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # A full disk refuses the rest, which is not wanted any more.
            self.stream.close()


def _upload(file: Path, entry: RemotePath) -> None:
    if not entry.shows_parts:
        entry.put(file)
        return
    # Named by machine and process, so that ``remove_leftovers`` finds what a dead process has left.
    writer = f"{_machine()}{os.getpid():08x}{uuid.uuid4().hex[:8]}"
    partial = entry.with_name(f"{_hidden(entry)}.{writer}.zip.partial")
    try:
        partial.put(file)
        partial.replace(entry)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def lock_entry(entry: AnyPath, *, wait: bool = False) -> Iterator[NewEntry | None]:
    """Hold the lock of an entry, so that one process alone makes it.

    Args:
        entry: path of the entry, in a folder that is there.  A remote one has no lock.
        wait: until the other process has ended its work, where there is one.

    Yields:
        The new entry, which is removed unless it is published; None if another process makes it.

    Raises:
        OSError: the folder cannot be written.
    """
    with ExitStack() as held:
        if isinstance(entry, RemotePath):
            partial = held.enter_context(scratch_folder()) / "entry"
        else:
            lock_file = entry.with_name(f"{_hidden(entry)}.zip.lock")
            partial = lock_file.with_suffix(".partial")
            try:
                lock = take_lock(lock_file, wait=wait)
            except OSError:
                # Without locks a leftover looks like work that is going on, so each writer takes its own name.
                partial = entry.with_name(f"{_hidden(entry)}.{uuid.uuid4().hex}.zip.partial")
                lock_file.unlink(missing_ok=True)
            else:
                if lock is None:
                    yield None
                    return
                held.callback(release_and_remove, lock)
        new = NewEntry(entry, partial)
        held.callback(new.discard)
        yield new


def _hidden(entry: AnyPath) -> str:
    return f".{hashlib.sha256(os.fsencode(entry.name)).hexdigest()[:32]}"


def remove_leftovers(store: AnyPath) -> None:
    """Remove the temporary files of writers that have died; those at work are left alone.

    In a remote store a file counts as left over if its process on this machine has ended, or if it is a day old.
    """
    if isinstance(store, RemotePath):
        if store.shows_parts:
            _remove_remote_leftovers(store)
        return
    for folder, _, names in os.walk(store):
        for match in filter(None, map(_TEMPORARY.fullmatch, names)):
            path = Path(folder, match[0])
            with suppress(OSError):
                if not match["writer"]:
                    remove_left_over(path, path.with_name(f"{match['entry']}.zip.lock"))
                elif is_forgotten(path.stat().st_mtime):
                    path.unlink()


def _remove_remote_leftovers(folder: RemotePath) -> None:
    with suppress(OSError):  # The store may not be there yet.
        for path in folder.iterdir():
            if path.is_dir():
                _remove_remote_leftovers(path)
            elif (match := _TEMPORARY.fullmatch(path.name)) and _is_of_the_dead(path, match["writer"] or ""):
                path.unlink(missing_ok=True)


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]


def _is_of_the_dead(path: RemotePath, writer: str) -> bool:
    modified = path.stat().st_mtime_ns / 1e9
    if modified and is_forgotten(modified):
        return True
    return writer.startswith(_machine()) and not psutil.pid_exists(int(writer[16:24], 16))
