"""``train`` end to end on generated clips: what it writes, what it repeats, what it refuses."""

import time
from dataclasses import replace

import pytest
import torch
import yaml

from actionfusion.data.loading import ClipDataset, EpochLoader
from actionfusion.errors import RunFolderError, SettingsError, WeightsError
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.run_folder import RunFolder, create_run, open_run
from actionfusion.training import checkpointing, learner, loop
from actionfusion.training.loop import fit
from actionfusion.training.settings import TrainingSettings
from actionfusion.training.stages import Stage
from actionfusion.training.train import train


class Silence:
    """A listener that keeps the rows."""

    def __init__(self):
        self.rows = []

    def epoch_started(self, stage, epoch, max_epochs, *, steps, done):
        pass

    def step_done(self, loss, accuracy):
        pass

    def epoch_ended(self, row):
        self.rows.append(row)


def test_a_run_folder_holds_what_the_contract_says_and_no_path(tiny_run, shapes_root):
    assert {item.name for item in tiny_run.iterdir()} >= {
        "config.yaml",
        "labels.txt",
        "model.safetensors",
        "metrics.csv",
        "train.log",
    }
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert config["clip"]["flow"] == {"engine": "dis", "bound": config["clip"]["flow"]["bound"], "size": 64}
    assert config["data"]["counts"] == {"train": 32, "val": 0, "test": 16}
    assert "folders" in config["data"]["split"]
    for name in ("config.yaml", "train.log", "metrics.csv"):
        assert str(shapes_root) not in (tiny_run / name).read_text()
    rows = open_run(tiny_run).read_metrics()
    assert [row["epoch"] for row in rows] == [1]
    assert 0 <= rows[0]["val_accuracy"] <= 1


def test_the_same_seed_gives_the_same_weights(tmp_path, train_arguments, tiny_run):
    again = train(**train_arguments | {"out": tmp_path / "again"})
    assert (again / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()
    other = train(**train_arguments | {"out": tmp_path / "other", "seed": 1})
    assert (other / "model.safetensors").read_bytes() != (tiny_run / "model.safetensors").read_bytes()


def test_a_folder_that_holds_something_is_refused(tmp_path, train_arguments):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="not empty"):
        train(**train_arguments | {"out": tmp_path})
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_missing_root_says_how_to_give_it(tmp_path, train_arguments):
    data = replace(train_arguments["recipe"].data, root=None)
    with pytest.raises(SettingsError, match=r"--data\.root"):
        train(**train_arguments | {"out": tmp_path / "run", "data": data})


def test_what_was_loaded_is_printed_and_logged(tmp_path, train_arguments, monkeypatch, capsys):
    from actionfusion.models.weights import LoadReport

    report = LoadReport("vgg16.safetensors", "0" * 64, ("backbones.rgb.features.0.weight",), ("fc6.weight",))
    asked_for = []
    monkeypatch.setattr(
        FusionNetwork, "load_pretrained", lambda _, *given, **how: asked_for.append((given, how)) or report
    )
    changes = {"pretrained": "vgg16.safetensors", "pretrained_fc6": "random", "flow_start": "mean"}
    train(**train_arguments | {"out": tmp_path / "run"} | changes)
    assert asked_for == [(("vgg16.safetensors",), {"fc6": "random", "flow_start": "mean"})]
    assert str(report) in capsys.readouterr().err
    assert str(report) in (tmp_path / "run" / "train.log").read_text()


def test_missing_weights_leave_no_run_behind(tmp_path, train_arguments):
    with pytest.raises(WeightsError, match="absent"):
        train(**train_arguments | {"out": tmp_path / "run", "pretrained": str(tmp_path / "absent.safetensors")})
    assert not (tmp_path / "run").exists()


@pytest.fixture
def made_up(tiny_run, tmp_path, shapes_root):
    """A network, loaders of a few generated clips, and a run folder, for the loop alone."""
    from actionfusion.data.dataset import DataSettings, open_data

    run = open_run(tiny_run)
    videos = open_data(DataSettings(root=shapes_root, split="folders", validation="test"))
    learn = ClipDataset(videos.sources(videos.split.test[:4], run.clip), run.clip)
    check = ClipDataset(videos.sources(videos.split.test[4:6], run.clip), run.clip)
    loaders = [EpochLoader(part, batch_size=4, shuffle=False, workers=0) for part in (learn, check)]
    folder = create_run(
        tmp_path / "run", model=run.model, clip=run.clip, network=run.network, labels=run.labels, further={}
    )
    return FusionNetwork(run.network), *loaders, folder


