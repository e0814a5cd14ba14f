"""Treat a file or folder behind an address that fsspec opens like a ``pathlib.Path``.

``UPath`` reads the addresses (see ``storage``) but does not serve as the path.  Version 0.3.10 prints passwords and
signatures of web addresses and drops the host of FTP ones; it cannot open a file ``c::d.avi`` in an archive behind an
address, or one in a folder ``zip:``, and such paths change when they are pickled; and it asks about every file of a
folder that it has just listed.  An archive must be opened once a process, not once a video, and again after a fork:
torch forks the processes that load clips.

Nothing but this module talks to a server.  Whatever a backend raises becomes an ``OSError`` whose ``strerror`` says
what happened, without credentials.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import unquote

UNKNOWN_SIZE = -1

# Here an upload appears when it is complete, and a rename is a second copy.
_OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "hf"))
_WEB = frozenset(("http", "https"))
_LARGEST_READ = 1 << 30
# fmt: off
_TIME_KEYS = (
    "mtime", "LastModified", "last_modified", "modified", "modify", "updated", "timeModified", "modificationTime",
    "date_time",
)
# fmt: on


@dataclass(frozen=True)
class RemoteStatus:
    """Describe a remote file, as ``os.stat_result`` does a local one.

    Attributes:
        st_mode: a file, a folder, or neither.
        st_size: bytes, or ``UNKNOWN_SIZE``.
        st_mtime_ns: last change, in nanoseconds but of whole seconds (listings and single look-ups differ in the
            rest); 0 if the server does not say.
        st_dev: 0.
        st_ino: a number that no other path has.
    """

    st_mode: int
    st_size: int
    st_mtime_ns: int
    st_dev: int
    st_ino: int


class RemotePath:
    """A file or folder behind an address, with the methods of ``pathlib.Path`` that this package needs.

    ``str`` gives the address without credentials.  It is no ``os.PathLike``, so that nothing takes it for a local file.
    The server's answer about it is kept until ``forget``; after a listing that saves a request for each file.

    Args:
        protocol: of fsspec, such as ``s3``.
        options: what the file system is opened with; may hold credentials.
        path: as the file system takes it.
        shown: the address up to where a name can be added, without credentials.
        shown_end: the rest of a chained address, such as ``::s3://bucket/clips.zip``.
        info: the server's answer about it, if there is one.
    """

    __slots__ = ("_info", "_options", "_shown", "_shown_end", "path", "protocol")

    def __init__(
        self,
        protocol: str,
        options: Mapping[str, Any],
        path: str,
        *,
        shown: str,
        shown_end: str = "",
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.protocol, self._options, self._info = protocol, options, info
        self.path = path if protocol in _WEB else path.rstrip("/") or path[:1]
        self._shown, self._shown_end = shown, shown_end

    def __str__(self) -> str:
        return self._shown + self._shown_end

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemotePath):
            return NotImplemented
        return (self.protocol, self.path, self._options) == (other.protocol, other.path, other._options)

    def __hash__(self) -> int:
        return hash((self.protocol, self.path))

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(RemotePath, shown=self._shown, shown_end=self._shown_end)
        return make, (self.protocol, self._options, self.path)

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        return self._at(_join(self.path, str(name)), _join(self._shown, str(name)))

    def _at(self, path: str, shown: str, info: Mapping[str, Any] | None = None) -> RemotePath:
        return RemotePath(self.protocol, self._options, path, shown=shown, shown_end=self._shown_end, info=info)

    @property
    def system(self) -> str:
        """A key that is the same for paths of one file system, in this process."""
        return _key(self.protocol, self._options)

    @property
    def name(self) -> str:
        """The last part of the path; empty at the top."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's ending with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The folder above; that of the top, such as a bucket, is the top."""
        path = _up(self.path, _after_scheme(self.path) if self.protocol in _WEB else 0)
        if path is None or (not path and self.protocol in _OBJECT_STORES):
            return self
        start = _after_scheme(self._shown)
        shown = _up(self._shown, start)
        return self._at(path, self._shown[:start] if shown is None else shown)

    @property
    def parents(self) -> tuple[RemotePath, ...]:
        """All folders above it, the nearest first."""
        found: list[RemotePath] = []
        last, above = self, self.parent
        while above != last:
            found.append(above)
            last, above = above, above.parent
        return tuple(found)

    def with_name(self, name: str) -> RemotePath:
        """Give the path of another name in the same folder."""
        return self.parent / name

    def expanduser(self) -> RemotePath:
        """Give the path itself: only a local path can start with ``~``."""
        return self

    def absolute(self) -> RemotePath:
        """Give the path itself: an address is always absolute."""
        return self

    def stat(self, *, again: bool = False) -> RemoteStatus:
        """Give size, time and kind.

        Args:
            again: ask even if the server has answered before.

        Raises:
            OSError: nothing is there, or the server does not answer; so do all methods below.
        """
        if again:
            self._info = None
        info, kind = self._details(), self._kind()
        size = info.get("size")
        modified = self._modified(info) if stat.S_ISREG(kind) else 0
        number = int.from_bytes(sha256(self.path.encode("utf-8", "surrogateescape")).digest()[:8], "big")
        return RemoteStatus(kind, UNKNOWN_SIZE if size is None else int(size), modified, 0, number)

    def _details(self) -> Mapping[str, Any]:
        if self._info is None:
            with self._asked() as system:
                self._info = system.info(self.path)
        return self._info

    def _kind(self) -> int:
        return {"directory": stat.S_IFDIR, "file": stat.S_IFREG}.get(str(self._details().get("type")), 0)

    def _modified(self, info: Mapping[str, Any]) -> int:
        time = next((info[key] for key in _TIME_KEYS if info.get(key)), None)
        if time is None:
            try:
                with self._asked() as system:
                    time = system.modified(self.path)
            except OSError:
                return 0
        return _seconds(time) * 10**9

    def exists(self) -> bool:
        """Check whether a file or a folder is there."""
        try:
            self._details()
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Check whether it is a file that is there."""
        return self.exists() and stat.S_ISREG(self._kind()) and not (self.protocol in _WEB and self.is_dir())

    def is_dir(self) -> bool:
        """Check whether it is a folder that is there."""
        if self.protocol in _WEB:  # The links of a page show a folder; the status of the page does not.
            with self._asked() as system:
                return bool(system.isdir(self.path))
        try:
            return stat.S_ISDIR(self._kind())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def iterdir(self) -> Iterator[RemotePath]:
        """List the folder in one request."""
        with self._asked() as system:
            listed = system.ls(self.path, detail=True)
        own = self.path.strip("/")
        if [(str(info["name"]).lstrip("/"), info["type"]) for info in listed] == [(own, "file")]:
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder")
        # Object stores may hold a folder and a file of one name, and list a folder within itself.
        found: dict[str, Mapping[str, Any]] = {}
        for info in listed:
            name = str(info["name"]).strip("/")
            if name != own and not (name in found and found[name]["type"] == "directory"):
                found[name] = info
        for name, info in found.items():
            last = name.rpartition("/")[2]
            if self.protocol in _WEB and not set(unquote(last)) & set("%/?#"):
                last = unquote(last)  # A page writes its links in escapes, which come back when they are asked for.
            yield self._at(_join(self.path, last), _join(self._shown, last), info)

    def read_bytes(self) -> bytes:
        """Read a whole small file.

        Raises:
            OSError: it is over 1 GB, among other reasons.
        """
        size = self.stat().st_size
        too_large = OSError(errno.EFBIG, f"it is over {_LARGEST_READ >> 30} GB")
        if size > _LARGEST_READ:
            raise too_large
        with self._asked() as system:
            content: bytes = system.cat_file(self.path, **({"end": _LARGEST_READ + 1} if size < 0 else {}))
        if len(content) > _LARGEST_READ:
            raise too_large
        if size not in (len(content), UNKNOWN_SIZE):
            raise OSError(errno.EIO, f"only {len(content)} of its {size} bytes came")
        return content

    def read_text(self, encoding: str) -> str:
        """Read a whole small file of text, with all line ends as a newline."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding).read()

    def read_ranges(self, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """Read parts of the file, each from a first byte to before an end, and no more than that."""
        with self._asked() as system:
            parts = system.cat_ranges([self.path] * len(starts), list(starts), list(ends), on_error="raise")
        for start, end, part in zip(starts, ends, parts, strict=True):
            if len(part) != end - start:
                raise OSError(errno.EIO, f"{len(part)} bytes came where {end - start} were asked for")
        return cast("list[bytes]", parts)

    def blocks(self, size: int = 1 << 22) -> Iterator[bytes]:
        """Read the file block by block."""
        with self._asked() as system:
            file = system.open(self.path, "rb")
        with file:
            while True:
                with self._asked():
                    block = file.read(size)
                if not block:
                    return
                yield block

    def put(self, content: Path) -> None:
        """Upload a local file, in place of what is there; see ``shows_parts`` for what readers may see."""
        self._info = None
        with self._asked() as system:
            system.put_file(str(content), self.path)

    @property
    def shows_parts(self) -> bool:
        """Whether a file can be seen before its upload is complete.  Object stores show it whole or not at all."""
        return self.protocol not in _OBJECT_STORES

    def replace(self, target: RemotePath) -> None:
        """Give the file the name of ``target``, in place of what is there."""
        self._info = target._info = None
        with self._asked() as system:
            try:
                _move(system, self.path, target.path)
            except FileExistsError:  # Some, such as Windows shares, do not rename over a file.
                system.rm_file(target.path)
                _move(system, self.path, target.path)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file."""
        self._info = None
        try:
            with self._asked() as system:
                system.rm_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, *, parents: bool, exist_ok: bool) -> None:
        """Make the folder and those above it; object stores have none to make."""
        if not (parents and exist_ok):
            raise NotImplementedError("a remote folder is made with those above it")
        if self.protocol in _OBJECT_STORES:
            return
        try:
            with self._asked() as system:
                system.makedirs(self.path, exist_ok=True)
        except OSError:  # Another process may have been faster, which not all systems take for well.
            self.forget()
            if not self.is_dir():
                raise

    def forget(self) -> None:
        """Drop the server's answers about this file."""
        self._info = None
        with self._asked() as system:
            for path in (self.path, self.parent.path):  # Some keep it with the folder's listing.
                system.invalidate_cache(path)

    def forget_all(self) -> None:
        """Drop all answers of this file system; an archive is opened again."""
        self._info = None
        with self._asked() as system:
            system.invalidate_cache()
            _OPENED.__dict__.pop(self.system, None)

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """Give the file system for one request, and turn its errors into ``OSError``."""
        try:
            yield _file_system(self.protocol, self._options)
        except Exception as error:
            raise _as_os_error(error, self.protocol) from error


# Archives, which fsspec would open again for every request.
_OPENED = threading.local()


def _file_system(protocol: str, options: Mapping[str, Any]) -> Any:
    """Give the file system of this thread and process: one that was opened before a fork is not used after it.

    For all but archives fsspec does that itself.
    """
    import fsspec  # noqa: PLC0415  Only addresses need it, and it is slow to import.

    if fsspec.get_filesystem_class(protocol).cachable:
        return fsspec.filesystem(protocol, **options)
    opened, key = _OPENED.__dict__, _key(protocol, options)
    if key not in opened:
        opened[key] = fsspec.filesystem(protocol, **options)
    return opened[key]


def _key(protocol: str, options: Mapping[str, Any]) -> str:
    from fsspec.utils import tokenize  # noqa: PLC0415

    return f"{os.getpid()} {protocol} {tokenize(options)}"


def _move(system: Any, source: str, target: str) -> None:
    from fsspec import AbstractFileSystem  # noqa: PLC0415

    if type(system).mv is AbstractFileSystem.mv:  # It takes a name with [ in it for a pattern.
        system.cp_file(source, target)
        system.rm_file(source)
    else:
        system.mv(source, target)


def _join(path: str, name: str) -> str:
    return f"{path}{name}" if not path or path.endswith("/") else f"{path}/{name}"


def _after_scheme(address: str) -> int:
    return address.index("://") + 3


def _up(path: str, start: int) -> str | None:
    """Give the path above, or None at the top; the first ``start`` characters are no part of it."""
    body = path[start:]
    above, slash, _ = body.rstrip("/").rpartition("/")
    if not body.strip("/") or (start and not slash):
        return None
    return path[:start] + (above or ("/" if body.startswith("/") else ""))


def _seconds(time: Any) -> int:
    """Turn a backend's time into whole seconds, 0 if it makes no sense.  Without a zone it is UTC."""
    try:
        match time:
            case int() | float():
                return int(time)
            case str() if time.isdecimal() and len(time) == 14:  # RFC 3659, of FTP
                time = datetime.strptime(time, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            case str():
                time = datetime.fromisoformat(time)
            case tuple():
                year, month, day, hour, minute, second = time[:6]
                time = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    except (AttributeError, TypeError, ValueError, OverflowError):
        return 0


_NUMBERS: dict[type[Exception], tuple[int, str]] = {
    FileNotFoundError: (errno.ENOENT, "there is no such file or folder"),
    NotADirectoryError: (errno.ENOTDIR, "it is no folder"),
    IsADirectoryError: (errno.EISDIR, "it is a folder"),
    FileExistsError: (errno.EEXIST, ""),
    PermissionError: (errno.EACCES, ""),
    TimeoutError: (errno.ETIMEDOUT, "no answer in time"),
}


def _as_os_error(error: Exception, protocol: str) -> OSError:
    if isinstance(error, NotImplementedError):
        return OSError(errno.ENOTSUP, f"{protocol} cannot do that")
    known = next((value for kind, value in _NUMBERS.items() if isinstance(error, kind)), None)
    number, reason = known or (getattr(error, "errno", None), "")
    number = number if isinstance(number, int) else errno.EIO
    reason = reason or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OSError(number, " ".join(without_credentials(reason).split()))


def without_credentials(text: str) -> str:
    """Hide the passwords of addresses in a text, and user names, queries and parameters of web addresses.

    Addresses that have lost a slash, as one does that is taken for a path, are some too.
    """
    text = re.sub(r"((?:https?|webdav)\w*:/+)[^/\s]*@", r"\1", text)
    text = re.sub(r"(https?:/+[^\s?]*)\?[^\s'\"]*", r"\1", text)
    text = re.sub(r"(https?:/+[^\s'\"]*?)[;#]\w+=[^\s'\"]*", r"\1", text)
    return re.sub(r"(\w:/+[^/\s:@]*):[^/\s]*@", r"\1@", text)
