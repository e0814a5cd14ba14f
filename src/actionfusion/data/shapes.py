"""Draw scenes for generated clips, in which exactly one cue carries the label.

Four groups of two classes.  Each group has a stage of its own, the background's tint and axis of drift, which both
streams can see; chance is 1/2 inside a group.

* ``appearance``: one actor wears a square or a triangle.  The luma of both classes is the same, so flow, which is
  computed on grey, carries nothing.
* ``motion``: one actor goes up or down.  A clip of one class played backwards is a clip of the other, so neither a
  frame nor an unordered set of evenly spaced frames carries anything.
* ``binding``: a square and a triangle pass each other, and the class is which of them goes right.  Exchanging the
  emblems leaves the luma as it is: flow carries nothing, in whatever order.  Playing backwards exchanges the classes:
  frames without their order carry nothing.  It takes flow and emblem at the same pixel (or, from the frames alone, a
  memory that follows an emblem from one frame to the next).
* ``order``: actors go once round to the left and once round to the right, and the class is which comes first.  The
  classes are the same two halves of 32 frames in either order, with the same multiset of (frame, flow window) pairs.
  Flow *in order* does distinguish them, so "flow alone" means here flow without a memory.

What is said of ``order`` holds for samples that take the same places of both halves: eqs 13-14 with T = 2, 4, 8, 16, 32
or 64 of the 64 frames, not with T = 17.  With T = 16 even three neighbouring samples, which the 3-D fusion sees at
once, never hold both motions, nor a motion and the padding at the clip's ends; with T = 8 they never hold both motions.
(The last window repeats its last flow frame, and by the engine's noise alone differs from the window at the joint.)  A
moment at a known time shows the order, and so does a clip of which only one motion is sampled: sample the whole clip.

The stage is a torus: what leaves on one side comes in on the other, so that a position says nothing of a motion.
Emblems are drawn in chroma alone.  Positions are whole eighths of a pixel and everything is integer arithmetic, so all
of this holds byte for byte, as the tests prove.  It holds for flow at 64 pixels; other sizes resize RGB, which rounds,
and lets a trace of the chroma into the grey picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from actionfusion.errors import SettingsError

ShapeName = Literal["square", "triangle"]
Pair = tuple[int, int]

SHAPE_GROUPS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "appearance": ("appearance_square", "appearance_triangle"),
        "motion": ("motion_up", "motion_down"),
        "binding": ("binding_square_right", "binding_triangle_right"),
        "order": ("order_left_right", "order_right_left"),
    }
)
SHAPE_CLASSES: tuple[str, ...] = tuple(label for pair in SHAPE_GROUPS.values() for label in pair)

SIZE = 64
FRAMES = 64
FRAME_RATE = 25
# Positions and textures are known at 8 points a pixel: sub-pixel motion stays exact.
POINTS = 8
AROUND = SIZE * POINTS
# The background, and in the order group the actors too, repeats every 32 pixels and, drifting 1 pixel a frame, every
# 32 frames: the two halves of a clip meet without a seam in either order.
PERIOD = 32
RADIUS = 12
# Flow frames of a half that an actor may move in.  The rests on both sides hide the motion from every window at the
# joint and at the clip's ends, and (T = 16) from the neighbours of the samples there.
FIRST_MOVING, LAST_MOVING = 9, 24


@dataclass(frozen=True)
class Background:
    """Background of a scene.

    Attributes:
        texture: seed of the texture, which repeats every 32 pixels.
        offset: (y, x) of the texture at frame 0, whole pixels in 0..31.
        drift: (y, x) pixels a frame, each -1, 0 or 1.
        tint: (U, V) of the whole background.
    """

    texture: int
    offset: Pair
    drift: Pair
    tint: Pair


@dataclass(frozen=True)
class Emblem:
    """Shape on an actor and the (U, V) that it is drawn in."""

    shape: ShapeName
    chroma: Pair


@dataclass(frozen=True)
class Steady:
    """One velocity throughout, (y, x) in eighths of a pixel a frame."""

    velocity: Pair


@dataclass(frozen=True)
class Lap:
    """Half a clip, 32 frames: rest, go once round (32 pixels), and rest in the same place.

    Attributes:
        direction: -1 to the left, 1 to the right.
        first: the first flow frame that moves, within the half.
        steps: flow frames that move.
    """

    direction: int
    first: int
    steps: int


@dataclass(frozen=True)
class Laps:
    """Two laps, one after the other."""

    halves: tuple[Lap, Lap]


@dataclass(frozen=True)
class Actor:
    """A round patch of luma texture with an emblem on it.

    Attributes:
        texture: seed of the texture, which moves with the actor.
        start: (y, x) of the centre at frame 0, in eighths of a pixel, 0..511.
        motion: how it moves from there.
        emblem: what it wears.
    """

    texture: int
    start: Pair
    motion: Steady | Laps
    emblem: Emblem


@dataclass(frozen=True)
class Scene:
    """All parameters of a clip."""

    label: str
    background: Background
    actors: tuple[Actor, ...]


def group_of(label: str) -> str:
    """Give the group of a class.

    Raises:
        SettingsError: no such class.
    """
    for group, labels in SHAPE_GROUPS.items():
        if label in labels:
            return group
    raise SettingsError("shapes.label", f"{label!r} is no class", f"choose one of {', '.join(SHAPE_CLASSES)}")


def draw_scene(label: str, seed: int) -> Scene:
    """Draw a scene.

    The two classes of a group are twins under one seed: the same scene with the emblems exchanged (appearance,
    binding), played backwards (motion) or with its halves exchanged (order).

    Args:
        label: one of ``SHAPE_CLASSES``.
        seed: 0 or more; each gives another scene.

    Raises:
        SettingsError: no such class, or a negative seed.
    """
    group = group_of(label)
    if seed < 0:
        raise SettingsError("shapes.seed", f"{seed} is negative", "take 0 or more")
    generator = np.random.default_rng([list(SHAPE_GROUPS).index(group), seed])
    twins = _DRAW[group](generator, _draw_background(generator, group))
    return twins[SHAPE_GROUPS[group].index(label)]


def time_reversed(scene: Scene, label: str, total: int = FRAMES - 1) -> Scene:
    """Return the scene whose frame t is frame ``total - t`` of this one, under another label.

    The new parameters are as probable as the old: starts and offsets are uniform round the torus, and every velocity is
    as likely as its opposite.  With ``total`` the sum of the first and the last of evenly spaced samples, the sampled
    frames are the same set.

    Raises:
        SettingsError: an actor does not move steadily.
    """
    background = scene.background
    offset = tuple((at + total * by) % PERIOD for at, by in zip(background.offset, background.drift, strict=True))
    actors = []
    for actor in scene.actors:
        if not isinstance(actor.motion, Steady):
            raise SettingsError("shapes.scene", "laps are not played backwards", "take a scene of steady motion")
        velocity = actor.motion.velocity
        start = tuple((at + total * by) % AROUND for at, by in zip(actor.start, velocity, strict=True))
        back = Steady((-velocity[0], -velocity[1]))
        actors.append(replace(actor, start=(start[0], start[1]), motion=back))
    drift = (-background.drift[0], -background.drift[1])
    return Scene(label, replace(background, offset=(offset[0], offset[1]), drift=drift), tuple(actors))


_TINT: Mapping[str, Pair] = {"appearance": (146, 124), "motion": (110, 132), "binding": (122, 146), "order": (132, 108)}
_DRIFT: Mapping[str, Pair] = {"appearance": (1, 0), "motion": (0, 1), "binding": (1, 1), "order": (1, -1)}
_CHROMA: Mapping[ShapeName, Pair] = {"square": (94, 171), "triangle": (162, 88)}
_SLOWEST, _FASTEST = POINTS, 2 * POINTS


def _jitter(generator: np.random.Generator, chroma: Pair) -> Pair:
    u, v = (int(value) for value in generator.integers(-3, 4, 2))
    return chroma[0] + u, chroma[1] + v


def _sign(generator: np.random.Generator) -> int:
    return 1 - 2 * int(generator.integers(2))


def _draw_background(generator: np.random.Generator, group: str) -> Background:
    y, x = (int(value) for value in generator.integers(0, PERIOD, 2))
    sign, axis = _sign(generator), _DRIFT[group]
    return Background(
        texture=int(generator.integers(2**63)),
        offset=(y, x),
        drift=(sign * axis[0], sign * axis[1]),
        tint=_jitter(generator, _TINT[group]),
    )


def _draw_emblems(generator: np.random.Generator) -> tuple[Emblem, Emblem]:
    square = Emblem("square", _jitter(generator, _CHROMA["square"]))
    return square, Emblem("triangle", _jitter(generator, _CHROMA["triangle"]))


def _draw_place(generator: np.random.Generator) -> Pair:
    y, x = (int(value) for value in generator.integers(0, AROUND, 2))
    return y, x


def _draw_speed(generator: np.random.Generator) -> int:
    return int(generator.integers(_SLOWEST, _FASTEST + 1))


def _draw_texture(generator: np.random.Generator) -> int:
    return int(generator.integers(2**63))


def _draw_appearance(generator: np.random.Generator, background: Background) -> tuple[Scene, Scene]:
    square, triangle = _draw_emblems(generator)
    motion = Steady((0, _sign(generator) * _draw_speed(generator)))
    actor = Actor(_draw_texture(generator), _draw_place(generator), motion, square)
    first, second = SHAPE_GROUPS["appearance"]
    return Scene(first, background, (actor,)), Scene(second, background, (replace(actor, emblem=triangle),))


def _draw_motion(generator: np.random.Generator, background: Background) -> tuple[Scene, Scene]:
    emblem = _draw_emblems(generator)[int(generator.integers(2))]
    upward = Steady((-_draw_speed(generator), 0))
    actor = Actor(_draw_texture(generator), _draw_place(generator), upward, emblem)
    first, second = SHAPE_GROUPS["motion"]
    scene = Scene(first, background, (actor,))
    return scene, time_reversed(scene, second)


def _draw_binding(generator: np.random.Generator, background: Background) -> tuple[Scene, Scene]:
    square, triangle = _draw_emblems(generator)
    place = _draw_place(generator)
    # Rows further apart than a diameter, in either direction round: the actors never touch, and neither is the upper.
    apart = (2 * RADIUS + 2) * POINTS
    other = ((place[0] + int(generator.integers(apart, AROUND - apart + 1))) % AROUND, int(generator.integers(AROUND)))
    right, left = Steady((0, _draw_speed(generator))), Steady((0, -_draw_speed(generator)))
    textures = _draw_texture(generator), _draw_texture(generator)

    def scene(label: str, goes_right: Emblem, goes_left: Emblem) -> Scene:
        actors = Actor(textures[0], place, right, goes_right), Actor(textures[1], other, left, goes_left)
        return Scene(label, background, actors)

    first, second = SHAPE_GROUPS["binding"]
    return scene(first, square, triangle), scene(second, triangle, square)


def _draw_lap(generator: np.random.Generator, direction: int) -> Lap:
    steps = int(generator.integers(13, LAST_MOVING - FIRST_MOVING + 2))
    return Lap(direction, int(generator.integers(FIRST_MOVING, LAST_MOVING - steps + 2)), steps)


def _draw_order(generator: np.random.Generator, background: Background) -> tuple[Scene, Scene]:
    emblem = _draw_emblems(generator)[int(generator.integers(2))]
    left, right = _draw_lap(generator, -1), _draw_lap(generator, 1)
    texture, place = _draw_texture(generator), _draw_place(generator)
    # Two equal actors half the stage apart make 32 pixels a whole turn, so that they rest in the same picture before,
    # between and after the laps.  Were it not so, the rests would show which end of the way came first.
    places = place, (place[0], (place[1] + PERIOD * POINTS) % AROUND)

    def scene(label: str, halves: tuple[Lap, Lap]) -> Scene:
        return Scene(label, background, tuple(Actor(texture, at, Laps(halves), emblem) for at in places))

    first, second = SHAPE_GROUPS["order"]
    return scene(first, (left, right)), scene(second, (right, left))


_DRAW: Mapping[str, Callable[[np.random.Generator, Background], tuple[Scene, Scene]]] = {
    "appearance": _draw_appearance,
    "motion": _draw_motion,
    "binding": _draw_binding,
    "order": _draw_order,
}
