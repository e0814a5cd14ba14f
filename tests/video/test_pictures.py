"""Pictures scaled by planes, the fast way, are those that swscale packs itself, but for its rounding."""

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter
from hypothesis import given, settings
from hypothesis import strategies as st

from actionfusion.video.pictures import PictureConverter

FORMATS = [
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuv444p",
    "yuv410p",
    "yuva420p",
    "yuv420p10le",
    "yuv444p12le",
    "nv12",
    "p010le",
    "yuyv422",
    "gray",
    "gray10le",
    "rgb24",
    "bgr0",
    "rgba",
    "gbrp",
    "gbrp10le",
    "rgb555le",
]
PLAIN = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


def picture(height, width, pixel_format, seed):
    """Blurred noise of strong contrast, so that every value and many slopes occur."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    scene = np.clip(cv2.GaussianBlur(noise, (0, 0), 1.5) * 300 + 128, 0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(scene, "rgb24")
    return frame if pixel_format == "rgb24" else frame.reformat(format=pixel_format, threads=1)


def packed_by_swscale(frame, size):
    return VideoReformatter().reformat(frame, size, size, "rgb24", interpolation=PLAIN, threads=1).to_ndarray()


@given(
    pixel_format=st.sampled_from(FORMATS),
    height=st.integers(16, 300),
    width=st.integers(8, 200).map(lambda half: 2 * half),
    size=st.integers(16, 240),
    colours=st.tuples(st.sampled_from([1, 2, 5, 9]), st.sampled_from([0, 1, 2])),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_scaled_pictures_are_those_of_swscale_but_for_rounding(pixel_format, height, width, size, colours, seed):
    frame = picture(height, width, pixel_format, seed)
    frame.colorspace, frame.color_range = colours
    differences = PictureConverter(frame, size)(frame).astype(int) - packed_by_swscale(frame, size)
    assert np.abs(differences).max() <= (0 if 2 * height > 3 * size else 1)
    assert np.abs(differences).mean() < 0.02


@pytest.mark.parametrize("lines", [*range(145, 149), 192, 288, 480, 1080])
def test_from_one_and_a_half_lines_a_line_on_rounding_agrees(lines):
    for seed, pixel_format in enumerate(["yuv420p", "yuv444p", "yuv420p10le", "bgr0"]):
        frame = picture(lines, 160, pixel_format, seed)
        np.testing.assert_array_equal(PictureConverter(frame, 96)(frame), packed_by_swscale(frame, 96))


def test_planes_are_used_where_they_may_be(monkeypatch):
    asked = []

    class Noting:
        def __init__(self):
            self._inner = VideoReformatter()

        def reformat(self, frame, **how):
            asked.append(how["format"])
            return self._inner.reformat(frame, **how)

    monkeypatch.setattr("actionfusion.video.pictures.VideoReformatter", Noting)
    for size, height in [(None, 240), (224, 240), (160, 240), (159, 240), (96, 240)]:
        frame = picture(height, 320, "yuv420p", 0)
        image = PictureConverter(frame, size)(frame)
        assert image.flags.c_contiguous
        assert image.shape == (size or 240, size or 320, 3)
    assert asked == ["rgb24", "gbrp", "gbrp", "gbrp", "gbrp"]
