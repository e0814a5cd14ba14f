"""Film strips: the sampled frames of a clip, the flow around each as colour, and the predictions.

The colour of flow is its direction and the strength of the colour its magnitude, as is usual since Baker et al. 2011;
the hues here are of one lightness, and no motion is transparent, so that the same picture serves a light and a dark
page.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image

from actionfusion.errors import SettingsError
from actionfusion.explanation.target import FloatArray
from actionfusion.video.clip import Clip

UInt8Array = npt.NDArray[np.uint8]
Pixels = TypeVar("Pixels", UInt8Array, FloatArray)

SIDE = 160  # of every picture but the video's, in pixels
LIGHTNESS, CHROMA = 66.0, 62.0
# Under 1, so that a slow hand is still seen beside a fast ball; the wheel is drawn by the same rule.
STRENGTH_EXPONENT = 0.7
LEAST_SCALE = 1.0
SCALE_STEP = 0.5
WEBP_QUALITY = 86
ROUNDING = 1e-5
# Dark purple over red to yellow, each lighter than the one before, so that it reads without colour too.
HEAT_COLOURS = "inferno"
HEAT_OPACITY = 0.75


@dataclass(frozen=True, eq=False)
class FilmStrip:
    """A clip and its predictions.

    Args:
        title: of the strip, such as the name of the video.
        truth: its label, or an empty text where none is known.
        clip: as the model saw it.
        predictions: labels with their probabilities 0..1, in any order; the best of them is the prediction.
        note: one more sentence, or an empty text.
        heat: ``[T, h, w]`` 0..1, how much each place of each frame counted for the prediction, drawn over the frames;
            any h and w that cover the picture. None draws no such row.

    Raises:
        SettingsError: no prediction, a probability outside 0..1, or heat that does not fit the clip.
    """

    title: str
    truth: str
    clip: Clip
    predictions: Sequence[tuple[str, float]]
    note: str = ""
    heat: FloatArray | None = None

    def __post_init__(self) -> None:
        if not self.predictions:
            raise SettingsError(self.title, "the film strip has no prediction", "give one label with its probability")
        wrong = [
            f"{label} {probability}" for label, probability in self.predictions if not 0 <= probability <= 1 + ROUNDING
        ]
        if wrong:
            raise SettingsError(self.title, f"{wrong[0]} is no probability", "give 0 to 1")
        if self.heat is not None:
            if self.heat.ndim != 3 or len(self.heat) != len(self.clip.rgb) or not self.heat.size:
                reason = f"a heat map of {list(self.heat.shape)} does not fit {len(self.clip.rgb)} frames"
                raise SettingsError(self.title, reason, "give one map a frame")
            if not ((self.heat >= -ROUNDING) & (self.heat <= 1 + ROUNDING)).all():
                raise SettingsError(self.title, "the heat map leaves 0 to 1", "give 0 to 1")

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """Predictions, best first; equals keep their order."""
        return sorted(self.predictions, key=lambda prediction: -prediction[1])

    @property
    def correct(self) -> bool | None:
        """Whether the best prediction is the truth; None where the truth is not known."""
        return self.ranking[0][0] == self.truth if self.truth else None


@dataclass(frozen=True)
class Picture:
    """An inlined picture.

    Attributes:
        source: a data URI.
        description: what it shows, for screen readers.
        caption: a short text beneath it.
    """

    source: str
    description: str
    caption: str = ""


def middle_fields(clip: Clip) -> FloatArray:
    """Decode the flow from each sampled frame to the next frame of the video; only of a clip with flow.

    Field L/2 of the window t - L/2 ... t + L/2 - 1 starts at the sampled frame itself.

    Returns:
        ``[T, size, size, 2]``, u to the right and v down, in pixels of the resized picture.
    """
    assert clip.flow is not None
    middle = clip.flow.shape[1] // 4
    return clip.recipe.decode(clip.flow[:, 2 * middle : 2 * middle + 2]).transpose(0, 2, 3, 1)


def common_scale(clips: Sequence[Clip]) -> float:
    """Choose the displacement that full colour stands for on a page, in pixels of the resized picture.

    One scale for all clips, so that a slow action looks slow beside a fast one: the 99th percentile of all magnitudes
    rounded up to half a pixel, and one pixel at least, below which flow is mostly noise.
    """
    fields = [middle_fields(clip) for clip in clips if clip.flow is not None]
    if not fields:
        return LEAST_SCALE
    magnitudes = np.concatenate([np.linalg.norm(field, axis=-1).ravel() for field in fields])
    return max(math.ceil(float(np.percentile(magnitudes, 99)) / SCALE_STEP) * SCALE_STEP, LEAST_SCALE)


def flow_colours(field: FloatArray, scale: float) -> UInt8Array:
    """Draw a flow frame in colour.

    Args:
        field: ``[H, W, 2]``, u to the right and v down, in pixels.
        scale: the magnitude that becomes opaque; larger ones are drawn as opaque too.

    Returns:
        ``[H, W, 4]`` RGBA: the hue is the direction, and alpha grows with the magnitude, from 0 at rest.
    """
    magnitude = np.linalg.norm(field, axis=-1)
    unit = field / np.maximum(magnitude, 1e-6)[..., None]
    # A circle around grey in CIELAB: right is red, up yellow, left green, down blue, all equally light.
    lab = np.stack([np.full_like(magnitude, LIGHTNESS), CHROMA * unit[..., 0], -CHROMA * unit[..., 1]], axis=-1)
    colours = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    alpha = np.clip(magnitude / scale, 0, 1) ** STRENGTH_EXPONENT
    rgba: UInt8Array = np.rint(255 * np.dstack([colours, alpha])).astype(np.uint8)
    return rgba


def flow_wheel(scale: float) -> Picture:
    """Draw the key to the colours: a disc in which each point has the colour of the motion from the centre to it."""
    axis = np.linspace(-1.02, 1.02, SIDE, dtype=np.float32) * scale
    disc = np.stack(np.meshgrid(axis, axis), axis=-1)
    picture = flow_colours(disc, scale)
    radius = np.linalg.norm(disc, axis=-1) / scale
    edge = np.clip((1 - radius) * SIDE / 2, 0, 1)
    picture[..., 3] = np.rint(picture[..., 3] * edge).astype(np.uint8)
    return Picture(webp_uri(picture), "Colour wheel: red is motion to the right, yellow up, green left, blue down")


def frame_pictures(clip: Clip) -> list[Picture]:
    """Draw the sampled frames of a clip."""
    pictures = []
    for position, (picture, seconds) in enumerate(zip(clip.rgb, clip.times, strict=True)):
        time = f"{seconds:.2f} s"
        words = f"Frame {position + 1} of {len(clip.rgb)}, at {time}"
        pictures.append(Picture(webp_uri(square(picture.transpose(1, 2, 0))), words, time))
    return pictures


def flow_pictures(clip: Clip, scale: float) -> list[Picture]:
    """Draw the flow at each sampled frame of a clip; none where it was cut without flow.

    Args:
        clip: T frames.
        scale: the displacement that is drawn in full colour, in pixels.
    """
    if clip.flow is None:
        return []
    pictures = []
    for position, field in enumerate(middle_fields(clip)):
        fastest = float(np.linalg.norm(field, axis=-1).max())
        words = f"Flow at frame {position + 1} of {len(clip.rgb)}: up to {fastest:.1f} px"
        pictures.append(Picture(webp_uri(flow_colours(square(field), scale)), words))
    return pictures


def heat_pictures(strip: FilmStrip) -> list[Picture]:
    """Draw the frames of a strip under its heat map, one picture a sampled frame; none where it has no map."""
    if strip.heat is None:
        return []
    pictures = []
    for moment, (picture, heat) in enumerate(zip(strip.clip.rgb, strip.heat, strict=True)):
        warmth = np.clip(square(heat.astype(np.float32)), 0, 1)
        alpha = HEAT_OPACITY * warmth[..., None]
        colours = mpl.colormaps[HEAT_COLOURS](warmth)[..., :3] * 255
        mixed = (1 - alpha) * square(picture.transpose(1, 2, 0)) + alpha * colours
        where = f"{moment + 1} of {len(strip.clip.rgb)}"
        most = np.unravel_index(int(warmth.argmax()), warmth.shape)
        place = f"{most[1] / SIDE:.0%} from the left, {most[0] / SIDE:.0%} from the top"
        words = f"Heat map on frame {where}: up to {warmth.max():.2f}, {place}"
        pictures.append(Picture(webp_uri(np.rint(mixed).astype(np.uint8)), words))
    return pictures


def square(picture: Pixels) -> Pixels:
    """Resize a frame or a map ``[H, W, ...]``, square as the model sees it, to ``SIDE``."""
    side = (SIDE, SIDE)
    # Enlarged by a smooth kernel, before flow is coloured, so that a picture of 32 pixels does not show them.
    kernel = cv2.INTER_AREA if max(picture.shape[:2]) > SIDE else cv2.INTER_CUBIC
    resized = cv2.resize(np.ascontiguousarray(picture), side, interpolation=kernel)
    return resized.astype(picture.dtype, copy=False)


def data_uri(content: bytes, kind: str) -> str:
    """Write bytes as a data URI of a media type."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def webp_uri(picture: UInt8Array) -> str:
    """Write a picture as a data URI."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="WEBP", quality=WEBP_QUALITY, method=4)
    return data_uri(content.getvalue(), "image/webp")
