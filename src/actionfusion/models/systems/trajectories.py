"""Dense trajectories: points that are followed through a clip, and what is seen and moves in the tube around each.

    pictures [T, H, W] --Farneback, at each scale--> flow --points on a grid, followed L frames--> trajectories
    trajectory, HOG, HOF and MBH in a tube of 2 x 2 x 3 cells around each --> descriptors [M, D]

Trajectories are found first and described after, so that only those that are kept are described.  A cell's histogram is
a sum over a square of fixed size, which a box filter gives for all places at once, as an integral histogram would.

Sources: Wang, Klaeser, Schmid and Liu 2011 and 2013 (dense trajectories), Wang and Schmid 2013 (improved), Dalal,
Triggs and Schmid 2006 (MBH).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Self, cast

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError
from actionfusion.models.model_settings import ModelSettings
from actionfusion.models.systems.motion import camera_motions, farneback, homography_flow

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

USUAL_HEIGHT = 240
"""Pixels of the pictures that the original's thresholds in pixels are for."""
NO_MOTION = 0.4
"""Pixels of flow up to which HOF counts a pixel as at rest."""
_SCALE_STEP = 2**0.5
_CELLS, _PARTS = 2, 3  # cells of a tube along each side, and in time
_BINS = 8
_STATIC, _ERRATIC, _CAMERA_ALONE = 3**0.5, 50.0, 1.0
_JUMP, _JUMP_SHARE = 20.0, 0.7
_LEAST_CORNER = 0.001


@dataclass(frozen=True)
class TrajectorySettings(ModelSettings):
    """Settings of models that read trajectories; a subclass adds its own.

    Args:
        num_classes: K, classes to tell apart.
        frames: T, consecutive frames of a clip.
        image_size: height and width of the frames, in pixels.
        flow_size: not read.
        flow_channels: not read.
        scales: sizes of the picture, each smaller by the root of 2; fewer where it would be smaller than a patch.
        grid: pixels from one new point to the next.
        length: L, frames that a point is followed, a multiple of 3 and under ``frames``.
        patch: height and width of the tube around a trajectory, in pixels, even.
        improved: take the camera's motion away, and the root of each histogram.
        samples: M, the most trajectories that are kept of a clip, evenly from all.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {
        **ModelSettings.LEAST, "scales": 1, "grid": 1, "length": 3, "patch": 2, "samples": 1,
    }  # fmt: skip

    frames: int = 32
    image_size: int = 128
    scales: int = 8
    grid: int = 5
    length: int = 15
    patch: int = 32
    improved: bool = False
    samples: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length % _PARTS or self.length >= self.frames:
            reason = f"{self.length} is no multiple of 3 under {self.frames} frames"
            raise SettingsError("network.length", reason, "take 15, and longer clips")
        if self.patch % _CELLS or self.patch > self.image_size:
            reason = f"{self.patch} px is no even size up to the frames' {self.image_size} px"
            raise SettingsError("network.patch", reason, "take 32, and larger frames")

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of short trajectories in 32-pixel frames, for tests.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        small = {"frames": 8, "image_size": 32, "length": 3, "patch": 16, "scales": 1, "samples": 60}
        return super().tiny(num_classes, **{**small, **changes})

    @property
    def channels(self) -> dict[str, int]:
        """Widths of what describes a trajectory, by name; D is their sum, 426 for L = 15."""
        cells = _CELLS**2 * _PARTS
        return {
            "trajectory": 2 * self.length, "hog": cells * _BINS, "hof": cells * (_BINS + 1), "mbh": 2 * cells * _BINS,
        }  # fmt: skip


class Tracks(NamedTuple):
    """Trajectories of one scale, in its pixels.

    Attributes:
        points: ``[n, L + 1, 2]``, x and y.
        starts: ``[n]`` their first frames.
        steps: ``[n, L, 2]`` their displacements, without the camera's where that is taken away.
    """

    points: Floats
    starts: Integers
    steps: Floats

    def only(self, rows: npt.NDArray[np.generic]) -> Tracks:
        """Take some of them, by number or by a mask."""
        return Tracks(self.points[rows], self.starts[rows], self.steps[rows])

    @classmethod
    def joined(cls, parts: Sequence[Tracks]) -> Tracks:
        """Put several together."""
        points, starts, steps = zip(*parts, strict=True)
        return cls(np.concatenate(points), np.concatenate(starts), np.concatenate(steps))


class _Scale(NamedTuple):
    """Trajectories at one scale, its pictures, its flow without the camera's motion, and the unit of thresholds."""

    tracks: Tracks
    pictures: Sequence[UInt8Array]
    still: Sequence[Floats]
    unit: float


