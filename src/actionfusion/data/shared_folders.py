"""Check that all machines of a cluster see the same files.

A machine where the shared disk is not mounted would find no video, or fill a folder of its own and call that the store.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from actionfusion.data.entry_lock import lock_entry
from actionfusion.errors import ClusterError
from actionfusion.storage import AnyPath

Task = TypeVar("Task")
Result = TypeVar("Result")


class Landmark(NamedTuple):
    """A file that a machine must see if it has the right folders.

    Attributes:
        path: a file or folder that is there.
        of: what it stands for.
    """

    path: Path
    of: Path


@contextmanager
def landmarks(sources: Iterable[AnyPath], store: AnyPath) -> Iterator[Sequence[Landmark]]:
    """Choose one of the sources, if any is there, and make a file in the store that stays as long as the block lasts.

    A remote store or source has no landmark: it is the same from everywhere.

    Raises:
        OSError: the store cannot be written.
    """
    here = (source for source in sources if isinstance(source, Path) and _is_there(source))
    seen = [Landmark(source, source) for source in islice(here, 1)]
    if not isinstance(store, Path):
        yield seen
        return
    # An entry in the making: ``remove_leftovers`` leaves it alone, and removes the one of a process that died.
    with lock_entry(store / uuid.uuid4().hex) as new:
        assert new is not None
        yield [*seen, Landmark(new.path, store)]


def where_seen(landmarks: Sequence[Landmark], function: Callable[[Task], Result], task: Task) -> Result:
    """Do a task if this machine sees the landmarks.

    Raises:
        ClusterError: this one does not.
    """
    for landmark in landmarks:
        if not _is_there(landmark.path):
            reason = f"the machine {platform.node()} of the cluster does not see it"
            raise ClusterError(landmark.of, reason, "give all its machines the same files under the same paths")
    return function(task)


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  ``Path.exists`` raises what the disk has against it.
