"""Running video that cannot be read twice: what is lost is counted, the times go on, the size may change."""

import io
import os
import threading
from contextlib import contextmanager, suppress

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.errors import NotAVideo, NoVideoStream, VideoDamaged, VideoMissing, VideoTooLarge
from actionfusion.video.live import Losses, StreamClock, open_source
from actionfusion.video.reading import iterate_frames
from actionfusion.video.sources import Source, find_source


@contextmanager
def piped(tmp_path, data):
    """The source of a named pipe into which a thread writes."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write():
        with path.open("wb", buffering=0) as file, suppress(BrokenPipeError):
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield find_source(path)
    finally:
        writer.join(10)
        path.unlink()
    assert not writer.is_alive()


def read(tmp_path, data, size=32):
    losses = Losses()
    with piped(tmp_path, data) as source, open_source(source, losses) as opened:
        pictures = [(picture.time, picture.image()) for picture in opened.pictures(size)]
    return pictures, losses.frames


@pytest.mark.parametrize(("ending", "codec"), [(".ts", "mpeg4"), (".mkv", "h264"), (".nut", "mpeg4"), (".flv", "flv")])
def test_a_pipe_gives_what_the_file_gives(tmp_path, write_video, ending, codec):
    path = write_video(tmp_path / f"clip{ending}", count=30, codec=codec)
    pictures, lost = read(tmp_path, path.read_bytes())
    expected = list(iterate_frames(path, size=32))
    assert lost == 0
    np.testing.assert_array_equal(np.stack([image for _, image in pictures]), [frame.image for frame in expected])
    np.testing.assert_allclose([time for time, _ in pictures], [frame.time for frame in expected], atol=1e-5)


def test_yuv4mpeg_and_bare_h264_can_be_piped(tmp_path, write_video):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="yuv4mpegpipe") as out:
        stream = out.add_stream("wrapped_avframe", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = index
            out.mux(stream.encode(frame))
    pictures, _ = read(tmp_path, buffer.getvalue())
    assert [round(time, 3) for time, _ in pictures] == [0, 0.1, 0.2, 0.3, 0.4]
    bare = write_video(tmp_path / "clip.h264", count=30, codec="libx264", options={"bf": "0"})
    pictures, _ = read(tmp_path, bare.read_bytes())
    assert len(pictures) == 30


def noise(count, side=48):
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def with_damage(path, damaged):
    """The file with the second half of the packets ``damaged`` overwritten."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for index in damaged:
        place, size = places[index]
        data[place + size // 2 : place + size] = bytes([255]) * (size - size // 2)
    return bytes(data)


def test_damaged_frames_are_counted_and_the_rest_goes_on(tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv", noise(30), codec="libx264", options={"g": "1", "bf": "0"})
    pictures, lost = read(tmp_path, with_damage(path, (11, 12, 20)))
    assert lost == 3
    assert [round(25 * time) for time, _ in pictures] == [n for n in range(30) if n not in (11, 12, 20)]
    whole = {frame.index: frame.image for frame in iterate_frames(path, size=32)}
    for time, image in pictures:
        np.testing.assert_array_equal(image, whole[round(25 * time)])


def test_what_comes_before_the_first_key_frame_is_not_called_lost(tmp_path, write_video):
    path = write_video(tmp_path / "a.ts", noise(30), codec="libx264", options={"g": "10", "bf": "0"})
    data = path.read_bytes()
    with av.open(str(path)) as container:
        third = [packet.pos for packet in container.demux(video=0) if packet.size][3]
    pictures, lost = read(tmp_path, data[third // 188 * 188 :])
    assert lost == 0
    assert len(pictures) >= 20


def test_a_stream_that_is_damage_alone_is_given_up(tmp_path, write_video, monkeypatch):
    monkeypatch.setattr("actionfusion.video.live.MAX_LOST_IN_A_ROW", 9)
    path = write_video(tmp_path / "a.mkv", noise(30), codec="libx264", options={"g": "1", "bf": "0"})
    assert read(tmp_path, with_damage(path, range(5, 14)))[1] == 9
    with pytest.raises(VideoDamaged, match="10 packets in a row"):
        read(tmp_path, with_damage(path, range(5, 15)))


def test_pictures_that_change_their_size_come_at_one_size(tmp_path, write_video):
    small = write_video(tmp_path / "a.ts", count=10, width=64, height=48, codec="mpeg2video")
    large = write_video(tmp_path / "b.ts", count=10, width=96, height=80, codec="mpeg2video")
    pictures, _ = read(tmp_path, small.read_bytes() + large.read_bytes())
    assert len(pictures) >= 18
    assert {image.shape for _, image in pictures} == {(32, 32, 3)}
    times = [time for time, _ in pictures]
    assert all(np.diff(times) > 0)
    assert times[-1] < 2


@given(st.lists(st.none() | st.floats(-1e5, 1e5), max_size=40), st.floats(0.001, 1))
def test_times_grow_strictly_whatever_a_source_states(stated, interval):
    clock = StreamClock(interval)
    times = [clock.time(each) for each in stated]
    assert times[:1] == [0.0][: len(times)]
    assert all(np.diff(times) > 0)
    assert all(np.diff(times) <= 10.0 + 1e-6)


@given(st.lists(st.floats(0.01, 9), min_size=1, max_size=20), st.floats(-1e4, 1e4))
def test_times_are_those_stated_where_they_make_sense(steps, origin):
    clock = StreamClock(0.04)
    expected = np.concatenate(([0], np.cumsum(steps)))
    np.testing.assert_allclose([clock.time(origin + each) for each in expected], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (b"", NotAVideo, "without a byte"),
        (b"just words " * 500, NotAVideo, "no video was recognised"),
        (os.urandom(20000), NotAVideo, "no video was recognised"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", NotAVideo, "no video was recognised"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n", NotAVideo, "no video was recognised"),
        (b"v=0\r\nm=video 9 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", NotAVideo, "no video was recognised"),
    ],
)
def test_a_pipe_of_something_else_says_so(tmp_path, data, error, told):
    with pytest.raises(error, match=told):
        read(tmp_path, data)


def test_a_pipe_of_sound_says_so(tmp_path, write_video):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as out:
        voice = out.add_stream("mp2", rate=16000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        tone.sample_rate = 16000
        out.mux([*voice.encode(tone), *voice.encode(None)])
    with pytest.raises(NoVideoStream, match="only sound"):
        read(tmp_path, buffer.getvalue())


def test_a_picture_over_the_limit_is_refused(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "a.webm", codec="libvpx", count=2)
    # The start code of a VP8 key frame, then width and height in 14 bits each (RFC 6386, section 9.1).
    huge = path.read_bytes().replace(b"\x9d\x01\x2a\x40\0\x30\0", b"\x9d\x01\x2a" + b"\xff\x3f" * 2)
    with pytest.raises(VideoTooLarge, match="over 67108864 pixels"):
        read(tmp_path, huge)
    monkeypatch.setattr("actionfusion.video.containers.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(VideoTooLarge, match="64x48"):
        read(tmp_path, path.read_bytes())


def test_a_pipe_that_cannot_be_opened_is_named(tmp_path):
    source = Source("pipe", "pipe", str(tmp_path / "absent"))
    with pytest.raises(VideoMissing, match="pipe: it cannot be opened"), open_source(source, Losses()):
        pass


def test_a_pipe_can_be_told_to_stop_while_nothing_comes():
    reader, writer = os.pipe()
    stopped, failures = threading.Event(), []
    source = Source("pipe", "silent pipe", f"/dev/fd/{reader}")

    def wait():
        try:
            with open_source(source, Losses(), stopped=stopped.is_set):
                pass
        except NotAVideo as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    stopped.set()
    thread.join(20)
    assert not thread.is_alive()
    assert len(failures) == 1
    os.close(writer)
    os.close(reader)


def camera(path):
    """An opener of a camera that shows a clip; what it was asked for is kept in ``asked``."""
    asked = []

    def opener(name, mode, **options):
        asked.append((name, options))
        return av.open(str(path))

    return opener, asked


def test_a_camera_is_opened_by_its_device(tmp_path, write_video):
    """There is no camera where tests run; what is opened in its place is a clip."""
    path = write_video(tmp_path / "clip.mkv", count=7)
    opener, asked = camera(path)
    losses = Losses()
    with open_source(find_source("1", platform="linux"), losses, opener=opener) as opened:
        assert not opened.says_its_length
        assert len(list(opened.pictures(16))) == 7
    ((name, options),) = asked
    assert (name, options["format"]) == ("/dev/video1", "v4l2")
    assert options["container_options"]["format_whitelist"] == "video4linux2,v4l2"
    assert options["timeout"]


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(VideoMissing, match=r"camera 97: it cannot be opened \(No such file"):  # noqa: SIM117
        with open_source(find_source("97", platform="linux"), Losses()):
            pass
    with pytest.raises(NotAVideo, match="FFmpeg that PyAV brings cannot open it"):  # noqa: SIM117
        with open_source(find_source("0", platform="darwin"), Losses()):
            pass


def test_a_camera_of_windows_is_opened_by_the_name_that_its_number_has(monkeypatch, tmp_path, write_video):
    class Device:
        def __init__(self, name, kinds):
            self.name, self.media_types = name, kinds

    devices = [Device("Microphone", ["audio"]), Device("Front", ["video"]), Device("Back", ["video"])]
    monkeypatch.setattr(av, "enumerate_input_devices", lambda kind: devices)
    opener, asked = camera(write_video(tmp_path / "clip.mkv", count=3))
    with open_source(find_source("1", platform="win32"), Losses(), opener=opener) as opened:
        assert len(list(opened.pictures(16))) == 3
    assert asked[0][0] == "video=Back"
    with pytest.raises(VideoMissing, match="there are 2 cameras"):  # noqa: SIM117
        with open_source(find_source("2", platform="win32"), Losses(), opener=opener):
            pass
