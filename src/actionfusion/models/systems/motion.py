"""Motion between two pictures: of each pixel, and of the camera, the homography that most points agree with.

Source: Wang and Schmid 2013, whose SURF is SIFT here, since OpenCV's builds leave SURF out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Keys = tuple[Sequence[cv2.KeyPoint], Any]

_LEAST_MATCHES = 25  # that agree; of fewer no motion is taken away
_CORNERS = 1000


def farneback(first: UInt8Array, second: UInt8Array) -> Floats:
    """Compute flow ``[H, W, 2]`` in pixels, by the original's settings; zero between equal pictures."""
    if np.array_equal(first, second):
        return np.zeros((*first.shape, 2), np.float32)
    field = cv2.calcOpticalFlowFarneback(
        first, second, np.zeros((*first.shape, 2), np.float32), 0.5, 5, 10, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN
    )
    return field.astype(np.float32, copy=False)


def camera_motions(pictures: Sequence[UInt8Array], flows: Sequence[Floats]) -> list[npt.NDArray[np.float64]]:
    """Find the homography ``[3, 3]`` of each pair of grey pictures ``[H, W]``, whose flow is ``[H, W, 2]``."""
    sift = cv2.SIFT.create()
    keys = [sift.detectAndCompute(picture, None) for picture in pictures]
    found = []
    for pair, flow in enumerate(flows):
        matched, followed = _matched(keys[pair], keys[pair + 1]), _followed(pictures[pair], flow)
        found.append(find_homography(*(np.concatenate(each) for each in zip(matched, followed, strict=True))))
    return found


def find_homography(before: Floats, after: Floats) -> npt.NDArray[np.float64]:
    """Find the homography ``[3, 3]`` from points ``[n, 2]`` to points; the identity where too few agree."""
    if len(before) >= _LEAST_MATCHES:
        found, agree = cv2.findHomography(before, after, cv2.RANSAC, 1.0)
        if found is not None and np.count_nonzero(agree) >= _LEAST_MATCHES:
            return found.astype(np.float64)
    return np.eye(3)


def homography_flow(motion: npt.NDArray[np.float64], height: int, width: int, shrink: float = 1.0) -> Floats:
    """Make the flow ``[height, width, 2]`` of a homography of pictures that are ``shrink`` times as large."""
    y, x = np.mgrid[:height, :width] * shrink
    moved = np.stack((x, y, np.ones_like(x)), -1) @ motion.T
    flow: Floats = ((moved[..., :2] / moved[..., 2:] - np.stack((x, y), -1)) / shrink).astype(np.float32)
    return flow


def _matched(first: Keys, second: Keys) -> tuple[Floats, Floats]:
    """Pair key points whose descriptors are each other's nearest, ``[n, 2]`` twice."""
    (keys, values), (others, other_values) = first, second
    if values is None or other_values is None:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    pairs = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(values, other_values)
    before = np.array([keys[pair.queryIdx].pt for pair in pairs], np.float32).reshape(-1, 2)
    after = np.array([others[pair.trainIdx].pt for pair in pairs], np.float32).reshape(-1, 2)
    return before, after


def _followed(picture: UInt8Array, flow: Floats) -> tuple[Floats, Floats]:
    """Pair corners with where the flow takes them, ``[n, 2]`` twice."""
    corners = cv2.goodFeaturesToTrack(picture, _CORNERS, 0.001, 3)
    before = np.empty((0, 2), np.float32) if corners is None else corners.reshape(-1, 2).astype(np.float32)
    x, y = np.rint(before).astype(np.int64).T
    return before, before + flow[y, x]
