"""Compute optical flow between consecutive frames: four engines, the 8-bit recipe, and the window of a frame.

Sources: the stacking of 2L channels and the 8-bit storage follow Simonyan and Zisserman 2014; the window is centred on
its frame as in Ou and Sun 2019, sections 3.5 and 3.6.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.errors import SettingsError

EngineName = Literal["dis", "dis-fast", "tvl1", "farneback"]
UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

ZERO_CODE = 128
LARGEST_CODE_STEP = 127
LARGEST_SIZE = 8192
"""Pixels of the side of a square picture, of which as many are the most that is read of any."""
SMALLEST_BOUND = 0.01
"""Pixels, under which flow is noise alone; far under it the codes are no numbers."""

# The stubs of OpenCV demand an array where None means a new one.  An array would also be taken as a first guess.
_NEW_FIELD = cast(FloatArray, None)


class FlowEngine(Protocol):
    """Computes the motion from one grey picture to the next."""

    def __call__(self, first: UInt8Array, second: UInt8Array, /) -> FloatArray:
        """Take two grey pictures ``[H, W]`` and give ``[H, W, 2]``: u to the right and v down, in pixels."""
        ...


@dataclass(frozen=True)
class FlowRecipe:
    """Settings of 8-bit flow, stored with every run and prepared clip; two recipes never mix.

    Args:
        engine: ``tvl1`` (Dual TV-L1, the paper lineage's), ``dis`` (DIS, medium preset: less exact, and over a hundred
            times as fast; see ``benchmarks/flow_engines.py``), ``dis-fast`` (its fast preset, which ends at a quarter
            of the picture's size) or ``farneback``.
        bound: displacement in pixels of the resized picture that the 8-bit range ends at; larger ones are clipped.
        size: height and width in pixels of the square picture that the flow is computed on.

    Raises:
        SettingsError: an unknown engine, a bound under 0.01 or over 8192 px, a size under 16 or over 8192 px.
    """

    engine: EngineName = "tvl1"
    bound: float = 20.0
    size: int = 224

    def __post_init__(self) -> None:
        if self.engine not in _MAKERS:
            raise SettingsError("flow.engine", f"{self.engine!r} is no engine", f"choose one of {', '.join(_MAKERS)}")
        if not SMALLEST_BOUND <= self.bound <= LARGEST_SIZE:
            reason = f"{self.bound} px is no length from {SMALLEST_BOUND} to {LARGEST_SIZE} px"
            raise SettingsError("flow.bound", reason, "20 is the usual bound")
        if not 16 <= self.size <= LARGEST_SIZE:
            reason = f"{self.size} px is no size for optical flow"
            raise SettingsError("flow.size", reason, f"take 16 to {LARGEST_SIZE}")

    def __str__(self) -> str:
        return f"{self.engine} at {self.size} px within {self.bound:g} px"

    def encode(self, field: FloatArray) -> UInt8Array:
        """Encode displacements in pixels as 1..255, where 128 is exactly no motion and 256 - code negates."""
        steps = np.rint(np.clip(field, -self.bound, self.bound) * (LARGEST_CODE_STEP / self.bound))
        codes: UInt8Array = (steps + ZERO_CODE).astype(np.uint8)
        return codes

    def decode(self, codes: UInt8Array) -> FloatArray:
        """Decode to displacements in pixels, within ``bound / 254`` of the clipped input of ``encode``.

        Code 0, which only lossy storage makes, is one step beyond ``-bound``.
        """
        return (codes.astype(np.float32) - ZERO_CODE) * np.float32(self.bound / LARGEST_CODE_STEP)


_Compute = Callable[[UInt8Array, UInt8Array], npt.NDArray[Any]]


def _dis(preset: int) -> _Compute:
    """Make the engine of Kroeger et al. 2016; of OpenCV's presets medium is the most exact."""
    dis = cv2.DISOpticalFlow.create(preset)
    finest_scale = dis.getFinestScale()

    def compute(first: UInt8Array, second: UInt8Array) -> npt.NDArray[Any]:
        # For a picture under 48 px OpenCV lowers the finest scale, and would leave it lowered for all that follow.
        dis.setFinestScale(finest_scale)
        return dis.calc(first, second, _NEW_FIELD)

    return compute


def _tvl1() -> _Compute:
    """Make the engine of Zach et al. 2007; OpenCV's settings: 5 scales of 0.8, 5 warps, lambda 0.15 on 0..255."""
    if not hasattr(cv2, "optflow"):
        raise SettingsError(
            "flow.engine",
            "'tvl1' is not in this build of OpenCV",
            "uninstall every opencv package, then install opencv-contrib-python-headless alone",
        )
    tvl1 = cv2.optflow.DualTVL1OpticalFlow.create(useInitialFlow=False)
    num_scales = tvl1.getScalesNumber()

    def compute(first: UInt8Array, second: UInt8Array) -> npt.NDArray[Any]:
        # For a picture under about 40 px OpenCV takes fewer scales, and would keep to fewer for all that follow.
        tvl1.setScalesNumber(num_scales)
        return tvl1.calc(first, second, _NEW_FIELD)

    return compute


def _farneback() -> _Compute:
    """Make the engine of Farneback 2003; OpenCV's settings: 5 halved scales, box of 13, 10 rounds, 5 px polynomials."""

    def compute(first: UInt8Array, second: UInt8Array) -> npt.NDArray[Any]:
        return cv2.calcOpticalFlowFarneback(first, second, _NEW_FIELD, 0.5, 5, 13, 10, 5, 1.1, 0)

    return compute


_MAKERS: Mapping[str, Callable[[], _Compute]] = {
    "dis": partial(_dis, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
    "dis-fast": partial(_dis, cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "tvl1": _tvl1,
    "farneback": _farneback,
}


class _Engine(threading.local):
    """Makes OpenCV's engine anew in each thread, since the engines work in buffers of their own."""

    def __init__(self, make: Callable[[], _Compute]) -> None:
        self._compute = make()

    def __call__(self, first: UInt8Array, second: UInt8Array, /) -> FloatArray:
        if np.array_equal(first, second):
            # Farneback alone would see up to 0.3 px at the edges; and repeated frames are common, so it saves time.
            return np.zeros((*first.shape, 2), np.float32)
        field = self._compute(np.ascontiguousarray(first), np.ascontiguousarray(second))
        return field.astype(np.float32, copy=False)


@cache
def flow_engine(name: EngineName) -> FlowEngine:
    """Return the engine of that name, which any threads may call at once.

    Flow depends on its two pictures alone: not on pictures before, nor on how many threads OpenCV uses; of two equal
    pictures it is zero.  On smooth textures that shift by up to 3 px the mean error in the middle of the picture is
    under 0.1 px.  Far motions are lost: DIS finds 20 px at a size of 224, Farneback 8 px at 128, TV-L1 about 6 px at
    any size.

    Raises:
        SettingsError: ``tvl1`` where OpenCV was installed without its contrib modules.
    """
    return _Engine(_MAKERS[name])


def compute_flow(
    frames: Sequence[UInt8Array] | Mapping[int, UInt8Array] | UInt8Array, pairs: Sequence[int], recipe: FlowRecipe
) -> UInt8Array:
    """Compute 8-bit flow from ``frames[p]`` to ``frames[p + 1]`` for every p of ``pairs``.

    Flow is computed on the luma of ITU-R BT.601, see ``grey_picture``.

    Args:
        frames: RGB pictures ``[size, size, 3]``; index p and p + 1 must be there for every p of ``pairs``.
        pairs: first frames of the pairs; in ascending order no frame is turned grey twice.
        recipe: engine, size and bound.

    Returns:
        Codes ``[len(pairs), size, size, 2]``, u then v.

    Raises:
        SettingsError: a frame that is not an RGB picture of the recipe's size.
    """
    fields = np.empty((len(pairs), recipe.size, recipe.size, 2), np.uint8)
    grey: dict[int, UInt8Array] = {}
    for row, start in enumerate(pairs):
        grey = {
            index: grey[index] if index in grey else grey_picture(frames[index], recipe.size)
            for index in (start, start + 1)
        }
        fields[row] = encoded_field(grey[start], grey[start + 1], recipe)
    return fields


def encoded_field(first: UInt8Array, second: UInt8Array, recipe: FlowRecipe) -> UInt8Array:
    """Compute codes ``[size, size, 2]`` of the flow between two grey pictures ``[size, size]``, in any thread."""
    return recipe.encode(flow_engine(recipe.engine)(first, second))


def grey_picture(frame: UInt8Array, size: int) -> UInt8Array:
    """Convert to the grey levels ``[size, size]`` that flow is computed on: 0.299 R + 0.587 G + 0.114 B.

    Raises:
        SettingsError: not an RGB picture ``[size, size, 3]``.
    """
    if frame.shape != (size, size, 3) or frame.dtype != np.uint8:
        raise SettingsError(
            "flow.size", f"a frame is {frame.dtype} {list(frame.shape)}", f"give uint8 [{size}, {size}, 3]"
        )
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def flow_window(position: int, length: int, num_frames: int) -> list[int]:
    """List the first frames of the ``length`` flow frames centred on a frame: t-2, t-1, t, t+1 for L = 4.

    Flow frames that would start before the first frame or end after the last repeat the edge.  A video of one frame
    has none, and the list is then empty.

    Args:
        position: the frame t, from 0.
        length: L, even; 0 for no flow at all.
        num_frames: frames of the video.

    Raises:
        SettingsError: a length that is odd or negative.

    Source: Ou and Sun 2019, section 3.5 ("centre point time L/2").
    """
    if length < 0 or length % 2:
        raise SettingsError(
            "clip.flow_frames", f"{length} flow frames cannot be centred on a frame", "take 2, 4, 6, ..."
        )
    if num_frames < 2:
        return []
    first = position - length // 2
    return [min(max(start, 0), num_frames - 2) for start in range(first, first + length)]
