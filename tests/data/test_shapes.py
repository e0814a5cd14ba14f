"""Generated clips: each statement about what carries a label, byte for byte, then by probes that would find one."""

import itertools
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from actionfusion.data.shapes import (
    AROUND,
    PERIOD,
    POINTS,
    RADIUS,
    SHAPE_CLASSES,
    SHAPE_GROUPS,
    draw_scene,
    group_of,
    time_reversed,
)
from actionfusion.data.shapes_pictures import path, render
from actionfusion.errors import SettingsError
from actionfusion.video.flow import FlowRecipe, compute_flow, flow_engine, flow_window
from actionfusion.video.sampling import evenly_spaced

RECIPE = FlowRecipe("dis", size=64)
SEEDS = st.integers(0, 2**40)
GOLDEN = [1863892453, 1989085611, 1500901780, 2944139291, 840529032, 1750969399, 261312486, 1397047491]
few = settings(max_examples=10, deadline=None)


def twins(group, seed):
    return tuple(draw_scene(label, seed) for label in SHAPE_GROUPS[group])


# Scenes.


def test_eight_classes_in_four_pairs():
    assert list(SHAPE_GROUPS) == ["appearance", "motion", "binding", "order"]
    assert len(set(SHAPE_CLASSES)) == 8
    assert all(group_of(label) == group for group, labels in SHAPE_GROUPS.items() for label in labels)


@pytest.mark.parametrize(("label", "seed"), [("motion_left", 0), ("motion_up", -1)])
def test_wrong_label_or_seed_is_named(label, seed):
    with pytest.raises(SettingsError, match=label if seed >= 0 else "negative"):
        draw_scene(label, seed)


@given(st.sampled_from(SHAPE_CLASSES), SEEDS)
@few
def test_scene_is_a_function_of_label_and_seed(label, seed):
    scene = draw_scene(label, seed)
    assert scene == draw_scene(label, seed)
    assert scene.label == label
    np.testing.assert_array_equal(render(scene), render(scene))
    assert (render(draw_scene(label, seed + 1)) != render(scene)).any()


def test_pictures_are_those_of_this_design():
    # Another sum means other clips under the same seed: then the design number in shapes.json must rise too.
    sums = [zlib.crc32(render(draw_scene(label, 0)).tobytes()) for label in SHAPE_CLASSES]
    assert sums == GOLDEN


@given(st.sampled_from(SHAPE_CLASSES), SEEDS)
@few
def test_planes_leave_room_for_every_rgb_value(label, seed):
    planes = render(draw_scene(label, seed))
    assert planes.shape == (64, 3, 64, 64)
    assert planes.dtype == np.uint8
    assert planes[:, 0].min() >= 74
    assert planes[:, 0].max() <= 185
    luma, u, v = np.moveaxis(planes.astype(float), 1, 0)
    for colour in (luma + 1.402 * (v - 128), luma + 1.772 * (u - 128)):
        assert colour.min() >= 0
        assert colour.max() <= 255


