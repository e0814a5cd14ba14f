"""Work through many files on a Ray cluster, even if machines are lost on the way."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from actionfusion.data.ray_driver import serve
from actionfusion.data.workers import ENDED_AT_ONCE, SPAWN, WorkerDied, interrupts_held_back, raised_by_worker
from actionfusion.errors import ClusterError, SettingsError

Task = TypeVar("Task")
Result = TypeVar("Result")

_KNOCK_SECONDS = 10.0
_CONNECT_SECONDS = 60.0
_END_SECONDS = 15.0
_REMEDY = (
    "check the address; with HOST:PORT this machine must belong to the cluster (`ray start --address=HOST:PORT`), with "
    "ray://HOST:10001 it need not"
)

_RAY_ERROR = re.compile(r"^\[.* [EFC] .*?\] \S+: (.*?)(?:\. |\.?$)", re.MULTILINE)


class RayPool:
    """Pool of the CPUs of a Ray cluster, one task and one OpenCV thread each.

    A task whose process dies is tried three times and then costs itself alone.  A task whose machine is lost is begun
    again on another.  So a function may be called again for a task that it has done, and each task still gives one
    result.  Leaving by an exception (Ctrl-C among them) ends all tasks.  The cluster itself goes on when the pool ends.

    The cluster's machines need the same version of this package, and see the same files under the same paths.

    Args:
        address: ``HOST:PORT`` of a cluster that this machine belongs to; ``auto`` for the one running here;
            ``ray://HOST:PORT`` for one elsewhere, through its Ray Client server.
        workers: most tasks at once; as many as the cluster has CPUs if None.

    Attributes:
        repeated: tasks begun more than once.

    Raises:
        SettingsError: an impossible number, an address that is none, or the package ``ray`` is not installed.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise SettingsError("workers", f"{workers} tasks at once on a cluster", "take 1 or more, or leave it out")
        if find_spec("ray") is None:
            raise SettingsError("ray", "the package is not installed", 'get it with pip install "actionfusion[ray]"')
        self._address, self._door = address, _door(address)
        self._workers = workers
        self._driver: _Driver | None = None
        self.repeated: list[object] = []

    def __enter__(self) -> RayPool:
        """Connect.

        Raises:
            ClusterError: no such cluster answers within a minute.
        """
        if self._door is not None:
            _knock(self._address, *self._door)
        self._driver = _Driver(self._address, self._workers)
        return self

    def __exit__(self, *_: object) -> None:
        """End the running tasks and the connection."""
        if self._driver is not None:
            self._driver.end()
            self._driver = None

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result | WorkerDied]]:
        """Yield each task with the function's result, in the order of completion; the function is one of a module.

        Raises:
            ActionFusionError: the function raised it; ``ClusterError`` if the cluster is lost or not set up for this.
            RuntimeError: the function raised something else.
        """
        if not tasks:
            return
        if self._driver is None:  # The last run was left in the middle.
            self._driver = _Driver(self._address, self._workers)
        left = len(tasks)
        try:
            self._driver.send((function, list(tasks)))
            while left:
                outcome, number, value = self._driver.receive()
                if outcome == "again":
                    self.repeated.append(tasks[number])
                elif outcome == "raised":
                    left = 0  # It gives up the others by itself.
                    raise raised_by_worker(value)
                else:
                    left -= 1
                    yield tasks[number], value
        finally:
            if left:
                self.__exit__()


def _door(address: str) -> tuple[str, int] | None:
    """Give host and port, or None if only Ray knows them.

    Raises:
        SettingsError: this is no address.
    """
    scheme, _, rest = address.rpartition("://")
    if address == "auto" or scheme not in ("", "ray"):
        return None
    with suppress(ValueError):
        parts = urlsplit(f"//{rest}")
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    raise SettingsError("ray", f"{address!r} is no address of a cluster", "give HOST:PORT, ray://HOST:PORT or auto")


def _knock(address: str, host: str, port: int) -> None:
    """Check that a server listens there: Ray itself would wait for minutes."""
    try:
        socket.create_connection((host, port), _KNOCK_SECONDS).close()
    except OSError as error:
        reason = f"there is no Ray cluster ({error.strerror or error})"
        raise ClusterError(address, reason, _REMEDY) from error


class _Driver:
    """Process that holds the connection, with this end of its pipe."""

    def __init__(self, address: str, workers: int | None) -> None:
        self._address = address
        descriptor, log = tempfile.mkstemp(prefix="actionfusion-ray-", suffix=".log")
        os.close(descriptor)
        self._log = Path(log)
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(theirs, address, workers, self._log), daemon=True)
        try:
            with interrupts_held_back():
                self._process.start()
            theirs.close()
            self._await_connection()
        except BaseException:
            self.end(0.0)  # It does not read messages while it connects.
            raise

    def _await_connection(self) -> None:
        try:
            self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(ENDED_AT_ONCE.format(WorkerDied(self._process.exitcode))) from None
        if not self._connection.poll(_CONNECT_SECONDS):
            raise ClusterError(self._address, f"no Ray cluster answers within {_CONNECT_SECONDS:.0f} seconds", _REMEDY)
        self.receive()

    def send(self, message: Any) -> None:
        """Send it work."""
        with suppress(BrokenPipeError):  # It has died; the wait for its answer finds out.
            self._connection.send(message)

    def receive(self) -> tuple[str, int, Any]:
        """Wait for its next message.

        Raises:
            ClusterError: that it cannot go on.
        """
        try:
            message: tuple[str, int, Any] = self._connection.recv()
        except (EOFError, OSError):
            reason = f"the connection to the cluster was lost ({self._last_words()})"
            raise ClusterError(self._address, reason, "see that it runs, then start this again") from None
        if message[0] == "unreachable":
            raise ClusterError(self._address, f"no connection to a Ray cluster ({message[2]})", _REMEDY)
        if message[0] == "unfit":
            remedy = "the machines of the cluster need the version of actionfusion and its packages that this one has"
            raise ClusterError(self._address, f"the cluster cannot do the work ({message[2]})", remedy)
        return message

    def _last_words(self) -> str:
        """Find why the process ended: Ray's last error, or else the system's."""
        self._process.join(_END_SECONDS)
        errors = _RAY_ERROR.findall(self._log.read_text("utf-8", "replace")) if self._log.exists() else []
        return errors[-1] if errors else str(WorkerDied(self._process.exitcode))

    def end(self, patience: float = _END_SECONDS) -> None:
        """Let it finish; kill it if that takes longer than ``patience`` seconds."""
        self._connection.close()
        try:
            if self._process.pid is not None:
                self._process.join(patience)
        finally:
            if self._process.pid is not None:
                self._process.kill()
                self._process.join()
            self._log.unlink(missing_ok=True)
