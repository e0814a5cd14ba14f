"""Convert decoded pictures to upright RGB arrays of one size, each in one call of swscale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from actionfusion.errors import SettingsError

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideDataContainer

UInt8Array = npt.NDArray[np.uint8]

# Keep the colour at full width in the output and of RGB sources; without the first flag, swscale scales by a path that
# is 1 to 3 levels too dark.
_FULL_COLOUR = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# AREA averages over the source area.  So it comes to 54 dB and more of cv2.INTER_AREA on an exact conversion when
# scaling real clips down; BILINEAR reaches 40 to 48 dB and is slower.
_SCALING = int(Interpolation.AREA | _FULL_COLOUR)
# 8-bit 4:2:0 of even height has a fast path of its own, the one that OpenCV takes too, which is 1 to 3 levels off.
_CONVERTING = int(Interpolation.BILINEAR | _FULL_COLOUR)
# Values of a colour matrix (ITU-T H.273, table 4).  swscale refuses the first, which says no more than the second.
_RESERVED, _UNSPECIFIED = 3, 2
_LARGEST_KEPT = 16 * 2**20


@dataclass(frozen=True)
class Orientation:
    """Display orientation of a stored picture: exchange the axes first if need be, then flip along x and y.

    Source: the transformation matrix of ISO/IEC 14496-12, section 8.3.2, rounded to quarter turns.
    """

    exchanges_axes: bool = False
    flips_x: bool = False
    flips_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """Read the orientation of a decoded picture; upright if it has none."""
        side_data = cast("SideDataContainer", frame.side_data)
        matrix = side_data.get(SideDataType.DISPLAYMATRIX)
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(flips_x=a < 0, flips_y=d < 0)
        return cls(exchanges_axes=True, flips_x=c < 0, flips_y=b < 0)

    @property
    def rotation(self) -> int:
        """Clockwise turn in degrees that shows the stored picture upright: 0, 90, 180 or 270."""
        if self.exchanges_axes:
            return 90 if self.flips_x else 270
        return 180 if self.flips_y else 0

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged before that turn."""
        return self.exchanges_axes ^ self.flips_x ^ self.flips_y

    def apply(self, image: UInt8Array) -> UInt8Array:
        """Turn the picture ``[H, W, 3]`` upright, C-contiguous; copy only if needed."""
        if self.exchanges_axes:
            image = image.swapaxes(0, 1)
        if self.flips_x:
            image = image[:, ::-1]
        if self.flips_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


class PictureConverter:
    """Makes RGB arrays of one stream's pictures, all of the size and orientation of the first picture.

    Args:
        first: the first picture of the stream.
        size: height and width of the square that is made, the aspect not kept; None leaves the stored size.
    """

    def __init__(self, first: VideoFrame, size: int | None) -> None:
        self._reformatter = VideoReformatter()
        self._orientation = Orientation.of(first)
        self._width = size or first.width
        self._height = size or first.height
        # Once a large block was freed, glibc keeps freed pictures for the next ones; else it gives them back to the
        # system each time, and fetching their pages again costs more than the conversion.
        np.empty(min(8 * 3 * self._width * self._height, _LARGEST_KEPT), np.uint8)

    def __call__(self, frame: VideoFrame) -> UInt8Array:
        """Convert to RGB ``[H, W, 3]``, 0..255, C-contiguous.

        Raises:
            av.FFmpegError: colours that swscale does not convert, such as YCgCo and ICtCp.
        """
        if frame.colorspace == _RESERVED:
            frame.colorspace = _UNSPECIFIED
        same_size = frame.width == self._width and frame.height == self._height
        # swscale writes planes with vector instructions and packed pixels, once scaled, without, in twice the time.
        # Where two lines make one, it cuts packed pixels off instead of rounding them: 1 in 800 is a level too dark.
        by_planes = not same_size
        rgb = self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="gbrp" if by_planes else "rgb24",
            interpolation=_CONVERTING if same_size else _SCALING,
            threads=1,  # swscale otherwise starts threads for every picture, which costs more than it gains
        )
        # Packed pixels are the new picture's own memory, copied only where its lines are padded.
        return self._orientation.apply(_interleaved(rgb) if by_planes else np.asarray(rgb.to_ndarray(), np.uint8))


def scaled_picture(picture: UInt8Array, size: int) -> UInt8Array:
    """Scale an RGB picture ``[H, W, 3]`` uint8 to ``[size, size, 3]``, as pictures of video are.

    Raises:
        SettingsError: an array of another shape or type, or of no pixels.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        reason = f"an array of {picture.dtype} and shape {picture.shape} is no RGB picture"
        raise SettingsError("frame", reason, "give uint8 [height, width, 3]")
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return PictureConverter(frame, size)(frame)


def resized(picture: UInt8Array, size: int) -> UInt8Array:
    """Scale a square RGB picture ``[n, n, 3]`` uint8 to ``[size, size, 3]``; one of that size is returned itself."""
    if len(picture) == size:
        return picture
    how = cv2.INTER_AREA if len(picture) > size else cv2.INTER_LINEAR
    return cv2.resize(picture, (size, size), interpolation=how).astype(np.uint8, copy=False)


def _interleaved(planar: VideoFrame) -> UInt8Array:
    green, blue, red = (
        np.frombuffer(cast(bytes, plane), np.uint8).reshape(planar.height, plane.line_size)[:, : planar.width]
        for plane in planar.planes
    )
    return cv2.merge((red, green, blue)).astype(np.uint8, copy=False)
