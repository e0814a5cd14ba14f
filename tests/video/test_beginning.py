"""Streams that begin without a key frame: their first pictures are no damage, and files and pipes agree."""

import os
import threading

import av
import numpy as np
import pytest

from actionfusion.data.check_videos import CheckTask, check_video
from actionfusion.errors import VideoDamaged
from actionfusion.video.live import Losses, open_source
from actionfusion.video.reading import iterate_frames, probe
from actionfusion.video.sources import find_source

CODECS = {
    "libx264": {"g": "10", "bf": "2", "sc_threshold": "0"},
    "libx265": {"x265-params": "log-level=none:keyint=10:min-keyint=10:scenecut=0:open-gop=0"},
    "mpeg2video": {"g": "10", "bf": "2"},
    "mpeg4": {"g": "10"},
}
OPEN = {"bf": "2", "x264-params": "open-gop=1:keyint=10:min-keyint=10:scenecut=0"}
# Pictures of the group before are named once more after the key frame, as to be forgotten.
LATE = {"bf": "3", "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:ref=4:b-pyramid=normal"}


@pytest.fixture
def through_a_pipe(tmp_path):
    """Give the pictures that a pipe gives, and what was lost."""

    def read(path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()), daemon=True)
        writer.start()
        losses = Losses()
        with open_source(find_source(pipe), losses) as source:
            pictures = [picture.image() for picture in source.pictures(48)]
        writer.join()
        pipe.unlink()
        return pictures, losses.frames

    return read


def _cut(path, first, target, muxer):
    """Copy the packets from that one on, undecoded, as ``ffmpeg -c copy`` does."""
    with av.open(str(path)) as source, target.open("wb") as file, av.open(file, "w", format=muxer) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][first:]:
            packet.stream = stream
            out.mux(packet)
    return target


def _read(path):
    return [frame.image for frame in iterate_frames(path, size=48)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("first", [3, 9])
def test_a_stream_joined_between_two_key_frames(codec, first, tmp_path, write_video, through_a_pipe):
    path = write_video(tmp_path / "a.ts", count=30, codec=codec, options=CODECS[codec])
    whole = _read(path)
    assert len(whole) == 30
    cut = _cut(path, first, tmp_path / "cut.ts", "mpegts")
    given = _read(cut)
    assert 18 <= len(given) <= 20
    assert probe(path).begins_with_key
    assert not probe(cut).begins_with_key
    found = check_video(CheckTask(cut, "cut.ts"))
    assert (found.row.status, found.row.frames) == ("ok", len(given))
    assert found.row.reason.startswith("begins without a key frame")
    np.testing.assert_array_equal(given, whole[-len(given) :])
    piped, lost = through_a_pipe(cut)
    np.testing.assert_array_equal(piped, given)
    assert lost == 0


@pytest.mark.parametrize("options", [OPEN, LATE], ids=["open", "late"])
@pytest.mark.parametrize(("ending", "muxer"), [("mkv", "matroska"), ("ts", "mpegts")])
def test_an_open_group_of_pictures_cut_at_its_key_frame(ending, muxer, options, tmp_path, write_video, through_a_pipe):
    path = write_video(tmp_path / f"a.{ending}", count=30, codec="libx264", options=options)
    whole = _read(path)
    with av.open(str(path)) as container:
        keys = [at for at, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    assert len(keys) > 1
    cut = _cut(path, keys[1], tmp_path / f"cut.{ending}", muxer)
    given = _read(cut)
    assert 0 < len(given) < 30
    np.testing.assert_array_equal(given, whole[-len(given) :])
    piped, lost = through_a_pipe(cut)
    np.testing.assert_array_equal(piped, given)
    assert lost == 0


@pytest.mark.parametrize("codec", sorted(CODECS.keys() - {"libx265"}))  # which decodes anything
def test_damage_in_the_first_key_frame_is_damage_all_the_same(codec, tmp_path, write_video):
    noise = list(np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8))
    path = write_video(tmp_path / "a.mkv", noise, codec=codec, options=CODECS[codec])
    with av.open(str(path)) as container:
        packet = next(iter(container.demux(video=0)))
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place + size // 2 : place + size // 2 + 60] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(VideoDamaged):
        list(iterate_frames(path))


def test_a_stream_without_any_key_frame_is_damaged_and_says_so(tmp_path, write_video):
    path = write_video(tmp_path / "a.ts", count=12, codec="mpeg2video", options={"g": "50"})
    with pytest.raises(VideoDamaged, match="begins without a key frame"):
        _read(_cut(path, 3, tmp_path / "cut.ts", "mpegts"))


def test_times_count_from_the_first_picture_that_is_given(tmp_path, write_video):
    path = write_video(tmp_path / "a.ts", count=30, codec="mpeg2video", options=CODECS["mpeg2video"])
    times = [frame.time for frame in iterate_frames(_cut(path, 3, tmp_path / "cut.ts", "mpegts"), size=16)]
    np.testing.assert_allclose(times, np.arange(len(times)) / 25, atol=1e-4)
