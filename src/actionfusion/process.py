"""What holds for a process from its first line to its last: the signals that end it, and its standard streams.

Ctrl-C, SIGTERM (a batch system, a container) and SIGHUP (a closed terminal) all ask for an end.  Whoever starts workers
ends them, so the workers themselves leave these signals to their parent: all of them may reach the whole group.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType, TracebackType
from typing import Any, NoReturn, TextIO, cast

from actionfusion.errors import OutputError

STOPS = tuple(
    cast("signal.Signals", getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# A batch system sends several, to a process and to its group: within so many seconds they are one wish.
_ONE_WISH = 1.0
# Time for what swallowed a stop to end before it is asked for again.
_AGAIN = 0.05


class _Stopping:
    """Turns signals into KeyboardInterrupt, or into what `on_stop` was given.

    Args:
        leaves: whether the third wish, or the second where the first one was not put off, ends the process at once.
    """

    def __init__(self, *, leaves: bool) -> None:
        self.leaves = leaves
        self.action: Callable[[], None] | None = None
        self.code: int | None = None  # of a process that has done its work
        self._owner = os.getpid()
        self._last = -_ONE_WISH
        self.raised = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        # torchrun ends its processes by SIGTERM, and one that waits for another must not hear it too late.
        handled = STOPS[:1] if int(os.environ.get("WORLD_SIZE", "1")) > 1 else STOPS
        for number in handled:
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:  # nohup
                self._before[number] = signal.signal(number, self._handle)

    def ignore(self) -> None:
        """Ignore all further signals: Python's end would let them kill a process whose work is done."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def again(self, number: int = signal.SIGINT) -> None:
        """Ask once more, since the exception was lost where none can be raised."""
        self.raised, self._last = False, -_ONE_WISH
        main = threading.main_thread().ident
        timer = threading.Timer(_AGAIN, lambda: signal.pthread_kill(cast("int", main), number))
        timer.daemon = True
        timer.start()

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._owner:
            return  # a child that has just been forked
        now = time.monotonic()
        if now - self._last < _ONE_WISH:
            return
        self._last = now
        if self.code is not None:
            os._exit(self.code)
        if self.action is not None:
            action, self.action = self.action, None
            action()
            return
        if self.raised and self.leaves:
            os.write(2, b"stopped at once\n")
            os._exit(1)
        self.raised = True
        raise KeyboardInterrupt


_stopping: _Stopping | None = None


def was_stopped() -> bool:
    """Tell whether a stop was raised: libraries such as torch.export make another error of it."""
    return _stopping is not None and _stopping.raised


@contextmanager
def stopping(*, leaves: bool = False) -> Iterator[Callable[[int], None]]:
    """Let each of `STOPS` raise KeyboardInterrupt in the main thread while the block lasts.

    Elsewhere than in the main thread, where Python allows no handlers, nothing changes; nor for a signal that the
    process was started to ignore.

    Args:
        leaves: for a process that ends with the block: its signals are never given back, and a further wish to end
            ends it at once.

    Yields:
        A function that takes the exit code once the work is done: from then on a signal ends the process with it.
    """
    global _stopping  # noqa: PLW0603  as signals are, it is one for the process
    if _stopping is not None or threading.current_thread() is not threading.main_thread():
        yield lambda code: None  # noqa: ARG005
        return
    own = _stopping = _Stopping(leaves=leaves)
    hook = sys.unraisablehook

    def not_lost(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            own.again()
        else:
            hook(unraisable)

    own.install()
    sys.unraisablehook = not_lost
    if leaves:
        atexit.register(own.ignore)  # the first to be registered runs last, after the threads have ended
        sys.excepthook = _show_other_faults
    try:
        yield lambda code: setattr(own, "code", code)
    finally:
        if not leaves:
            own.restore()
            sys.unraisablehook = hook
            _stopping = None


def _show_other_faults(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print no traceback of a stop, as Cython does of one that it cannot raise."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def on_stop(action: Callable[[], None]) -> Iterator[None]:
    """While the block lasts, let the first wish to end call a function; the second raises KeyboardInterrupt."""
    with stopping():
        if _stopping is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        own, _stopping.action = _stopping, action
        try:
            yield
        finally:
            own.action = None


@contextmanager
def stops_held_back() -> Iterator[None]:
    """Hide `STOPS` from the processes and threads that start meanwhile; this process sees them when the block ends."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_stops_to_parent() -> None:
    """In a worker, ignore `STOPS` except a SIGTERM from the parent itself, which ends it."""
    for number in STOPS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not say who sent it
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def leave(code: int) -> NoReturn:
    """End a process that was stopped: its children, then itself, without waiting for threads in the middle of work."""
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children  # noqa: PLC0415

        for child in active_children():
            child.kill()
    atexit._run_exitfuncs()  # temporary folders, and the group of torchrun
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, OutputError):
            stream.flush()
    os._exit(code)


def find_home() -> None:
    """Give libraries a home and a name where the user has neither, as in a container without an entry for its user.

    The home is an empty folder that goes when the process ends.
    """
    if os.path.expanduser("~") != "~":  # noqa: PTH111  Path would raise
        return
    from shutil import rmtree  # noqa: PLC0415  Seldom needed, and this is before all else.
    from tempfile import mkdtemp  # noqa: PLC0415

    home = mkdtemp(prefix="actionfusion-home-")
    atexit.register(rmtree, home, ignore_errors=True)
    os.environ["HOME"] = home
    os.environ.setdefault("USER", f"user{os.getuid()}" if hasattr(os, "getuid") else "user")


def open_standard_streams() -> None:
    """Make the standard streams such that they end no command in a traceback.

    What the terminal's encoding lacks is shown as an escape.  A stream that is closed leads to the null device, so that
    no file of ours is opened under its number.  Standard output that cannot be written raises OutputError, and standard
    error that cannot be written is given up.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_null(number)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    sys.stdout, sys.stderr = _Results.around(sys.stdout), _Notes.around(sys.stderr)


def _open_null(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


class _Steady(TextIOWrapper):
    """A standard stream that leads to the null device once it cannot be written."""

    @classmethod
    def around(cls, stream: TextIO) -> TextIO:
        if not isinstance(stream, TextIOWrapper):
            return stream
        encoding, buffered = stream.encoding, stream.line_buffering
        stream.flush()
        return cls(stream.detach(), encoding=encoding, errors="backslashreplace", line_buffering=buffered)

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        self.fail(error)

    def fail(self, error: OSError) -> None:
        """Say what becomes of the error."""


class _Notes(_Steady):
    """Standard error: notes on the way, which are not worth the work."""


class _Results(_Steady):
    """Standard output: what was asked for."""

    def fail(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):  # the reader has what it wanted, such as `head`
            raise error
        raise OutputError("standard output", f"cannot be written ({error.strerror})", "send it elsewhere") from error
