"""Write files whole or not at all, lock them, and remove what killed processes have left."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from actionfusion.errors import OutputError, SettingsError

FORGOTTEN_SECONDS = 24 * 3600
"""Age at which a temporary file counts as left over where there are no locks."""

_SCRATCH = "actionfusion-scratch-"
_PARTIAL = ".partial"
_LEFT_OVER = re.compile(r"\.[0-9a-f]{32}\.(partial|lock)")
_LOOKED_AT: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there takes the name of ``path`` when the block ends.

    If the block raises, ``path`` is as it was and the temporary file is gone.  The file may be read by those that the
    umask says, whatever a library made of that.
    """
    with _beside(path) as temporary:
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            with suppress(OSError):  # some disks have no rights
                temporary.chmod(mode)
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
    with _beside(path) as temporary:
        try:
            temporary.mkdir()
            yield temporary
            if path.is_dir():
                path.rmdir()
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a free name beside ``path``, with a lock by which others see that somebody is at work on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(path.parent)
    temporary = path.with_name(f".{uuid.uuid4().hex}{_PARTIAL}")
    with _locked(temporary.with_suffix(".lock")):
        yield temporary


@contextmanager
def _locked(lock_file: Path) -> Iterator[None]:
    """Hold a lock for as long as the block lasts, where there are locks; its file is gone afterwards."""
    lock = None
    with suppress(OSError):
        lock = take_lock(lock_file, wait=True)  # another process that cleans up may hold it for a moment
    try:
        yield
    finally:
        with suppress(OSError):
            if lock is None:
                lock_file.unlink(missing_ok=True)
            else:
                release_and_remove(lock)


def is_left_over(name: str) -> bool:
    """Tell whether this is the name of a temporary file or folder of `replacing` or `replacing_folder`, or its lock."""
    return _LEFT_OVER.fullmatch(name) is not None


def remove_partials(folder: Path) -> None:
    """Remove what killed processes have left of `replacing` and `replacing_folder`; a process looks once."""
    if folder in _LOOKED_AT:
        return
    _LOOKED_AT.add(folder)
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(folder) if is_left_over(entry.name)]
        for stem in {name.rpartition(".")[0] for name in names}:
            partial, lock_file = (folder / f"{stem}{ending}" for ending in (_PARTIAL, ".lock"))
            with suppress(OSError):
                if lock_file.exists():
                    remove_left_over(partial, lock_file)
                elif is_forgotten(partial.stat().st_mtime):
                    _remove(partial)


def refuse_unwritable(path: Path, name: str = "--out") -> None:
    """See, before long work for it, that a file can be written here; nothing is left of the trial.

    Args:
        path: the file, which need not exist, nor its folder.
        name: the argument that names it.

    Raises:
        OutputError: it cannot, for the reason that the system gives.
    """
    try:
        if path.is_dir():
            raise OutputError(path, "is a folder", f"name a file with {name}")
        above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise cannot_write(path, error, f"choose another {name}") from error


def cannot_write(path: Path, error: OSError, remedy: str) -> OutputError:
    """Make the error of a file that the system lets nobody write."""
    return OutputError(path, f"cannot be written ({error.strerror or error})", remedy)


def refuse_foreign(path: Path, is_own: Callable[[Path], bool]) -> None:
    """Refuse to write over what is no file of the kind that is to be written, before the work.

    Args:
        path: where the file is to be; an empty file may be replaced.
        is_own: whether the file that is there is of that kind; it may raise OSError or ValueError where it is not.

    Raises:
        SettingsError: a folder, a device, or a file that something else wrote, or that cannot be read.
    """
    try:
        status = path.stat()
    except OSError:
        return  # It is not there, or writing says what is wrong.
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise SettingsError(path, f"is {kind}, where a file is to be written", "name a file with --out")
    own = status.st_size == 0
    if not own:
        with suppress(OSError, ValueError):
            own = is_own(path)
    if not own:
        raise SettingsError(path, "is there already, and this command did not write it", "choose another --out")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole small file (text as UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def take_lock(path: Path, *, wait: bool = False) -> FileLock | None:
    """Take a lock that ends with its ``release`` or with this process; None if another holder has it.

    Args:
        path: the lock file, which is made if need be and stays; see ``release_and_remove``.
        wait: until the lock is free.

    Raises:
        OSError: this file system has no locks, or the file cannot be made.
    """
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    return lock


def release_and_remove(lock: FileLock) -> None:
    """Release a lock and remove its file."""
    path = Path(lock.lock_file)
    if os.name != "nt":  # After the release the file may be the lock of another process.
        path.unlink(missing_ok=True)
    lock.release()
    if os.name == "nt":  # Windows does not remove a file that any process has open.
        with suppress(OSError):
            path.unlink()


def remove_left_over(path: Path, lock_file: Path) -> None:
    """Remove a temporary file or folder with its lock file, unless a living process holds the lock.

    Where there are no locks, what is younger than ``FORGOTTEN_SECONDS`` stays.

    Raises:
        OSError: it cannot be removed.
    """
    with ExitStack() as held:
        try:
            lock = take_lock(lock_file)
            if lock is None:
                return
            held.callback(release_and_remove, lock)
        except OSError:
            if not is_forgotten((path if path.exists() else lock_file).lstat().st_mtime):
                return
            held.callback(lock_file.unlink, missing_ok=True)
        if path != lock_file:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_forgotten(modified: float) -> bool:
    """Decide by the time of its last change, in seconds, whether a temporary file is left over."""
    return time.time() - modified > FORGOTTEN_SECONDS


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder for large temporary files, among the system's (``TMPDIR`` names another), until the block ends.

    If the process is killed instead, ``remove_scratch_of_the_dead`` removes it.

    Raises:
        OSError: no such folder can be made.
    """
    folder = Path(tempfile.gettempdir(), f"{_SCRATCH}{uuid.uuid4().hex}")
    lock_file = folder.with_suffix(".lock")
    with ExitStack() as held:
        # The lock comes first: a folder whose lock is free is one whose process has died.
        held.enter_context(_locked(lock_file))
        folder.mkdir(0o700)
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def remove_scratch_of_the_dead() -> None:
    """Remove what killed processes have left of their ``scratch_folder``."""
    for lock_file in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*.lock"):
        with suppress(OSError):
            remove_left_over(lock_file.with_suffix(""), lock_file)
