"""Find and read videos and stores: a ``pathlib.Path`` on this machine, or a ``RemotePath`` behind an address.

What is decoded is always a local file: ``local_copy`` fetches a remote one first, so that FFmpeg never gets an address.
fsspec's own copies (``filecache::``) work as part of an address.  They do not replace ``local_copy``: they have no
limit of size, and a killed process leaves those of ``simplecache::`` on the disk.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import tempfile
import warnings
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from actionfusion.errors import SettingsError, VideoError, VideoMissing, VideoTooLarge, VideoUnreadable
from actionfusion.files import scratch_folder
from actionfusion.remote_path import UNKNOWN_SIZE, RemotePath, without_credentials

if TYPE_CHECKING:
    from upath import UPath

    PathLike = str | os.PathLike[str] | UPath | RemotePath
else:
    # For the command line: a Path would lose one of the slashes of s3://bucket.
    PathLike = str | Path

AnyPath = Path | RemotePath

Task = TypeVar("Task")
Result = TypeVar("Result")

LARGEST_COPY = 16 << 30
"""The most that is fetched for one video, in bytes."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_LOCAL = frozenset(("file", "local"))
_CACHES = frozenset(("simplecache", "filecache", "blockcache"))
# More than a machine has cores: such requests wait for the network.
_REQUESTS_AT_ONCE = 16
_TAIL = 1 << 15
# Another request takes longer than reading this much in vain.
_SMALL_GAP = 1 << 15


def to_path(given: PathLike) -> AnyPath:
    """Turn a typed path or address, or any path object, into a local or a remote path.

    An address is a text that starts like one (``s3://``, ``zip://...::``), unless a local file has that very name;
    ``file://`` leads to a local file.

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


def _from_upath(given: UPath) -> AnyPath:
    if given.protocol in _LOCAL | {""}:
        return Path(given.path)
    shown = str(given)
    if shown.startswith(f"{given.protocol}:///") and (host := given.storage_options.get("host")):
        shown = f"{given.protocol}://{host}{given.path}"
    return _remote(given, shown.split("::"))


def _remote(found: UPath, links: Sequence[str]) -> RemotePath:
    """Make the remote path that shows this chained address, split where a name can be added and without passwords."""
    shown = [without_credentials(link) for link in links]
    start = next((number for number, link in enumerate(links, 1) if "://" in link), 1)
    head, end = "::".join(shown[:start]), "".join(f"::{link}" for link in shown[start:])
    return RemotePath(found.protocol, dict(found.storage_options), found.path, shown=head, shown_end=end)


def _address(text: str) -> AnyPath:
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
        else:  # Workers may run in another folder.
            links[number] = f"file://{Path(link).expanduser().absolute()}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it has no class of its own for a protocol
            found = UPath("::".join(links))
    except (TypeError, ValueError) as error:
        reason = f"is no whole address ({without_credentials(str(error))})"
        raise SettingsError(shown, reason, "check its parts") from error
    return _remote(found, links)


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


def relative(inner: AnyPath, root: AnyPath) -> str:
    """Give the path from a folder to a file or folder within it, with forward slashes.

    Raises:
        ValueError: it is not within the folder.
    """
    if isinstance(inner, Path) and isinstance(root, Path):
        return inner.relative_to(root).as_posix()
    if isinstance(inner, RemotePath) and isinstance(root, RemotePath) and (root == inner or root in inner.parents):
        return inner.path[len(root.path) :].lstrip("/") or "."
    raise ValueError(f"{inner} is not in {root}")


def plain_name(root: PathLike) -> str:
    """Give the name of a folder or of a table of videos, without what file names do not take; empty if none is left."""
    given = to_path(root).expanduser().absolute()
    name = given.stem if isinstance(given, Path) and given.is_file() else given.name
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "_", name)


def beside(folder: AnyPath, written: str) -> AnyPath:
    """Resolve a path that a file in this folder holds: relative to the folder, absolute, or an address."""
    if _ADDRESS.match(written) and not (isinstance(folder, Path) and os.path.lexists(folder / written)):
        named = to_path(written)
        if isinstance(named, RemotePath) or "://" in written:
            return named
    if isinstance(folder, Path):
        return Path(os.path.normpath(folder / written))
    # normpath would drop a slash of the scheme.
    top = (folder, *folder.parents)[-1]
    start = "" if written.startswith("/") else relative(folder, top)
    inner = posixpath.normpath(posixpath.join("/", start, written.lstrip("/"))).lstrip("/")
    return top / inner if inner else top


def common_folder(folders: Iterable[AnyPath]) -> AnyPath:
    """Find the lowest folder that holds all these folders.

    Raises:
        ValueError: there is none.
    """
    every = list(folders)
    if all(isinstance(one, Path) for one in every):
        return Path(os.path.commonpath([cast("Path", one) for one in every]))
    first = every[0]
    if isinstance(first, RemotePath):
        for folder in (first, *first.parents):
            if all(isinstance(one, RemotePath) and folder in (one, *one.parents) for one in every):
                return folder
    raise ValueError("no folder holds them all")


@contextmanager
def local_copy(
    source: AnyPath, files: Sequence[AnyPath] | None = None, *, largest: int = LARGEST_COPY
) -> Iterator[Path]:
    """Give a video as a local file: itself, or a copy of a remote one that is removed when the block ends.

    An error of the block that names the copy names the address instead.

    Args:
        source: a file, or a folder with the pictures of a video.
        files: of a folder, those that are wanted; None for a file.
        largest: the most that is fetched, in bytes.

    Yields:
        The file, or a folder with the files under their own names.

    Raises:
        VideoMissing: the server has no such file.
        VideoUnreadable: it fails on the way.
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
    """Let an error of the block that names the copy, or a picture in it, name the address instead."""
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
        raise VideoUnreadable(source, f"only {size} of its {stated} bytes came", "try again")
    return size


