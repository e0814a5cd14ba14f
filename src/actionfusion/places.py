"""Where videos and stores lie: a ``pathlib.Path`` on this machine, or a ``RemotePath`` behind an address.

What is decoded is always a local file: ``local_copy`` fetches a remote one first, so that FFmpeg is never given an
address.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import tempfile
import warnings
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from actionfusion.errors import SettingsError, VideoError, VideoMissing, VideoTooLarge
from actionfusion.files import scratch_folder
from actionfusion.remote_path import UNKNOWN_SIZE, RemotePath, without_credentials

if TYPE_CHECKING:
    from upath import UPath

    AnyPlace = str | os.PathLike[str] | UPath | RemotePath
else:
    # What the command line makes of a word: a Path would lose one of the slashes of s3://bucket.
    AnyPlace = str | Path

Place = Path | RemotePath

Task = TypeVar("Task")
Answer = TypeVar("Answer")

LARGEST_COPY = 16 << 30
"""The most that is fetched for one video, in bytes."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_LOCAL = frozenset(("file", "local"))
_CACHES = frozenset(("simplecache", "filecache", "blockcache"))
# More than a machine has cores: it is the way that takes the time.
_QUESTIONS_AT_ONCE = 16
_TAIL = 1 << 15
# To ask once more takes longer than to read this much that is not wanted.
_SMALL_GAP = 1 << 15


def place(given: AnyPlace) -> Place:
    """What a person typed, or a path object of any kind, as a place.

    An address is a text that starts like one (``s3://``, ``zip://...::``), unless a local file has that very name;
    ``file://`` leads to a local one.

    Raises:
        SettingsError: an address of a kind that fsspec does not know, or for which a package is missing.
    """
    if isinstance(given, Path | RemotePath):
        return given
    if not isinstance(given, str | os.PathLike):
        return _from_upath(given)
    text = os.fspath(given)
    if not _ADDRESS.match(text) or os.path.lexists(text):
        return Path(text)
    return _address(text)


def _from_upath(given: UPath) -> Place:
    if given.protocol in _LOCAL | {""}:
        return Path(given.path)
    options = dict(given.storage_options)
    shown = str(given)
    if shown.startswith(f"{given.protocol}:///") and options.get("host"):
        shown = f"{given.protocol}://{options['host']}{given.path}"
    head, end = _without_credentials(shown.split("::"))
    return RemotePath(given.protocol, options, given.path, shown=head, shown_end=end)


def _without_credentials(links: Sequence[str]) -> tuple[str, str]:
    """A chained address up to where a name can be added, and the rest."""
    shown = [without_credentials(link) for link in links]
    start = next((number for number, link in enumerate(links, 1) if "://" in link), 1)
    return "::".join(shown[:start]), "".join(f"::{link}" for link in shown[start:])


def _address(text: str) -> Place:
    shown = without_credentials(text)
    try:
        import fsspec  # noqa: PLC0415
        from upath import UPath  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(shown, "addresses need another package", "pip install 'actionfusion[remote]'") from error
    known = set(fsspec.available_protocols())
    links = text.split("::")
    if links[0] not in known and "://" not in links[0]:
        return Path(text)
    if len(links) == 1 and links[0].partition("://")[0] in _LOCAL:
        return Path(links[0].partition("://")[2])
    for number, link in enumerate(links):
        if "://" in link:
            _check_protocol(link.partition("://")[0], shown)
        elif link in known:
            _check_protocol(link, shown)
            links[number] = link if link in _CACHES else f"{link}://"
        else:  # Workers of any folder are to find it.
            links[number] = f"file://{Path(link).expanduser().absolute()}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it has no class of its own for a protocol
            found = UPath("::".join(links))
    except (TypeError, ValueError) as error:
        reason = f"is no whole address ({without_credentials(str(error))})"
        raise SettingsError(shown, reason, "check its parts") from error
    head, end = _without_credentials(links)
    return RemotePath(found.protocol, dict(found.storage_options), found.path, shown=head, shown_end=end)


def _check_protocol(protocol: str, shown: str) -> None:
    from fsspec import get_filesystem_class  # noqa: PLC0415

    try:
        get_filesystem_class(protocol)
    except ValueError as error:
        reason = f"{protocol!r} is no kind of address that fsspec knows"
        raise SettingsError(shown, reason, "check its beginning, or install the package that adds it") from error
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or ""
        remedy = f"pip install {missing}" if missing and missing in str(error) else str(error)
        raise SettingsError(shown, "needs a package that is not installed", remedy) from error


def relative(inner: Place, root: Place) -> str:
    """The path from a folder to what lies in it, with forward slashes.

    Raises:
        ValueError: it does not lie in it.
    """
    if isinstance(inner, Path) and isinstance(root, Path):
        return inner.relative_to(root).as_posix()
    if isinstance(inner, RemotePath) and isinstance(root, RemotePath) and (root == inner or root in inner.parents):
        return inner.path[len(root.path) :].lstrip("/") or "."
    raise ValueError(f"{inner} is not in {root}")


def beside(folder: Place, written: str) -> Place:
    """What a file in this folder means by a path that it holds: relative to the folder, absolute, or an address."""
    if _ADDRESS.match(written) and not (isinstance(folder, Path) and os.path.lexists(folder / written)):
        named = place(written)
        if isinstance(named, RemotePath) or "://" in written:
            return named
    if isinstance(folder, Path):
        return Path(os.path.normpath(folder / written))
    # The scheme stays out of it, since //s are no mistake there.
    top = (folder, *folder.parents)[-1]
    start = "" if written.startswith("/") else relative(folder, top)
    inner = posixpath.normpath(posixpath.join("/", start, written.lstrip("/"))).lstrip("/")
    return top / inner if inner else top


