"""What training promises of every model of the table; a new model is tested by its line there."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings
from actionfusion.data.loading import Batch, Step
from actionfusion.errors import SettingsError
from actionfusion.evaluation.protocol import protocol
from actionfusion.models import FusionNetworkSettings, model_class
from actionfusion.models.backbones import make_backbone
from actionfusion.models.systems.lrcn import LRCN, LRCNSettings
from actionfusion.run_folder import open_run
from actionfusion.training import checkpointing, probe
from actionfusion.training.described import KnownDescriptions
from actionfusion.training.features import FeatureSettings
from actionfusion.training.learner import Learner
from actionfusion.training.measuring import measure
from actionfusion.training.recipe import Recipe
from actionfusion.training.resume import recorded_recipe
from actionfusion.training.settings import TrainingSettings
from actionfusion.training.stages import Stage
from actionfusion.training.train import train
from actionfusion.video import flow
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe
from representatives import ALL, REPRESENTATIVES

pytestmark = pytest.mark.usefixtures("drawn_once")

SIZE = 32
FRAMES = 2  # where a model takes any number
NARROW = (4, "M", 8)

# All tests of a model run in a row, so that the cost of its step is counted once.
every_model = pytest.mark.parametrize("name", REPRESENTATIVES, scope="module")


@pytest.fixture(scope="module")
def root(tmp_path_factory, shapes_root) -> Path:
    """Three clips to learn from and one to validate on, of each of two classes."""
    root = tmp_path_factory.mktemp("few")
    for part, count in (("train", 3), ("test", 1)):
        for label in ("motion_up", "motion_down"):
            (root / part / label).mkdir(parents=True)
            for path in sorted((shapes_root / part / label).glob("*.mp4"))[:count]:
                (root / part / label / path.name).symlink_to(path)
    return root


def recipe_of(name: str, root: Path, **network: Any) -> Recipe:
    """A recipe for seconds: 3-D networks of a fixed length take consecutive frames."""
    kind = model_class(name)
    settings = kind.Settings.tiny(2, image_size=SIZE, **network)
    frames, sampling = (settings.frames, "dense") if kind.fixed_frames else (FRAMES, "spread")
    return Recipe(
        name,
        DataSettings(root=str(root), split="folders", validation="test"),
        ClipSettings(frames, 2, FlowRecipe("dis", 8.0, SIZE), sampling=sampling),
        settings,
        Augmentation(intervals=(2, 6)),
        TrainingSettings((Stage(0.001, 2, 2),), batch_size=2, workers=0, checkpoint_steps=1),
    )


def small(name: str, root: Path) -> Recipe:
    """The same on a still smaller backbone."""
    return recipe_of(name, root, backbone=NARROW)


@pytest.fixture(scope="module")
def run_of(root, tmp_path_factory) -> Callable[[str], Path]:
    """The run of a model, trained once."""
    runs: dict[str, Path] = {}

    def trained(name: str) -> Path:
        if name not in runs:
            runs[name] = train(recipe_of(name, root), out=tmp_path_factory.mktemp(name) / "run", device="cpu")
        return runs[name]

    return trained


def losses(run: Path) -> list[tuple[str, ...]]:
    with (run / "metrics.csv").open() as file:
        return [tuple(row[name] for name in ("train_loss", "val_loss", "val_accuracy")) for row in csv.DictReader(file)]


@every_model
def test_a_run_says_what_it_is_and_can_be_opened(name, root, run_of):
    run, recipe = open_run(run_of(name)), recipe_of(name, root)
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert (config["format"], config["model"], run.model) == (2, name, name)
    assert tuple(config["clip"]["streams"]) == model_class(name).streams(recipe.network)
    assert run.network == recipe.fitted(2).network
    network = run.load_network()
    assert type(network) is model_class(name)
    assert len(losses(run.path)) == (1 if network.solved else 2 + network.unlabelled_epochs(run.network))


@every_model
def test_the_recipe_of_a_run_is_the_one_that_it_was_trained_by(name, root, run_of):
    recipe, device = recorded_recipe(run_of(name))
    given = recipe_of(name, root).fitted(2)
    assert device is None  # the run is finished, and knows no place
    for part in fields(Recipe):
        if part.name != "data":
            assert getattr(recipe, part.name) == getattr(given, part.name), part.name
    assert recipe.data == replace(given.data, root=None, dataset="folder")  # as it was recognised


@pytest.fixture
def stopped(stopped_at, monkeypatch) -> Callable[[str, int], AbstractContextManager[None]]:
    """Makes the training of a model inside fail before a step; one without steps before it is solved."""

    @contextmanager
    def stopped(name: str, step: int) -> Iterator[None]:
        if not model_class(name).solved:
            with stopped_at(step):
                yield
            return
        with monkeypatch.context() as patch:
            patch.setattr(model_class(name), "solve", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                yield

    return stopped


def go_on(name: str, root: Path, out: Path) -> None:
    """What a person does after the training was stopped: nothing is left of one that is solved."""
    if model_class(name).solved:
        assert not out.exists()
        train(recipe_of(name, root), out=out, device="cpu")
    train(out=out, resume=True)


@every_model
def test_stopped_and_resumed_it_ends_the_same(name, root, run_of, tmp_path, stopped):
    with stopped(name, 5):  # the second of the second epoch
        train(recipe_of(name, root), out=tmp_path / "run", device="cpu")
    go_on(name, root, tmp_path / "run")
    for file in ("checkpoint.safetensors", "model.safetensors"):
        ours, theirs = load_file(tmp_path / "run" / file), load_file(run_of(name) / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), file
    assert losses(tmp_path / "run") == losses(run_of(name))


@pytest.mark.parametrize("way", ["again", "resume", "protocol"])
def test_a_solved_model_killed_before_its_checkpoint_begins_again(way, root, run_of, tmp_path, monkeypatch):
    recipe, out = recipe_of("probe", root), tmp_path / "run"
    run = out / "fold-folders-seed-0" if way == "protocol" else out

    def start() -> None:
        protocol("folders", recipe, out=out) if way == "protocol" else train(recipe, out=out, device="cpu")

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_checkpoint", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start()
    assert (run / "model.safetensors").is_file()
    train(out=out, resume=True) if way == "resume" else start()
    ours, theirs = (load_file(each / "model.safetensors") for each in (run, run_of("probe")))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert (run / "checkpoint.safetensors").is_file()
    assert not (run / "resume.json").exists()


@every_model
def test_a_dry_run_tells_what_it_takes_and_writes_nothing(name, root, tmp_path, capsys):
    train(recipe_of(name, root), out=tmp_path / "run", dry_run=True, device="cpu")
    said = capsys.readouterr().err
    kind = model_class(name)
    parameters = sum(p.numel() for p in kind(recipe_of(name, root).fitted(2).network).parameters())
    assert f"network: {parameters:,} parameters" in said
    assert "nothing was written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def flow_calls(monkeypatch) -> list[str]:
    """The name of the engine, at each pair of frames that flow is computed for."""
    calls: list[str] = []
    real = flow._Engine.__call__

    def counted(self, first, second):
        calls.append("flow")
        return real(self, first, second)

    monkeypatch.setattr(flow._Engine, "__call__", counted)
    # Of clips that an earlier training has described nothing would be computed.
    monkeypatch.setattr(probe, "_DESCRIBED", KnownDescriptions())
    return calls


def _reading(name: str) -> tuple[bool, bool, bool]:
    """What decides about the flow that a training computes: all models of one kind take one way."""
    kind = model_class(name)
    return "flow" in kind.streams(kind.Settings.tiny(2)), kind.solved, kind.exportable


FEW = REPRESENTATIVES if ALL else tuple({_reading(name): name for name in reversed(REPRESENTATIVES)}.values())


@pytest.mark.parametrize("name", FEW, scope="module")
def test_flow_is_computed_only_for_a_model_that_reads_it(name, root, tmp_path, flow_calls, stopped):
    recipe = recipe_of(name, root)
    recipe = recipe.changed(training=replace(recipe.training, stages=(Stage(0.001, 1, None),)))
    reads = "flow" in model_class(name).streams(recipe.network)
    calls = []
    train(recipe, out=tmp_path / "dry", dry_run=True)
    calls.append(len(flow_calls))
    with stopped(name, 2):
        train(recipe, out=tmp_path / "run")
    go_on(name, root, tmp_path / "run")
    calls.append(len(flow_calls))
    protocol("folders", recipe, out=tmp_path / "protocol")
    calls.append(len(flow_calls))
    assert (0 < calls[0] < calls[1] < calls[2]) if reads else calls == [0, 0, 0]


def test_features_of_rgb_alone_need_no_flow(root, tmp_path, flow_calls):
    features = FeatureSettings(tmp_path / "features", views=1)
    train(small("lrcn", root), out=tmp_path / "run", features=features)
    assert flow_calls == []
    assert [path.name.split("-")[0] for path in features.folder.iterdir()] == ["rgb"]


@pytest.fixture
def backbone_weights(tmp_path) -> str:
    """A file that RGB backbones of all models start from."""
    torch.manual_seed(3)
    path = tmp_path / "backbone.safetensors"
    save_file(make_backbone(NARROW, 3, batch_norm=True).state_dict(), path)
    return str(path)


def test_features_made_for_one_model_serve_another(root, tmp_path, backbone_weights, flow_calls):
    features = FeatureSettings(tmp_path / "features", views=2)

    def computed(recipe: Recipe, run: str, **changes: Any) -> tuple[int, int]:
        given = {"features": features, "pretrained": backbone_weights} | changes
        log = (train(recipe, out=tmp_path / run, **given) / "train.log").read_text()
        (found,) = re.findall(r"features: (\d+) clips computed.*?, (\d+) there before", log)
        return int(found[0]), int(found[1])

    both, lrcn = small("fusion", root), small("lrcn", root)
    assert computed(both, "fusion") == (2 * 6 + 2, 0)
    flow_calls.clear()
    assert computed(lrcn, "lrcn") == (0, 14)
    one_stream = recipe_of("fusion", root, streams="rgb", backbone=NARROW)
    assert computed(one_stream, "one stream", seed=5) == (0, 14)
    # Of validation clips, which are plain, all is there whatever the views of the training clips.
    assert computed(lrcn, "other views", features=replace(features, seed=1)) == (12, 2)
    assert flow_calls == []


@pytest.mark.parametrize("name", ["c3d", "dense_trajectories", "learning_to_track"])
def test_features_of_a_model_without_backbone_are_refused(name, root, tmp_path):
    with pytest.raises(SettingsError, match=r"features\.folder: the model has no backbone for rgb"):
        train(recipe_of(name, root), out=tmp_path / "run", features=FeatureSettings(tmp_path / "features"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_solved_and_stays_random_is_named(root, tmp_path):
    log = (train(recipe_of("c3d_idt_svm", root), out=tmp_path / "run", device="cpu") / "train.log").read_text()
    assert "the plain clip of each video is read, without augmentation" in log
    assert "note: these start at random, and stay so: c3d (18)" in log


def test_a_model_that_answers_at_each_step_learns_and_is_measured_by_its_own_loss_and_scores():
    torch.manual_seed(0)
    network = LRCN(LRCNSettings.tiny(3, frames=4, image_size=SIZE, backbone=NARROW, batch_norm=False))
    clips = torch.randint(0, 256, (5, 4, 3, SIZE, SIZE), dtype=torch.uint8)
    batch = Batch({"rgb": clips}, torch.tensor([0, 1, 2, 0, 1]), tuple("abcde"))
    with torch.no_grad():
        logits = network(**batch.inputs)
    assert logits.shape == (5, 4, 3)
    each = torch.stack([F.cross_entropy(logits[:, step], batch.targets, reduction="none") for step in range(4)])
    correct = int((logits.softmax(-1).mean(1).argmax(-1) == batch.targets).sum())

    totals = measure(network, [batch])
    assert totals.loss == pytest.approx(float(each.mean(0).sum()), rel=1e-5)
    assert (totals.correct, totals.count) == (correct, 5)
    learner = Learner(network, TrainingSettings())
    first = learner.step(Step((batch,), 5), 3e-3)
    assert first.loss == pytest.approx(totals.loss, rel=1e-4)
    for _ in range(80):
        last = learner.step(Step((batch,), 5), 3e-3)
    assert last.loss < 0.2 * first.loss
    assert last.correct == 5


def test_one_frame_is_a_clip(root, tmp_path):
    for name in ("fusion", "lrcn"):
        recipe = small(name, root)
        run = train(recipe.changed(clip=replace(recipe.clip, frames=1)), out=tmp_path / name)
        assert open_run(run).network.frames == 1
        assert len(losses(run)) == 2


def test_frames_may_have_another_size_than_the_flow(root, tmp_path):
    recipe = small("fusion", root)
    run = open_run(train(recipe.changed(clip=replace(recipe.clip, size=SIZE + 1)), out=tmp_path / "run"))
    assert (run.network.image_size, run.network.flow_size) == (SIZE + 1, SIZE)
    with pytest.raises(SettingsError, match=r"network\.flow_size: 32 px leave a map of 16"):
        train(recipe.changed(clip=replace(recipe.clip, size=2 * SIZE)), out=tmp_path / "other")


def test_dense_training_clips_are_consecutive_frames_from_a_random_place(root, run_of):
    run = open_run(run_of("c3d"))
    assert (run.clip.sampling, run.clip.stride, run.clip.frames) == ("dense", 1, 16)


def test_settings_of_another_model_are_refused():
    with pytest.raises(SettingsError, match=r"FusionNetworkSettings are not the settings of model 'c3d'"):
        Recipe("c3d", network=FusionNetworkSettings())
    with pytest.raises(SettingsError, match=r"there is no model 'lrnc'; did you mean lrcn\?"):
        Recipe("lrnc")
    assert Recipe("lrcn").changed(model="c3d").network == model_class("c3d").Settings()
