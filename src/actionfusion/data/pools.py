"""Choose where tasks run: on this machine's cores or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol, Self, TypeVar

from actionfusion.data.ray_pool import RayPool
from actionfusion.data.workers import WorkerDied, WorkerPool

Task = TypeVar("Task")
Result = TypeVar("Result")


class Pool(Protocol):
    """A pool that works while its ``with`` block lasts; an exception ends the work at once."""

    @property
    def repeated(self) -> Collection[object]:
        """Tasks begun more than once, because a process or machine went down under them."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result | WorkerDied]]:
        """Yield each task with the function's result, in the order of completion; the function is one of a module.

        Raises:
            ActionFusionError: the function raised it.
            RuntimeError: the function raised something else.
        """


def open_pool(workers: int | None = None, ray: str | None = None) -> Pool:
    """Open a pool of processes of this machine, or of a Ray cluster.

    Args:
        workers: processes, one a core if None, 0 for this process; on a cluster the most tasks at once, as many as it
            has CPUs if None.
        ray: address of a cluster, see ``RayPool``.

    Raises:
        SettingsError: an impossible number, an address that is none, or the package ``ray`` is not installed.
    """
    return WorkerPool(workers) if ray is None else RayPool(ray, workers)
