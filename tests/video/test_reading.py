"""Healthy videos of many kinds, written by the tests themselves."""

import ctypes
import subprocess
import sys
import textwrap
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from actionfusion.errors import SettingsError, VideoDamaged
from actionfusion.video import pictures as pictures_module
from actionfusion.video.reading import count_frames, iterate_frames, probe, read_frames

KINDS = {
    "mpeg4.avi": {},
    "mpeg4-b-frames.avi": {"options": {"bf": "2"}},
    "motion-jpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "with-sound.avi": {"sound": True},
    "h264.mp4": {"codec": "libx264"},
    "h264-b-frames.mp4": {"codec": "libx264", "options": {"bf": "3", "b-adapt": "0"}},
    "h264-fragmented.mp4": {"codec": "libx264", "muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264-10-bit.mp4": {"codec": "libx264", "pixel_format": "yuv420p10le"},
    "h264-444.mkv": {"codec": "libx264", "pixel_format": "yuv444p"},
    "hevc.mkv": {"codec": "libx265"},
    "hevc-10-bit.mp4": {"codec": "libx265", "pixel_format": "yuv420p10le"},
    "prores-10-bit.mov": {"codec": "prores", "pixel_format": "yuv422p10le"},
    "av1.mkv": {"codec": "libsvtav1"},
    "vp8.webm": {"codec": "libvpx", "options": {"crf": "4", "b": "2M"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"crf": "4", "b": "0"}},
    "mpeg1-b-frames.mpg": {"codec": "mpeg1video", "options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "wmv2.wmv": {"codec": "wmv2"},
    "flv1.flv": {"codec": "flv"},
    "lossless.nut": {"codec": "ffv1"},
    "animated.apng": {"codec": "apng", "pixel_format": "rgb24"},
    "no-timestamps.h264": {"codec": "libx264", "options": {"bf": "2"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_its_frames_in_order_with_times_and_colours(name, tmp_path, write_video, numbered):
    expected = numbered(12, 64, 48)
    path = write_video(tmp_path / name, expected, **KINDS[name])
    frames = list(iterate_frames(path))

    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 25, atol=0.0015)
    for frame, picture in zip(frames, expected, strict=True):
        assert frame.image.shape == (48, 64, 3)
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert np.abs(frame.image[4:20, 36:].astype(int) - picture[4:20, 36:]).mean() < 5
        assert np.abs(frame.image.astype(int) - picture).mean() < 8

    info = probe(path)
    assert (info.width, info.height, info.rotation, info.mirrored) == (64, 48, 0, False)
    assert info.path == path
    assert info.frame_count == count_frames(path) == 12
    assert info.fps == pytest.approx(25)
    assert info.pixel_format == KINDS[name].get("pixel_format", "yuv420p")
    if not name.endswith((".h264", ".apng")):
        assert info.duration == pytest.approx(12 / 25, abs=0.002)


def test_gif_written_by_another_library(tmp_path, numbered):
    expected = numbered(9, 64, 48)
    lengths = [100, 50, 20, 20, 300, 30, 100, 200, 40]
    first, *others = [Image.fromarray(picture) for picture in expected]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=lengths)
    frames = list(iterate_frames(tmp_path / "a.gif"))
    np.testing.assert_array_equal([frame.image for frame in frames], expected)
    np.testing.assert_allclose([frame.time for frame in frames], np.cumsum([0, *lengths[:-1]]) / 1000, atol=1e-9)
    assert probe(tmp_path / "a.gif").duration == pytest.approx(sum(lengths) / 1000)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 47), (65, 31), (17, 200), (1, 1)])
def test_lossless_pictures_of_any_size_come_back_unchanged(width, height, tmp_path, write_video):
    generator = np.random.default_rng(width)
    expected = list(generator.integers(0, 256, (3, height, width, 3), np.uint8))
    path = write_video(tmp_path / "a.mkv", expected, codec="ffv1", pixel_format="bgr0")
    for frame, picture in zip(iterate_frames(path), expected, strict=True):
        np.testing.assert_array_equal(frame.image, picture)
        assert frame.image.flags.c_contiguous


