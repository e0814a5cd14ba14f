"""The shared files that break readers, and all shared real clips, against OpenCV, Pillow, plain PyAV and formulas."""

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from actionfusion.errors import NoVideoStream, VideoDamaged
from actionfusion.video.reading import count_frames, iterate_frames, probe, read_frames

# name: frames, width and height as shown, clockwise rotation, frames a second
ODD = {
    "decord_unordered.mov": (4, 50, 50, 0, 32),
    "decord_video_0.mov": (3, 568, 320, 0, 30),
    "decord_video_90.mov": (3, 320, 568, 90, 30),
    "decord_video_180.mov": (3, 568, 320, 180, 30),
    "decord_video_270.mov": (3, 320, 568, 270, 30),
    "imageio_cockatoo.mp4": (280, 1280, 720, 0, 20),  # 4:4:4
    "imageio_cockatoo_yuv420.mp4": (280, 1280, 720, 0, 20),
    "imageio_imageio_issue245.gif": (1, 30, 24, 0, 1),
    "imageio_newtonscradle.gif": (36, 200, 150, 0, None),  # pictures of 50 and of 20 ms
    "imageio_realshort.mp4": (36, 320, 240, 0, 30.02),
    "kinetics_arm_wrestling.mp4": (280, 340, 256, 0, 28),  # pixels wider than high
    "kinetics_flipping_a_pancake.mkv": (310, 426, 240, 0, 30),
    "torchcodec_av1_video.mkv": (125, 640, 360, 0, 25),
    "torchcodec_bt709_full_range.mp4": (30, 1280, 720, 0, 30),
    "torchcodec_h264_10bits.mp4": (30, 200, 200, 0, 30),
    "torchcodec_h265_10bits.mp4": (30, 200, 200, 0, 30),
    "torchcodec_h265_video.mp4": (10, 128, 128, 0, 10),
    "torchcodec_nasa_13013.mp4": (390, 480, 270, 0, 29.97),  # the larger of two video streams, 320x180 and this one
}
SOUND = [
    "torchcodec_nasa_13013.mp4.audio.mp3",
    "torchcodec_nasa_13013.mp4.audio_44100.mp3",
    "torchcodec_sine_mono_s16.wav",
    "torchcodec_sine_mono_s32.wav",
    "torchcodec_sine_mono_s32_44100.wav",
    "torchcodec_sine_mono_s32_8000.wav",
]
DAMAGED = ["decord_corrupted.mp4"]


@pytest.fixture(scope="module")
def odd(shared_data):
    return shared_data / "odd"


def test_every_odd_file_is_in_these_tests(odd):
    assert sorted(path.name for path in odd.iterdir()) == sorted([*ODD, *SOUND, *DAMAGED])


@pytest.mark.parametrize("name", ODD)
def test_what_an_odd_file_is(name, odd):
    count, width, height, rotation, fps = ODD[name]
    info = probe(odd / name)
    assert (info.width, info.height, info.rotation, info.mirrored) == (width, height, rotation, False)
    assert info.frame_count == count_frames(odd / name) == count
    assert fps is None or info.fps == pytest.approx(fps, abs=0.01)
    frames = read_frames(odd / name, [0, count - 1])
    assert frames.num_frames == count
    assert frames.images.shape == (2, height, width, 3)
    if fps is not None:
        assert frames.times[1] == pytest.approx((count - 1) / fps, abs=0.005)


# OpenCV decodes no AV1 here, chooses the other stream of the NASA film, and rounds 10-bit colour.
BY_OPENCV = [name for name in ODD if not any(word in name for word in ("av1", "nasa", "10bits", "gif"))]


