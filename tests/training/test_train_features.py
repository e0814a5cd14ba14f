"""``train`` from cached features, with frozen and with recomputed backbones."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from actionfusion.__main__ import main
from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings
from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.weights import LoadReport
from actionfusion.run_folder import open_run
from actionfusion.training.checkpoint import load_network
from actionfusion.training.cost import step_cost, training_cost
from actionfusion.training.features import FeatureSettings
from actionfusion.training.recipe import Recipe
from actionfusion.training.settings import TrainingSettings
from actionfusion.training.stages import Stage
from actionfusion.training.train import train
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe

pytestmark = pytest.mark.usefixtures("drawn_once")

EPOCHS = 2
TIMES = {"seconds", "samples_per_second", "data_wait", "tflops", "peak_share"}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, shapes_root) -> dict[str, object]:
    """Two epochs on two of the generated classes: eight clips to learn from and four to validate on."""
    root = tmp_path_factory.mktemp("two")
    for part in ("train", "test"):
        (root / part).mkdir()
        for label in ("motion_up", "motion_down"):
            (root / part / label).symlink_to(shapes_root / part / label)
    network = FusionNetworkSettings.tiny(2, backbone=(4, "M", 8), fc6_width=8, hidden=6, dropout_fc6=0.5)
    sessions = (Stage(0.01, EPOCHS - 1, None), Stage(0.001, 1, None))
    return {
        "recipe": Recipe(),
        "data": DataSettings(root=str(root), split="folders", validation="test"),
        "clip": ClipSettings(frames=2, flow_frames=2, flow=FlowRecipe("dis", 2.0, 32)),
        "network": network,
        "augmentation": Augmentation(intervals=(2, 6), flip=True),
        "training": TrainingSettings(sessions, batch_size=3, workers=0, checkpoint_steps=1, weight_decay=0.01),
    }


def from_features(folder: Path, **changes) -> FeatureSettings:
    return FeatureSettings(folder, **{"views": 2} | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cached") / "features"


@pytest.fixture(scope="module")
def run(arguments, folder, tmp_path_factory) -> Path:
    """Trained from features without interruption."""
    return train(**arguments, features=from_features(folder), out=tmp_path_factory.mktemp("runs") / "run")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def assert_same_end(run: Path, other: Path) -> None:
    for name in ("checkpoint.safetensors", "model.safetensors"):
        ours, theirs = load_file(run / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert rows(run) == rows(other)


def test_it_learns_what_frozen_backbones_end_to_end_learn(arguments, tmp_path):
    """With a view for each epoch and one seed, the views are the clips of the epochs."""
    settings = from_features(tmp_path / "features", views=EPOCHS + 1, dtype="float32", seed=0)
    cached = train(**arguments, features=settings, out=tmp_path / "cached")
    frozen = replace(arguments["training"], freeze="all")
    whole = train(**arguments | {"training": frozen, "out": tmp_path / "whole"})

    assert len(rows(whole)) == EPOCHS
    for ours, theirs in zip(rows(cached), rows(whole), strict=True):
        for name in ("train_loss", "val_loss"):
            # Folded batch norms differ in the last digits, and Adam makes as long a step of the smallest gradient.
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=5e-3)
    weights, expected = load_file(cached / "model.safetensors"), load_file(whole / "model.safetensors")
    for name, tensor in weights.items():
        # The gradient of a bias before a batch norm is nothing but rounding, and the running mean follows the bias.
        if name not in {"fusion.conv.bias", "fusion.norm.running_mean"}:
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-3, msg=name)
    moments = {name for name in load_file(whole / "checkpoint.safetensors") if name.startswith("optimizer.")}
    assert moments
    assert not any("backbones." in name for name in moments)


def test_the_backbones_are_those_of_the_start_and_the_rest_has_learnt(arguments, folder, run, tmp_path):
    settings = replace(arguments["training"], stages=(Stage(0.02, 1, None),))
    other = train(**arguments | {"training": settings}, features=from_features(folder), out=tmp_path / "other")
    one, two = (load_file(path / "model.safetensors") for path in (run, other))
    same = {name for name, tensor in one.items() if torch.equal(tensor, two[name])}
    backbones = {name for name in one if name.startswith("backbones.")}
    assert backbones
    assert backbones <= same
    assert not {"fc6.weight", "head.weight", "fusion.conv.weight"} & same
    log = (other / "train.log").read_text()
    assert re.findall(r"features: (\d+) clips computed, (\d+) there before", log) == [("0", "20")]


def test_a_finished_run_names_no_path_and_says_what_it_learnt_from(run, folder):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["features"] == {"folder": None, "views": 2, "dtype": "float16", "seed": 0}
    for path in run.iterdir():
        assert str(folder).encode() not in path.read_bytes(), path.name
    log = (run / "train.log").read_text()
    assert "the backbones stay as they are, and their features are read: 2 augmented views of --features.seed 0" in log
    assert "note: the backbones start at random, and stay so" in log
    assert "features: 20 clips computed" in log


@pytest.fixture
def stopped(arguments, folder, run, tmp_path, stopped_at) -> Path:
    """The same run, stopped in the middle of the second epoch."""
    del run  # has filled the folder
    with stopped_at(5):
        train(**arguments, features=from_features(folder), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "resume.json").read_text())["features"] == {"folder": str(folder)}
    return tmp_path / "run"


@pytest.mark.parametrize("how", ["command", "python", "features lost"])
def test_resumed_it_knows_the_features_and_ends_the_same(stopped, run, folder, how):
    if how == "features lost":
        shutil.rmtree(folder)
    if how == "python":
        train(out=stopped, resume=True)
    else:
        assert main(["train", "--resume", "--out", str(stopped)]) == 0
    assert_same_end(stopped, run)
    assert not (stopped / "resume.json").exists()
    assert "resumed with features" in (stopped / "train.log").read_text()


def test_what_contradicts_the_run_is_refused(stopped, arguments, folder, tmp_path, stopped_at, capsys):
    words = ["train", "--resume", "--out", str(stopped)]
    before = (stopped / "checkpoint.safetensors").read_bytes()
    assert main([*words, "--features.views", "3"]) == 1
    assert "features.views is 2 in the run and 3 now" in capsys.readouterr().err
    assert main([*words, "--training.freeze", "all"]) == 1
    assert "training.freeze is null in the run and all now" in capsys.readouterr().err
    (stopped / "resume.json").unlink()
    assert main([*words, "--data.root", arguments["data"].root]) == 1
    assert re.search(r"features\.folder: .*--features\.folder DIR", capsys.readouterr().err)
    assert (stopped / "checkpoint.safetensors").read_bytes() == before

    with stopped_at(2):
        train(**arguments, out=tmp_path / "end to end")
    assert main(["train", "--resume", "--out", str(tmp_path / "end to end"), "--features.folder", str(folder)]) == 1
    assert "features.views is null in the run and 4 now" in capsys.readouterr().err


def test_stopped_while_features_are_computed_the_same_command_goes_on(arguments, tmp_path, monkeypatch):
    from actionfusion.training.feature_store import FeatureStore

    real, seen = FeatureStore.write, []

    def counted(*given):
        seen.append(1)
        if len(seen) == 15:  # the eighth clip, of two streams
            raise KeyboardInterrupt
        real(*given)

    given = arguments | {"features": from_features(tmp_path / "features"), "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "write", counted)
        with pytest.raises(KeyboardInterrupt):
            train(**given)
    assert not (tmp_path / "run").exists()
    assert "13 clips computed in " in (train(**given) / "train.log").read_text()


def test_a_run_from_features_predicts_and_is_evaluated_without_them(run, folder, arguments, tmp_path):
    hidden = folder.rename(folder.with_name("hidden"))
    try:
        root = Path(arguments["data"].root)
        measured = evaluate(run, root, out=tmp_path / "evaluation.json")
        videos = sorted(root.glob("test/*/*.mp4"))
        answers = [Recognizer.load(run).predict(path, top_k=1)[0].label for path in videos]
    finally:
        hidden.rename(folder)
    right = sum(answer == path.parent.name for answer, path in zip(answers, videos, strict=True))
    assert right / len(videos) == float(rows(run)[-1]["val_accuracy"])
    assert right == int((measured.probabilities.argmax(axis=1) == measured.targets).sum())


def test_a_dry_run_writes_no_features(arguments, folder, run, tmp_path, scratch, capsys):
    del run
    given = arguments | {"out": tmp_path / "run", "dry_run": True}
    train(**given, features=from_features(tmp_path / "features"))
    told = capsys.readouterr().err
    assert "features: 20 clips to compute first" in told
    assert "nothing was written" in told
    assert re.search(r"network: ([\d,]+) parameters, (?!\1)[\d,]+ of them trainable", told)
    assert [*tmp_path.iterdir(), *scratch.iterdir()] == []

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    train(**given, features=from_features(folder))
    assert "features: 0 clips to compute first" in capsys.readouterr().err
    train(**given, features=from_features(folder), seed=1)  # backbones of another random start
    assert "features: 20 clips to compute first" in capsys.readouterr().err
    train(**given, features=from_features(folder, seed=1))  # other views; the validation clips are plain
    assert "features: 16 clips to compute first" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"freeze": "conv1_1"}, "freeze"), ({"recompute_frames": 2}, "recompute_frames")],
)
def test_what_features_leave_without_effect_is_refused(arguments, tmp_path, changes, named):
    given = arguments | {"training": replace(arguments["training"], **changes), "out": tmp_path / "run"}
    with pytest.raises(SettingsError, match=rf"training\.{named}: .*--features\.folder"):
        train(**given, features=from_features(tmp_path / "features"))
    assert list(tmp_path.iterdir()) == []


def test_features_do_not_lie_in_the_run_folder(arguments, tmp_path):
    with pytest.raises(SettingsError, match=r"features\.folder: is in the run folder"):
        train(**arguments, features=from_features(tmp_path / "run" / "features"), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_wrong_ways_to_train_the_backbones_are_refused_before_a_run_folder_is_made(arguments, tmp_path):
    for changes, message in (
        ({"freeze": "conv9_9"}, r"freeze: .*conv2_1"),
        ({"recompute_frames": 2}, r"recompute_frames: batch norm"),
    ):
        given = arguments | {"training": replace(arguments["training"], **changes), "out": tmp_path / "run"}
        with pytest.raises(SettingsError, match=message):
            train(**given)
    with pytest.raises(SettingsError, match=r"training\.recompute_frames"):
        TrainingSettings(recompute_frames=0)
    assert list(tmp_path.iterdir()) == []


def test_a_random_layer_that_stays_so_is_told(arguments, tmp_path, monkeypatch, capsys):
    report = LoadReport("vgg16", "0" * 64, ("backbones.rgb.features.0.weight",), ("backbones.flow.features.0.weight",))
    monkeypatch.setattr(FusionNetwork, "load_pretrained", lambda *_, **__: report)
    settings = replace(arguments["training"], freeze="conv1_1", stages=(Stage(0.01, 1, None),))
    given = arguments | {"training": settings, "pretrained": "vgg16.safetensors", "dry_run": True}
    train(**given, out=tmp_path / "run")
    told = capsys.readouterr().err
    assert "the backbones' layers up to conv1_1 stay as they are\n" in told
    assert "note: among them these start at random, and stay so: backbones.flow (1)\n" in told
    train(**given | {"network": replace(arguments["network"], streams="rgb")}, out=tmp_path / "run")
    assert "stay so" not in capsys.readouterr().err


def test_recomputed_backbones_learn_the_same(arguments, tmp_path):
    network = replace(arguments["network"], batch_norm=False, dropout_fc6=0.0)
    ends = []
    for chunk in (None, 2):
        settings = replace(arguments["training"], recompute_frames=chunk, stages=(Stage(0.001, 1, None),))
        ends.append(train(**arguments | {"network": network, "training": settings, "out": tmp_path / str(chunk)}))
    one, two = (load_file(end / "model.safetensors") for end in ends)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-3, atol=1e-4, msg=name)


FRAMES = 4
SMALL = FusionNetworkSettings.tiny(
    8, frames=FRAMES, image_size=64, backbone=(16, 16, "M", 16, "M", 24), batch_norm=False
)
# Operations of the backbones' convolutions for each clip, forward: two for each of 9 x in x out weights and pixel.
LAYERS = [[(64, channels, 16), (64, 16, 16), (32, 16, 16), (16, 16, 24)] for channels in (3, SMALL.flow_channels)]
TOWERS = [[FRAMES * 2 * 9 * size**2 * given * made for size, given, made in layers] for layers in LAYERS]


small_cost = partial(step_cost, FusionNetwork, SMALL)


def test_what_does_not_run_is_not_counted_and_what_runs_twice_is_counted_twice():
    forward = sum(map(sum, TOWERS))
    whole, cached = small_cost(), small_cost(cached=True)
    frozen = small_cost(freeze="all")
    again = small_cost(recompute_frames=2)
    part = small_cost(freeze="conv2_1")

    assert whole.forward_flops - cached.forward_flops == forward
    assert frozen.forward_flops == again.forward_flops == whole.forward_flops
    assert frozen.flops - cached.flops == forward
    assert again.flops - whole.flops == forward
    # Backward, a layer's weights cost its forward pass once more, and so does its input where that learns.
    assert whole.flops - part.flops == sum(
        first + 2 * (second + third) + fourth for first, second, third, fourth in TOWERS
    )


def test_what_is_frozen_has_neither_gradients_nor_moments():
    network = FusionNetwork(SMALL)
    backbones = sum(p.numel() for backbone in network.all_backbones().values() for p in backbone.parameters())
    parameters = sum(p.numel() for p in network.parameters())
    for cost in (small_cost(cached=True), small_cost(freeze="all")):
        assert (cost.parameters, cost.trainable) == (parameters, parameters - backbones)
        assert cost.fixed == 16 * parameters - 12 * backbones
        assert cost.disk == 16 * parameters - 8 * backbones


def test_a_chunk_is_no_larger_than_the_batch():
    training = TrainingSettings(batch_size=2, recompute_frames=1000)
    cost = training_cost(FusionNetwork, SMALL, training, cached=False)
    assert cost == small_cost(recompute_frames=2 * FRAMES)
    assert cost.fixed > small_cost(recompute_frames=1).fixed


def test_the_speed_that_is_told_is_of_what_ran(run, arguments):
    """Steps from features are worth their own operations alone."""
    settings = replace(arguments["network"], frames=2, image_size=32, flow_size=32, flow_channels=4)
    cost = step_cost(FusionNetwork, settings, cached=True)
    with (run / "metrics.csv").open() as file:
        (*_, row) = csv.DictReader(file)
    told = float(row["tflops"]) * 1e12 / float(row["samples_per_second"])
    assert told == pytest.approx(cost.flops, rel=0.05)
    assert cost.flops < 0.9 * step_cost(FusionNetwork, settings, freeze="all").flops


MEASURED = """
import json, os, pathlib, re, sys, torch, torch._dynamo  # which the first optimiser imports
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.training.learner import Learner
from actionfusion.training.settings import TrainingSettings
from actionfusion.data.loading import Batch, Step

