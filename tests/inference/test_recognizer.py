"""One clip code everywhere: every way from a video to scores gives the same scores."""

import numpy as np
import pytest
import torch

from actionfusion import Recognizer
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.loading import ClipDataset, EpochLoader
from actionfusion.errors import RecipeMismatch, SettingsError, VideoMissing
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.inference.predict import predict
from actionfusion.video.clip import cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource


def test_parity_of_training_evaluation_prediction_and_python(tiny_run, shapes_root, tmp_path):
    recognizer = Recognizer.load(tiny_run, device="cpu")
    data = open_data(DataSettings(root=shapes_root, split="folders", validation="test"))
    dataset = ClipDataset(data.sources(data.split.test, recognizer.clip_settings), recognizer.clip_settings)
    batch = next(EpochLoader(dataset, batch_size=4, shuffle=False, workers=0).epoch(1))
    through_loader = recognizer.scores({name: values.numpy() for name, values in batch.inputs.items()})
    evaluated = dict(zip(*_rows(evaluate(tiny_run, shapes_root, out=tmp_path / "e.json")), strict=True))
    for name, row in zip(batch.names, through_loader, strict=True):
        path = shapes_root / name
        by_hand = recognizer.probabilities([recognizer.clip(path)])[0]
        printed = predict(tiny_run, [path], top_k=8, json=True)[0]
        np.testing.assert_allclose(by_hand, row, atol=1e-5)
        np.testing.assert_allclose(evaluated[name], row, atol=1e-5)
        np.testing.assert_allclose([item.probability for item in printed.predictions], sorted(row)[::-1], atol=1e-5)
        assert [item.label for item in recognizer.predict(path, top_k=1)] == [printed.predictions[0].label]


def _rows(evaluation):
    return evaluation.videos, evaluation.probabilities


def test_probabilities_are_probabilities(tiny_run, shapes_root):
    recognizer = Recognizer.load(tiny_run)
    paths = sorted((shapes_root / "test").glob("*/*.mp4"))[:3]
    rows = recognizer.probabilities([recognizer.clip(path) for path in paths])
    assert rows.shape == (3, 8)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)


def test_a_clip_of_another_recipe_is_refused(tiny_run, shapes_root):
    recognizer = Recognizer.load(tiny_run)
    other = FlowRecipe(engine="farneback", bound=recognizer.clip_settings.flow.bound, size=64)
    path = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    from dataclasses import replace

    clip = cut_clip(VideoSource(path, other), replace(recognizer.clip_settings, flow=other))
    with pytest.raises(RecipeMismatch, match="farneback"):
        recognizer.probabilities([clip])


def test_bad_requests(tiny_run, tmp_path):
    recognizer = Recognizer.load(tiny_run)
    with pytest.raises(VideoMissing, match=r"absent\.mp4"):
        recognizer.predict(tmp_path / "absent.mp4")
    with pytest.raises(SettingsError, match="top_k"):
        recognizer.predict(tmp_path / "absent.mp4", top_k=0)


def test_no_grad_and_no_dropout(tiny_run, shapes_root):
    recognizer = Recognizer.load(tiny_run)
    clip = recognizer.clip(next((shapes_root / "test" / "motion_up").glob("*.mp4")))
    first, second = recognizer.probabilities([clip]), recognizer.probabilities([clip])
    np.testing.assert_array_equal(first, second)
    assert not recognizer.network.training
    assert torch.is_grad_enabled()
