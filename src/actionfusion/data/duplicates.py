"""Find near-duplicates in a data set: equal files, or the same pictures coded, scaled, lit or cut differently."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import DisjointSet

from actionfusion.data.listing import Listing
from actionfusion.data.segments import Segment, named_segment
from actionfusion.video.fingerprint import DUPLICATE_DISTANCE, Fingerprint, distance

# Copies of real clips stay above 0.975 and 0.98; of unlike clips one pair in some hundreds gets this far.
_SAME_SCENE = 0.97
_SAME_ACTIVITY = 0.95
_BLOCK = 1024
_SHOWN = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Duplicate:
    """Two videos that show the same.

    Attributes:
        first: path of the one that comes first in the listing.
        second: path of the other.
        kind: ``equal`` byte for byte, or ``near``: the same pictures by their fingerprints.
        distance: of the fingerprints; 0 for equal files.
    """

    first: str
    second: str
    kind: Literal["equal", "near"]
    distance: float


def exact_duplicates(hashes: Mapping[str, str]) -> list[Duplicate]:
    """Find the pairs of equal files, each with the first of its kind.

    Segments are equal if they are the same stretch of equal files; other stretches of copies of a file are near.

    Args:
        hashes: of the file's bytes, by path; empty ones are passed over.
    """
    first: dict[tuple[str, Segment | None], str] = {}
    files: dict[str, tuple[str, str]] = {}
    found = []
    for path, digest in hashes.items():
        if not digest:
            continue
        file, segment = named_segment(path)
        one, of_file = files.setdefault(digest, (path, file))
        if (digest, segment) in first:
            found.append(Duplicate(first[digest, segment], path, "equal", 0.0))
        elif of_file != file:
            found.append(Duplicate(one, path, "near", 0.0))
        first.setdefault((digest, segment), path)
    return found


def near_duplicates(prints: Mapping[str, Fingerprint], progress: Progress | None = None) -> list[Duplicate]:
    """Find the pairs of videos whose fingerprints are at most ``DUPLICATE_DISTANCE`` apart.

    Pairs of unlike scenes, or of scenes that are busy in unlike places, are never compared in full; so a data set of
    many scenes costs little more than its matrix of scenes.

    Args:
        prints: by path.
        progress: called with rows done and all rows.
    """
    paths = list(prints)
    found = []
    for done, pairs in _candidates([prints[path] for path in paths]):
        for first, second in pairs:
            apart = distance(prints[paths[first]], prints[paths[second]])
            if apart <= DUPLICATE_DISTANCE:
                found.append(Duplicate(paths[first], paths[second], "near", apart))
        if progress is not None:
            progress(done, len(paths))
    return found


def _candidates(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield the rows done so far, with the pairs of these rows and earlier ones that need a full comparison."""
    if not prints:
        return
    scenes = np.stack([item.scene for item in prints])
    activities = np.stack([item.activity for item in prints])
    for start in range(0, len(prints), _BLOCK):
        rows = slice(start, start + _BLOCK)
        alike: npt.NDArray[np.bool_] = (scenes[rows] @ scenes.T > _SAME_SCENE) & (
            activities[rows] @ activities.T > _SAME_ACTIVITY
        )
        second, first = np.nonzero(alike)
        pairs = [(int(one), int(two) + start) for two, one in zip(second, first, strict=True) if one < two + start]
        yield min(start + _BLOCK, len(prints)), pairs


def clusters(duplicates: Iterable[Duplicate], order: Iterable[str]) -> dict[str, str]:
    """Map every path with a duplicate to the first path of its cluster, for ``Listing.with_duplicates``.

    Args:
        duplicates: the pairs.
        order: all paths, which says what is first.
    """
    ties = DisjointSet()
    for duplicate in duplicates:
        ties.add(duplicate.first)
        ties.add(duplicate.second)
        ties.merge(duplicate.first, duplicate.second)
    position = {path: number for number, path in enumerate(order)}
    return {path: min(subset, key=position.__getitem__) for subset in ties.subsets() for path in subset}


def label_conflicts(duplicates: Iterable[Duplicate], label_of: Mapping[str, str]) -> list[str]:
    """Name the pairs of equal files that have two labels, one of which must be wrong.

    Args:
        duplicates: the pairs; near ones are passed over, since they may differ in what the labels tell.
        label_of: by path.
    """
    return [
        f"{pair.first!r} ({label_of[pair.first]!r}) and {pair.second!r} ({label_of[pair.second]!r})"
        for pair in duplicates
        if pair.kind == "equal" and label_of[pair.first] != label_of[pair.second]
    ]


def note_on_conflicts(conflicts: Sequence[str]) -> list[str]:
    """Write a line on label conflicts, if there are any."""
    if not conflicts:
        return []
    more = f" and {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
    return [f"label conflict: the same bytes have two labels: {', '.join(conflicts[:_SHOWN])}{more}"]


def with_equal_files(listing: Listing) -> Listing:
    """Mark the equal files of a listing as duplicates, and note those of two labels; see ``equal_files``."""
    duplicates = equal_files(listing)
    if not duplicates:
        return listing
    notes = note_on_conflicts(label_conflicts(duplicates, {entry.path: entry.label for entry in listing.entries}))
    listing = replace(listing, notes=(*listing.notes, *notes))
    return listing.with_duplicates(clusters(duplicates, [entry.path for entry in listing.entries]))


def equal_files(listing: Listing) -> list[Duplicate]:
    """Find the pairs of equal files in a listing, each with the first of its kind; only files of one size are read.

    Files that cannot be read are skipped: the reader reports them.  So are remote files, which only ``check`` fetches.
    """
    files: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    for index, entry in enumerate(listing.entries):
        file = listing.path(index)
        if entry.kind == "file" and isinstance(file, Path) and entry.file_path not in files:
            with suppress(OSError):
                sizes[entry.file_path] = file.stat().st_size
                files[entry.file_path] = file
    count = Counter(sizes.values())
    hashes: dict[str, str] = defaultdict(str)
    for path, size in sizes.items():
        if count[size] > 1 and size:
            with suppress(OSError), files[path].open("rb") as stream:
                hashes[path] = hashlib.file_digest(stream, "sha256").hexdigest()
    return exact_duplicates({entry.path: hashes[entry.file_path] for entry in listing.entries})
