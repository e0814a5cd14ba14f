"""The linear probe beside a run: it changes nothing, holds what it says, and is measured with the network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings
from actionfusion.errors import SettingsError, WeightsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.backbones import make_backbone
from actionfusion.models.systems.lrcn import LRCNSettings
from actionfusion.run_folder import open_run
from actionfusion.training import train as train_module
from actionfusion.training.distributed import Processes
from actionfusion.training.features import FeatureSettings
from actionfusion.training.plan import make_plan
from actionfusion.training.probe import PROBE, BesideRun, load_probe
from actionfusion.training.recipe import Recipe
from actionfusion.training.settings import TrainingSettings
from actionfusion.training.stages import Stage
from actionfusion.training.train import train
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe

pytestmark = pytest.mark.usefixtures("drawn_once")

NARROW = (4, "M", 8)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, shapes_root) -> Recipe:
    """LRCN on cached features of RGB backbones that start from a file, on two classes."""
    folder = tmp_path_factory.mktemp("beside")
    for part in ("train", "test"):
        (folder / "clips" / part).mkdir(parents=True)
        for label in ("motion_up", "motion_down"):
            (folder / "clips" / part / label).symlink_to(shapes_root / part / label)
    torch.manual_seed(3)
    save_file(make_backbone(NARROW, 3, batch_norm=True).state_dict(), folder / "backbone.safetensors")
    return Recipe(
        "lrcn",
        DataSettings(str(folder / "clips"), split="folders", validation="test"),
        ClipSettings(2, 2, FlowRecipe("dis", 8.0, 32)),
        LRCNSettings.tiny(2, image_size=32, backbone=NARROW, dropout_lstm=0.5),
        Augmentation(intervals=(2, 6)),
        TrainingSettings((Stage(0.001, 2, None),), batch_size=3, workers=0, checkpoint_steps=1),
        FeatureSettings(folder / "features", views=2),
        pretrained=str(folder / "backbone.safetensors"),
    )


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Path:
    return train(recipe, out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


def test_the_network_learns_the_same_to_the_bit_without_it(recipe, run, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "solve_beside", lambda *_: BesideRun("none"))
    without = train(recipe, out=tmp_path / "run", device="cpu")
    assert not (without / PROBE).exists()
    for name in ("model.safetensors", "checkpoint.safetensors"):
        ours, theirs = load_file(run / name), load_file(without / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name


def test_train_says_how_well_it_does_on_what_was_held_out(run):
    log = (run / "train.log").read_text()
    assert "linear probe on the same features (2 augmented views of each clip): " in log
    assert "of 8, " in log  # each of the eight training videos once
    assert "by video, since their groups are not known, within the training part, C = " in log
    assert "on the validation part: best epoch " in log
    found = load_probe(open_run(run), open_run(run).load_network())
    assert found is not None
    assert (found[1].views, found[1].report.count, found[1].validation_count) == (2, 8, 4)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_that_is_gone_on_with_has_its_probe(recipe, run, tmp_path, stopped_at, earlier):
    """A run that an earlier version began gets one."""
    with stopped_at(4):
        train(recipe, out=tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / PROBE).read_bytes()
    if earlier:
        (tmp_path / "run" / PROBE).unlink()
    train(out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / PROBE).read_bytes() == before
    with safe_open(run / PROBE, framework="pt") as ours, safe_open(tmp_path / "run" / PROBE, framework="pt") as theirs:
        assert ours.metadata() == theirs.metadata()
    said = (tmp_path / "run" / "train.log").read_text().count("linear probe on the same features")
    assert said == (2 if earlier else 1)
    assert "best epoch" in (tmp_path / "run" / "train.log").read_text()


def test_without_frozen_pretrained_backbones_it_says_how_to_get_one(recipe, tmp_path):
    for number, (changes, reason) in enumerate(
        [({"features": FeatureSettings()}, "no features"), ({"pretrained": None}, "its backbones start at random")]
    ):
        run = train(recipe.changed(**changes), out=tmp_path / str(number), device="cpu")
        log = (run / "train.log").read_text()
        assert f"no linear probe beside this run, since {reason}" in log
        assert "actionfusion train --config probe" in log
        assert not (run / PROBE).exists()


def test_evaluate_measures_both_on_the_same_features(recipe, run, tmp_path, capsys):
    root = Path(str(recipe.data.root))
    evaluation = evaluate(run, root, out=tmp_path / "figures.json", device="cpu", force=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    recognizer = Recognizer.load(run, runtime="torch", device="cpu")
    found = load_probe(open_run(run), recognizer.network)
    assert found is not None
    correct = network = 0
    for video, target, row in zip(evaluation.videos, evaluation.targets, evaluation.probabilities, strict=True):
        clip = recognizer.clip(root / video)
        np.testing.assert_allclose(row, recognizer.probabilities([clip])[0], atol=1e-6)
        with torch.no_grad():
            maps = recognizer.network.features({"rgb": torch.from_numpy(clip.rgb)[None]})["rgb"]
            correct += int(found[0]({"rgb": maps}).argmax()) == target
        network += int(row.argmax()) == target
    probe = figures["probe"]
    assert (probe["correct"], probe["count"]) == (correct, 4)
    assert probe["accuracy"] == correct / 4
    assert probe["network_minus_probe"]["difference"] == pytest.approx((network - correct) / 4)
    said = capsys.readouterr().out
    assert f"linear probe {100 * correct / 4:.1f} % ({correct}/4; " in said
    assert "network minus probe" in said
    # The network's own figures are those without a probe.
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("config.yaml", "labels.txt", "split.csv", "model.safetensors"):
        (plain / name).write_bytes((run / name).read_bytes())
    alone = evaluate(plain, root, device="cpu", force=True)
    assert alone.probe is None
    assert json.loads((plain / "evaluation_test.json").read_text())["probe"] is None
    np.testing.assert_allclose(alone.probabilities, evaluation.probabilities, atol=1e-6)  # batch norms are folded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about | {"pooling": "os.system"}, "pooling is 'os.system'"),
        (lambda about: about | {"validation_correct": 9}, "9 correct of 4"),
        (lambda about: about | {"more": 1}, "there is no setting 'more'"),
        (lambda about: about | {"changes": False}, "does not fit the run"),
    ],
)
def test_a_probe_that_was_tampered_with_is_refused_in_a_line(run, tmp_path, change, message):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "labels.txt", "split.csv", "model.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    with safe_open(run / PROBE, framework="pt") as file:
        about = json.loads(file.metadata()["probe"])
    save_file(load_file(run / PROBE), folder / PROBE, {"probe": json.dumps(change(about))})
    with pytest.raises(WeightsError, match=message) as caught:
        load_probe(open_run(folder), open_run(folder).load_network())
    assert "\n" not in str(caught.value)


def test_a_damaged_probe_is_refused(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "labels.txt", "model.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    (folder / PROBE).write_bytes((run / PROBE).read_bytes()[:-9])
    with pytest.raises(WeightsError, match="is damaged"):
        load_probe(open_run(folder), open_run(folder).load_network())


def test_the_model_is_solved_on_cached_features_as_the_probe_beside_another(recipe, run, tmp_path):
    """The same features of the same backbones give the same classifier."""
    torch.manual_seed(3)
    weights = make_backbone(NARROW, 3).state_dict()
    save_file(weights, tmp_path / "plain.safetensors")
    alone = recipe.changed(
        model="probe",
        network=None,
        pretrained=str(tmp_path / "plain.safetensors"),
        features=FeatureSettings(tmp_path / "features", views=2),
    )
    settings = replace(alone.network, streams="rgb", backbone=NARROW)
    solved = train(alone.changed(network=settings), out=tmp_path / "probe", device="cpu")
    lrcn = recipe.changed(
        network=replace(recipe.network, batch_norm=False), pretrained=alone.pretrained, features=alone.features
    )
    beside = train(lrcn, out=tmp_path / "lrcn", device="cpu")
    ours, theirs = load_file(solved / "model.safetensors"), load_file(beside / PROBE)
    assert all(torch.equal(ours[f"head.{name}"], tensor) for name, tensor in theirs.items())
    assert "features: 0 clips computed" in (beside / "train.log").read_text()
    assert "ends the stages" not in (solved / "train.log").read_text()
    assert not evaluate(solved, recipe.data.root, device="cpu", force=True).selected_on_part


def test_several_processes_do_not_solve(recipe):
    processes = Processes("cpu")
    processes.share = replace(processes.share, processes=2)
    plan = make_plan(recipe.changed(model="probe", features=FeatureSettings()), processes)
    with pytest.raises(SettingsError, match="probe is solved in one process"):
        plan.check(Path("run"))
