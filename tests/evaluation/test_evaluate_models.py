"""``evaluate`` on every model of the table, and on one beside it: what each reads, and how its answers are averaged."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.prepare_dataset import prepare
from actionfusion.data.recorded_split import write_split
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.views import Views, cut_views
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models import MODELS, model_class
from actionfusion.models.model import Features, VideoModel
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.run_folder import SPLIT, create_run
from actionfusion.settings import plain
from actionfusion.video import flow
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource
from representatives import REPRESENTATIVES


class StepByStep(VideoModel):
    """An answer at each step, from the colours of the left of its frame."""

    Settings: ClassVar[type[ModelSettings]] = ModelSettings
    source: ClassVar[Source] = Source("of these tests", "nothing")

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.linear = nn.Linear(3, settings.num_classes)

    def classify(self, features: Features) -> Tensor:
        logits: Tensor = self.linear(9 * features["rgb"][..., :9].mean((-2, -1)))
        return logits


@pytest.fixture
def make_run(tmp_path, grouped_root):
    """Makes a run folder of a model with random weights, split as ``train`` would split it."""

    def make(name, network, **clip):
        videos = open_data(DataSettings(grouped_root, split="stratified-7:3", validation="none"))
        settings = ClipSettings(
            frames=network.frames, flow_frames=network.flow_channels // 2, streams=model_class(name).streams(network),
            size=network.image_size, flow=FlowRecipe("dis", 8.0, network.size_of("flow")), **clip,
        )  # fmt: skip
        data = plain(videos.settings) | {"root": None, "digest": videos.digest(), "split_name": videos.split.name}
        labels = videos.listing.labels
        run = create_run(
            tmp_path / "run", model=name, clip=settings, network=network, labels=labels, further={"data": data}
        )
        torch.manual_seed(1)
        run.save_weights(model_class(name)(network))
        write_split(run.path / SPLIT, videos)
        return run

    return make


@pytest.fixture(scope="module")
def store_of(grouped_root, tmp_path_factory):
    """The store of all videos for a flow recipe, filled once."""
    stores = {}

    def prepared(recipe):
        if recipe not in stores:
            stores[recipe] = tmp_path_factory.mktemp("stores") / "store"
            prepare("folder", grouped_root, store=stores[recipe], flow=recipe, workers=0)
        return stores[recipe]

    return prepared


@pytest.fixture
def flows(monkeypatch):
    """The flow frames that are computed from now on."""
    computed = []
    real = flow.FlowRecipe.encode

    def counted(recipe, displacement):
        computed.append(displacement)
        return real(recipe, displacement)

    monkeypatch.setattr(flow.FlowRecipe, "encode", counted)
    return computed


def assert_each_is_what_the_recognizer_says(evaluation, run, root):
    recognizer = Recognizer.load(run, runtime="torch", device="cpu")
    assert evaluation.videos
    for video, row in zip(evaluation.videos, evaluation.probabilities, strict=True):
        np.testing.assert_allclose(row, recognizer.probabilities([recognizer.clip(root / video)])[0], atol=1e-6)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_every_model_is_evaluated_from_videos_and_from_a_store(name, make_run, store_of, grouped_root, tmp_path, flows):
    run = make_run(name, model_class(name).Settings.tiny(2))
    evaluation = evaluate(run.path, grouped_root, device="cpu")
    assert bool(flows) == run.clip.reads_flow, "flow is computed for models that read it, and for no other"
    assert evaluation.failed == ()
    assert_each_is_what_the_recognizer_says(evaluation, run, grouped_root)
    if run.clip.size in (None, run.clip.flow.size):
        store = store_of(run.clip.flow)
        flows.clear()
        stored = evaluate(run.path, grouped_root, store=store, out=tmp_path / "stored.json", device="cpu")
        assert flows == []
        assert stored.videos == evaluation.videos
        assert np.abs(stored.probabilities - evaluation.probabilities).mean() < 0.05, "but for what JPEG changes"


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("clip", [{}, {"sampling": "dense", "stride": 2}])
def test_answers_at_each_step_are_averaged_and_then_those_of_the_views(
    frames, clip, make_run, grouped_root, tmp_path, monkeypatch, flows
):
    monkeypatch.setitem(MODELS, "step_by_step", f"{__name__}:StepByStep")
    run = make_run("step_by_step", ModelSettings(2, frames=frames, image_size=32), **clip)
    one = evaluate(run.path, grouped_root, out=tmp_path / "one.json", device="cpu")
    assert_each_is_what_the_recognizer_says(one, run, grouped_root)
    several = evaluate(run.path, grouped_root, out=tmp_path / "several.json", views=3, flip=True, device="cpu")
    network = run.load_network()
    for video, row, first in zip(several.videos, several.probabilities, one.probabilities, strict=True):
        clips = cut_views(
            VideoSource(grouped_root / video, run.clip.flow, frame_size=32), run.clip, Views(3, flip=True)
        )
        with torch.no_grad():
            steps = network(rgb=torch.from_numpy(np.stack([clip.rgb for clip in clips]))).softmax(-1)
        assert steps.shape == (6, frames, 2)
        np.testing.assert_allclose(row, steps.mean((0, 1)), atol=1e-6)
        np.testing.assert_allclose(first, steps[0].mean(0), atol=1e-6)
    assert several.clips == 6 * len(several.videos)
    assert np.abs(several.probabilities - one.probabilities).max() > 1e-4, "the views differ"
    assert flows == [], "the model reads no flow"
