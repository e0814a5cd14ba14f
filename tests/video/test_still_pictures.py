"""The size that a still picture states, against what decoders make of it; none larger than the limit is decoded."""

import io
import resource
import struct
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from actionfusion.data.check_videos import CheckTask, check_video
from actionfusion.data.source_videos import PictureFolderSource, read_source_frames
from actionfusion.errors import VideoDamaged, VideoTooLarge
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.still_pictures import decode_picture, picture_size

PICTURE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
BY_OPENCV = {
    "baseline": (".jpg", []),
    "progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    "png": (".png", []),
    "bmp": (".bmp", []),
    "tiff": (".tiff", []),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "webp lossless": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
}
BY_PILLOW = {
    "exif": {"format": "JPEG", "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
    "comment": {"format": "JPEG", "comment": b"\xff\xc0 no marker" * 9},
    "adam7": {"format": "PNG"},
    "tiff lzw": {"format": "TIFF", "compression": "tiff_lzw"},
    "big tiff": {"format": "TIFF", "big_tiff": True},
    "webp exif": {"format": "WEBP", "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
}


def _written() -> dict[str, bytes]:
    made = {name: cv2.imencode(ending, PICTURE, how)[1].tobytes() for name, (ending, how) in BY_OPENCV.items()}
    for name, how in BY_PILLOW.items():
        buffer = io.BytesIO()
        Image.fromarray(PICTURE).save(buffer, **how)
        made[name] = buffer.getvalue()
    return made


def _bomb(kind: str, side: int) -> bytes:
    """A small picture whose header says it is a square of that side."""
    data = bytearray(_written()[kind])
    if kind in ("baseline", "progressive"):
        place = data.index(b"\xff\xc0" if kind == "baseline" else b"\xff\xc2") + 5
        data[place : place + 4] = struct.pack(">HH", side, side)
    elif kind == "png":
        data[16:24] = struct.pack(">II", side, side)
    elif kind == "bmp":
        data[18:26] = struct.pack("<ii", side, -side)
    return bytes(data)


BOMBS = [("baseline", 30_000), ("progressive", 65_500), ("png", 30_000), ("bmp", 20_000), ("bmp", 2**31 - 1)]


@pytest.mark.parametrize("name", [*BY_OPENCV, *BY_PILLOW])
def test_the_stated_size_is_the_decoded_one(name):
    data = _written()[name]
    assert picture_size(data) == (53, 37)
    assert decode_picture(data, "a").shape == (37, 53, 3)
    np.testing.assert_array_equal(decode_picture(data, "a"), cv2.imdecode(np.frombuffer(data, np.uint8), 1))


@pytest.mark.parametrize("name", [*BY_OPENCV, *BY_PILLOW])
def test_a_header_that_is_cut_off_is_damage(name):
    data = _written()[name]
    for length in (0, 1, 2, 5, 10, 15, 20, 25):
        with pytest.raises(VideoDamaged):
            decode_picture(data[:length], "a")


def test_a_place_beyond_all_memory_is_damage():
    big = b"II+\0\x08\0\0\0" + b"\xff" * 8
    for data in (big, b"II*\0" + b"\xff" * 4, _written()["tiff"][:4] + b"\xff" * 4 + _written()["tiff"][8:]):
        with pytest.raises(VideoDamaged):
            decode_picture(data, "a")


def test_another_kind_is_refused():
    for data in (b"", b"P6 3 3 255 " + bytes(27), b"#?RADIANCE\n", b"\0\0\0\x20ftypavif", b"GIF89a", b"text"):
        with pytest.raises(VideoDamaged, match="no whole JPEG"):
            decode_picture(data, "a")


def test_a_png_is_whole_and_its_parts_are_no_longer_than_it(tmp_path):
    data = _written()["png"]
    for length in (len(data) - 1, len(data) - 12, len(data) // 2):
        with pytest.raises(VideoDamaged):
            decode_picture(data[:length], "a")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoDamaged):  # OpenCV takes 2 GB for it, and says nothing
        decode_picture(data[:33] + struct.pack(">I", 2**31 - 1) + data[37:], "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (100_000 if sys.platform == "linux" else 1e8)


@pytest.mark.parametrize(("kind", "side"), BOMBS)
def test_no_memory_is_taken_for_a_size_that_is_only_said(kind, side, tmp_path):
    (tmp_path / "a_00001.png").write_bytes(_bomb(kind, side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = PictureFolderSource(tmp_path, FlowRecipe("farneback", size=32))
    for read in (lambda: list(read_source_frames(tmp_path, 32)), lambda: source.read([0], [])):
        with pytest.raises(VideoTooLarge, match=f"{side}x{side}"):
            read()
    assert check_video(CheckTask(tmp_path, "a")).row.status == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (100_000 if sys.platform == "linux" else 1e8)
