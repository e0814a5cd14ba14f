"""The overlay video: a clip as it plays, the heat on it, its flow as colour, and the probabilities so far.

Frames are drawn and encoded one by one, so memory does not grow with the length of the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.codec.codec import UnknownCodecError
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

from actionfusion.explanation.target import FloatArray
from actionfusion.files import replacing
from actionfusion.reporting.filmstrip import UInt8Array, flow_colours
from actionfusion.reporting.heatmaps import heat_over, text_font
from actionfusion.video.flow import FlowRecipe, compute_flow
from actionfusion.video.reading import Frame, iterate_frames, probe

Colour = tuple[int, int, int]

PANEL_HEIGHT = 240
NARROWEST, WIDEST = 180, 480
MARGIN = 16
ROW = 24
TEXT_SIZE = 14
MOST_BARS = 4
TICK = 60_000  # ticks a second: whole numbers for 24, 25, 30 and 29.97 frames; MPEG-4 allows up to 65,535
DEFAULT_RATE = 25
PAPER, PANEL, INK, MUTED = (21, 24, 27), (44, 50, 55), (231, 234, 236), (161, 170, 178)
ASKED, OTHER = (98, 185, 210), (139, 149, 157)
CODECS: dict[str, dict[str, str]] = {
    # With mbtree x264 reads memory that nobody has written, for most widths, and its bytes differ from run to run.
    "libx264": {"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0"},
    "mpeg4": {"flags": "+qscale", "global_quality": "354"},  # 3 of 31, in units of 1 / 118
}


@dataclass(frozen=True, eq=False)
class Overlay:
    """What is laid over a video.

    Attributes:
        labels: class names.
        target: index of the class that the heat is for.
        positions: ``[T]`` frame numbers of the sampled frames, from 0, ascending; repeated where a video is short.
        heat: ``[T, h, w]``, 0 to 1.
        running: ``[T, K]`` probabilities after the first k sampled frames.
        recipe: of the flow; drawn is the quick engine's, since here every frame has a field.  None computes no flow,
            and shows the frame without heat in its place.
        flow_scale: pixels that full colour stands for.
    """

    labels: Sequence[str]
    target: int
    positions: npt.NDArray[np.int64]
    heat: FloatArray
    running: FloatArray
    recipe: FlowRecipe | None
    flow_scale: float

    def heat_at(self, index: int) -> FloatArray:
        """Find the heat ``[h, w]`` at a frame: between two sampled frames it passes from one map to the other."""
        after = int(np.searchsorted(self.positions, index, side="right"))
        first, second = max(after - 1, 0), min(after, len(self.positions) - 1)
        span = int(self.positions[second] - self.positions[first])
        part = (index - int(self.positions[first])) / span if span else 0.0
        heat: FloatArray = ((1 - part) * self.heat[first] + part * self.heat[second]).astype(np.float32)
        return heat

    def probabilities_at(self, index: int) -> tuple[int, FloatArray | None]:
        """Count the sampled frames up to a frame, and give the probabilities ``[K]`` then; None before the first."""
        seen = int(np.searchsorted(self.positions, index, side="right"))
        return seen, self.running[seen - 1] if seen else None

    def bars(self) -> list[int]:
        """Choose the classes that are shown: the most probable of the whole clip, and the one that the heat is for."""
        order: list[int] = np.argsort(-self.running[-1], kind="stable")[:MOST_BARS].tolist()
        if self.target not in order:
            order[-1] = self.target
        return order


def write_overlay(path: Path, video: Path, overlay: Overlay) -> int:
    """Write the overlay of a whole video as MP4, with the times of its frames.

    H.264 where the FFmpeg of PyAV can encode it, else MPEG-4 part 2.

    Args:
        path: the file, written whole or not at all.
        video: the video.
        overlay: what is laid over it.

    Returns:
        Frames written.

    Raises:
        VideoError: the video cannot be read to its end.
        OSError: the file cannot be written.
    """
    rate = Fraction(probe(video).fps or DEFAULT_RATE).limit_denominator(1001)
    count = 0
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream: VideoStream | None = None
        last = -1
        for frame, field in _with_flow(video, overlay):
            picture = draw_overlay(frame.image, frame.index, field, overlay)
            stream = stream or _stream(container, rate, picture.shape)
            shown = av.VideoFrame.from_ndarray(picture, "rgb24")
            last = max(round(frame.time * TICK), last + 1)
            shown.pts, shown.time_base = last, Fraction(1, TICK)
            container.mux(stream.encode(shown))
            count += 1
        assert stream is not None
        container.mux(stream.encode(None))
    return count


def _stream(container: av.container.OutputContainer, rate: Fraction, shape: tuple[int, ...]) -> VideoStream:
    for codec, options in CODECS.items():
        try:
            stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=options))
        except UnknownCodecError:
            continue
        stream.height, stream.width = shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICK)
        # The bytes would else depend on how many cores there are.
        stream.codec_context.thread_count = 1
        return stream
    raise OSError(f"this FFmpeg encodes none of {', '.join(CODECS)}")


def _with_flow(video: Path, overlay: Overlay) -> Iterator[tuple[Frame, FloatArray | None]]:
    """Read each frame with the flow from it to the next one; the last has the flow from the one before."""
    if overlay.recipe is None:
        with closing(iterate_frames(video)) as frames:
            yield from ((frame, None) for frame in frames)
        return
    recipe = replace(overlay.recipe, engine="dis")
    field = np.zeros((recipe.size, recipe.size, 2), np.float32)
    before: tuple[Frame, UInt8Array] | None = None
    with closing(iterate_frames(video)) as frames:
        for frame in frames:
            small = cv2.resize(frame.image, (recipe.size, recipe.size), interpolation=cv2.INTER_AREA)
            if before is not None:
                field = recipe.decode(
                    compute_flow({0: before[1], 1: small.astype(np.uint8, copy=False)}, [0], recipe)[0]
                )
                yield before[0], field
            before = frame, small.astype(np.uint8, copy=False)
    if before is not None:
        yield before[0], field


def draw_overlay(image: UInt8Array, index: int, field: FloatArray | None, overlay: Overlay) -> UInt8Array:
    """Draw one picture of the overlay.

    Args:
        image: the frame, ``[H, W, 3]`` RGB.
        index: its number, from 0.
        field: flow ``[size, size, 2]`` in pixels; None shows the frame itself.
        overlay: what is laid over it.

    Returns:
        ``[height, width, 3]`` RGB, of even height and width, the same for all frames of a video.
    """
    height, width = image.shape[:2]
    panel = min(max(round(PANEL_HEIGHT * width / height), NARROWEST), WIDEST) // 2 * 2
    kernel = cv2.INTER_AREA if height > PANEL_HEIGHT else cv2.INTER_CUBIC
    shown = cv2.resize(image, (panel, PANEL_HEIGHT), interpolation=kernel).astype(np.uint8, copy=False)
    bars = overlay.bars()
    total = (3 * MARGIN + 2 * panel, 2 * MARGIN + PANEL_HEIGHT + (len(bars) + 1) * ROW)
    canvas = Image.new("RGB", total, PAPER)
    canvas.paste(Image.fromarray(heat_over(shown, overlay.heat_at(index))), (MARGIN, MARGIN))
    right = 2 * MARGIN + panel
    if field is None:
        canvas.paste(Image.fromarray(shown), (right, MARGIN))
    else:
        flow = cv2.resize(field, (panel, PANEL_HEIGHT), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
        canvas.paste(PANEL, (right, MARGIN, right + panel, MARGIN + PANEL_HEIGHT))
        colours = Image.fromarray(flow_colours(flow, overlay.flow_scale))
        canvas.paste(colours, (right, MARGIN), colours)
    _write_text(ImageDraw.Draw(canvas), index, overlay, (panel, right, total[0] - MARGIN))
    return np.asarray(canvas)


def _write_text(pen: ImageDraw.ImageDraw, index: int, overlay: Overlay, edges: tuple[int, int, int]) -> None:
    panel, right, end = edges
    top = MARGIN + PANEL_HEIGHT + 4
    font = text_font(TEXT_SIZE)
    seen, so_far = overlay.probabilities_at(index)
    pen.text((MARGIN, top), _fitting(f"speaks for {overlay.labels[overlay.target]}", panel), MUTED, font)
    pen.text((right, top), "video" if overlay.recipe is None else "flow", MUTED, font)
    pen.text((end, top), f"{seen} of {len(overlay.positions)} frames seen", MUTED, font, anchor="ra")
    left = MARGIN + round(0.36 * (end - MARGIN))
    stop = end - 62
    for row, shown in enumerate(overlay.bars(), 1):
        y = top + row * ROW + 6
        name = _fitting(overlay.labels[shown], left - MARGIN - 10)
        pen.text((MARGIN, y), name, INK if shown == overlay.target else MUTED, font)
        pen.rectangle((left, y + 3, stop, y + 14), PANEL)
        if so_far is None:
            pen.text((end, y), "–", MUTED, font, anchor="ra")
            continue
        reach = left + round(float(so_far[shown]) * (stop - left))
        if reach > left:
            pen.rectangle((left, y + 3, reach, y + 14), ASKED if shown == overlay.target else OTHER)
        pen.text((end, y), f"{100 * float(so_far[shown]):.1f} %", INK, font, anchor="ra")


def _fitting(text: str, width: int) -> str:
    """Return the text, or as much of its beginning as fits into so many pixels."""
    font = text_font(TEXT_SIZE)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