@pytest.mark.parametrize("label", SHAPE_CLASSES)
def test_position_in_a_frame_says_nothing(label):
    # 400 scenes, a frame in the middle: x and y each uniform over the torus, whatever the class does.
    places = np.array([path(draw_scene(label, seed).actors[0])[29] % AROUND for seed in range(400)])
    for axis in (0, 1):
        counts = np.bincount(places[:, axis] * 16 // AROUND, minlength=16)
        assert stats.chisquare(counts).pvalue > 0.001


def test_stage_tells_the_group_in_either_stream():
    tints, axes = {}, {}
    for group, seed in itertools.product(SHAPE_GROUPS, range(50)):
        background = twins(group, seed)[seed % 2].background
        tints.setdefault(group, []).append(background.tint)
        axes.setdefault(group, set()).add(tuple(np.multiply(background.drift, 1)))
    centres = {group: np.mean(values, axis=0) for group, values in tints.items()}
    for group, values in tints.items():
        nearest = [min(centres, key=lambda other, at=at: np.abs(centres[other] - at).sum()) for at in values]
        assert set(nearest) == {group}
        # Both signs of one axis, so that the sign of the drift is no cue.
        assert len(axes[group]) == 2
        assert axes[group] == {(-y, -x) for y, x in axes[group]}
    assert len(set.union(*axes.values())) == 8


# What the classes of a group share, byte for byte.


@pytest.mark.parametrize("group", ["appearance", "binding"])
@given(seed=SEEDS)
@few
def test_luma_of_twins_is_equal_and_chroma_is_not(group, seed):
    first, second = (render(scene) for scene in twins(group, seed))
    np.testing.assert_array_equal(first[:, 0], second[:, 0])
    assert (first[:, 1:] != second[:, 1:]).any(axis=(1, 2, 3)).all()


def possible(scene):
    """Whether draw_scene could have drawn the steadily moving scene, all such scenes of a class being as probable."""
    inside = all(0 <= at < PERIOD for at in scene.background.offset)
    inside &= all(0 <= at < AROUND for actor in scene.actors for at in actor.start)
    velocities = [actor.motion.velocity for actor in scene.actors]
    inside &= all(8 <= abs(y + x) <= 16 and 0 in (y, x) for y, x in velocities)
    if group_of(scene.label) == "motion":
        return inside and np.sign(velocities[0][0]) == (-1 if scene.label == "motion_up" else 1)
    rightward = {actor.emblem.shape for actor in scene.actors if actor.motion.velocity[1] > 0}
    apart = abs(scene.actors[0].start[0] - scene.actors[1].start[0])
    return inside and rightward == {scene.label.split("_")[1]} and 26 * 8 <= apart <= AROUND - 26 * 8


@pytest.mark.parametrize("group", ["motion", "binding"])
@given(seed=SEEDS, total=st.integers(0, 126))
@few
def test_backwards_is_a_scene_of_the_other_class(group, seed, total):
    for label, other in itertools.permutations(SHAPE_GROUPS[group]):
        scene = draw_scene(label, seed)
        back = time_reversed(scene, other, total)
        assert possible(scene)
        assert possible(back)
        # A one-to-one map of the scenes of one class onto those of the other: neither has more of any set of frames.
        assert time_reversed(back, label, total) == scene
        forward, backward = render(scene), render(back)
        shared = np.arange(max(0, total - 63), min(64, total + 1))
        np.testing.assert_array_equal(backward[shared], forward[total - shared])


def test_motion_twins_are_each_other_backwards():
    up, down = (render(scene) for scene in twins("motion", 7))
    np.testing.assert_array_equal(down, up[::-1])


@pytest.mark.parametrize("count", [4, 8, 16, 17])
def test_sampled_frames_of_binding_are_a_set_that_both_classes_have(count):
    label, other = SHAPE_GROUPS["binding"]
    positions = evenly_spaced(64, count)
    scene = draw_scene(label, 5)
    back = time_reversed(scene, other, int(positions[0] + positions[-1]))
    frames, frames_back = (Counter(picture.tobytes() for picture in render(s)[positions]) for s in (scene, back))
    assert frames == frames_back


def test_laps_are_not_reversed():
    with pytest.raises(SettingsError, match="laps"):
        time_reversed(draw_scene("order_left_right", 0), "order_left_right")


def test_actors_never_touch():
    for group, seed in itertools.product(("binding", "order"), range(200)):
        first, second = (path(actor) for actor in twins(group, seed)[0].actors)
        way = np.abs((first - second + AROUND // 2) % AROUND - AROUND // 2)
        assert (np.hypot(*way.T) > (2 * RADIUS + 1) * POINTS).all()


@given(seed=SEEDS)
@few
def test_order_is_the_same_halves_exchanged(seed):
    first, second = (render(scene) for scene in twins("order", seed))
    np.testing.assert_array_equal(second, np.concatenate([first[32:], first[:32]]))
    # The rests on all sides are one picture, but for the background's way: no seam tells where the clip began.
    np.testing.assert_array_equal(first[:9], first[32:41])
    np.testing.assert_array_equal(first[26:32], first[58:])
    assert (first[:32] != first[32:]).any()


def test_order_class_names_the_first_motion():
    for label, sign in zip(SHAPE_GROUPS["order"], (-1, 1), strict=True):
        moved = np.diff(path(draw_scene(label, 3).actors[0])[:, 1])
        assert moved[:31].sum() == sign * PERIOD * POINTS
        assert moved[32:].sum() == -sign * PERIOD * POINTS
        assert moved[31] == 0


def moments(scene, positions):
    """What the network sees at each position, RGB picture and flow window, as bytes."""
    planes = render(scene)
    fields = compute_flow([np.repeat(luma[..., None], 3, axis=2) for luma in planes[:, 0]], range(63), RECIPE)
    return [planes[t].tobytes() + fields[flow_window(t, 4, 64)].tobytes() for t in positions]


def neighbours(samples, reach):
    padded = [b""] * (reach // 2) + samples + [b""] * (reach // 2)
    return Counter(tuple(padded[k : k + reach]) for k in range(len(samples)))


def test_order_has_the_same_moments_in_both_classes():
    for seed in range(3):
        every = [moments(scene, range(64)) for scene in twins("order", seed)]
        assert every[0] != every[1]
        for count in (2, 4, 8, 16, 32, 64):
            first, second = ([at[t] for t in evenly_spaced(64, count)] for at in every)
            assert Counter(first) == Counter(second)
        first, second = ([at[t] for t in evenly_spaced(64, 16)] for at in every)
        # The last window repeats its last field.  But for that it is the window of the joint, and three neighbours of
        # the 16 samples are the same in both classes, the padding at both ends among them.
        assert first[-1] != first[7]
        first[-1], second[-1] = first[7], second[7]
        assert neighbours(first, 3) == neighbours(second, 3)
        # Seven neighbours reach from one motion to the other; and T = 17 takes other places of the second half.
        assert neighbours(first, 7) != neighbours(second, 7)
        first, second = ([at[t] for t in evenly_spaced(64, 17)] for at in every)
        assert Counter(first) != Counter(second)


@pytest.mark.parametrize("count", [8, 16])
def test_no_three_samples_of_order_hold_both_motions(count):
    for seed in range(50):
        moved = np.sign(np.diff(path(draw_scene("order_left_right", seed).actors[0])[:, 1]))
        seen = [set(moved[flow_window(int(t), 4, 64)]) - {0} for t in evenly_spaced(64, count)]
        assert set.union(*seen) == {-1, 1}
        assert all(len(set.union(*three)) <= 1 for three in zip(seen, seen[1:], seen[2:], strict=False))


# The streams can measure what they are meant to.


@pytest.mark.parametrize("group", SHAPE_GROUPS)
def test_dis_measures_actors_and_background(group):
    engine, inside, outside = flow_engine("dis"), [], []
    y, x = np.mgrid[:64, :64]
    central = np.pad(np.ones((52, 52), bool), 6)
    for seed, frame in itertools.product(range(4), (11, 18, 47, 52)):
        scene = draw_scene(SHAPE_GROUPS[group][0], seed)
        field = engine(*render(scene)[frame : frame + 2, 0])
        away = central.copy()
        for actor in scene.actors:
            (top, left), step = path(actor)[frame] / POINTS, np.diff(path(actor), axis=0)[frame] / POINTS
            distance = np.hypot((y - top + 32) % 64 - 32, (x - left + 32) % 64 - 32)
            inside.extend(np.hypot(*(field - step[::-1])[central & (distance < RADIUS - 2)].T))
            away &= distance > RADIUS + 4
        outside.extend(np.hypot(*(field - scene.background.drift[::-1])[away].T))
    assert np.median(inside) < 0.3
    assert np.quantile(inside, 0.9) < 0.5
    assert np.median(outside) < 0.25


# Probes: an SVM finds the class where it is meant to be, and nothing where it is not.  Each class has scenes of its own
# seeds here, so twins do not make chance certain.

TRAIN, TEST = 80, 80
WAVES = np.exp(2j * np.pi * np.outer([1, 2], np.arange(64)) / 64)


def cells(plane, number):
    side = 64 // number
    return plane.reshape(*plane.shape[:-2], number, side, number, side).mean((-3, -1)).reshape(*plane.shape[:-2], -1)


def place(mask):
    """Where the pixels of a mask lie on the torus: two harmonics of their rows and columns."""
    total = max(int(mask.sum()), 1)
    return np.concatenate([WAVES @ mask.sum(1), WAVES @ mask.sum(0)]) / total


def clip_features(scene):
    """Per sampled frame (T = 4): appearance, motion, and motion where each emblem is."""
    planes = render(scene)
    looks, moves, joined = [], [], []
    for t in evenly_spaced(64, 4):
        luma, u, v = planes[t].astype(np.float32)
        field = flow_engine("dis")(planes[t - 1, 0], planes[t, 0])
        masks = ((v > 158) & (u < 108), (v < 100) & (u > 150))
        square, triangle = (place(mask) for mask in masks)
        waves = np.concatenate([square, triangle, square * triangle.conj()])
        lit = [luma[mask].mean() if mask.any() else 128.0 for mask in masks]
        looks.append(np.concatenate([cells(planes[t].astype(float), 4).ravel(), waves.real, waves.imag, lit]))
        histogram = [np.histogram(field[..., axis], np.linspace(-3, 3, 13))[0] for axis in (0, 1)]
        moves.append(np.concatenate([cells(field.transpose(2, 0, 1), 4).ravel(), field.mean((0, 1)), *histogram]))
        joined.append(np.concatenate([field[mask].mean(0) if mask.any() else np.zeros(2) for mask in masks]))
    return {"rgb": np.array(looks), "flow": np.array(moves), "joint": np.hstack([looks, moves, joined])}


@pytest.fixture(scope="module")
def features():
    return {
        group: [
            [clip_features(draw_scene(label, 10_000 * side + seed)) for seed in range(TRAIN + TEST)]
            for side, label in enumerate(labels, start=1)
        ]
        for group, labels in SHAPE_GROUPS.items()
    }


def one(steps):
    # A moment without its time, which would tell all in the order group: another one in every clip.
    return steps[int(abs(steps.sum()) * 1000) % len(steps)]


def bag(steps):
    return np.concatenate([np.sort(steps, axis=0).ravel(), steps.mean(0), np.cov(steps[:, -4:].T).ravel()])


def sequence(steps):
    return steps.ravel()


def found(features, group, stream, view):
    """Test clips, of 160, that the probe labels rightly."""
    rows = np.array([[view(clip[stream]) for clip in side] for side in features[group]])
    labels = np.repeat([0, 1], TRAIN)
    probe = make_pipeline(StandardScaler(), SVC())
    probe.fit(np.concatenate(rows[:, :TRAIN]), labels)
    return int((probe.predict(np.concatenate(rows[:, TRAIN:])) == np.repeat([0, 1], TEST)).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "stream", "view"),
    [
        ("appearance", "flow", bag),
        ("appearance", "flow", sequence),
        ("motion", "rgb", one),
        ("motion", "rgb", bag),
        ("binding", "rgb", one),
        ("binding", "rgb", bag),
        ("binding", "flow", one),
        ("binding", "flow", bag),
        ("binding", "flow", sequence),
        ("order", "rgb", one),
        ("order", "flow", bag),
        ("order", "joint", one),
        ("order", "joint", bag),
    ],
)
def test_probe_stays_at_chance(features, group, stream, view):
    # Guessing leaves this interval once in a thousand times: 60 to 100 of 160.
    least, most = stats.binom.interval(0.999, 2 * TEST, 0.5)
    assert least <= found(features, group, stream, view) <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "stream", "view"),
    [
        ("appearance", "rgb", bag),
        ("motion", "flow", bag),
        ("binding", "joint", bag),
        ("order", "flow", sequence),
    ],
)
def test_probe_finds_what_is_there(features, group, stream, view):
    assert found(features, group, stream, view) >= 0.9 * 2 * TEST
