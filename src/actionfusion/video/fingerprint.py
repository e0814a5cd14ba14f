"""Fingerprint videos: two files show the same pictures, however each was coded, scaled, lit or cut, or they do not.

A fingerprint is a strip of thumbnails of 8 x 8 grey values, up to 64 of them, evenly spaced in the video.  Two videos
are compared by how their thumbnails *change*, so that two actions in front of one wall differ: the wall drops
out.  What is left over when one video's changes are taken from the other's, over the size of the changes themselves,
is their distance; the strips are slid along each other first, since copies are often cut.

``benchmarks/doubles.py`` measures how many duplicates are found, and how many other pairs are taken for duplicates.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.video.reading import Frame

FloatArray = npt.NDArray[np.float32]

SIDE = 8
MOST_THUMBNAILS = 64
PICTURE_SIZE = 64
"""Side of the pictures to make thumbnails of, in pixels: averaging more of them changes nothing that is seen."""

DUPLICATE_DISTANCE = 0.3
"""Distance up to which two videos count as duplicates; see ``benchmarks/results/doubles.json``."""

# Grey levels, at a contrast of _CONTRAST, that coding alone changes; without it two still videos would be far apart.
_NOISE = 0.3
_CONTRAST = 40.0
# Added to a scene's contrast before dividing by it: a black video has none.
_LEAST_CONTRAST = 4.0
# Steps of a stored grey value: 1/8 level, which is far below the noise of coding.
_STEPS = 8
# Strips are slid as long as this share of the shorter one still overlaps; less in common is no duplicate.
_OVERLAP = 0.6
_FEWEST_OVERLAPPING = 4
_SLIDES_A_THUMBNAIL = 4


def fingerprint_positions(num_frames: int) -> range:
    """Choose the frames whose thumbnails make the fingerprint."""
    return range(0, num_frames, max(-(-num_frames // MOST_THUMBNAILS), 1))


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Thumbnails of a video over time.

    Attributes:
        num_frames: of the video.
        positions: ``[n]`` frame numbers of the thumbnails, ascending.
        thumbnails: ``[n, 64]`` float32 grey values 0..255.
    """

    num_frames: int
    positions: npt.NDArray[np.int64]
    thumbnails: FloatArray

    @classmethod
    def of(cls, frames: Iterable[Frame], num_frames: int) -> Fingerprint | None:
        """Make the fingerprint of frames at ``fingerprint_positions``, images ``[H, W, 3]``; None without frames."""
        kept = [(frame.index, _thumbnail(frame)) for frame in frames]
        if not kept:
            return None
        positions, thumbnails = zip(*kept, strict=True)
        return cls(num_frames, np.array(positions, np.int64), np.stack(thumbnails))

    def encode(self) -> str:
        """Encode as text for ``decode``."""
        steps = np.rint(self.thumbnails * _STEPS).astype("<i2")
        # What changes little from thumbnail to thumbnail packs best.
        packed = zlib.compress(np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1])).tobytes())
        numbers = " ".join(map(str, (self.num_frames, *self.positions.tolist())))
        return f"{numbers}:{base64.b64encode(packed).decode()}"

    @classmethod
    def decode(cls, text: str) -> Fingerprint:
        """Decode the text that ``encode`` wrote.

        Raises:
            ValueError: anything else.
        """
        numbers, _, packed = text.partition(":")
        num_frames, *positions = map(int, numbers.split())
        # 64 thumbnails take 8 KiB; a text that unpacks to more was not written by ``encode``.
        limit = MOST_THUMBNAILS * SIDE * SIDE * 2
        try:
            data = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), limit)
        except zlib.error as error:
            raise ValueError(f"no fingerprint: {error}") from error
        steps = np.frombuffer(data, "<i2").reshape(len(positions), SIDE * SIDE).cumsum(0, np.int32)
        return cls(num_frames, np.array(positions, np.int64), (steps / _STEPS).astype(np.float32))

    @cached_property
    def normalized(self) -> FloatArray:
        """Thumbnails ``[n, 64]`` without their brightness, at one contrast: a copy may be lighter, or flatter."""
        centred = self.thumbnails - self.thumbnails.mean(1, keepdims=True)
        scale = _CONTRAST / (float(centred.mean(0).std()) + _LEAST_CONTRAST)
        return np.asarray(centred * scale, np.float32)

    @cached_property
    def scene(self) -> FloatArray:
        """``[64]``, of length 1: the mean picture."""
        return _unit(self.normalized.mean(0))

    @cached_property
    def activity(self) -> FloatArray:
        """``[64]``, of length 1: how much each place changes."""
        return _unit(self.normalized.std(0) + _NOISE)


