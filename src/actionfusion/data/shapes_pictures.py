"""Render the pictures of a scene in integer arithmetic, the same on every machine."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from actionfusion.data.shapes import (
    AROUND,
    FRAMES,
    PERIOD,
    POINTS,
    RADIUS,
    SIZE,
    Actor,
    Background,
    Pair,
    Scene,
    ShapeName,
    Steady,
)

UInt8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int32]

# Textures swing about these levels, (centre, swing); the swing is never exceeded.  Actors have the more contrast: the
# patches of DIS are nearly as wide as an actor, and would else measure a mean of its velocity and the background's.
_BACKGROUND_LUMA, _ACTOR_LUMA = (100, 26), (142, 43)
_BACKGROUND_KNOT, _ACTOR_KNOT = 4, 3
_NEUTRAL = 128
# A sheet holds an actor at 8 points a pixel; _PATCH of its rows, 8 apart and in any of 8 phases, hold the whole actor.
_PATCH = 2 * RADIUS + 3
_SHEET = POINTS * _PATCH + 1
_CENTRE = _SHEET // 2
_FULL_BITS = 8


def render(scene: Scene) -> UInt8Array:
    """Render a scene.

    Returns:
        ``[64, 3, 64, 64]`` uint8: frames, then Y, U, V of full-range BT.601 without chroma subsampling.  Y stays in
        74..185 and chroma is mild, so no RGB value clips, and the grey of the RGB picture is Y again.
    """
    planes = np.empty((FRAMES, 3, SIZE, SIZE), np.uint8)
    planes[:, 0] = _background_luma(scene.background)
    planes[:, 1:] = np.array(scene.background.tint, np.uint8)[:, None, None]
    for actor in scene.actors:
        _draw_actor(planes, actor)
    return planes


def path(actor: Actor) -> npt.NDArray[np.int64]:
    """Give (y, x) of an actor's centre in every frame, in eighths of a pixel and not wrapped: ``[64, 2]``."""
    frames = np.arange(FRAMES, dtype=np.int64)
    start = np.array(actor.start, np.int64)
    if isinstance(actor.motion, Steady):
        return start + frames[:, None] * np.array(actor.motion.velocity, np.int64)
    turned = [np.zeros(1, np.int64)]
    for lap in actor.motion.halves:
        done = np.clip(np.arange(FRAMES // 2) - lap.first, 0, lap.steps) * PERIOD * POINTS
        turned.append(turned[-1][-1] + lap.direction * np.rint(done / lap.steps).astype(np.int64))
    return start + np.stack([np.zeros_like(frames), np.concatenate(turned[1:])], axis=1)


def actor_boxes(scene: Scene, margin: int = 0) -> npt.NDArray[np.bool_]:
    """Give the squares around the actors' discs, which like them wrap around at the borders.

    Args:
        scene: a scene.
        margin: pixels more on every side, 0 or more.

    Returns:
        ``[64, 64, 64]``: for each frame and pixel, whether an actor's box covers it.
    """
    boxes = np.zeros((FRAMES, SIZE, SIZE), np.bool_)
    pixels = np.arange(SIZE) * POINTS
    for actor in scene.actors:
        # The nearest way round the torus from the centre to each row and column, in eighths of a pixel.
        away = (pixels - path(actor)[:, :, None] + AROUND // 2) % AROUND - AROUND // 2
        near = np.abs(away) <= (RADIUS + margin) * POINTS
        boxes |= near[:, 0, :, None] & near[:, 1, None, :]
    return boxes


def _background_luma(background: Background) -> UInt8Array:
    tiled = np.tile(_texture(background.texture, _BACKGROUND_SPLINE, _BACKGROUND_LUMA).astype(np.uint8), (3, 3))
    pictures = np.empty((FRAMES, SIZE, SIZE), np.uint8)
    for frame in range(PERIOD):
        y, x = ((-at - frame * by) % PERIOD for at, by in zip(background.offset, background.drift, strict=True))
        pictures[frame::PERIOD] = tiled[y : y + SIZE, x : x + SIZE]
    return pictures


def _draw_actor(planes: UInt8Array, actor: Actor) -> None:
    pixel, phase = np.divmod(path(actor) - _CENTRE, POINTS)
    step = np.arange(1, _PATCH + 1)
    rows, columns = ((pixel[:, axis, None] + step) % SIZE for axis in (0, 1))
    down, across = (POINTS * step - phase[:, axis, None] for axis in (0, 1))
    # One flat index into the sheets and one into the first plane: three times as fast as indexing by axis.
    sheet = down[:, :, None] * _SHEET + across[:, None, :]
    where = (np.arange(FRAMES)[:, None, None] * planes.shape[1] * SIZE + rows[:, :, None]) * SIZE + columns[:, None, :]
    disc, emblem = _coverage("disc").take(sheet), _coverage(actor.emblem.shape).take(sheet)
    luma = _texture(actor.texture, _ACTOR_SPLINE, _ACTOR_LUMA)[:_SHEET, :_SHEET].take(sheet)
    pixels = planes.reshape(-1)
    pixels[where] = _blend(pixels[where], luma, disc)
    for worn in actor.emblem.chroma:
        where += SIZE * SIZE
        pixels[where] = _blend(_blend(pixels[where], _NEUTRAL, disc), worn, emblem)


def _blend(under: UInt8Array | IntArray, over: IntArray | int, coverage: IntArray) -> IntArray:
    rounding = 1 << (_FULL_BITS - 1)
    return under + (((over - under.astype(np.int32)) * coverage + rounding) >> _FULL_BITS)


@cache
def _coverage(shape: Literal["disc"] | ShapeName) -> IntArray:
    """Compute how much of a pixel around each point of the sheet a shape covers, 0..256: ``[_SHEET, _SHEET]``."""
    y, x = np.mgrid[-_CENTRE : _CENTRE + 1, -_CENTRE : _CENTRE + 1]
    if shape == "disc":
        inside = y**2 + x**2 <= (RADIUS * POINTS) ** 2
    elif shape == "square":
        inside = np.maximum(abs(y), abs(x)) <= 6 * POINTS
    else:
        # Apex 9 pixels above the centre, base 7 below it and 17 wide: nearly the square's area, and inside the disc.
        inside = (y <= 7 * POINTS) & (abs(x) * 16 <= (y + 9 * POINTS) * 8.5)
    covered: IntArray = inside.astype(np.int32)
    for axis in (0, 1):
        # A pixel reaches over 8 points; the two at its edges count half.
        shifted = [np.roll(covered, shift, axis) for shift in range(-POINTS // 2, POINTS // 2 + 1)]
        covered = np.sum(shifted[:-1] + shifted[1:], axis=0, dtype=np.int32)
    return covered


def _texture(seed: int, spline: npt.NDArray[np.float64], luma: Pair) -> IntArray:
    """Draw a smooth random texture: each knot pulls up or down, and a cubic B-spline runs between them.

    All sums are of whole numbers under 2^53, so they are exact in any order.
    """
    centre, swing = luma
    knots = 2.0 * np.random.default_rng(seed).integers(0, 2, (spline.shape[1], spline.shape[1])) - 1.0
    full = spline[0].sum() ** 2
    luma_at: IntArray = np.rint(centre + swing * (spline @ knots @ spline.T) / full).astype(np.int32)
    return luma_at


def _spline(knots: int, points: int) -> npt.NDArray[np.float64]:
    """Compute cubic B-spline weights between periodic knots, times 6 points³: integers ``[knots * points, knots]``."""
    k, n = np.arange(points), points
    weights = ((n - k) ** 3, 3 * k**3 - 6 * n * k**2 + 4 * n**3, -3 * k**3 + 3 * n * k**2 + 3 * n**2 * k + n**3, k**3)
    table = np.zeros((knots, points, knots))
    for knot in range(knots):
        for neighbour, weight in enumerate(weights):
            table[knot, :, (knot + neighbour - 1) % knots] += weight
    return table.reshape(knots * points, knots)


_BACKGROUND_SPLINE = _spline(PERIOD // _BACKGROUND_KNOT, _BACKGROUND_KNOT)
_ACTOR_SPLINE = _spline(-(-_SHEET // (_ACTOR_KNOT * POINTS)), _ACTOR_KNOT * POINTS)