def test_odd_sizes_of_subsampled_video(tmp_path, write_video, numbered):
    expected = numbered(5, 63, 47)
    path = write_video(tmp_path / "a.avi", expected)
    frames = read_frames(path, range(5))
    assert frames.images.shape == (5, 47, 63, 3)
    assert np.abs(frames.images.astype(int) - expected).mean() < 8


def _yuv(colour: tuple[int, int, int], red: float, blue: float, *, is_full: bool) -> np.ndarray:
    """8-bit Y'CbCr of an R'G'B' colour (ITU-R BT.601-7 section 2.5 and BT.709-6 section 3.2 with their weights)."""
    r, g, b = (value / 255 for value in colour)
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    scale = (255, 255, 0) if is_full else (219, 224, 16)
    return np.rint([scale[2] + scale[0] * luma, 128 + scale[1] * cb, 128 + scale[1] * cr]).astype(np.uint8)


WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), None: (0.299, 0.114)}


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("color_range", [None, 1, 2])
@pytest.mark.parametrize("colorspace", [None, 1, 5])
def test_colours_follow_the_matrix_and_range_of_the_stream(colorspace, color_range, size, tmp_path, write_video):
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (255, 255, 255), (0, 0, 0), (128, 128, 128), (250, 220, 10)]
    red, blue = WEIGHTS[colorspace]
    planes = [
        np.broadcast_to(_yuv(colour, red, blue, is_full=color_range == 2)[:, None, None], (3, 48, 64)).copy()
        for colour in colours
    ]
    path = write_video(
        tmp_path / "a.mkv",
        planes,
        codec="libx264",
        options={"crf": "0"},
        pixel_format="yuv444p",
        source_format="yuv444p",
        colorspace=colorspace,
        color_range=color_range,
    )
    for frame, colour in zip(iterate_frames(path, size=size), colours, strict=True):
        assert np.abs(frame.image.astype(int) - colour).max() <= 2


def test_subsampled_colours_are_within_three_levels(tmp_path, write_video):
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200), (255, 255, 255), (0, 0, 0)], np.uint8)
    pictures = [np.broadcast_to(colour, (48, 64, 3)).copy() for colour in colours]
    path = write_video(tmp_path / "a.mp4", pictures, codec="libx264", options={"crf": "1"})
    assert np.abs(read_frames(path, range(5)).images[:, 8, 8].astype(int) - colours).max() <= 3
    assert np.abs(read_frames(path, range(5), size=20).images[:, 8, 8].astype(int) - colours).max() <= 2