def describe_trajectories(pictures: UInt8Array, settings: TrajectorySettings) -> Floats:
    """Follow points through a clip and describe the tubes around them.

    Args:
        pictures: ``[T, H, W]``, grey.
        settings: of the trajectories.

    Returns:
        ``[n, D]`` with n up to ``settings.samples``, its columns as ``settings.channels``; no row is zero.
    """
    scales: list[_Scale] = []
    motions: list[npt.NDArray[np.float64]] = []
    for scaled in _scaled(pictures, settings):
        flows = [farneback(first, second) for first, second in pairwise(scaled)]
        if settings.improved and not motions:  # at the first scale, which is the pictures' own
            motions = camera_motions(scaled, flows)
        shrink = settings.image_size / len(scaled[0])
        still = flows
        if motions:
            cameras = [homography_flow(motion, len(scaled[0]), len(scaled[0]), shrink) for motion in motions]
            still = [flow - camera for flow, camera in zip(flows, cameras, strict=True)]
        tracks = follow(scaled, flows, still, settings.grid, settings.length)
        scales.append(_Scale(tracks, scaled, still, settings.image_size / USUAL_HEIGHT / shrink))
    moving = [each._replace(tracks=each.tracks.only(_is_motion(each, improved=settings.improved))) for each in scales]
    counts = [len(each.tracks.starts) for each in moving]
    kept = np.linspace(0, sum(counts) - 1, min(sum(counts), settings.samples)).astype(np.int64)
    described = []
    for each, end, count in zip(moving, np.cumsum(counts), counts, strict=True):
        rows = kept[(kept >= end - count) & (kept < end)] - (end - count)
        described.append(_describe(each._replace(tracks=each.tracks.only(rows)), settings))
    return np.concatenate(described)


def _scaled(pictures: UInt8Array, settings: TrajectorySettings) -> Iterator[list[UInt8Array]]:
    """Make the clip at each scale at which a patch fits into it."""
    for number in range(settings.scales):
        side = round(pictures.shape[1] / _SCALE_STEP**number)
        if side < settings.patch:
            return
        yield [
            cast("UInt8Array", cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR))
            for picture in pictures
        ]


def follow(
    pictures: Sequence[UInt8Array], flows: Sequence[Floats], still: Sequence[Floats], grid: int, length: int
) -> Tracks:
    """Follow points by median-filtered flow; new ones begin in cells of the grid that have texture and no point.

    Args:
        pictures: T grey pictures ``[H, W]``.
        flows: T - 1 fields ``[H, W, 2]``, which move the points.
        still: the same without the camera's motion, which the displacements are of.
        grid: pixels from one new point to the next.
        length: L; a point that leaves the picture before that is lost.
    """
    height, width = pictures[0].shape
    active = Tracks(
        np.empty((0, length + 1, 2), np.float32), np.empty(0, np.int64), np.empty((0, length, 2), np.float32)
    )
    done = [active]
    for time, flow in enumerate(flows):
        if time + length <= len(flows):
            here = active.points[np.arange(len(active.starts)), time - active.starts]
            fresh = _new_points(pictures[time], here, grid)
            begun = np.zeros((len(fresh), length + 1, 2), np.float32)
            begun[:, 0] = fresh
            new = Tracks(begun, np.full(len(fresh), time), np.zeros((len(fresh), length, 2), np.float32))
            active = Tracks.joined((active, new))
        rows, ages = np.arange(len(active.starts)), time - active.starts
        points = active.points[rows, ages]
        x, y = np.rint(points).astype(np.int64).T
        moved = points + cv2.medianBlur(flow, 3)[y, x]
        active.points[rows, ages + 1] = moved
        active.steps[rows, ages] = cv2.medianBlur(still[time], 3)[y, x]
        inside = (np.rint(moved) >= 0).all(1) & (np.rint(moved) < (width, height)).all(1)
        done.append(active.only(inside & (ages + 1 == length)))
        active = active.only(inside & (ages + 1 < length))
    return Tracks.joined(done)


