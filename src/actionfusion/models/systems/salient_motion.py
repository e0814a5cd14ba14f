"""What SGSH describes: salient regions, 3-D SIFT at key points in them, and histograms of oriented flow.

Sources: Hou and Zhang 2007 (spectral residual); Scovanner, Ali and Shah 2007 (3-D SIFT); Chaudhry, Ravichandran, Hager
and Vidal 2009 (HOOF).
"""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

TURN_BINS, RISE_BINS = 8, 4  # about the time axis, and from one end of it to the other
SIFT_WIDTH = 2**3 * TURN_BINS * RISE_BINS
_LARGEST = 0.2  # of a normalised 3-D SIFT, as in Lowe's
_LEAST_CORNER, _APART = 0.01, 4


def salient_regions(pictures: UInt8Array, times_the_mean: float = 3.0) -> npt.NDArray[np.bool_]:
    """Mark what stands out of grey pictures ``[T, H, W]``: where the spectral residual is so many times its mean.

    Raises:
        SettingsError: OpenCV was installed without its contrib modules.
    """
    if not hasattr(cv2, "saliency"):
        remedy = "uninstall every opencv package, then install opencv-contrib-python-headless alone"
        raise SettingsError("model", "saliency is not in this build of OpenCV", remedy)
    engine = cv2.saliency.StaticSaliencySpectralResidual.create()
    maps = np.stack([engine.computeSaliency(picture)[1] for picture in pictures])
    return np.asarray(maps > times_the_mean * maps.mean((1, 2), keepdims=True))


def key_points(pictures: UInt8Array, salient: npt.NDArray[np.bool_], most: int) -> Integers:
    """Find corners in the salient regions of pictures ``[T, H, W]``, as many of each: ``[n, 3]``, time, y and x."""
    shown = np.flatnonzero(salient.any((1, 2)))
    found = [np.empty((0, 3), np.int64)]
    for time in shown:
        mask = salient[time].astype(np.uint8)
        corners = cv2.goodFeaturesToTrack(pictures[time], most // len(shown) + 1, _LEAST_CORNER, _APART, mask=mask)
        if corners is not None:
            x, y = np.rint(corners.reshape(-1, 2)).astype(np.int64).T
            found.append(np.stack((np.full_like(x, time), y, x), 1))
    every = np.concatenate(found)
    return np.asarray(every[np.linspace(0, len(every) - 1, min(len(every), most)).astype(np.int64)])


def sift_3d(pictures: UInt8Array, points: Integers, side: int, depth: int) -> Floats:
    """Describe the neighbourhood of points by the directions of its gradients in space and time.

    Votes are weighted by a Gaussian about the point and by the inverse of their bin's solid angle.

    Args:
        pictures: ``[T, H, W]``, grey.
        points: ``[n, 3]``, time, y and x.
        side: height and width of the neighbourhood, even; what reaches over the border repeats it.
        depth: its frames, even.

    Returns:
        ``[n, 256]`` of the length 1, or 0 without gradients: 2 x 2 x 2 parts (time, y, x), 8 bins of direction in the
        picture from right to down, 4 from backwards to forwards in time.
    """
    by_time, by_y, by_x = np.gradient(pictures.astype(np.float32))
    lengths = np.sqrt(by_x**2 + by_y**2 + by_time**2)
    turns = np.arctan2(by_y, by_x) * (TURN_BINS / (2 * np.pi)) % TURN_BINS
    # Bins have their middles at halves, and half a bin at either end belongs to the bin there.
    rises = np.arctan2(by_time, np.hypot(by_x, by_y)) * (RISE_BINS / np.pi) + RISE_BINS / 2 - 0.5
    rises = rises.clip(0, RISE_BINS - 1)

    offsets = np.stack(np.meshgrid(*(np.arange(size) for size in (depth, side, side)), indexing="ij"), -1).reshape(
        -1, 3
    )
    parts = (offsets // (depth // 2, side // 2, side // 2)) @ (4, 2, 1)
    middle = np.array((depth, side, side)) / 2
    near = np.exp(-(((offsets + 0.5 - middle) / middle) ** 2).sum(1) / 2)
    places = points[:, None] + offsets - (depth // 2, side // 2, side // 2)
    time, y, x = np.clip(places, 0, np.array(pictures.shape) - 1).transpose(2, 0, 1)

    ends = np.sin(np.linspace(-np.pi / 2, np.pi / 2, RISE_BINS + 1))
    solid = (ends[1:] - ends[:-1]) * (2 * np.pi / TURN_BINS)
    rows = (np.arange(len(points))[:, None] * 8 + parts) * TURN_BINS
    votes = np.zeros(len(points) * SIFT_WIDTH)
    turn, rise, weight = turns[time, y, x], rises[time, y, x], lengths[time, y, x] * near
    for right, up in product((0, 1), (0, 1)):
        turn_bin, rise_bin = np.floor(turn).astype(np.int64) + right, np.floor(rise).astype(np.int64) + up
        share = (1 - np.abs(turn - turn_bin)) * (1 - np.abs(rise - rise_bin))
        rise_bin = np.minimum(rise_bin, RISE_BINS - 1)
        bins = (rows + turn_bin % TURN_BINS) * RISE_BINS + rise_bin
        votes += np.bincount(bins.ravel(), (weight * share / solid[rise_bin]).ravel(), len(votes))
    described = _unit(votes.reshape(len(points), SIFT_WIDTH))
    return _unit(np.minimum(described, _LARGEST)).astype(np.float32)


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def hoof(flow: Floats, bins: int = 30) -> Floats:
    """Make the histogram of oriented flow ``[bins]`` of a field ``[H, W, 2]``, whose sum is 1, or 0 without motion.

    An angle and its mirror image about the vertical axis share a bin, from up to down, so that walking to the left and
    to the right are the same.
    """
    angles = np.arctan2(flow[..., 1], np.abs(flow[..., 0]))
    places = np.minimum(((angles / np.pi + 0.5) * bins).astype(np.int64), bins - 1)
    counts = np.bincount(places.ravel(), np.linalg.norm(flow, axis=-1).ravel(), bins)
    return np.asarray(counts / max(counts.sum(), 1e-9), np.float32)
