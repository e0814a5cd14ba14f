"""The command ``prepare``, and training from what it made."""

from dataclasses import replace

import numpy as np
import pytest

from actionfusion.__main__ import main
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.prepare_dataset import prepare
from actionfusion.data.store import StoredVideo
from actionfusion.errors import DatasetError, RecipeMismatch, SettingsError
from actionfusion.training.recipe import load_recipe
from actionfusion.training.train import train
from actionfusion.video.clip import cut_clip
from actionfusion.video.flow import FlowRecipe


@pytest.fixture(scope="module")
def store(tmp_path_factory, shapes_root):
    path = tmp_path_factory.mktemp("store")
    assert (
        main(["prepare", "folder", str(shapes_root), "--store", str(path), "--config", "tiny", "--workers", "0"]) == 0
    )
    return path


def test_config_gives_size_and_flow_and_the_clips_are_those_of_the_videos(store, shapes_root):
    clip = load_recipe("tiny").clip
    settings = DataSettings(root=shapes_root, split="folders", validation="test")
    direct, stored = open_data(settings), open_data(replace(settings, store=store))
    stored.check_store(clip)
    for one, other in zip(*(part.sources(part.split.test[:3], clip) for part in (direct, stored)), strict=True):
        first, second = cut_clip(one.open(), clip), cut_clip(other.open(), clip)
        np.testing.assert_array_equal(first.positions, second.positions)
        # JPEG's loss, and nothing else.
        assert np.abs(first.rgb.astype(int) - second.rgb.astype(int)).mean() < 4
        assert np.abs(clip.flow.decode(first.flow) - clip.flow.decode(second.flow)).mean() < 0.02


def test_a_second_call_makes_nothing(store, shapes_root):
    report = prepare("folder", shapes_root, store=store, config="tiny", workers=0)
    assert (report.made, report.kept) == (0, 48)


def test_training_from_it_and_refusing_it(store, shapes_root, train_arguments, tmp_path):
    data = replace(train_arguments["recipe"].data, store=store)
    train(**train_arguments | {"data": data, "out": tmp_path / "run"})
    other = replace(train_arguments["recipe"].clip, flow=FlowRecipe(engine="farneback", size=64, bound=8.0))
    with pytest.raises(RecipeMismatch, match="farneback"):
        train(**train_arguments | {"data": data, "clip": other, "out": tmp_path / "refused"})
    empty = replace(data, store=tmp_path / "empty")
    with pytest.raises(DatasetError):
        train(**train_arguments | {"data": empty, "out": tmp_path / "refused"})
    assert not (tmp_path / "refused").exists()


def test_broken_videos_are_left_out_and_said(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        (tmp_path / "clips" / name / "broken.mp4").write_bytes(b"no video")
    words = ["prepare", "folder", str(tmp_path / "clips"), "--store", str(tmp_path / "store"), "--workers", "0"]
    assert main(words) == 1
    assert capsys.readouterr().err.count("left out: ") == 2


def test_an_unknown_recipe_is_said(tmp_path):
    with pytest.raises(SettingsError, match="tiny"):
        prepare("folder", tmp_path, store=tmp_path, config="no_such_recipe")


def test_a_model_of_rgb_alone_has_no_flow_prepared(shapes_root, tmp_path, monkeypatch):
    recipe = tmp_path / "rgb.yaml"
    recipe.write_text("clip: {frames: 4, size: 48, flow: {engine: dis, size: 32}}\nnetwork: {streams: rgb}\n")
    monkeypatch.setattr("actionfusion.data.store.grey_picture", None)
    report = prepare("folder", shapes_root, store=tmp_path / "store", config=str(recipe), workers=0)
    assert report.made == 48
    kept = StoredVideo(next((tmp_path / "store").rglob("*.zip")))
    assert (kept.contents.has_flow, kept.contents.frame_size) == (False, 48)
