"""An fsspec file system for the tests: a folder of this machine under the protocol ``shelf``, that can fail.

Worker processes find it as they find any other, by an entry point; see the fixture ``shelf``.  The folder is
``$SHELF``.  What happens is written to ``$SHELF.log``, a line each: ``open``, ``read`` with first byte and length,
``put``.  ``$SHELF_FAULTS`` holds lines of a fault and a part of a file's name:

    reads       a read raises after the first 1000 bytes
    short       the file is shorter than its status says
    unsized     the status does not say the size
    dies        the process is killed in the middle of an upload, once
    refuses     an upload raises, with an address and a password in its words
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from fsspec import AbstractFileSystem


class ShelfFileSystem(AbstractFileSystem):
    """Files in ``$SHELF``, without a local path."""

    protocol = "shelf"

    @staticmethod
    def _here(path: str) -> Path:
        return Path(os.environ["SHELF"]) / path

    @staticmethod
    def log(line: str) -> None:
        with Path(os.environ["SHELF"] + ".log").open("a") as log:
            log.write(f"{line}\n")

    @staticmethod
    def has(fault: str, path: str) -> bool:
        faults = (line.split(maxsplit=1) for line in os.environ.get("SHELF_FAULTS", "").splitlines())
        return any(kind == fault and name in path for kind, name in faults)

    def _info(self, file: Path, path: str) -> dict[str, object]:
        status = file.stat()
        size = None if self.has("unsized", path) else status.st_size + 10 * self.has("short", path)
        kind = "directory" if file.is_dir() else "file"
        return {"name": path, "size": size, "type": kind, "mtime": status.st_mtime}

    def info(self, path, **_):
        path = self._strip_protocol(path)
        return self._info(self._here(path), path)

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)
        here = self._here(path)
        found = sorted(here.iterdir()) if here.is_dir() else [here]
        infos = [self._info(file, file.relative_to(os.environ["SHELF"]).as_posix()) for file in found]
        return infos if detail else [info["name"] for info in infos]

    def makedirs(self, path, exist_ok=False):
        self._here(self._strip_protocol(path)).mkdir(parents=True, exist_ok=exist_ok)

    def mkdir(self, path, create_parents=True, **_):
        self.makedirs(path, exist_ok=False)

    def rm_file(self, path):
        self._here(self._strip_protocol(path)).unlink()

    def mv(self, path1, path2, **_):
        self._here(self._strip_protocol(path1)).replace(self._here(self._strip_protocol(path2)))

    def _open(self, path, mode="rb", **_):
        self.log(f"{'put' if 'w' in mode else 'open'} {path}")
        return (_Upload if "w" in mode else _Reader)(self, path, mode)


class _Reader:
    def __init__(self, system, path, mode):
        self.system, self.path = system, path
        self.file = system._here(path).open(mode)
        self.size = system._here(path).stat().st_size

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()

    def seek(self, *where):
        return self.file.seek(*where)

    def tell(self):
        return self.file.tell()

    def read(self, size=-1):
        start = self.file.tell()
        if self.system.has("reads", self.path):
            if start >= 1000 or size < 0:
                raise RuntimeError("the line went dead: shelf://anna:secret@far/x")
            size = 1000
        data = self.file.read(size)
        self.system.log(f"read {self.path} {start} {len(data)}")
        return data


class _Upload:
    def __init__(self, system, path, mode):
        if system.has("refuses", path):
            raise RuntimeError("not for you: https://anna:secret@far/x?signature=secret")
        self.system, self.path = system, path
        self.file = system._here(path).open(mode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()

    def write(self, data):
        if self.system.has("dies", self.path) and not Path(os.environ["SHELF"] + ".died").exists():
            Path(os.environ["SHELF"] + ".died").touch()
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(data)
