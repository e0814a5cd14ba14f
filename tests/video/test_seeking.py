"""Frames found by seeking, against those of decoding everything: the same pixels, times and numbers, or none."""

import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionfusion.errors import VideoDamaged, VideoError
from actionfusion.video import reading as reading_module
from actionfusion.video import seeking
from actionfusion.video import video_source as video_source_module
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.reading import count_frames, read_frames
from actionfusion.video.seeking import PacketIndex, SeekingFailed, scan_packets, seek_frames
from actionfusion.video.threads import ReadingStopped, Share, sharing
from actionfusion.video.video_source import VideoSource

COUNT = 90
RECIPE = FlowRecipe("dis", size=48)
SETTINGS = ClipSettings(frames=4, flow_frames=2, flow=RECIPE)


def _pictures(count: int = COUNT) -> list[np.ndarray]:
    """A coarse texture that drifts two pixels a frame."""
    texture = np.random.default_rng(0).integers(0, 256, (12, (64 + 2 * count) // 4 + 1, 3), np.uint8)
    texture = texture.repeat(4, 0).repeat(4, 1)
    return [np.ascontiguousarray(texture[:48, 2 * index : 2 * index + 64]) for index in range(count)]


SEEKABLE = {
    "b-frames.mp4": {"codec": "libx264", "options": {"g": "12", "bf": "3"}},
    "every-seventh.mkv": {"codec": "libx264", "options": {"g": "7", "bf": "2"}},
    "every.mp4": {"codec": "libx264", "options": {"g": "1"}},
    "fragments.mp4": {
        "codec": "libx264",
        "options": {"g": "10"},
        "muxer_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "live.mkv": {"codec": "libx264", "options": {"g": "10"}, "muxer_options": {"live": "1"}},
    "mpeg4.mp4": {"options": {"g": "10"}},
    "mpeg4-b.mkv": {"options": {"g": "10", "bf": "2", "sc_threshold": "1000000000"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "15", "lag-in-frames": "10", "auto-alt-ref": "1"}},
    "hevc-open.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=3"},
    },
    "hevc-closed.mkv": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12:open-gop=0"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"g": "16"}},
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1", "options": {"g": "9"}},
    "uneven.mp4": {
        "codec": "libx264",
        "options": {"g": "12", "bf": "2"},
        "times": [40 * index + 7 * (index % 3) for index in range(COUNT)],
    },
}
# Decoding can only begin at the start: no picture is independent of all before it, or FFmpeg would call it damaged.
ONE_KEY = {
    "open.mp4": {"codec": "libx264", "options": {"x264-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3"}},
    "refreshed.mkv": {"codec": "libx264", "options": {"x264-params": "intra-refresh=1:keyint=20"}},
}
# Containers without presentation times of their own, and codecs that do not hold one picture a packet.
UNSEEKABLE = {
    "a.avi": {},
    "a.ts": {"codec": "libx264", "options": {"g": "10"}},
    "a.flv": {"codec": "flv"},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "15", "lag-in-frames": "10", "auto-alt-ref": "1"}},
    "mpeg2.mkv": {"codec": "mpeg2video", "options": {"g": "10"}},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory, write_video):
    """Each kind of video, with its index and all its frames; written when first asked for."""
    folder = tmp_path_factory.mktemp("films")
    made = {}

    def film(name):
        if name not in made:
            path = write_video(folder / name, _pictures(), **(SEEKABLE | ONE_KEY)[name])
            made[name] = path, scan_packets(path).index, read_frames(path, range(COUNT), size=48)
        return made[name]

    return film


@pytest.fixture
def always_pays(monkeypatch):
    """However little it saves."""
    monkeypatch.setattr(PacketIndex, "pays", lambda index, frames: True)


def _check(path, index, every, wanted):
    found = list(seek_frames(path, index, wanted, 48))
    assert [frame.index for frame in found] == wanted
    for frame in found:
        np.testing.assert_array_equal(frame.image, every.images[frame.index])
        assert frame.time == every.times[frame.index]


@settings(max_examples=90, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SEEKABLE)),
    wanted=st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=6),
)
def test_any_frames_are_those_of_decoding_everything(name, wanted, films):
    path, index, every = films(name)
    assert index is not None
    assert index.num_frames == COUNT == every.num_frames
    assert len(index.keys) > 4
    _check(path, index, every, sorted(wanted))


@pytest.mark.parametrize("name", SEEKABLE)
def test_the_frames_around_each_key_frame(name, films):
    path, index, every = films(name)
    for key in index.keys[1:6].tolist():
        for frame in (key - 1, key, key + 1):
            _check(path, index, every, [frame])
    _check(path, index, every, [COUNT - 1])


