"""That all machines of a cluster see the same files.

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
from typing import TypeVar

from actionfusion.data.claims import EntryClaim, claim_entry
from actionfusion.errors import ClusterError
from actionfusion.places import Place

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextmanager
def landmarks(sources: Iterable[Place], store: Place) -> Iterator[Sequence[Path]]:
    """One of the sources, if any is there, and a file made in the store that stays as long as the block lasts.

    What lies behind an address is the same from everywhere, and has none.

    Raises:
        OSError: the store cannot be written.
    """
    seen = list(islice((source for source in sources if isinstance(source, Path) and _is_there(source)), 1))
    if not isinstance(store, Path):
        yield seen
        return
    # A claim, so that ``remove_leftovers`` leaves it alone, and removes that of a process that died.
    with claim_entry(store / uuid.uuid4().hex) as claim:
        assert isinstance(claim, EntryClaim)
        yield [*seen, claim.path]


def where_seen(landmarks: Sequence[Path], function: Callable[[Task], Result], task: Task) -> Result:
    """Do a task on a machine that sees these files.

    Raises:
        ClusterError: this one does not.
    """
    for path in landmarks:
        if not _is_there(path):
            reason = f"{platform.node()} of the cluster does not see it"
            raise ClusterError(path, reason, "give all its machines the same files under the same paths")
    return function(task)


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  ``Path.exists`` raises what the disk has against it.