def distance(first: Fingerprint, second: Fingerprint) -> float:
    """Measure how far two videos are from being duplicates: 0 for the same pictures, about 1 for unlike motions.

    The lowest over all ways to lay one over the other: stretched to the same length (a copy at another frame rate), or
    slid along it, overlapping by at least 60 % of the shorter one.
    """
    if len(first.positions) > len(second.positions):
        first, second = second, first
    ends = max(first.num_frames - 1, 1), max(second.num_frames - 1, 1)
    stretched = first.positions * (ends[1] / ends[0])
    places = np.concatenate((stretched[None], first.positions[None] + _slides(first, second)[:, None]))
    return float(_leftover(first.normalized, *_looked_up(second, places)).min())


def _thumbnail(frame: Frame) -> FloatArray:
    grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).reshape(-1).astype(np.float32, copy=False)


def _unit(vector: FloatArray) -> FloatArray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)


def _slides(first: Fingerprint, second: Fingerprint) -> npt.NDArray[np.float64]:
    """List offsets in frames, finer than the spacing of the thumbnails, that leave enough overlap."""
    least = _OVERLAP * min(first.num_frames, second.num_frames)
    spacing = max(
        int(fingerprint.positions[1] if len(fingerprint.positions) > 1 else 1) for fingerprint in (first, second)
    )
    step = max(spacing / _SLIDES_A_THUMBNAIL, 1.0)
    back, forth = int((first.num_frames - least) / step), int((second.num_frames - least) / step)
    return np.arange(-back, forth + 1, dtype=np.float64) * step


def _looked_up(strip: Fingerprint, places: npt.NDArray[np.float64]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Interpolate the strip linearly at any positions ``[m, n]``: ``[m, n, 64]``, and where it has values."""
    at = strip.positions
    inside = (places >= 0) & (places <= at[-1])
    if len(at) == 1:
        return np.broadcast_to(strip.normalized, (*places.shape, SIDE * SIDE)), inside
    left = np.clip(np.searchsorted(at, places, side="right") - 1, 0, len(at) - 2)
    share = ((places - at[left]) / (at[left + 1] - at[left])).astype(np.float32)[..., None]
    return strip.normalized[left] * (1 - share) + strip.normalized[left + 1] * share, inside


def _leftover(still: FloatArray, moving: FloatArray, inside: npt.NDArray[np.bool_]) -> FloatArray:
    """Compute for each alignment ``[m]`` the changes without those of the other video, over the size of the changes."""
    weight = inside[..., None].astype(np.float32)
    count = np.maximum(weight.sum(1, keepdims=True), 1)

    def changes(strip: FloatArray) -> FloatArray:
        return np.asarray((strip - (strip * weight).sum(1, keepdims=True) / count) * weight, np.float32)

    ours, theirs = changes(np.broadcast_to(still, moving.shape)), changes(moving)
    size = count[:, 0, 0] * SIDE * SIDE
    rest = np.sqrt(((ours - theirs) ** 2).sum((1, 2)) / size)
    whole = np.sqrt(np.maximum((ours**2).sum((1, 2)), (theirs**2).sum((1, 2))) / size)
    enough = inside.sum(1) >= min(_FEWEST_OVERLAPPING, len(still))
    return np.asarray(np.where(enough, rest / (whole + _NOISE), np.inf), np.float32)