def _new_points(picture: UInt8Array, points: Floats, grid: int) -> Floats:
    """Find the middles ``[n, 2]`` of cells with texture that no point is in."""
    texture = cv2.cornerMinEigenVal(picture, 3, ksize=3)
    rows, columns = (side // grid for side in picture.shape)
    free = np.ones((rows + 1, columns + 1), bool)
    x, y = (np.rint(points) // grid).astype(np.int64).T
    free[y, x] = False
    at_y, at_x = np.nonzero(free[:rows, :columns])
    middles = np.stack((at_x, at_y), 1) * grid + grid // 2
    strong = texture[middles[:, 1], middles[:, 0]] > _LEAST_CORNER * texture.max()
    return np.asarray(middles[strong], np.float32)


def _is_motion(scale: _Scale, *, improved: bool) -> npt.NDArray[np.bool_]:
    """Tell trajectories ``[n]`` that move from those that stand still, jump, or (improved) move with the camera."""
    tracks, unit = scale.tracks, scale.unit
    paths = np.cumsum(tracks.steps, 1)
    spread, lengths = paths.std(1), np.linalg.norm(tracks.steps, axis=-1)
    largest, whole = lengths.max(1), lengths.sum(1)
    static = (spread < _STATIC * unit).all(1)
    erratic = (spread > _ERRATIC * unit).any(1) | ((largest > _JUMP * unit) & (largest > _JUMP_SHARE * whole))
    with_camera = (largest < _CAMERA_ALONE * unit) & improved
    return np.asarray(~static & ~erratic & ~with_camera)


def _describe(scale: _Scale, settings: TrajectorySettings) -> Floats:
    """Describe the tubes around trajectories of one scale, ``[n, D]``."""
    tracks, pictures, still, unit = scale
    number, part_length = len(tracks.starts), settings.length // _PARTS
    # HOG, HOF, and MBH of both components, side by side.
    widths = (_BINS, _BINS + 1, _BINS, _BINS)
    sums = np.zeros((number, _PARTS, _CELLS, _CELLS, sum(widths)), np.float32)
    cell = settings.patch // _CELLS
    for time, flow in enumerate(still):
        ages = time - tracks.starts
        (rows,) = np.nonzero((ages >= 0) & (ages < settings.length))
        if not len(rows):
            continue
        maps = np.concatenate(histogram_maps(pictures[time], flow, NO_MOTION * unit), -1)
        boxes = cv2.boxFilter(maps, -1, (cell, cell), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_REPLICATE)
        boxes = np.maximum(boxes, 0)  # its running sums may end a little under zero
        corners = np.rint(tracks.points[rows, ages[rows]]).astype(np.int64) - settings.patch // 2
        # A patch that reaches over the border is moved inside.
        x, y = np.clip(corners, 0, np.array(flow.shape[1::-1]) - settings.patch).T
        for down in range(_CELLS):
            for right in range(_CELLS):
                sums[rows, ages[rows] // part_length, down, right] += boxes[y + down * cell, x + right * cell]
    hog, hof, mbh_x, mbh_y = np.split(sums, np.cumsum(widths)[:-1], -1)
    lengths = np.linalg.norm(tracks.steps, axis=-1).sum(1)[:, None, None]
    shape = (tracks.steps / np.maximum(lengths, 1e-6)).reshape(number, 2 * settings.length)
    cells = _PARTS * _CELLS**2
    tubes = [
        normalized(each.reshape(number, cells * each.shape[-1]), root=settings.improved)
        for each in (hog, hof, mbh_x, mbh_y)
    ]
    return np.concatenate((shape, *tubes), 1)


def normalized(histograms: Floats, *, root: bool) -> Floats:
    """Give rows ``[n, F]`` the length 1; by ``root`` as the roots of rows of the sum 1.  Rows of zeros stay."""
    if root:
        roots: Floats = np.sqrt(histograms / np.maximum(histograms.sum(1, keepdims=True), 1e-6))
        return roots
    scaled: Floats = histograms / np.maximum(np.linalg.norm(histograms, axis=1, keepdims=True), 1e-6)
    return scaled


def histogram_maps(picture: UInt8Array, flow: Floats, no_motion: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Let each pixel vote for the directions of its gradient, its motion, and the gradients of its motion.

    Args:
        picture: ``[H, W]``, grey.
        flow: ``[H, W, 2]``, in pixels.
        no_motion: length of the flow up to which a pixel votes for HOF's last bin, with weight 1.

    Returns:
        HOG ``[H, W, 8]``, HOF ``[H, W, 9]``, MBH of u ``[H, W, 8]`` and of v; bin b is at b / 8 of a turn from right
        to down.
    """
    hof = orientation_map(flow[..., 0], flow[..., 1])
    rests = np.hypot(flow[..., 0], flow[..., 1]) <= no_motion
    hof[rests] = 0
    u, v = (np.ascontiguousarray(flow[..., axis]) for axis in (0, 1))
    grey, u_map, v_map = (
        orientation_map(
            cv2.Sobel(each, cv2.CV_32F, 1, 0, ksize=1, borderType=cv2.BORDER_REPLICATE),
            cv2.Sobel(each, cv2.CV_32F, 0, 1, ksize=1, borderType=cv2.BORDER_REPLICATE),
        )
        for each in (picture, u, v)
    )
    return grey, np.concatenate((hof, rests[..., None].astype(np.float32)), -1), u_map, v_map


def orientation_map(x: npt.NDArray[Any], y: npt.NDArray[Any], bins: int = _BINS) -> Floats:
    """Divide the length of each vector of ``x`` and ``y`` among the two bins about its direction, ``[..., bins]``."""
    lengths = np.hypot(x, y).astype(np.float32)
    places = (np.arctan2(y, x) * (bins / (2 * np.pi))) % bins
    lower = np.floor(places)
    share, first = (places - lower).astype(np.float32), lower.astype(np.int64) % bins
    maps = np.zeros((*lengths.shape, bins), np.float32)
    np.put_along_axis(maps, first[..., None], (lengths * (1 - share))[..., None], -1)
    np.put_along_axis(maps, ((first + 1) % bins)[..., None], (lengths * share)[..., None], -1)
    return maps
