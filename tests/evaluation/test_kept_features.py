"""Answers from kept features are those from the videos."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from actionfusion.data.recorded_split import reopen_data
from actionfusion.evaluation.evaluate import measure
from actionfusion.evaluation.kept_features import predict_from_features
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.backbones.backbone import Backbone
from actionfusion.run_folder import open_run
from actionfusion.training.features import FeatureSettings
from actionfusion.training.train import train
from actionfusion.video import flow


@pytest.fixture(scope="module")
def run(quick_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    recipe = quick_arguments["recipe"]
    features = FeatureSettings(folder=folder / "features", views=1, dtype="float32")
    return open_run(train(recipe.changed(features=features), out=folder / "run")), features


def test_they_are_those_of_the_videos_and_computed_once(run, grouped_root, monkeypatch):
    folder, features = run
    videos = reopen_data(folder, grouped_root, None)
    plain = measure(folder, videos, force=True, device="cpu")
    kept = measure(folder, videos, force=True, device="cpu", features=features)
    assert kept.videos == plain.videos
    np.testing.assert_allclose(kept.probabilities, plain.probabilities, atol=1e-5)

    monkeypatch.setattr(flow, "compute_field", lambda *_: pytest.fail("flow is computed again"), raising=False)
    monkeypatch.setattr("actionfusion.data.loading.cut_clip", lambda *_: pytest.fail("a clip is cut again"))
    folded, copies = Backbone.folded, list[Backbone]()
    monkeypatch.setattr(Backbone, "folded", lambda each: copies.append(each) or folded(each))
    again = measure(folder, videos, force=True, device="cpu", features=features)
    assert np.array_equal(again.probabilities, kept.probabilities)
    assert len(copies) == 2  # the recogniser's own


def test_a_training_without_validation_clips_keeps_them_too(quick_arguments, grouped_root, tmp_path):
    recipe = quick_arguments["recipe"]
    features = FeatureSettings(folder=tmp_path / "features", views=1)
    recipe = recipe.changed(features=features, data=replace(recipe.data, validation="none"))
    folder = open_run(train(recipe, out=tmp_path / "run"))
    videos = reopen_data(folder, grouped_root, None)
    recognizer = Recognizer.load(folder, runtime="torch", device="cpu")
    sources = videos.sources(videos.part("test"), folder.clip)
    assert predict_from_features(recognizer, sources, features, None, prepared=False) is not None


def test_a_backbone_that_learned_and_a_video_that_cannot_be_read_take_the_usual_way(
    run, grouped_run, grouped_root, tmp_path
):
    folder, features = run
    root = shutil.copytree(grouped_root, tmp_path / "root")
    recognizer = Recognizer.load(folder, runtime="torch", device="cpu")
    videos = reopen_data(folder, root, None)
    sources = videos.sources(videos.part("test"), folder.clip)
    assert predict_from_features(recognizer, sources, features, None, prepared=False) is not None
    learned = Recognizer.load(open_run(grouped_run), runtime="torch", device="cpu")
    assert predict_from_features(learned, sources, features, None, prepared=False) is None
    empty = replace(features, folder=tmp_path / "empty")
    assert predict_from_features(recognizer, sources, empty, None, prepared=False) is None
    (root / sources[0].name).write_bytes(b"broken")
    found = measure(folder, videos, force=True, device="cpu", features=features)
    assert [failed.video for failed in found.failed] == [sources[0].name]