@pytest.mark.parametrize("name", BY_OPENCV)
def test_pixels_and_rotation_are_those_of_opencv(name, odd):
    count = ODD[name][0]
    wanted = sorted({0, 1, count // 2, count - 1})
    frames = read_frames(odd / name, wanted)
    capture = cv2.VideoCapture(str(odd / name))
    reference = []
    for index in range(count):
        found, picture = capture.read()
        assert found
        if index in wanted:
            reference.append(picture[:, :, ::-1])
    assert not capture.read()[0]
    np.testing.assert_array_equal(frames.images, reference)


@pytest.mark.parametrize("name", [name for name in ODD if name.endswith("gif")])
def test_gif_pixels_and_times_are_those_of_pillow(name, odd):
    with Image.open(odd / name) as picture:
        start = 0
        for frame in iterate_frames(odd / name):
            picture.seek(frame.index)
            reference = np.asarray(picture.convert("RGBA"))
            opaque = reference[:, :, 3] == 255
            np.testing.assert_array_equal(frame.image[opaque], reference[opaque][:, :3])
            assert frame.time == pytest.approx(start / 1000)
            start += picture.info["duration"]
        assert frame.index + 1 == picture.n_frames


@pytest.mark.parametrize(("name", "stream"), [("torchcodec_av1_video.mkv", 0), ("torchcodec_nasa_13013.mp4", 1)])
def test_pixels_are_those_of_plain_pyav(name, stream, odd):
    frames = iterate_frames(odd / name)
    with av.open(str(odd / name)) as container:
        for index, picture in enumerate(container.decode(video=stream)):
            frame = next(frames)
            assert frame.time == pytest.approx(picture.time, abs=1e-6)
            if index % 40 == 0:
                np.testing.assert_array_equal(frame.image, picture.to_ndarray(format="rgb24"))
    assert next(frames, None) is None


def _left_sited(chroma: np.ndarray) -> np.ndarray:
    """4:2:0 chroma at the full size: samples lie on every second column, and between two rows (H.264, figure 6-1)."""
    height, width = chroma.shape
    columns, rows = np.meshgrid(np.arange(2 * width) / 2, (np.arange(2 * height) - 0.5) / 2)
    return cv2.remap(
        chroma.astype(np.float32),
        columns.astype(np.float32),
        rows.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


@pytest.mark.parametrize("name", ["torchcodec_h264_10bits.mp4", "torchcodec_h265_10bits.mp4"])
def test_ten_bit_colour_follows_the_formula(name, odd):
    with av.open(str(odd / name)) as container:
        picture = next(container.decode(video=0))
        luma, blue, red = (
            np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width] for plane in picture.planes
        )
    y, cb, cr = (luma / 4 - 16) / 219, (_left_sited(blue) / 4 - 128) / 224, (_left_sited(red) / 4 - 128) / 224
    r, b = y + 1.402 * cr, y + 1.772 * cb
    rgb = np.stack([r, (y - 0.299 * r - 0.114 * b) / 0.587, b], axis=2)
    image = read_frames(odd / name, [0]).images[0]
    assert np.abs(image - np.clip(255 * rgb, 0, 255)).max() < 1.5


@pytest.mark.parametrize("name", SOUND)
def test_sound_has_no_video_stream(name, odd):
    for read in (probe, count_frames, lambda path: read_frames(path, [0])):
        with pytest.raises(NoVideoStream, match="only sound"):
            read(odd / name)


def test_the_corrupted_file_is_damaged_after_28_right_frames(odd):
    path = odd / "decord_corrupted.mp4"
    assert probe(path).frame_count == 50
    capture = cv2.VideoCapture(str(path))
    given = 0
    error = None
    try:
        for frame in iterate_frames(path):
            np.testing.assert_array_equal(frame.image, capture.read()[1][:, :, ::-1])
            given += 1
    except VideoDamaged as raised:
        error = raised
    assert error is not None
    assert error.reason.startswith("frame 28, near 3.00 s, cannot be decoded")
    assert error.reason.endswith("frames decoded before it: 28")
    assert given == 28


def test_every_shared_real_clip_is_healthy(shared_data):
    paths = sorted(path for path in shared_data.rglob("*.avi") if path.parent.name != "odd")
    assert len(paths) == 384
    for place, path in enumerate(paths):
        frames = read_frames(path, [])
        assert 0 < frames.num_frames <= count_frames(path)
        if place % 12 == 0:
            capture = cv2.VideoCapture(str(path))
            opencv = 0
            while capture.grab():
                opencv += 1
            assert frames.num_frames == opencv, path


@pytest.mark.parametrize(
    "name",
    ["UCF-101/Archery/v_Archery_g09_c01.avi", "ut-interaction/set1/hand_shaking/17_3_0.avi"],
)
def test_times_of_avi_with_b_frames_go_evenly(name, shared_data):
    info = probe(shared_data / name)
    times = [frame.time for frame in iterate_frames(shared_data / name, size=16)]
    np.testing.assert_allclose(times, np.arange(len(times)) / info.fps, atol=1e-6)


def test_frames_that_a_camera_dropped_leave_gaps_in_the_times(shared_data):
    path = shared_data / "UCF-101/Basketball/v_Basketball_g16_c01.avi"
    info = probe(path)
    times = np.array([frame.time for frame in iterate_frames(path, size=16)])
    assert (len(times), info.frame_count) == (482, 528)
    steps = np.diff(times) * info.fps
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    assert times[-1] * info.fps == pytest.approx(527)