def common_folder(places: Iterable[Place]) -> Place:
    """The lowest folder that holds all these folders.

    Raises:
        ValueError: there is none.
    """
    every = list(places)
    if all(isinstance(one, Path) for one in every):
        return Path(os.path.commonpath([cast("Path", one) for one in every]))
    first = every[0]
    if isinstance(first, RemotePath):
        for folder in (first, *first.parents):
            if all(isinstance(one, RemotePath) and folder in (one, *one.parents) for one in every):
                return folder
    raise ValueError("no folder holds them all")


@contextmanager
def local_copy(source: Place, files: Sequence[Place] | None = None, *, largest: int = LARGEST_COPY) -> Iterator[Path]:
    """A video as a local file: itself, or for the block a copy of the remote one, which goes in any case.

    An error of the block that names the copy comes out with the address instead.

    Args:
        source: a file, or a folder with the pictures of a video.
        files: of a folder, those that are wanted; None for a file.
        largest: the most that is fetched, in bytes.

    Yields:
        The file, or a folder with the files under their own names.

    Raises:
        VideoMissing: the far side has no such file, or fails on the way.
        VideoTooLarge: it is over ``largest``.
        OSError: the disk of the temporary files is full.
    """
    if isinstance(source, Path):
        yield source
        return
    with scratch_folder() as folder:
        copy = folder / "copy"
        if files is None:
            _fetch(source, copy, largest)
        else:
            copy.mkdir()
            for file in files:
                largest -= _fetch(cast("RemotePath", file), copy / file.name, largest)
        with errors_name(source, copy):
            yield copy


@contextmanager
def errors_name(source: RemotePath, copy: Path) -> Iterator[None]:
    """An error of the block that names the copy, or a picture in it, names its address instead."""
    try:
        yield
    except VideoError as error:
        at = Path(error.subject)
        if copy not in (at, *at.parents):
            raise
        named = source if at == copy else source / at.relative_to(copy).as_posix()
        raise type(error)(named, error.reason, error.remedy) from error


def _fetch(source: RemotePath, copy: Path, largest: int) -> int:
    too_large = VideoTooLarge(
        source,
        f"it is over {largest / 1e9:.1f} GB, the most that is fetched",
        "scale it down, or copy it to this machine",
    )
    with _fetching(source):
        stated = source.stat().st_size
    if stated > largest:
        raise too_large
    size, blocks = 0, source.blocks()
    with copy.open("xb", buffering=0) as stream:
        while True:
            with _fetching(source):
                block = next(blocks, b"")
            if not block:
                break
            size += len(block)
            if size > largest:
                raise too_large
            _write(stream, block)
    if stated not in (size, UNKNOWN_SIZE):
        raise VideoMissing(source, f"only {size} of its {stated} bytes came", "try again")
    return size


@contextmanager
def _fetching(source: RemotePath) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise VideoMissing(source, "there is no such file", "check the address") from error
    except OSError as error:
        remedy = "check the connection and your rights, and try again"
        raise VideoMissing(source, f"cannot be fetched ({error.strerror or error})", remedy) from error


def _write(stream: io.FileIO, block: bytes) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except OSError as error:
        where = f"{error.strerror} for temporary files in {tempfile.gettempdir()}"
        raise OSError(error.errno, where) from error


def read_ranges(file: Place, starts: Sequence[int], sizes: Sequence[int]) -> Generator[bytes, None, None]:
    """Parts of a file, in the order asked for.

    From a far side they come in few requests: parts that lie near each other in one, all at the same time.  From a file
    that has been cut off they come short.

    Args:
        file: the file.
        starts: first byte of each part.
        sizes: bytes of each part.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb", buffering=0) as stream:
            for start, size in zip(starts, sizes, strict=True):
                stream.seek(start)
                yield stream.read(size)
        return
    firsts: list[int] = []
    ends: list[int] = []
    for start, size in sorted(zip(starts, sizes, strict=True)):
        if ends and start <= ends[-1] + _SMALL_GAP:
            ends[-1] = max(ends[-1], start + size)
        else:
            firsts.append(start)
            ends.append(start + size)
    blocks = file.read_ranges(firsts, ends)
    for start, size in zip(starts, sizes, strict=True):
        number = bisect_left(ends, start + size)
        yield blocks[number][start - firsts[number] : start - firsts[number] + size]


def open_end_first(file: Place) -> IO[bytes]:
    """Open a file whose directory is at its end: a remote one comes with its last 32 KiB in one piece.

    Raises:
        OSError: it cannot be opened.
    """
    return file.open("rb") if isinstance(file, Path) else cast("IO[bytes]", _EndFirst(file))


class _EndFirst(io.RawIOBase):
    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self._path, self._position = path, 0
        self._size = path.stat(again=True).st_size
        if self._size < 0:
            raise OSError(errno.ENOTSUP, "the far side does not say how long it is")
        self._tail_start = max(self._size - _TAIL, 0)
        self._tail = path.read_ranges([self._tail_start], [self._size])[0] if self._size else b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if self._position < 0:
            raise OSError(errno.EINVAL, "before the start of the file")
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if self._position >= end:
            return 0
        if self._position >= self._tail_start:
            part = self._tail[self._position - self._tail_start : end - self._tail_start]
        else:
            part = self._path.read_ranges([self._position], [end])[0]
        buffer[: len(part)] = part
        self._position = end
        return len(part)


def ask_many(function: Callable[[Task], Answer], tasks: Sequence[Task]) -> Iterator[tuple[Task, Answer]]:
    """Each task with the function's answer, in order, with many under way: for questions to a far side.

    What the function raises ends it.
    """
    pool = ThreadPoolExecutor(_QUESTIONS_AT_ONCE)
    try:
        yield from zip(tasks, pool.map(function, tasks), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