@pytest.mark.parametrize("name", ONE_KEY)
def test_where_only_the_start_is_independent_nothing_is_saved(name, films):
    path, index, every = films(name)
    assert index.keys.tolist() == [0]
    assert not index.pays([COUNT - 1])
    _check(path, index, every, [3, 40])


@pytest.mark.parametrize("name", UNSEEKABLE)
def test_what_does_not_state_its_frames_has_no_index(name, tmp_path, write_video):
    path = write_video(tmp_path / name, _pictures(30), **UNSEEKABLE[name])
    scan = scan_packets(path)
    assert scan.index is None
    assert scan.num_frames == count_frames(path)


@pytest.mark.parametrize("name", ["b-frames.mp4", "vp9.webm", "hevc-open.mp4"])
def test_only_what_is_needed_is_decoded(name, films, monkeypatch):
    path, index, _ = films(name)
    stretches = index.stretches([40, 41, 80])
    decoded = []
    decode = seeking._decode_stretch

    def counted(*args):
        for picture in decode(*args):
            decoded.append(picture.pts)
            yield picture

    monkeypatch.setattr(seeking, "_decode_stretch", counted)
    list(seek_frames(path, index, [40, 41, 80], 48))
    assert decoded == [index.stamps[at] for stretch in stretches for at in stretch]
    keys = index.keys.tolist()
    latest = [max(key for key in keys if key <= frame) for frame in (40, 80)]
    assert [stretch.start for stretch in stretches] == [0, *latest]


def test_stretches_by_hand():
    index = PacketIndex(np.arange(100), np.arange(100), np.array([0, 10, 20, 50]), 2, 2**26)
    assert index.stretches([3]) == [range(4)]
    assert index.stretches([0, 12, 14, 25]) == [range(1), range(10, 15), range(20, 26)]
    # Frame 10 comes right after 9, so the decoder goes on.
    assert index.stretches([9, 10, 60]) == [range(11), range(50, 61)]
    assert index.stretches([49]) == [range(1), range(20, 50)]


def test_it_pays_where_half_of_the_pictures_and_some_time_are_saved():
    def index(count, pixels):
        return PacketIndex(np.arange(count), np.arange(count), np.arange(0, count, 10), 0, pixels)

    assert index(10_000, 320 * 240).pays([5000])
    assert not index(300, 320 * 240).pays([150])  # a moment's work
    assert index(300, 1920 * 1080).pays([150])
    assert not index(10_000, 320 * 240).pays(range(9, 10_000, 10))


def test_a_clip_is_the_same_by_either_way(films, always_pays, monkeypatch):
    whole = []
    monkeypatch.setattr(
        video_source_module,
        "iterate_frames",
        lambda *args, **options: whole.append(args) or reading_module.iterate_frames(*args, **options),
    )
    for name in ("b-frames.mp4", "mpeg4-b.mkv"):
        path, _, _ = films(name)
        sought = cut_clip(VideoSource(path, RECIPE, seek=True), SETTINGS)
        assert whole == []
        plain = cut_clip(VideoSource(path, RECIPE), SETTINGS)
        assert len(whole) == 1
        whole.clear()
        for field in ("rgb", "flow", "times", "positions"):
            np.testing.assert_array_equal(getattr(sought, field), getattr(plain, field))


def _remux(path, copy, change, **muxer_options):
    """The packets of a file under changed (presentation, decoding) times, None leaving a packet out."""
    with av.open(str(path)) as source, av.open(str(copy), "w", options=muxer_options) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            times = change(number, packet.pts, packet.dts)
            if times is not None:
                packet.pts, packet.dts = times
                packet.stream = stream
                out.mux(packet)
    return copy


def test_times_that_begin_before_or_after_zero(films, tmp_path):
    path, _, _ = films("b-frames.mp4")
    step = Fraction(1, 25)
    for frames in (-3, 1000):
        shift = int(frames * step / av.open(str(path)).streams.video[0].time_base)
        copy = _remux(
            path,
            tmp_path / f"{frames}.mp4",
            lambda _, pts, dts, shift=shift: (pts + shift, dts + shift),
            avoid_negative_ts="disabled",
        )
        scan, whole = scan_packets(copy), read_frames(copy, range(COUNT), size=48, strict=False)
        if scan.index is None:  # an edit list leaves the frames before zero out
            assert whole.num_frames < COUNT
        else:
            _check(copy, scan.index, whole, [0, 13, 40, scan.num_frames - 1])