@pytest.mark.parametrize("size", [None, 40])
@pytest.mark.parametrize("rotation", list(product([0, 90, 180, 270], [False, True], [False, True])))
def test_rotation_metadata_is_applied(rotation, size, tmp_path, write_video):
    degrees, hflip, vflip = rotation
    stored = read_frames(write_video(tmp_path / "stored.mp4", count=3), range(3), size=size).images
    path = write_video(tmp_path / "turned.mp4", count=3, rotation=rotation)
    shown = np.rot90(stored, degrees // 90, axes=(1, 2))
    shown = shown[:, :, ::-1] if hflip else shown
    shown = shown[:, ::-1] if vflip else shown
    images = read_frames(path, range(3), size=size).images
    np.testing.assert_array_equal(images, shown)

    info = probe(path)
    mirrored = stored[:, :, ::-1] if info.mirrored else stored
    np.testing.assert_array_equal(images, np.rot90(mirrored, -info.rotation // 90, axes=(1, 2)))
    assert info.mirrored == (hflip != vflip)
    if not hflip and not vflip:
        assert info.rotation == -degrees % 360
    if size is None:
        assert (info.height, info.width) == images.shape[1:3]


def _scene(height: int, width: int) -> np.ndarray:
    """A picture with soft and sharp parts, so that a poor way of scaling shows."""
    generator = np.random.default_rng(5)
    noise = cv2.GaussianBlur(generator.uniform(0, 255, (height, width, 3)).astype(np.float32), (0, 0), 2)
    noise = (noise - noise.mean()) * 6 + 128
    noise[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 60)
    return np.clip(noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("pixel_format", ["bgr0", "yuv444p"])
@pytest.mark.parametrize("size", [64, 112, 224])
def test_scaling_down_averages_like_opencv(size, pixel_format, tmp_path, write_video):
    scene = _scene(240, 320)
    path = write_video(tmp_path / "a.mkv", [scene], codec="ffv1", pixel_format=pixel_format)
    image = read_frames(path, [0], size=size).images[0].astype(int)
    reference = cv2.resize(scene, (size, size), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(image - reference).mean() < 0.3
    assert np.abs((image - reference).mean()) < 0.1
    linear = cv2.resize(scene, (size, size), interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(linear - reference).mean() > 0.9


def test_scaling_up_interpolates(tmp_path, write_video):
    scene = _scene(60, 80)
    path = write_video(tmp_path / "a.mkv", [scene], codec="ffv1", pixel_format="bgr0")
    image = read_frames(path, [0], size=112).images[0].astype(int)
    assert np.abs(image - cv2.resize(scene, (112, 112), interpolation=cv2.INTER_LINEAR)).mean() < 1.5


def test_pixels_are_those_of_plain_pyav_with_threads(tmp_path, write_video, numbered):
    path = write_video(tmp_path / "a.mp4", numbered(30, 128, 96), codec="libx264", options={"bf": "2"})
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal([frame.image for frame in iterate_frames(path)], plain)


def test_variable_frame_rate_keeps_the_true_times(tmp_path, write_video):
    times = [0, 10, 30, 100, 110, 300, 301, 400, 500, 600, 700, 900]
    path = write_video(tmp_path / "a.mkv", times=times)
    np.testing.assert_allclose([frame.time for frame in iterate_frames(path)], np.array(times) / 1000, atol=1e-9)


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([10**9 + 40 * i for i in range(6)], [0, 0.04, 0.08, 0.12, 0.16, 0.2]),
        ([0, 40, 40, 40, 160, 240], [0, 0.04, 0.08, 0.12, 0.16, 0.24]),
    ],
    ids=["a late start", "doubles"],
)
def test_times_grow_strictly_from_the_first_frame(stamps, expected, tmp_path, mux_video, numbered):
    path = mux_video(tmp_path / "a.mkv", [(numbered(6), "mjpeg", 0)], [(stamp, stamp) for stamp in stamps])
    np.testing.assert_allclose([frame.time for frame in iterate_frames(path)], expected, atol=1e-6)


def test_timestamps_that_go_back_leave_order_and_growth(tmp_path, mux_video, numbered):
    stamps = [(0, 0), (120, 40), (80, 80), (160, 120), (200, 160), (240, 200)]
    path = mux_video(tmp_path / "a.mp4", [(numbered(6), "mjpeg", 0)], stamps)
    frames = list(iterate_frames(path))
    assert np.all(np.diff([frame.time for frame in frames]) > 0)
    assert np.all(np.diff([int(frame.image[4, -4, 0]) for frame in frames]) > 0)


def test_times_of_packed_b_frames_go_evenly(tmp_path, numbered):
    """DivX puts a P and a B picture into one AVI packet and an empty one after it; the timestamps then jump about."""
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.options = {"bf": "1", "g": "100", "sc_threshold": "1000000000"}
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
    encoder.thread_count = 1
    packets = []
    for index, picture in enumerate(numbered(21)):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = index
        packets += encoder.encode(frame)
    first, *others = [bytes(packet) for packet in packets + encoder.encode(None)]
    start = first.index(b"\0\0\1\xb6")
    packed = [first[:start] + b"\0\0\1\xb2DivX503b1393p" + first[start:]]
    for forward, between in zip(others[::2], others[1::2], strict=True):
        packed += [forward + between, b"\0\0\1\xb6\x50\xcf"]
    path = tmp_path / "a.avi"
    with path.open("wb") as file, av.open(file, "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, data in enumerate(packed):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = index
            out.mux(packet)
    with av.open(str(path)) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
    frames = list(iterate_frames(path))
    assert np.any(np.diff(stamps) < 0)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(21) / 25, atol=1e-9)
    assert np.all(np.diff([int(frame.image[4, -4, 0]) for frame in frames]) > 0)


def test_the_largest_stream_is_read_unless_another_is_the_default(tmp_path, mux_video, numbered):
    small, large = (numbered(4, 64, 48), "mpeg4", 0), (numbered(7, 96, 64), "mpeg4", 0)
    default = av.stream.Disposition.default
    path = mux_video(tmp_path / "a.avi", [small, large])
    assert read_frames(path, range(7)).images.shape == (7, 64, 96, 3)
    assert probe(path).frame_count == 7
    path = mux_video(tmp_path / "b.mp4", [(*small[:2], default), large])
    with av.open(str(path)) as container:
        if container.streams.video[1].disposition & default:
            pytest.skip("this FFmpeg marks every MP4 track as default")
    assert read_frames(path, range(4)).images.shape == (4, 48, 64, 3)


def test_cover_art_is_not_the_video(tmp_path, mux_video, numbered):
    cover = (numbered(1, 320, 240), "mjpeg", av.stream.Disposition.attached_pic)
    path = mux_video(tmp_path / "a.mp4", [(numbered(4), "mpeg4", 0), cover])
    assert read_frames(path, range(4)).images.shape == (4, 48, 64, 3)


def test_a_change_of_size_within_the_stream_is_scaled_to_the_first_size(tmp_path, write_video):
    first = write_video(tmp_path / "first.h264", codec="libx264", width=64, height=48)
    second = write_video(tmp_path / "second.h264", codec="libx264", width=96, height=80)
    path = tmp_path / "both.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    assert read_frames(path, range(24)).images.shape == (24, 48, 64, 3)
    images = read_frames(path, range(24), size=32).images
    assert np.abs(images[:12].astype(int) - images[12:])[:, 2:14, 18:].max() < 6


def test_frames_not_wanted_are_not_converted(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "a.avi", count=40)
    converted = []
    reformatter = pictures_module.VideoReformatter

    class Counting:
        def __init__(self):
            self._inner = reformatter()

        def reformat(self, frame, **settings):
            converted.append(frame.pts)
            return self._inner.reformat(frame, **settings)

    monkeypatch.setattr(pictures_module, "VideoReformatter", Counting)
    every = list(iterate_frames(path))
    assert len(converted) == 40
    converted.clear()
    frames = list(iterate_frames(path, wanted={3, 17, 39, 40, 1000}))
    assert len(converted) == 3
    assert [frame.index for frame in frames] == [3, 17, 39]
    for frame in frames:
        np.testing.assert_array_equal(frame.image, every[frame.index].image)
        assert frame.time == every[frame.index].time
    assert list(iterate_frames(path, wanted=[])) == []


def test_a_function_may_say_which_frames_are_wanted(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", count=20)
    asked = []

    def wanted(index):
        asked.append(index)
        return index % 7 == 2

    assert [frame.index for frame in iterate_frames(path, wanted=wanted)] == [2, 9, 16]
    assert asked == list(range(20))


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", [np.zeros((480, 640, 3), np.uint8)] * 300, options={"g": "300"})
    script = """
        import resource, sys
        from actionfusion.video.reading import iterate_frames, read_frames
        read_frames(sys.argv[1], [0])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read_frames(sys.argv[1], [1, 150, 299])
        assert sum(1 for frame in iterate_frames(sys.argv[1])) == 300
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("ru_maxrss is in kilobytes on Linux only")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    # All 300 pictures together are 270 MB.
    assert int(done.stdout) < 40_000


def test_a_reading_left_early_leaves_nothing_behind(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi")
    script = """
        import ctypes, gc, sys
        from actionfusion.video.reading import read_frames

        class Heap(ctypes.Structure):
            _fields_ = [(name, ctypes.c_size_t) for name in "a b c d e f g used h i".split()]

        library = ctypes.CDLL(None)
        library.mallinfo2.restype = Heap
        used = []
        for repetition in range(5):
            for _ in range(200):
                read_frames(sys.argv[1], [2], num_frames=12)
            gc.collect()
            used.append(library.mallinfo2().used)
        print(min(after - before for before, after in zip(used, used[1:])))
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("only glibc tells how much of its heap is used")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    # What is forgotten grows each time; glibc may move a block of its own into the heap once.
    # A list of streams and a packet that are forgotten at each reading are 150 bytes.
    assert int(done.stdout) < 200 * 20


def test_read_frames_gives_what_was_asked_in_the_order_asked(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", count=10)
    every = list(iterate_frames(path, size=32))
    frames = read_frames(path, [7, 2, 2, 9], size=32)
    assert frames.num_frames == 10
    np.testing.assert_array_equal(frames.indices, [7, 2, 2, 9])
    np.testing.assert_array_equal(frames.images, [every[index].image for index in (7, 2, 2, 9)])
    np.testing.assert_allclose(frames.times, [7 / 25, 2 / 25, 2 / 25, 9 / 25])
    assert frames.images.flags.c_contiguous
    nothing = read_frames(path, [], size=32)
    assert nothing.images.shape == (0, 32, 32, 3)
    assert nothing.num_frames == 10


def test_read_frames_beyond_the_end(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", count=10)
    with pytest.raises(SettingsError, match=r"there is no frame 10 among its 10 frames; take frames 0 to 9"):
        read_frames(path, [3, 10])
    with pytest.raises(SettingsError, match="-1 is before the first frame"):
        read_frames(path, [-1])
    frames = read_frames(path, [12, 9, 10, 0], strict=False)
    np.testing.assert_array_equal(frames.indices, [9, 0])
    assert len(frames.images) == len(frames.times) == 2
    assert frames.num_frames == 10


def test_reading_ends_with_the_last_frame_asked_for_where_the_length_is_known(tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv", count=40)
    whole = read_frames(path, [0, 4])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoDamaged):
        read_frames(path, [4, 0])
    frames = read_frames(path, [4, 0], num_frames=40)
    np.testing.assert_array_equal(frames.images, whole.images[::-1])
    assert frames.num_frames == 40


@pytest.mark.parametrize("size", [0, -3, 100_000])
def test_sizes_that_make_no_sense_are_refused(size, tmp_path):
    with pytest.raises(SettingsError, match="is no size for a frame"):
        iterate_frames(tmp_path / "a.avi", size=size)


def _open_files() -> set[str]:
    return {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def test_the_file_is_closed_however_the_reading_ends(tmp_path, write_video):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are listed in /proc on Linux only")
    path = write_video(tmp_path / "a.avi")
    frames = iterate_frames(path)
    next(frames)
    assert str(path) in _open_files()
    frames.close()
    assert str(path) not in _open_files()

    frames = iterate_frames(path)
    next(frames)
    del frames
    assert str(path) not in _open_files()

    def stop_in_the_middle():
        for frame in iterate_frames(path):
            if frame.index == 2:
                raise KeyError

    with pytest.raises(KeyError):
        stop_in_the_middle()
    probe(path)
    count_frames(path)
    read_frames(path, [1], num_frames=12)
    assert str(path) not in _open_files()


@pytest.mark.parametrize(
    "name",
    [
        "with a space.avi",
        "quo'te\".avi",
        "new\nline.avi",
        "ünï→日本語.avi",
        "-i.avi",
        "http:x.avi",
        "concat:a|b",
        "pipe:0",
        "file:x.avi",
        "data:text,x.avi",
        "picture%03d.avi",
        "not-utf8-\udcff.avi",
        "list.m3u8",
    ],
)
def test_a_name_is_only_a_name(name, tmp_path, write_video, monkeypatch):
    made = write_video(tmp_path / "made.avi", count=3)
    monkeypatch.chdir(tmp_path)
    try:
        made.rename(name)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    assert sum(1 for _ in iterate_frames(name)) == 3
    assert count_frames(Path(name)) == 3
