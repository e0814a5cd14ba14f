"""Heat and activation maps as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from actionfusion.explanation.activations import LayerActivations
from actionfusion.explanation.localization import enlarged
from actionfusion.explanation.target import FloatArray
from actionfusion.reporting.filmstrip import HEAT_COLOURS, SIDE, UInt8Array, flow_colours, middle_fields, square
from actionfusion.video.clip import Clip

GAP = 6
LINE = 20
TEXT_SIZE = 13
# Readable on white and on the dark page alike, so that one picture serves both.
TEXT_COLOUR = (125, 134, 142)
HEAT_ALPHA, HEAT_EXPONENT = 0.85, 0.8
GREYNESS = 0.6


@cache
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that matplotlib brings: the same on any machine, for most alphabets of Europe."""
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def scaled_heat(maps: FloatArray) -> FloatArray:
    """Bring what speaks for the class to 0 to 1; zeros where nothing does.

    Within a frame heat is in proportion.  Between frames it is not: a frame's peak is the square root of its share of
    the clip's peak, or only the frame or two that an LSTM weighs most would be seen at all.

    Args:
        maps: ``[T, h, w]`` in log-odds.
    """
    heat = np.maximum(maps, 0)
    peaks = heat.max(axis=(1, 2), keepdims=True)
    scale = np.sqrt(peaks * peaks.max())
    scaled: FloatArray = np.divide(heat, scale, out=np.zeros_like(heat), where=scale > 0).astype(np.float32, copy=False)
    return scaled


def weight_heat(weights: FloatArray) -> FloatArray:
    """Bring weights of places ``[T, h, w]`` to heat as `scaled_heat` does, and of frames ``[T]`` in proportion.

    Returns:
        ``[T, h, w]``, or ``[T, 1, 1]`` of frames, 0 to 1.
    """
    if weights.ndim == 3:
        return scaled_heat(weights)
    largest = float(weights.max()) or 1.0
    heat: FloatArray = (weights / largest)[:, None, None].astype(np.float32, copy=False)
    return heat


def weighed_frames(frames: Sequence[UInt8Array], weights: FloatArray) -> list[UInt8Array]:
    """Draw frames by the weights by which a model reads them.

    Args:
        frames: ``[H, W, 3]`` RGB, T of them.
        weights: of places ``[T, h, w]``, drawn as heat, or of frames ``[T]``, drawn as brightness: the largest weight
            leaves a frame as it is, and 0 makes it black.
    """
    heat = weight_heat(weights)
    if weights.ndim == 3:
        return [heat_over(frame, each) for frame, each in zip(frames, heat, strict=True)]
    return [np.rint(frame * each).astype(np.uint8) for frame, each in zip(frames, heat, strict=True)]


def heat_over(frame: UInt8Array, heat: FloatArray) -> UInt8Array:
    """Draw heat over a frame, whose own colours are held back.

    Args:
        frame: ``[H, W, 3]`` RGB.
        heat: ``[h, w]``, 0 to 1, of any size.

    Returns:
        ``[H, W, 3]`` RGB.
    """
    values = np.clip(enlarged(heat[None], *frame.shape[:2])[0], 0, 1)
    colours = _colours(values)
    alpha = (HEAT_ALPHA * values**HEAT_EXPONENT)[..., None]
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = GREYNESS * grey + (1 - GREYNESS) * frame
    blended: UInt8Array = np.rint((1 - alpha) * pale + alpha * colours).astype(np.uint8)
    return blended


def _colours(values: FloatArray) -> FloatArray:
    colours: FloatArray = (255 * mpl.colormaps[HEAT_COLOURS](values)[..., :3]).astype(np.float32)
    return colours


def drawn_flow(clip: Clip, scale: float) -> list[UInt8Array]:
    """Draw the flow from each sampled frame to the next one, ``[SIDE, SIDE, 3]`` RGB: white where nothing moves.

    Args:
        clip: T frames; there are no pictures where it was cut without flow.
        scale: pixels that full colour stands for.
    """
    pictures = []
    for field in [] if clip.flow is None else middle_fields(clip):
        smooth = cv2.resize(np.ascontiguousarray(field), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        colours = Image.fromarray(flow_colours(smooth.astype(np.float32, copy=False), scale))
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        picture.paste(colours, (0, 0), colours)
        pictures.append(np.asarray(picture))
    return pictures


def activation_picture(frame: UInt8Array, layers: Sequence[LayerActivations]) -> UInt8Array:
    """Draw Figure 7: a row for each stage, a map for each channel; the input stands before the first row.

    Each map is drawn from black (0 and less) to its own largest value, since those of different channels are far apart,
    and in its own cells, so that its resolution is seen.

    Args:
        frame: ``[H, W, 3]``, what the backbone saw, drawn.
        layers: the rows.

    Returns:
        RGBA; nothing is painted between the maps.
    """
    columns = 1 + max(len(layer.channels) for layer in layers)
    height = len(layers) * (2 * LINE + SIDE + GAP)
    image = Image.new("RGBA", (columns * (SIDE + GAP) - GAP, height))
    pen = ImageDraw.Draw(image)
    image.paste(Image.fromarray(square(frame)), (0, LINE))
    pen.text((SIDE // 2, LINE + SIDE + 3), "input", TEXT_COLOUR, text_font(TEXT_SIZE - 2), anchor="ma")
    for row, layer in enumerate(layers):
        top = row * (2 * LINE + SIDE + GAP)
        size = f"{layer.maps.shape[1]} x {layer.maps.shape[2]}"
        words = f"stage {layer.layer}, {layer.name}: {len(layer.channels)} strongest of {layer.width} channels, {size}"
        pen.text((SIDE + GAP, top + 2), words, TEXT_COLOUR, text_font(TEXT_SIZE))
        for column, (channel, values) in enumerate(zip(layer.channels, layer.maps, strict=True), 1):
            left = column * (SIDE + GAP)
            kernel = cv2.INTER_AREA if max(values.shape) > SIDE else cv2.INTER_NEAREST
            cells = cv2.resize(values, (SIDE, SIDE), interpolation=kernel).astype(np.float32, copy=False)
            colours = np.rint(_colours(scaled_heat(cells[None])[0])).astype(np.uint8)
            image.paste(Image.fromarray(colours), (left, top + LINE))
            where = (left + SIDE // 2, top + LINE + SIDE + 3)
            pen.text(where, f"channel {channel + 1}", TEXT_COLOUR, text_font(TEXT_SIZE - 2), anchor="ma")
    return np.asarray(image)


def contact_sheet(rows: Sequence[tuple[str, Sequence[UInt8Array]]]) -> UInt8Array:
    """Draw rows of pictures of one size, ``[SIDE, SIDE, 3]``, each under its name; RGBA."""
    columns = max(len(pictures) for _, pictures in rows)
    step = LINE + SIDE + GAP
    image = Image.new("RGBA", (columns * (SIDE + GAP) - GAP, len(rows) * step))
    pen = ImageDraw.Draw(image)
    for row, (name, pictures) in enumerate(rows):
        pen.text((0, row * step + 2), name, TEXT_COLOUR, text_font(TEXT_SIZE))
        for column, picture in enumerate(pictures):
            image.paste(Image.fromarray(picture), (column * (SIDE + GAP), row * step + LINE))
    return np.asarray(image)


def png_bytes(picture: UInt8Array) -> bytes:
    """Encode a picture as PNG, the same bytes for the same pixels."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    return content.getvalue()