def batch(size, cached):
    shapes = [(size, 8, 16, 24, 24)] * 2 if cached else [(size, 8, 3, 96, 96), (size, 8, 8, 96, 96)]
    rgb, flow = (torch.rand(shape) if cached else torch.zeros(shape, dtype=torch.uint8) for shape in shapes)
    return Step((Batch({"rgb": rgb, "flow": flow}, torch.zeros(size, dtype=torch.int64), ("a",) * size, cached),), size)

def measure(freeze=None, recompute_frames=None, cached=False):
    layout = (32, 32, "M", 32, "M", 16)
    settings = FusionNetworkSettings.tiny(8, frames=8, image_size=96, backbone=layout, batch_norm=False)
    network = FusionNetwork(settings)
    network.freeze_backbones("all" if cached else freeze)
    network.recompute_backbones(recompute_frames)
    pupil = Learner(network, TrainingSettings())
    peaks = []
    for size in (2, 6):
        pupil.step(batch(size, cached), 1e-4)
        status = pathlib.Path("/proc/self/status").read_text()
        peaks.append(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]))
    print((peaks[1] - peaks[0]) / 4, flush=True)

for change in json.loads(sys.argv[1]):
    child = os.fork()  # has a highest mark of its own, and the imports are paid once
    if not child:
        measure(**change)
        os._exit(0)
    os.waitpid(child, 0)
"""
CHANGES = [{"recompute_frames": 4}, {"freeze": "conv1_2"}, {"freeze": "all"}, {"cached": True}]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_the_estimates_are_near_the_memory_that_a_step_takes():
    words = [sys.executable, "-c", MEASURED, json.dumps(CHANGES)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    measured = [float(line) for line in done.stdout.split()]
    settings = FusionNetworkSettings.tiny(
        8, frames=8, image_size=96, backbone=(32, 32, "M", 32, "M", 16), batch_norm=False
    )
    estimated = [step_cost(FusionNetwork, settings, **change).per_clip for change in CHANGES]
    shares = [ours / theirs for ours, theirs in zip(estimated, measured, strict=True)]
    assert all(0.6 < share < 1.6 for share in shares), shares
    assert estimated[-1] < estimated[0] < estimated[2] < estimated[1] < step_cost(FusionNetwork, settings).per_clip


def test_a_checkpoint_of_another_network_is_refused_by_name(run, arguments):
    other = FusionNetwork(replace(open_run(run).network, hidden=7))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(RunFolderError, match=r"does not fit this run .*weight_ih \["):
        load_network(open_run(run), other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