def copied(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_a_stage_ends_when_accuracy_stays_and_the_next_starts_from_the_best(made_up, monkeypatch):
    network, learn, check, run = made_up
    figures = iter([(0.9, 0.2), (0.8, 0.6), (0.7, 0.6), (0.6, 0.5), (0.5, 0.5), (0.5, 0.4)])
    saved, started_from = [], []
    save, restart = RunFolder.save_weights, learner.Learner.restart
    monkeypatch.setattr(loop, "_validate", lambda *_: loop.Figures(*next(figures)))
    monkeypatch.setattr(
        RunFolder, "save_weights", lambda self, network: saved.append(copied(network)) or save(self, network)
    )
    monkeypatch.setattr(
        learner.Learner, "restart", lambda self: started_from.append(copied(self.network)) or restart(self)
    )
    settings = TrainingSettings(stages=(Stage(1e-3, 10, 2), Stage(1e-4, 10, 1)), workers=0)
    rows = fit(network, learn, check, settings, run=run, progress=Silence())
    # Accuracies 0.2 0.6 | 0.6 (a tie, of lower loss) 0.5 -> two epochs without a rise; then 0.5, 0.4 -> one.
    assert [(row["session"], row["val_accuracy"]) for row in rows] == [
        (1, 0.2), (1, 0.6), (1, 0.6), (1, 0.5), (2, 0.5), (2, 0.4),
    ]  # fmt: skip
    assert [row["learning_rate"] for row in rows] == [1e-3] * 4 + [1e-4] * 2
    _, second = started_from
    assert all(torch.equal(second[name], tensor) for name, tensor in saved[2].items())


def test_without_validation_all_epochs_run_and_the_last_weights_stay(made_up):
    network, learn, _, run = made_up
    rows = fit(network, learn, None, TrainingSettings(stages=(Stage(1e-3, 3, 1),)), run=run, progress=Silence())
    assert len(rows) == 3
    assert all(row["val_accuracy"] == "" for row in rows)
    weights = run.read_weights()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_of_short_epochs_few_are_saved_and_the_last_is(made_up, monkeypatch):
    network, learn, _, run = made_up
    saved, save = [], checkpointing.save_checkpoint

    def slow(*given):
        saved.append(len(given[-1].rows))
        time.sleep(0.5)  # so the next is due after ten seconds
        save(*given)

    monkeypatch.setattr(checkpointing, "save_checkpoint", slow)
    fit(network, learn, None, TrainingSettings(stages=(Stage(1e-3, 8, None),)), run=run, progress=Silence())
    assert saved[0] == 0
    assert saved[-1] == 8
    assert len(saved) < 6
    weights = run.read_weights()
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_it_learns_four_clips_by_heart(made_up, monkeypatch):
    """The real loop fits a network to four clips."""
    monkeypatch.setattr(checkpointing, "save_curves", lambda *_: None)  # twenty pictures that nobody looks at
    network, learn, _, run = made_up
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fit(network, learn, None, TrainingSettings(stages=(Stage(6e-3, 20, None),)), run=run, progress=Silence())
    assert loop.measure(network, learn.epoch(0)).figures().accuracy == 1.0


def test_measure_counts_each_clip_once(made_up):
    network, learn, *_ = made_up
    whole = loop.measure(network, learn.epoch(0))
    pieces = EpochLoader(learn.dataset, batch_size=3, shuffle=False, workers=0)
    again = loop.measure(network, pieces.epoch(0))
    assert again.loss == pytest.approx(whole.loss, rel=1e-4)
    assert (again.correct, again.count) == (whole.correct, whole.count) == (whole.correct, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": ()},
        {"batch_size": 0},
        {"weight_decay": -1},
        {"clip_norm": 0},
        {"label_smoothing": 1},
        {"checkpoint_steps": 0},
        {"accumulate": 0},
        {"precision": "float8"},
        {"optimizer_kernel": "quick"},
        {"explosion": 1},
        {"backbone_rate_scale": 2},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        TrainingSettings(**wrong)
