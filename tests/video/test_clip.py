"""The clip against a naive recomputation, picture by picture, from sources held in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionfusion.errors import RecipeMismatch, SettingsError, VideoDamaged
from actionfusion.video.clip import ClipSettings, FrameCountChanged, cut_clip
from actionfusion.video.flow import FlowRecipe, compute_flow, flow_engine
from actionfusion.video.sampling import random_interval, sample_generator

SIZE = 16
RECIPE = FlowRecipe("dis", 20.0, SIZE)


class MemorySource:
    """A video of random pictures, times and codes, which notes what is read and can find that it is shorter."""

    def __init__(self, num_frames, seed=0, recipe=RECIPE, really=()):
        generator = np.random.default_rng(seed)
        size = recipe.size
        self.recipe = recipe
        self.frame_size = recipe.size
        self.num_frames = num_frames
        self.pictures = generator.integers(0, 256, (num_frames, size, size, 3), np.uint8)
        self.codes = generator.integers(1, 256, (num_frames - 1, size, size, 2), np.uint8)
        self.times = np.cumsum(generator.uniform(0.01, 0.1, num_frames))
        self.really = list(really)
        self.reads = []

    def read(self, frames, fields):
        self.reads.append((list(frames), list(fields)))
        if self.really:
            self.num_frames = self.really.pop(0)
            raise FrameCountChanged("torn.avi")
        assert all(0 <= frame < self.num_frames for frame in frames)
        assert all(0 <= field < self.num_frames - 1 for field in fields)
        return self.pictures[list(frames)], self.codes[list(fields)], self.times[list(frames)]


def clip_settings(frames=17, fields=4, recipe=RECIPE):
    return ClipSettings(frames=frames, flow_frames=fields, flow=recipe)


def naive_clip(source, positions, num_fields):
    """Channel by channel, straight from sections 3.1 and 3.6 of the paper."""
    rgb, flow = [], []
    for t in positions:
        rgb.append([source.pictures[t, :, :, channel] for channel in range(3)])
        channels = []
        for start in range(t - num_fields // 2, t + num_fields // 2):
            for axis in range(2):
                if source.num_frames == 1:
                    channels.append(np.full((SIZE, SIZE), 128, np.uint8))
                else:
                    inside = 0 if start < 0 else start
                    inside = source.num_frames - 2 if inside + 1 > source.num_frames - 1 else inside
                    channels.append(source.codes[inside, :, :, axis])
        flow.append(channels)
    return np.array(rgb), np.array(flow), np.array([source.times[t] for t in positions])


def assert_equals_naive(clip, source, positions, num_fields):
    rgb, flow, times = naive_clip(source, positions, num_fields)
    np.testing.assert_array_equal(clip.rgb, rgb)
    np.testing.assert_array_equal(clip.flow, flow)
    np.testing.assert_array_equal(clip.times, times)
    assert clip.positions.tolist() == list(positions)


def assert_read_once(source):
    assert len(source.reads) == 1
    for numbers in source.reads[0]:
        assert numbers == sorted(set(numbers))
        assert all(type(number) is int for number in numbers)


@given(num_frames=st.integers(1, 60), frames=st.integers(1, 20), half=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_default_clip_equals_its_naive_recomputation(num_frames, frames, half, seed):
    source = MemorySource(num_frames, seed)
    clip = cut_clip(source, clip_settings(frames, 2 * half))
    interval = max(num_frames // frames, 1)
    positions = [min(k * interval, num_frames) - 1 for k in range(1, frames + 1)]
    assert_equals_naive(clip, source, positions, 2 * half)
    assert_read_once(source)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_clip_of_any_positions_equals_its_naive_recomputation(data):
    num_frames = data.draw(st.integers(1, 40))
    positions = data.draw(st.lists(st.integers(0, num_frames - 1), min_size=1, max_size=12))
    num_fields = 2 * data.draw(st.integers(1, 4))
    source = MemorySource(num_frames, data.draw(st.integers(0, 1000)))
    clip = cut_clip(source, clip_settings(len(positions), num_fields), lambda n: np.array(positions, np.int64))
    assert_equals_naive(clip, source, positions, num_fields)
    assert_read_once(source)


def test_shapes_types_and_memory_of_a_clip_are_those_the_network_takes():
    clip = cut_clip(MemorySource(50), clip_settings())
    assert clip.rgb.shape == (17, 3, SIZE, SIZE)
    assert clip.flow.shape == (17, 8, SIZE, SIZE)
    assert clip_settings().flow_channels == 8
    assert clip.rgb.dtype == clip.flow.dtype == np.uint8
    assert clip.times.dtype == np.float64
    assert clip.rgb.flags.c_contiguous
    assert clip.flow.flags.c_contiguous
    assert clip.rgb.flags.writeable
    assert clip.flow.flags.writeable
    assert clip.recipe == RECIPE


def test_channels_are_u_and_v_of_each_field_in_order_of_time():
    source = MemorySource(100)
    source.codes[..., 0] = np.arange(1, 100)[:, None, None]
    source.codes[..., 1] = np.arange(101, 200)[:, None, None]
    clip = cut_clip(source, clip_settings(1, 4), lambda n: np.array([50]))
    # Fields 48->49, 49->50, 50->51 and 51->52.
    assert clip.flow[0, :, 0, 0].tolist() == [49, 149, 50, 150, 51, 151, 52, 152]


def test_a_video_of_fewer_frames_than_t_repeats_its_last_frame():
    source = MemorySource(5)
    clip = cut_clip(source, clip_settings(8))
    assert clip.positions.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    for moment in (5, 6, 7):
        np.testing.assert_array_equal(clip.rgb[moment], clip.rgb[4])
        np.testing.assert_array_equal(clip.flow[moment], clip.flow[4])
    assert source.reads == [([0, 1, 2, 3, 4], [0, 1, 2, 3])]


def test_a_video_of_one_frame_has_no_motion():
    source = MemorySource(1)
    clip = cut_clip(source, clip_settings(6))
    assert (clip.flow == 128).all()
    assert clip.flow.shape == (6, 8, SIZE, SIZE)
    assert all(np.array_equal(picture, clip.rgb[0]) for picture in clip.rgb)
    assert source.reads == [([0], [])]


def test_a_random_clip_is_a_function_of_its_sample():
    def clip_of(index):
        return cut_clip(
            MemorySource(90), clip_settings(8), lambda n: random_interval(n, 8, sample_generator(1, 2, index))
        )

    np.testing.assert_array_equal(clip_of(3).flow, clip_of(3).flow)
    assert len({tuple(clip_of(index).positions.tolist()) for index in range(10)}) > 5


def test_real_flow_reaches_the_clip_at_its_place():
    recipe = FlowRecipe("dis", 4.0, 32)
    rng = np.random.default_rng(0)
    canvas = np.kron(rng.integers(0, 256, (12, 30, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    ways = [0, 1, 3, 4, 4, 6, 9, 10, 12, 13, 15, 18]
    pictures = np.stack([canvas[8:40, way : way + 32] for way in ways])

    class FlowSource(MemorySource):
        def read(self, frames, fields):
            return pictures[frames], compute_flow(pictures, fields, recipe), np.array(frames, float)

    clip = cut_clip(FlowSource(len(ways), recipe=recipe), clip_settings(3, 2, recipe))
    grey = [np.rint(picture @ [0.299, 0.587, 0.114]).astype(np.uint8) for picture in pictures]
    for moment, t in enumerate((3, 7, 11)):
        for place, start in enumerate((t - 1, min(t, len(ways) - 2))):
            expected = recipe.encode(flow_engine("dis")(grey[start], grey[start + 1]))
            given_codes = clip.flow[moment, 2 * place : 2 * place + 2].transpose(1, 2, 0)
            # The luma is rounded otherwise here and there, which may move a code by a step.
            assert np.mean(np.abs(given_codes.astype(int) - expected) <= 1) > 0.95


@pytest.mark.parametrize(
    "other", [FlowRecipe("tvl1", 20.0, SIZE), FlowRecipe("dis", 15.0, SIZE), FlowRecipe("dis", 20.0, 32)]
)
def test_another_recipe_is_refused_before_anything_is_read(other):
    source = MemorySource(30)
    with pytest.raises(RecipeMismatch) as caught:
        cut_clip(source, clip_settings(recipe=other))
    assert source.reads == []
    assert str(RECIPE) in str(caught.value)
    assert str(other) in str(caught.value)


def test_positions_follow_the_frame_count_that_reading_finds():
    source = MemorySource(100, really=[45])
    clip = cut_clip(source, clip_settings(9))
    assert clip.positions.tolist() == [4, 9, 14, 19, 24, 29, 34, 39, 44]
    assert len(source.reads) == 2
    assert_equals_naive(clip, source, clip.positions.tolist(), 4)


def test_a_random_clip_is_the_same_whether_the_count_was_known_or_found():
    def sampler(num_frames):
        return random_interval(num_frames, 8, sample_generator(0, 1, 2))

    known, found = MemorySource(90), MemorySource(90)
    known.num_frames, found.really = 40, [40]
    found.num_frames = 90
    one, other = (cut_clip(source, clip_settings(8), sampler) for source in (known, found))
    np.testing.assert_array_equal(one.rgb, other.rgb)
    np.testing.assert_array_equal(one.flow, other.flow)


def test_a_frame_count_that_keeps_changing_is_a_damaged_video():
    source = MemorySource(100, really=[80, 60])
    with pytest.raises(VideoDamaged, match=r"^torn\.avi: its number of frames keeps changing"):
        cut_clip(source, clip_settings(9))
    assert len(source.reads) == 2


@pytest.mark.parametrize("positions", [[0, 1], [0, 1, 2, 3], [0, 1, 30], [-1, 0, 1]])
def test_a_sampler_that_misses_the_clip_or_the_video_is_refused(positions):
    with pytest.raises(SettingsError, match=r"^sampler: "):
        cut_clip(MemorySource(30), clip_settings(3), lambda n: np.array(positions))


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [({"frames": 0}, "clip.frames"), ({"fields": 0}, "clip.flow_frames"), ({"fields": 3}, "clip.flow_frames")],
)
def test_settings_that_make_no_clip_are_refused_by_name(arguments, subject):
    with pytest.raises(SettingsError) as caught:
        clip_settings(**arguments)
    assert caught.value.subject == subject


def test_the_papers_clip_is_the_default():
    assert ClipSettings() == ClipSettings(frames=17, flow_frames=4, flow=FlowRecipe("tvl1", 20.0, 224))