@contextmanager
def _fetching(source: RemotePath) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise VideoMissing(source, "there is no such file", "check the address") from error
    except OSError as error:
        remedy = "check the connection and your rights, and try again"
        raise VideoUnreadable(source, f"cannot be fetched ({error.strerror or error})", remedy) from error


def _write(stream: io.FileIO, block: bytes) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except OSError as error:
        where = f"{error.strerror} for temporary files in {tempfile.gettempdir()}"
        raise OSError(error.errno, where) from error


def read_ranges(file: AnyPath, starts: Sequence[int], sizes: Sequence[int]) -> Generator[bytes, None, None]:
    """Read parts of a file, in the order of the arguments.

    A remote file is read in few requests at the same time, near parts in one.  Of a truncated local file parts are
    short.

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
    from fsspec.utils import merge_offset_ranges  # noqa: PLC0415

    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    _, firsts, lasts = merge_offset_ranges([""] * len(starts), list(starts), ends, max_gap=_SMALL_GAP)
    blocks = file.read_ranges(firsts, lasts)
    for start, end in zip(starts, ends, strict=True):
        number = bisect_right(firsts, start) - 1
        yield blocks[number][start - firsts[number] : end - firsts[number]]


@contextmanager
def open_end_first(file: AnyPath) -> Iterator[tuple[int, Callable[[int, int], bytes]]]:
    """Open a file that has its directory at the end; of a remote file the last 32 KiB are read at once.

    Yields:
        Its size, and a function that reads from a first byte to before an end.

    Raises:
        OSError: it cannot be opened.
    """
    if isinstance(file, Path):
        with file.open("rb") as stream:

            def read(start: int, end: int) -> bytes:
                stream.seek(start)
                return stream.read(max(end - start, 0))

            yield os.fstat(stream.fileno()).st_size, read
        return
    size = file.stat(again=True).st_size
    if size < 0:
        raise OSError(errno.ENOTSUP, "the server does not say how long it is")
    tail_start = max(size - _TAIL, 0)
    tail = file.read_ranges([tail_start], [size])[0] if size else b""

    def read_remote(start: int, end: int) -> bytes:
        end = min(end, size)
        if start >= tail_start:
            return tail[start - tail_start : max(end - tail_start, 0)]
        return file.read_ranges([start], [end])[0] if start < end else b""

    yield size, read_remote


def ask_many(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
    """Give each task with the function's result, in order, with many requests to a server at the same time.

    What the function raises ends it.
    """
    pool = ThreadPoolExecutor(_REQUESTS_AT_ONCE)
    try:
        yield from zip(tasks, pool.map(function, tasks), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
