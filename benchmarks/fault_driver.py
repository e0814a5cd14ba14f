"""Run commands with a file system that fails at the n-th write, each in a process forked from this one.

    python benchmarks/fault_driver.py < cases

A case is a line of JSON, ``{"words": [...], "folder": DIR, "fault": {"kind": "ENOSPC", "number": 3}}``; for each, a
line of JSON says how it ended.  What counts as a write is each opening for writing, first write, flush to the disk,
new folder, change of name and removal below the folder, numbered as they come; so SQLite tests itself.

Forking starts a command in milliseconds, with PyTorch loaded.  Each child writes its words into files of its own.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# What the commands would import, each child anew.
import jsonargparse  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import onnxruntime  # noqa: F401
import onnxscript  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch._dynamo  # noqa: F401

from actionfusion.__main__ import main as command
from actionfusion.commands import COMMANDS

for module in {each.module for each in COMMANDS.values()}:
    import_module(module)

_CHANGES = {f"os.{name}" for name in ("mkdir", "remove", "rmdir", "truncate", "rename", "link", "symlink")}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SECONDS = 180


class Faults:
    """Counts the writes below a folder, and fails one of them.

    Args:
        folder: whose files count.
        kind: ``ENOSPC`` or ``EIO`` of the system, or ``kill``, as if the power went; none only counts.
        number: of the write that fails, from 1.
    """

    def __init__(self, folder: Path, kind: str | None, number: int) -> None:
        self.folder, self.kind, self.number, self.seen = f"{folder.absolute()}{os.sep}", kind, number, 0

    def write(self, path: object) -> None:
        """Count a write, and fail if it is the one."""
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not str(Path(os.fsdecode(path)).absolute()).startswith(self.folder):
            return
        self.seen += 1
        if self.kind is None or self.seen != self.number:
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self.kind)
        raise OSError(code, os.strerror(code), os.fsdecode(path))

    def listen(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear of what Python asks of the system; an error that is raised here is the answer."""
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if opened or event in _CHANGES:
            self.write(arguments[0])

    def install(self) -> None:
        """Fail openings, folders and names by Python's audit events, writes and flushes by what they go through."""
        sys.addaudithook(self.listen)
        opened, flush = io.open, os.fsync

        def counted(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            stream = opened(file, mode, *arguments, **options)
            if not set(mode) & set("wax+"):
                return stream
            return _Counted(stream, lambda: self.write(file))

        def flushed(number: int) -> None:
            self.write(Path(f"/proc/self/fd/{number}").readlink())
            flush(number)

        builtins.open = io.open = counted
        os.fsync = flushed  # type: ignore[assignment]


class _Counted:
    """An open file whose first write counts (a zip file has thousands); all else is the file's own."""

    def __init__(self, stream: Any, write: Callable[[], None]) -> None:
        self._stream, self._count, self._written = stream, write, False

    def write(self, content: Any) -> Any:
        if not self._written:
            self._written = True
            self._count()
        return self._stream.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Counted:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._stream.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._stream)


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a child, and tell its exit code (negative: the signal), words, and writes."""
    fault = case.get("fault") or {"kind": None, "number": 0}
    with tempfile.TemporaryDirectory() as scratch:
        out, error, count = (Path(scratch, name) for name in ("out", "error", "count"))
        if (child := os.fork()) == 0:
            faults = Faults(Path(case["folder"]), fault["kind"], fault["number"])
            _be_the_command(case["words"], faults, out, error, count)
        ended = _wait(child)
        return {
            "code": ended,
            "out": out.read_text(errors="replace"),
            "error": error.read_text(errors="replace"),
            "writes": int(count.read_text()) if count.exists() else None,
        }


def _wait(child: int) -> int | None:
    """Wait for a child; one that does not end is killed, and has no code."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _be_the_command(words: list[str], faults: Faults, out: Path, error: Path, count: Path) -> None:
    code = 99
    try:
        for number, path in ((1, out), (2, error)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        faults.install()
        try:
            code = command(words)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            code = 98
        faults.kind = None
        count.write_text(str(faults.seen))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Answer a line for each line."""
    for line in sys.stdin:
        print(json.dumps(run_case(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
