"""Generated clips as files: nothing is lost on the way to the flow, and runs can be broken off and taken up again."""

import json
from collections import Counter

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.data.shapes import SHAPE_CLASSES, SHAPE_GROUPS, draw_scene
from actionfusion.data.shapes_files import SHAPE_SPLITS, make_shapes, scene_seed, write_clip
from actionfusion.data.shapes_pictures import render
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource


def decode(file):
    """Planes and RGB pictures of a file, read with nothing of ours."""
    planes, pictures = [], []
    with av.open(file) as container:
        for frame in container.decode(video=0):
            planes.append(
                [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
            )
            pictures.append(frame.to_ndarray(format="rgb24"))
    return np.array(planes), np.stack(pictures)


def grey(pictures):
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures])


@pytest.mark.parametrize("label", SHAPE_CLASSES)
def test_file_gives_back_the_planes_and_grey_is_luma(tmp_path, label):
    planes = render(draw_scene(label, 11))
    write_clip(planes, tmp_path / "clip.mp4")
    decoded, pictures = decode(tmp_path / "clip.mp4")
    np.testing.assert_array_equal(decoded, planes)
    np.testing.assert_array_equal(grey(pictures), planes[:, 0])
    with av.open(tmp_path / "clip.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.average_rate, stream.codec.name) == (64, 25, "h264")


def cut(scene, file, count):
    write_clip(render(scene), file)
    recipe = FlowRecipe("dis", size=64)
    return cut_clip(VideoSource(file, recipe), ClipSettings(frames=count, flow=recipe))


@pytest.mark.parametrize("group", ["appearance", "binding"])
def test_clips_of_twins_have_the_same_flow(tmp_path, group):
    first, second = (cut(draw_scene(label, 2), tmp_path / f"{label}.mp4", 8) for label in SHAPE_GROUPS[group])
    np.testing.assert_array_equal(first.flow, second.flow)
    assert (first.flow != 128).any()
    assert (first.rgb != second.rgb).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("count", [8, 16])
def test_clips_of_order_hold_the_same_moments(tmp_path, count):
    clips = [cut(draw_scene(label, 2), tmp_path / f"{label}.mp4", count) for label in SHAPE_GROUPS["order"]]
    first, second = ([(clip.rgb[t].tobytes(), clip.flow[t].tobytes()) for t in range(count)] for clip in clips)
    assert Counter(first) == Counter(second)
    assert first != second


def test_other_sizes_are_written_too(tmp_path):
    planes = np.random.default_rng(0).integers(60, 190, (3, 3, 34, 50), dtype=np.uint8)
    write_clip(planes, tmp_path / "small.mp4")
    np.testing.assert_array_equal(decode(tmp_path / "small.mp4")[0], planes)


@pytest.mark.parametrize(
    "planes", [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 3, 8, 8)), np.zeros((0, 3, 8, 8), "u1")]
)
def test_what_is_no_picture_is_refused(tmp_path, planes):
    with pytest.raises(SettingsError, match="no pictures"):
        write_clip(planes, tmp_path / "clip.mp4")


def test_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_clip(render(draw_scene("motion_up", 0)), tmp_path / "clip.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(SHAPE_SPLITS), st.integers(0, 999_999)), unique=True))
def test_no_two_clips_share_a_seed(keys):
    assert len({scene_seed(*key) for key in keys}) == len(keys)


SMALL = {"train_per_class": 2, "val_per_class": 0, "test_per_class": 1, "seed": 4}


def tree(root):
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_data_set_on_disk(tmp_path):
    calls = []
    root = make_shapes(tmp_path / "shapes", **SMALL, progress=lambda done, total: calls.append((done, total)))
    files = tree(root)
    wanted = {
        f"{split}/{label}/{label}_{index:05d}.mp4"
        for split, count in (("train", 2), ("test", 1))
        for label in SHAPE_CLASSES
        for index in range(count)
    }
    assert set(files) == wanted | {"shapes.json"}
    assert calls == [(done, 24) for done in range(1, 25)]
    stated = json.loads(files["shapes.json"])
    assert SMALL.items() <= stated.items()
    assert stated["groups"] == {group: list(labels) for group, labels in SHAPE_GROUPS.items()}
    planes = decode(root / "test" / "order_left_right" / "order_left_right_00000.mp4")[0]
    np.testing.assert_array_equal(planes, render(draw_scene("order_left_right", scene_seed(4, "test", 0))))
    assert tree(make_shapes(tmp_path / "again", **SMALL)) == files


def test_broken_off_run_is_taken_up(tmp_path):
    whole = tree(make_shapes(tmp_path / "whole", **SMALL))
    root = tmp_path / "shapes"

    def stop(done, total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shapes(root, **SMALL, progress=stop)
    assert len(tree(root)) == 9 + 1
    kept, cut, empty = sorted(root.rglob("*.mp4"))[:3]
    cut.write_bytes(cut.read_bytes()[:-300])
    empty.write_bytes(b"")
    kept.with_name(f".{kept.name}.part").write_bytes(b"killed while writing")
    kept.unlink()
    untouched = {file: file.stat().st_mtime_ns for file in sorted(root.rglob("*.mp4"))[2:]}
    make_shapes(root, **SMALL)
    assert tree(root) == whole
    assert all(file.stat().st_mtime_ns == time for file, time in untouched.items())


def test_folder_of_something_else_is_left_alone(tmp_path):
    root = make_shapes(tmp_path / "shapes", **SMALL)
    before = tree(root)
    with pytest.raises(DatasetError, match="other settings"):
        make_shapes(root, **{**SMALL, "seed": 5})
    assert tree(root) == before
    with pytest.raises(DatasetError, match="holds files but no"):
        make_shapes(tmp_path, **SMALL)
    with pytest.raises(DatasetError, match="is a file"):
        make_shapes(root / "shapes.json", **SMALL)
    (root / "shapes.json").write_text("{")
    with pytest.raises(DatasetError, match="not readable"):
        make_shapes(root, **SMALL)


@pytest.mark.parametrize(
    "change", [{"seed": -1}, {"train_per_class": 0}, {"test_per_class": -1}, {"val_per_class": 10**7}]
)
def test_senseless_numbers_are_refused(tmp_path, change):
    with pytest.raises(SettingsError, match="shapes"):
        make_shapes(tmp_path / "shapes", **{**SMALL, **change})
    assert not (tmp_path / "shapes").exists()
