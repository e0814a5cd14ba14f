"""Files that are written whole or not at all, and temporary ones that do not outlive their process."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

FORGOTTEN_SECONDS = 24 * 3600
"""Age at which a temporary file counts as left over where locks do not tell."""

_SCRATCH = "actionfusion-scratch-"
_MARK = ".lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there takes the name of ``path`` when the block ends.

    If the block raises, ``path`` is as it was and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``, which takes its name when the block ends.

    If the block raises, ``path`` is as it was and the temporary folder is gone.

    Args:
        path: a folder that does not exist yet, or is empty.

    Raises:
        OSError: it cannot be made, or holds something by then.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    temporary.mkdir()
    try:
        yield temporary
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole small file (text as UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def take_lock(descriptor: int, *, wait: bool) -> bool:
    """Take the lock of an open file, which the system drops with the process; False if another process has it.

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


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for large temporary files, among the system's (``TMPDIR`` names another); gone when the block ends.

    If the process is killed instead, ``remove_scratch_of_the_dead`` removes it.

    Raises:
        OSError: no such folder can be made.
    """
    handle, name = tempfile.mkstemp(_MARK, _SCRATCH)
    mark = Path(name)
    try:
        # The lock comes first: a folder whose lock is free is one whose process has died.
        with suppress(OSError):
            take_lock(handle, wait=True)
        folder = mark.with_suffix("")
        folder.mkdir(0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
        mark.unlink(missing_ok=True)


def remove_scratch_of_the_dead() -> None:
    """Remove what killed processes of this user have left of their ``scratch_folder``."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            status = path.lstat()
            if hasattr(os, "getuid") and status.st_uid != os.getuid():
                continue
            forgotten = time.time() - status.st_mtime > FORGOTTEN_SECONDS
            mark = path.with_name(path.name + _MARK)
            if stat.S_ISDIR(status.st_mode) and _is_free(mark, without_locks=forgotten):
                shutil.rmtree(path)
                mark.unlink()
            elif path.suffix == _MARK and forgotten and not path.with_suffix("").exists():
                path.unlink()


def _is_free(mark: Path, *, without_locks: bool) -> bool:
    with mark.open("r+b") as stream:  # A folder without a mark is not ours.
        try:
            return take_lock(stream.fileno(), wait=False)
        except OSError:
            return without_locks