# vop_coded = 0 (ISO/IEC 14496-2, section 6.2.5), stuffed so that it looks like a picture.
STUFFED = b"\0\0\1\xb6\x50\xcf" + bytes(30)


def test_a_packet_without_a_picture_is_noticed_where_it_is_read(tmp_path, mux_video, always_pays):
    path = mux_video(tmp_path / "a.mkv", [(_pictures(60), "mpeg4", 0)], extra={12: STUFFED})
    scan = scan_packets(path)
    assert scan.num_frames == scan.index.num_frames == 61
    with pytest.raises(SeekingFailed):
        list(seek_frames(path, scan.index, [14], 48))
    source = VideoSource(path, RECIPE, seek=True)
    clip = cut_clip(source, SETTINGS)
    assert source.num_frames == 60
    np.testing.assert_array_equal(clip.flow, cut_clip(VideoSource(path, RECIPE), SETTINGS).flow)


def test_a_key_frame_that_is_none_is_not_believed(films, tmp_path, always_pays):
    path, _, every = films("mpeg4.mp4")
    copy = tmp_path / "a.mp4"
    with av.open(str(path)) as source, av.open(str(copy), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.is_keyframe, packet.stream = True, stream
                out.mux(packet)
    index = scan_packets(copy).index
    assert len(index.keys) == COUNT
    with pytest.raises(SeekingFailed, match=r"no key ?frame"):
        list(seek_frames(copy, index, [25], 48))
    source = VideoSource(copy, RECIPE, seek=True)
    images, _, times = source.read([25, 60], [])
    np.testing.assert_array_equal(images, every.images[[25, 60]])
    np.testing.assert_array_equal(times, every.times[[25, 60]])


@pytest.mark.parametrize("other", ["every-seventh.mkv", "uneven.mp4"])
def test_another_file_than_the_one_looked_through_fails(other, films):
    _, index, _ = films("b-frames.mp4")
    with pytest.raises(SeekingFailed):
        list(seek_frames(films(other)[0], index, [30, 70], 48))


def _with_noise(path, copy, frame):
    """The file with that frame's packet overwritten."""
    with av.open(str(path)) as container:
        packets = sorted((p for p in container.demux(video=0) if p.size), key=lambda packet: packet.pts)
        place, size = packets[frame].pos, packets[frame].size
    data = bytearray(path.read_bytes())
    data[place : place + size] = np.random.default_rng(0).bytes(size)
    copy.write_bytes(data)
    return copy


def test_damage_is_found_where_it_is_read_and_nowhere_else(films, tmp_path, always_pays):
    path, _, every = films("b-frames.mp4")
    copy = _with_noise(path, tmp_path / "a.mp4", 66)
    images, _, _ = VideoSource(copy, RECIPE, seek=True).read([20, 80], [])
    np.testing.assert_array_equal(images, every.images[[20, 80]])
    for seek, wanted in ((True, [20, 70]), (False, [20, 80])):
        with pytest.raises(VideoDamaged):
            VideoSource(copy, RECIPE, seek=seek).read(wanted, [])


@pytest.mark.parametrize("name", ["b-frames.mp4", "every-seventh.mkv"])
def test_a_film_that_is_cut_off_has_no_index(name, films, tmp_path):
    path, _, _ = films(name)
    copy = tmp_path / name
    copy.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    try:
        assert scan_packets(copy).index is None
    except VideoDamaged:
        assert name.endswith("mp4")  # its table of packets lay at the end


def test_reading_stops_when_its_share_is_called_back(films, always_pays):
    share = Share(1, threading.Event())
    path, index, _ = films("b-frames.mp4")
    with sharing(share):
        frames = seek_frames(path, index, [3, 80], 48)
        assert next(frames).index == 3
        share.stop.set()
        for read in (lambda: next(frames), lambda: scan_packets(path), lambda: read_frames(path, [])):
            with pytest.raises(ReadingStopped):
                read()
    assert read_frames(path, []).num_frames == COUNT


def test_real_films(shared_data):
    """Those whose containers and codecs allow it, at frames drawn at random."""
    generator = np.random.default_rng(0)
    sought = 0
    for path in sorted((shared_data / "odd").iterdir()):
        if path.name == "decord_corrupted.mp4":  # damage is not looked for
            continue
        try:
            index = scan_packets(path).index
        except VideoError:
            continue
        if index is None:
            continue
        sought += 1
        count = index.num_frames
        every = read_frames(path, range(count), size=48)
        assert every.num_frames == count
        for _ in range(3):
            _check(path, index, every, sorted(generator.choice(count, min(count, 3), replace=False).tolist()))
    assert sought >= 12
