"""Optical flow against pictures whose motion is known exactly."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actionfusion.errors import SettingsError
from actionfusion.video.flow import FlowRecipe, compute_flow, flow_engine, flow_window

ENGINES = ("dis", "dis-fast", "tvl1", "farneback")


class Texture:
    """A sum of plane waves: smooth, without a period, and known at every real point."""

    def __init__(self, seed=0, num_waves=24, shortest=10.0, longest=60.0):
        generator = np.random.default_rng(seed)
        lengths = np.exp(generator.uniform(np.log(shortest), np.log(longest), num_waves))
        angles = generator.uniform(0, 2 * np.pi, num_waves)
        self.waves = np.stack([np.cos(angles) / lengths, np.sin(angles) / lengths, generator.random(num_waves)], 1)

    def at(self, x, y):
        total = sum(np.cos(2 * np.pi * (a * x + b * y + c)) for a, b, c in self.waves)
        return np.rint(np.clip(128 + 45 * total / np.sqrt(len(self.waves) / 2), 0, 255)).astype(np.uint8)

    def moved(self, u, v, size=64):
        """The texture after it has gone u px to the right and v px down."""
        y, x = np.mgrid[:size, :size].astype(float)
        return self.at(x - u, y - v)


def rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def middle(field):
    quarter = len(field) // 4
    return field[quarter:-quarter, quarter:-quarter]


def mean_endpoint_error(field, exact):
    """Over the middle half of the picture, as the edges see what comes in from outside."""
    return float(np.linalg.norm(middle(field - np.asarray(exact)), axis=2).mean())


def from_new_opencv_object(name, first, second):
    match name:
        case "dis":
            return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)
        case "dis-fast":
            return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(first, second, None)
        case "tvl1":
            return cv2.optflow.DualTVL1OpticalFlow.create().calc(first, second, None)
        case _:
            return cv2.FarnebackOpticalFlow.create().calc(first, second, None)


@pytest.fixture
def opencv_threads():
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shift", [(1.3, -0.7), (0.25, 0.5), (-0.1, 0.0), (-2.6, 3.1), (4.0, -1.5)])
def test_a_shifted_texture_comes_back_within_a_tenth_of_a_pixel(engine, shift):
    texture = Texture()
    field = flow_engine(engine)(texture.moved(0, 0), texture.moved(*shift))
    assert field.shape == (64, 64, 2)
    assert field.dtype == np.float32
    assert mean_endpoint_error(field, shift) < 0.1


@pytest.mark.parametrize("engine", ENGINES)
@given(seed=st.integers(0, 10**6), u=st.floats(-3, 3), v=st.floats(-3, 3))
@settings(max_examples=8, deadline=None)
def test_any_texture_and_any_shift_of_a_few_pixels(engine, seed, u, v):
    texture = Texture(seed)
    field = flow_engine(engine)(texture.moved(0, 0), texture.moved(u, v))
    assert mean_endpoint_error(field, (u, v)) < 0.1


@pytest.mark.parametrize(
    ("engine", "size", "distance"),
    [("dis", 224, 20.0), ("dis-fast", 224, 20.0), ("tvl1", 64, 6.0), ("farneback", 128, 8.0)],
)
def test_how_far_the_engines_see(engine, size, distance):
    texture = Texture(longest=300.0)
    shift = (0.8 * distance, -0.6 * distance)
    field = flow_engine(engine)(texture.moved(0, 0, size), texture.moved(*shift, size))
    assert mean_endpoint_error(field, shift) < 0.1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bound", [20.0, 5.0])
def test_the_8_bit_recipe_adds_half_a_code_step_at_most(engine, bound):
    texture, shift = Texture(), (1.3, -0.7)
    recipe = FlowRecipe(engine, bound, 64)
    codes = compute_flow([rgb(texture.moved(0, 0)), rgb(texture.moved(*shift))], [0], recipe)
    assert codes.shape == (1, 64, 64, 2)
    assert codes.dtype == np.uint8
    error = np.abs(middle(recipe.decode(codes[0]) - shift)).mean(axis=(0, 1))
    assert (error < 0.1 + bound / 254).all()


# Farneback takes the motion as equal within its box of 13 px, so a field that changes by 5 % a pixel costs it more.
@pytest.mark.parametrize(("engine", "tolerance"), [("dis", 0.1), ("dis-fast", 0.2), ("tvl1", 0.1), ("farneback", 0.15)])
@pytest.mark.parametrize(("degrees", "zoom"), [(2.5, 1.0), (0.0, 1.06), (-1.5, 0.95)])
def test_a_turning_and_zooming_texture_gives_its_exact_field(engine, tolerance, degrees, zoom):
    size, texture = 128, Texture(3)
    y, x = np.mgrid[:size, :size].astype(float) - (size - 1) / 2
    turn = zoom * np.exp(1j * np.radians(degrees))
    before = (x + 1j * y) / turn
    moved = (x + 1j * y) * turn
    field = flow_engine(engine)(texture.at(x, y), texture.at(before.real, before.imag))
    exact = np.stack([moved.real - x, moved.imag - y], axis=2)
    assert np.linalg.norm(middle(exact), axis=2).mean() > 1.0
    assert mean_endpoint_error(field, exact) < tolerance


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mirrored_pair_gives_the_mirrored_field_with_u_negated(engine):
    texture = Texture(1)
    first, second = texture.moved(0, 0), texture.moved(1.8, -1.1)
    field = flow_engine(engine)(first, second)
    mirrored = flow_engine(engine)(first[:, ::-1], second[:, ::-1])
    assert mean_endpoint_error(mirrored[:, ::-1] * [-1, 1], field) < 0.05


@pytest.mark.parametrize("engine", ENGINES)
def test_no_motion_is_exactly_code_128(engine):
    still = Texture().moved(0, 0)
    field = flow_engine(engine)(still, still.copy())
    assert field.shape == (64, 64, 2)
    assert field.dtype == np.float32
    assert (field == 0).all()
    codes = compute_flow([rgb(still), rgb(still), rgb(still.copy())], [0, 1], FlowRecipe(engine, size=64))
    assert (codes == 128).all()


@pytest.mark.parametrize("engine", ENGINES)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_any_two_pictures_give_finite_flow(engine, data):
    pictures = arrays(np.uint8, (16, 16), elements=st.integers(0, 255))
    assert np.isfinite(flow_engine(engine)(data.draw(pictures), data.draw(pictures))).all()


@pytest.mark.parametrize(("engine", "largest"), [("dis", 160), ("dis-fast", 160), ("tvl1", 48), ("farneback", 160)])
def test_a_field_does_not_depend_on_the_pictures_before(engine, largest):
    # OpenCV's DIS and TV-L1 change their own settings at small pictures, and DIS at 40 px changes its second answer.
    for number, size in enumerate((largest, 16, 40, 40, 33, largest, 20, largest)):
        texture = Texture(number)
        first, second = texture.moved(0, 0, size), texture.moved(2.2, -1.4, size)
        expected = from_new_opencv_object(engine, first, second)
        np.testing.assert_array_equal(flow_engine(engine)(first, second), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_field_does_not_depend_on_how_many_threads_opencv_uses(engine, opencv_threads):
    texture, size = Texture(), 40 if engine == "tvl1" else 113
    first, second = texture.moved(0, 0, size), texture.moved(1.3, -0.7, size)
    fields = []
    for num_threads in (1, 2, 3, 8):
        opencv_threads(num_threads)
        fields.append(flow_engine(engine)(first, second))
    assert all(np.array_equal(field, fields[0]) for field in fields)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_that_compute_at_once_get_the_fields_they_would_get_alone(engine):
    size, rounds = (24, 6) if engine == "tvl1" else (64, 40)
    pairs = [(Texture(seed).moved(0, 0, size), Texture(seed).moved(1.5, seed / 4, size)) for seed in range(6)]
    alone = [flow_engine(engine)(*pair) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: flow_engine(engine)(*pair), pairs * rounds))
    for number, field in enumerate(together):
        np.testing.assert_array_equal(field, alone[number % len(pairs)])


def test_tvl1_without_the_contrib_modules_says_what_to_install(monkeypatch):
    flow_engine.cache_clear()
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(SettingsError, match="opencv-contrib-python-headless"):
        flow_engine("tvl1")


def test_flow_is_computed_on_the_luma_of_bt_601():
    # Red goes to the right and blue to the left, so another weight or another order of channels gives another field.
    red, green, blue = Texture(1), Texture(2), Texture(3)
    shifts = [((0, 0), (0, 0), (0, 0)), ((1.5, 0), (0, 1.0), (-1.5, 0))]
    frames = [np.stack([red.moved(*r), green.moved(*g), blue.moved(*b)], 2) for r, g, b in shifts]
    luma = [np.rint(frame @ [0.299, 0.587, 0.114]).astype(np.uint8) for frame in frames]
    recipe = FlowRecipe("dis", 5.0, 64)
    codes = compute_flow(frames, [0], recipe)[0].astype(int)
    expected = recipe.encode(flow_engine("dis")(*luma)).astype(int)
    assert np.mean(np.abs(codes - expected) <= 1) > 0.98


def test_fields_are_those_of_the_pairs_asked_for_in_their_order():
    texture, recipe = Texture(), FlowRecipe("dis", 20.0, 64)
    ways = [(0.0, 0.0), (1.5, 0.0), (1.5, 2.0), (-1.0, 2.0), (-1.0, -1.0)]
    frames = np.stack([rgb(texture.moved(*way)) for way in ways])
    pairs = [3, 0, 1, 1]
    codes = compute_flow(frames, pairs, recipe)
    for row, start in enumerate(pairs):
        step = np.subtract(ways[start + 1], ways[start])
        assert mean_endpoint_error(recipe.decode(codes[row]), step) < 0.2
    assert compute_flow(frames, [], recipe).shape == (0, 64, 64, 2)


def test_only_the_frames_of_the_pairs_need_be_there():
    texture, recipe = Texture(), FlowRecipe("dis", 20.0, 64)
    frames = {number: rgb(texture.moved(number, 0)) for number in (7, 8, 9)}
    np.testing.assert_array_equal(
        compute_flow(frames, [7, 8], recipe), compute_flow([frames[7], frames[8], frames[9]], [0, 1], recipe)
    )


@pytest.mark.parametrize(
    "frame",
    [np.zeros((64, 48, 3), np.uint8), np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.float32)],
    ids=["another size", "grey", "floats"],
)
def test_a_frame_that_does_not_fit_the_recipe_is_refused(frame):
    with pytest.raises(SettingsError, match=r"flow\.size"):
        compute_flow([frame, frame], [0], FlowRecipe(size=64))


finite_fields = arrays(np.float32, (3, 4, 2), elements=st.floats(-60, 60, width=32))
bounds = st.sampled_from([1.0, 5.0, 20.0, 33.3])


@given(finite_fields, bounds)
@settings(deadline=None)
def test_codes_keep_within_half_a_step_of_the_clipped_field(field, bound):
    recipe = FlowRecipe("dis", bound, 64)
    codes = recipe.encode(field)
    assert codes.min() >= 1
    assert np.abs(recipe.decode(codes) - np.clip(field, -bound, bound)).max() <= bound / 254 * (1 + 1e-5)
    np.testing.assert_array_equal(recipe.encode(recipe.decode(codes)), codes)


@given(finite_fields, bounds)
@settings(deadline=None)
def test_256_minus_code_negates_exactly(field, bound):
    recipe = FlowRecipe("dis", bound, 64)
    codes = recipe.encode(field)
    np.testing.assert_array_equal(recipe.encode(-field), 256 - codes.astype(int))
    np.testing.assert_array_equal(recipe.decode((256 - codes.astype(int)).astype(np.uint8)), -recipe.decode(codes))


def test_known_codes():
    recipe = FlowRecipe("dis", 20.0, 64)
    field = np.array([0, -0.0, 20, -20, 21, -1e6, 1e6, 10, 20 / 127], np.float32)
    np.testing.assert_array_equal(recipe.encode(field), [128, 128, 255, 1, 255, 1, 255, 192, 129])
    np.testing.assert_array_equal(recipe.decode(np.array([1, 128, 255], np.uint8)), np.float32([-20, 0, 20]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "brox"),
        ("bound", 0.0),
        ("bound", -1.0),
        ("bound", float("nan")),
        ("bound", float("inf")),
        ("size", 15),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=rf"^flow\.{name}: .+; .+\.$"):
        FlowRecipe(**{name: value})


def test_recipes_differ_if_any_part_differs():
    recipe = FlowRecipe("tvl1", 20.0, 224)
    assert recipe == FlowRecipe()
    assert len({recipe, FlowRecipe("dis"), FlowRecipe(bound=15), FlowRecipe(size=112), FlowRecipe()}) == 4
    assert str(recipe) == "tvl1 at 224 px within 20 px"


@pytest.mark.parametrize(
    ("position", "length", "num_frames", "expected"),
    [
        (10, 4, 100, [8, 9, 10, 11]),  # fields 8->9, 9->10, 10->11 and 11->12: the five frames t-2..t+2
        (0, 4, 100, [0, 0, 0, 1]),
        (1, 4, 100, [0, 0, 1, 2]),
        (98, 4, 100, [96, 97, 98, 98]),
        (99, 4, 100, [97, 98, 98, 98]),
        (10, 2, 100, [9, 10]),
        (10, 6, 100, [7, 8, 9, 10, 11, 12]),
        (0, 4, 2, [0, 0, 0, 0]),
        (1, 4, 2, [0, 0, 0, 0]),
        (1, 4, 3, [0, 0, 1, 1]),
        (0, 4, 1, []),
    ],
)
def test_the_window_is_centred_and_repeats_the_edge_field(position, length, num_frames, expected):
    assert flow_window(position, length, num_frames) == expected


@given(st.data())
@settings(deadline=None)
def test_a_window_has_its_length_and_only_fields_of_the_video(data):
    num_frames = data.draw(st.integers(2, 400))
    position = data.draw(st.integers(0, num_frames - 1))
    length = 2 * data.draw(st.integers(1, 10))
    window = flow_window(position, length, num_frames)
    free = range(position - length // 2, position + length // 2)
    assert [start if 0 <= start <= num_frames - 2 else None for start in free] == [
        start if 0 <= wanted <= num_frames - 2 else None for start, wanted in zip(window, free, strict=True)
    ]
    assert all(0 <= start <= num_frames - 2 for start in window)
    assert window == sorted(window)


@pytest.mark.parametrize("length", [-2, 1, 3])
def test_only_an_even_number_of_fields_has_a_centre(length):
    with pytest.raises(SettingsError, match=r"even|centred"):
        flow_window(5, length, 10)


def test_no_flow_has_an_empty_window():
    assert flow_window(5, 0, 10) == []
