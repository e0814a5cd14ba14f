"""Boxes around what moves, linked to tracks, and what a track looks like and does.

Source: Weinzaepfel, Harchaoui and Schmid 2015, reduced: see `learning_to_track`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.models.systems.trajectories import (
    NO_MOTION,
    USUAL_HEIGHT,
    Floats,
    UInt8Array,
    histogram_maps,
    normalized,
)

Boxes = npt.NDArray[np.int64]
"""``[n, 4]``: left, top, right and bottom, the last two just outside."""

_SIDES = ((0.3, 0.3), (0.25, 0.5), (0.5, 0.5), (0.4, 0.75), (0.75, 0.75))  # width and height, as shares of the picture
_STEP = 0.25  # from one box to the next, as a share of its side
_OVERLAP = 0.3
_CELLS, _PARTS = 4, 3
STMH_WIDTH = _CELLS**2 * _PARTS * (8 + 9)


def proposals(flow: Floats, most: int) -> Boxes:
    """Find boxes whose motion stands out of their surroundings, the best first, none over half in another.

    Args:
        flow: ``[H, W, 2]``.
        most: boxes.
    """
    height, width = flow.shape[:2]
    moving = np.linalg.norm(flow, axis=-1)
    sums, whole = cv2.integral(moving, sdepth=cv2.CV_64F), float(moving.sum())
    found: list[tuple[int, int, int, int]] = []
    for wide, high in _SIDES:
        w, h = max(round(wide * width), 1), max(round(high * height), 1)
        lefts = range(0, width - w + 1, max(round(_STEP * w), 1))
        tops = range(0, height - h + 1, max(round(_STEP * h), 1))
        found += [(left, top, left + w, top + h) for left, top in product(lefts, tops)]
    boxes = np.array(found)
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    outside = (whole - inside) / np.maximum(height * width - areas, 1)
    # A contrast alone would take the smallest box in what moves, a sum alone the largest.
    scores = (inside / areas - outside) * np.sqrt(areas)
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable"):
        if len(kept) == most:
            break
        if not kept or overlaps(boxes[place], boxes[kept]).max() <= 0.5:
            kept.append(int(place))
    return np.asarray(boxes[kept])


def overlaps(box: npt.NDArray[np.int64], boxes: Boxes) -> npt.NDArray[np.float64]:
    """Compute intersection over union ``[n]`` of a box ``[4]`` and boxes ``[n, 4]``."""
    inner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = inner.clip(0).prod(1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (box, boxes)]
    return np.asarray(shared / (areas[0] + areas[1] - shared))


def link(boxes: Sequence[Boxes], features: Sequence[Floats], most: int) -> list[npt.NDArray[np.int64]]:
    """Link the proposals of consecutive pictures to tracks, one after the other.

    Each begins with the best proposal that is left of the first picture, and takes from picture to picture the one that
    overlaps and looks most like it; where none overlaps, it stays where it was.  Proposals that a track overlaps are
    not begun with again.

    Args:
        boxes: ``[n, 4]`` of each picture, the best first.
        features: ``[n, D]`` of each, of the length 1.
        most: tracks.

    Returns:
        Tracks: for each picture the number of its box there, ``[T]``, or -1 where none fits.
    """
    free, found = list(range(len(boxes[0]))), list[npt.NDArray[np.int64]]()
    while free and len(found) < most:
        track, here, looks = [free[0]], boxes[0][free[0]], features[0][free[0]]
        for others, alike in zip(boxes[1:], features[1:], strict=True):
            shared = overlaps(here, others)
            value = np.where(shared > _OVERLAP, shared + alike @ looks, -np.inf)
            best = int(value.argmax())
            track.append(best if np.isfinite(value[best]) else -1)
            if track[-1] >= 0:
                here = others[best]
        began = boxes[0][free[0]]
        free = [place for place in free[1:] if overlaps(began, boxes[0][place : place + 1])[0] <= _OVERLAP]
        found.append(np.array(track))
    return found


def boxes_of(track: npt.NDArray[np.int64], boxes: Sequence[Boxes]) -> Boxes:
    """Give the box ``[T, 4]`` of a track in each picture; one without stays where it was."""
    places = [boxes[0][track[0]]]
    for time in range(1, len(track)):
        places.append(boxes[time][track[time]] if track[time] >= 0 else places[-1])
    return np.stack(places)


def motion_histogram(pictures: UInt8Array, flows: Sequence[Floats], boxes: Boxes) -> Floats:
    """Make the spatio-temporal motion histogram of a track: HOG and HOF in 4 x 4 x 3 cells of its boxes, ``[816]``.

    Args:
        pictures: ``[t, H, W]``, grey.
        flows: of each to the next, ``[H, W, 2]``.
        boxes: ``[t, 4]``.
    """
    cells = np.zeros((_PARTS, _CELLS, _CELLS, 17), np.float32)
    for time, (picture, flow, (left, top, right, bottom)) in enumerate(zip(pictures, flows, boxes, strict=True)):
        maps = np.concatenate(histogram_maps(picture, flow, NO_MOTION * len(picture) / USUAL_HEIGHT)[:2], -1)[
            top:bottom, left:right
        ]
        part = time * _PARTS // len(boxes)
        rows, columns = (np.linspace(0, size, _CELLS + 1).astype(int) for size in maps.shape[:2])
        for down, across in product(range(_CELLS), range(_CELLS)):
            cell = maps[rows[down] : rows[down + 1], columns[across] : columns[across + 1]]
            cells[part, down, across] += cell.sum((0, 1)) / max(cell.shape[0] * cell.shape[1], 1)
    joined = np.concatenate(
        [normalized(part.reshape(1, -1), root=False)[0] for part in (cells[..., :8], cells[..., 8:])]
    )
    return joined * np.float32(0.5**0.5)
