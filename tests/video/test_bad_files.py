"""Files that give no clip: each kind of fault, by its error."""

import os
import pickle
import random
import resource
import sys
from contextlib import suppress

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from actionfusion.errors import (
    NoFrames,
    NotAVideo,
    NoVideoStream,
    VideoDamaged,
    VideoError,
    VideoMissing,
    VideoTooLarge,
    VideoUnreadable,
)
from actionfusion.video.containers import find_structure_fault
from actionfusion.video.reading import count_frames, iterate_frames, probe, read_frames


def _read(path):
    """How many frames a file gives, and the error that ends it."""
    count = 0
    try:
        for _ in iterate_frames(path):
            count += 1
    except VideoError as error:
        return count, error
    return count, None


def _noise(count: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures that compress badly, so that a file is mostly pictures."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), np.uint8))


def test_what_is_no_readable_file_is_missing(tmp_path, write_video):
    video = write_video(tmp_path / "a.avi", count=2)
    (tmp_path / "loop.avi").symlink_to(tmp_path / "loop.avi")
    os.mkfifo(tmp_path / "pipe.avi")
    paths = [tmp_path / "none.avi", tmp_path, video / "b.avi", tmp_path / "loop.avi", tmp_path / "pipe.avi"]
    for path in [*paths, "a\0b.avi", "x" * 5000]:
        for read in (_read, probe, count_frames):
            try:
                error = read(path)[1]
            except VideoMissing as raised:
                error = raised
            assert isinstance(error, VideoMissing), path
            assert isinstance(error, FileNotFoundError)
            assert error.kind == "missing"


def test_a_file_without_read_permission_is_unreadable_and_not_missing(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", count=2)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read every file
    try:
        with pytest.raises(VideoUnreadable, match="Permission denied"):
            probe(path)
    finally:
        os.seteuid(user)


def test_errors_travel_between_processes(tmp_path):
    _, error = _read(tmp_path / "none.avi")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is VideoMissing
    assert str(again) == str(error)
    assert again.subject == str(tmp_path / "none.avi")


TEXTS = {
    "empty.mp4": b"",
    "one.mp4": b"\0",
    "zeros.mp4": bytes(5000),
    "noise.mp4": np.random.default_rng(1).bytes(20_000),
    "notes.txt": b"hello world\n" * 100,
    "art.avi": b"\x1b[31mhello\x1b[0m\r\n" * 50,
    "labels.csv": b"path,label\nA/a.avi,A\n" * 50,
    "page.mp4": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "film.srt": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n\n",
    "archive.zip": b"PK\3\4" + bytes(1000),
    "paper.pdf": b"%PDF-1.4\n" + b"a" * 1000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_video_is_called_so(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(TEXTS[name])
    count, error = _read(path)
    assert isinstance(error, NotAVideo)
    assert count == 0


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "tif", "ppm", "ico", "avif"])
def test_a_still_picture_is_no_video_even_under_another_name(kind, tmp_path):
    picture = Image.fromarray(_noise(1)[0])
    try:
        picture.save(tmp_path / f"a.{kind}")
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    (tmp_path / "a.mp4").write_bytes((tmp_path / f"a.{kind}").read_bytes())
    assert isinstance(_read(tmp_path / f"a.{kind}")[1], NotAVideo)
    assert isinstance(_read(tmp_path / "a.mp4")[1], NotAVideo)


MANIFEST = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>
<Representation id="0" bandwidth="1"><BaseURL>{video}</BaseURL></Representation></AdaptationSet></Period></MPD>"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
        ("list.txt", "ffconcat version 1.0\nfile '{video}'\n"),
        ("list.mp4", "ffconcat version 1.0\nfile '{video}'\n"),
        ("list.mpd", MANIFEST),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_a_playlist_opens_nothing(name, text, tmp_path, write_video):
    video = write_video(tmp_path / "video.ts", codec="mpeg2video")
    path = tmp_path / name
    path.write_text(text.format(video=video), encoding="utf-8")
    assert isinstance(_read(path)[1], NotAVideo)


def test_sound_alone_has_no_video_stream(tmp_path):
    path = tmp_path / "a.wav"
    with path.open("wb") as file, av.open(file, "w", format="wav") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        tone.sample_rate = 8000
        out.mux(stream.encode(tone))
        out.mux(stream.encode(None))
    for read in (lambda path: list(iterate_frames(path)), probe, count_frames):
        with pytest.raises(NoVideoStream, match="only sound"):
            read(path)


def test_cover_art_alone_is_no_video_stream(tmp_path):
    path = tmp_path / "a.mp3"
    with path.open("wb") as file, av.open(file, "w", format="mp3") as out:
        voice = out.add_stream("libmp3lame", rate=44100, layout="mono")
        cover = out.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(_noise(1)[0], format="rgb24")
        picture.pts = 0
        out.mux(cover.encode(picture))
        out.mux(cover.encode(None))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 11520), np.float32), format="fltp", layout="mono")
        tone.sample_rate, tone.pts = 44100, 0
        out.mux(voice.encode(tone))
        out.mux(voice.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(NoVideoStream, match="only cover art"):
        probe(path)


def test_a_stream_without_a_frame(tmp_path):
    path = tmp_path / "a.avi"
    with path.open("wb") as file, av.open(file, "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    assert count_frames(path) == 0
    assert probe(path).frame_count == 0
    count, error = _read(path)
    assert isinstance(error, NoFrames)
    assert count == 0
    with pytest.raises(NoFrames):
        read_frames(path, [0])


WHOLE = {
    "a.avi": {},
    "sound.avi": {"sound": True},
    "index-last.mp4": {"codec": "libx264"},
    "index-first.mp4": {"codec": "libx264", "muxer_options": {"movflags": "faststart"}},
    "fragments.mp4": {"codec": "libx264", "options": {"g": "10"}, "muxer_options": {"movflags": "frag_keyframe"}},
    "a.mkv": {"codec": "libx264"},
    "a.webm": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1"},
    "a.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "a.apng": {"codec": "apng", "pixel_format": "rgb24"},
    "a.flv": {"codec": "flv"},
    "a.nut": {"codec": "ffv1"},
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_off_is_damaged(name, tmp_path, write_video):
    path = write_video(tmp_path / name, _noise(30), **WHOLE[name])
    assert _read(path) == (30, None)
    assert find_structure_fault(path) is None
    whole = path.read_bytes()
    for share in (0.05, 0.4, 0.8, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        count, error = _read(path)
        assert isinstance(error, VideoDamaged), share
        assert count < 30
        assert count == 0 or error.reason.endswith(f": {count}")


def test_a_cut_that_takes_only_an_index_does_no_harm(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi", _noise(30))
    whole = path.read_bytes()
    assert whole[-8 - 30 * 16 :].startswith(b"idx1")
    path.write_bytes(whole[:-100])
    assert _read(path) == (30, None)


def _packet_places(path) -> list[tuple[int, int]]:
    """Place in the file and size of every packet."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def test_a_picture_that_fails_its_checksum_is_damage(tmp_path, write_video):
    path = write_video(
        tmp_path / "a.mkv", _noise(10), codec="libx265", options={"x265-params": "log-level=none:hash=1"}
    )
    assert _read(path) == (10, None)
    place, size = _packet_places(path)[6]
    data = bytearray(path.read_bytes())
    data[place + size // 2] ^= 1
    path.write_bytes(data)
    count, error = _read(path)
    assert isinstance(error, VideoDamaged)
    assert count < 10


def test_a_picture_that_the_decoder_marks_as_corrupt_is_damage(tmp_path, write_video, numbered):
    """Some faults the decoder covers up, without an error, in a picture that it marks."""
    path = write_video(tmp_path / "a.avi", numbered(20, 96, 64))
    whole, places = path.read_bytes(), _packet_places(path)
    chance = random.Random(0)
    marked = 0
    for _ in range(200):
        place, size = chance.choice(places)
        data = bytearray(whole)
        data[place + chance.randrange(size)] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            with av.open(str(path)) as container:
                container.streams.video[0].codec_context.options = {"err_detect": "explode+crccheck"}
                covered_up = sum(frame.is_corrupt for frame in container.decode(video=0))
        except av.FFmpegError:
            continue
        if covered_up:
            marked += 1
            assert isinstance(_read(path)[1], VideoDamaged)
    assert marked


@pytest.mark.parametrize(
    ("packet", "size"), [(14, b"\x40\x20"), (14, b"\x7f\xf0"), (29, b"\x4f\xff"), (14, b"\xff\xff")]
)
def test_pictures_that_the_demuxer_passes_over_are_damage(packet, size, tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv", _noise(30), codec="libx264")
    place, _ = _packet_places(path)[packet]
    data = bytearray(path.read_bytes())
    # A SimpleBlock's content is what a packet's place points to; its name and size are the three bytes before.
    assert data[place - 3] == 0xA3
    data[place - 2 : place] = size
    path.write_bytes(data)
    assert find_structure_fault(path) == "its blocks do not fit together"
    assert isinstance(_read(path)[1], VideoDamaged)


@pytest.mark.parametrize(
    ("name", "settings_", "change"),
    [
        ("live.mkv", {"codec": "libx264", "muxer_options": {"live": "1"}}, lambda data: data),
        ("zeros-after.avi", {}, lambda data: data + bytes(500)),
        ("junk-after.avi", {}, lambda data: data + bytes(336) + data[2036:5000]),
        ("junk-after.gif", {"codec": "gif", "pixel_format": "rgb8"}, lambda data: data + b"junk"),
        ("no-trailer.gif", {"codec": "gif", "pixel_format": "rgb8"}, lambda data: data[:-1]),
        ("zeros-after.mp4", {"codec": "libx264"}, lambda data: data + bytes(20)),
        ("tag-cut.mp4", {"codec": "libx264"}, lambda data: data + b"\0\0\1\0udta"),
    ],
)
def test_an_odd_end_is_no_damage(name, settings_, change, tmp_path, write_video):
    path = write_video(tmp_path / name, _noise(12), **settings_)
    path.write_bytes(change(path.read_bytes()))
    assert _read(path) == (12, None)


@pytest.mark.parametrize("name", ["a.avi", "index-first.mp4", "a.mkv", "av1.mkv", "a.webm"])
def test_overwritten_pictures_are_damage_and_the_frames_before_are_right(name, tmp_path, write_video):
    path = write_video(tmp_path / name, _noise(30), **WHOLE[name])
    clean = [frame.image for frame in iterate_frames(path)]
    data = bytearray(path.read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    given = []
    with pytest.raises(VideoDamaged) as caught:  # noqa: PT012 - the frames before the fault are the point
        for frame in iterate_frames(path):
            given.append(frame.image)  # noqa: PERF401 - a comprehension would lose them
    assert 5 < len(given) < 25
    # The fault may be in the structure, which shows at the end, and then the last frame can be torn already.
    np.testing.assert_array_equal(given[:-1], clean[: len(given) - 1])
    assert caught.value.reason.endswith(f": {len(given)}")
    with pytest.raises(VideoDamaged):
        read_frames(path, [0])
    probe(path)


def test_a_picture_over_the_limit_is_refused_before_it_is_decoded(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "a.mp4", codec="libx264")
    monkeypatch.setattr("actionfusion.video.containers.MAX_PIXELS", 64 * 48 - 1)
    for read in (lambda path: list(iterate_frames(path)), probe, count_frames):
        with pytest.raises(VideoTooLarge, match="64x48"):
            read(path)
    monkeypatch.setattr("actionfusion.video.containers.MAX_PIXELS", 64 * 48)
    assert _read(path) == (12, None)


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "mp4"), ("libx265", "mkv"), ("mpeg4", "mp4")])
def test_a_decoder_that_keeps_many_pictures_gets_smaller_ones(codec, ending, tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / f"a.{ending}", codec=codec, width=128, height=128)
    monkeypatch.setattr("actionfusion.video.containers.LARGEST_LEVEL", 128 * 128 - 1)
    if codec == "mpeg4":
        assert _read(path) == (12, None)
        return
    for read in (lambda path: list(iterate_frames(path)), probe, count_frames):
        with pytest.raises(VideoTooLarge, match="128x128"):
            read(path)
    monkeypatch.setattr("actionfusion.video.containers.LARGEST_LEVEL", 128 * 128)
    assert _read(path) == (12, None)


@pytest.mark.parametrize("side", [8193, 12_000, 65_535])
def test_a_small_file_with_a_huge_picture_takes_no_memory(side, tmp_path):
    size = side.to_bytes(2, "little") * 2
    path = tmp_path / "bomb.gif"
    palette = b"\x80\0\0" + bytes(3) + b"\xff" * 3
    path.write_bytes(b"GIF89a" + size + palette + b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0" + b"\x3b")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoTooLarge):
        next(iterate_frames(path))
    with pytest.raises(VideoTooLarge):
        probe(path)
    # The smallest would take 268 MB; the unit is a kilobyte on Linux and a byte elsewhere, which is looser here.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (100_000 if sys.platform == "linux" else 1e8)


def test_a_stream_larger_than_its_container_says_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / "a.webm", codec="libvpx", count=2)
    # The start code of a VP8 key frame, then width and height in 14 bits each (RFC 6386, section 9.1).
    whole = path.read_bytes()
    assert whole.count(b"\x9d\x01\x2a\x40\0\x30\0") == 1
    path.write_bytes(whole.replace(b"\x9d\x01\x2a\x40\0\x30\0", b"\x9d\x01\x2a" + b"\xff\x3f" * 2))
    assert isinstance(_read(path)[1], VideoTooLarge)


def test_nothing_is_printed(tmp_path, write_video, capfd):
    for name, settings_ in WHOLE.items():
        path = write_video(tmp_path / name, _noise(20), **settings_)
        capfd.readouterr()
        data = bytearray(path.read_bytes())
        for place in range(len(data) // 3, len(data), len(data) // 4):
            data[place : place + 40] = bytes(40)
        path.write_bytes(data)
        _read(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("matrix", "is_converted"), [(3, True), (8, False), (14, False)])
def test_colour_matrices_that_cannot_be_converted_are_named(matrix, is_converted, tmp_path, write_video):
    planes = [np.full((3, 48, 64), 128, np.uint8)] * 3
    path = write_video(
        tmp_path / "a.mkv",
        planes,
        codec="libx264",
        pixel_format="yuv444p",
        source_format="yuv444p",
        colorspace=matrix,
    )
    count, error = _read(path)
    if is_converted:
        assert (count, error) == (3, None)
    else:
        assert isinstance(error, VideoDamaged)
        assert error.reason == f"frame 0 has colours that cannot be converted (matrix {matrix})"
    assert read_frames(path, []).num_frames == 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(WHOLE)), seed=st.integers(0, 2**32))
def test_whatever_is_overwritten_only_video_errors_come(name, seed, tmp_path, write_video, capfd):
    path = tmp_path / f"whole-{name}"
    if not path.exists():
        write_video(path, _noise(8), **WHOLE[name])
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    place, length = chance.randrange(len(data)), chance.choice([1, 16, 400])
    data[place : place + length] = chance.randbytes(length)
    data = data[: len(data) if chance.random() < 0.7 else chance.randrange(len(data))]
    damaged = tmp_path / f"damaged-{name}"
    damaged.write_bytes(data)
    capfd.readouterr()
    _read(damaged)
    for read in (probe, count_frames, find_structure_fault):
        with suppress(VideoError):
            read(damaged)
    assert capfd.readouterr() == ("", "")
