"""That all machines of a cluster see the same files.

A machine where the shared disk is not mounted would find no video, or fill a folder of its own and call that the store.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from actionfusion.data.claims import claim_entry
from actionfusion.errors import ClusterError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Landmark(NamedTuple):
    """What a machine must see to be looking at the right files.

    Attributes:
        path: a file or folder that is there.
        of: what it stands for.
    """

    path: Path
    of: Path


@contextmanager
def landmarks(sources: Iterable[Path], store: Path) -> Iterator[Sequence[Landmark]]:
    """One of the sources, if any is there, and a file made in the store that stays as long as the block lasts.

    Raises:
        OSError: the store cannot be written.
    """
    source = next(filter(_is_there, sources), None)
    # A claim, so that ``remove_leftovers`` leaves it alone, and removes that of a process that died.
    with claim_entry(store / uuid.uuid4().hex) as claim:
        assert claim is not None
        found = [] if source is None else [Landmark(source, source)]
        yield [*found, Landmark(claim.path, store)]


def where_seen(landmarks: Sequence[Landmark], function: Callable[[Task], Result], task: Task) -> Result:
    """Do a task on a machine that sees these.

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
