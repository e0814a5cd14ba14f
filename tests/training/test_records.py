"""What a run folder says of its training: curves, split, versions, source, and TensorBoard where it is wanted."""

import csv
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from actionfusion.curves import save_curves
from actionfusion.errors import SettingsError
from actionfusion.run_folder import open_run
from actionfusion.training import checkpointing, plan
from actionfusion.training.stages import Stage
from actionfusion.training.train import train


@pytest.fixture(scope="module")
def recorded(train_arguments, tmp_path_factory):
    """Two sessions of one epoch, with TensorBoard; and the rows that each picture was drawn from."""
    drawn = []
    patch = pytest.MonkeyPatch()
    patch.setattr(checkpointing, "save_curves", lambda rows, path: drawn.append(len(rows)) or save_curves(rows, path))
    training = replace(train_arguments["recipe"].training, stages=(Stage(1e-3, 1, 1), Stage(1e-4, 1, 1)))
    out = tmp_path_factory.mktemp("recorded") / "run"
    train(**train_arguments | {"out": out, "training": replace(training, tensorboard=True)})
    patch.undo()
    return out, drawn


def test_the_curves_are_drawn_from_all_rows(recorded, tmp_path):
    run, drawn = recorded
    assert drawn[0] == 1
    assert drawn[-1] == 2
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["session"] for row in rows] == ["1", "2"]
    save_curves(rows, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (run / "curves.png").read_bytes()


def test_drawing_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    clock, drawn = [0.0], []

    def draw(rows, path):
        drawn.append((len(rows), clock[0]))
        clock[0] += 0.25

    monkeypatch.setattr(checkpointing, "save_curves", draw)
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: clock[0])
    settings = SimpleNamespace(tensorboard=False)
    run = SimpleNamespace(path=tmp_path, write_metrics=lambda _: None)
    writer = checkpointing.RunWriter(run, SimpleNamespace(settings=settings, processes=SimpleNamespace(main=True)))
    rows = []
    for _ in range(100):
        clock[0] += 0.125
        rows.append({})
        writer.save_epoch(rows)
    writer.draw_curves(rows)
    writer.draw_curves(rows)
    assert [count for count, _ in drawn] == [1, 41, 81, 100], "the last rows too, and once"
    assert 0.25 * len(drawn[:-1]) <= 0.06 * clock[0]


def test_the_split_is_written_down_video_by_video(recorded, shapes_root):
    with (recorded[0] / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    for part in ("train", "test"):
        paths = sorted(path.relative_to(shapes_root).as_posix() for path in (shapes_root / part).rglob("*.mp4"))
        assert [row["path"] for row in rows if row["part"] == part] == paths
    assert all(row["label"] == row["path"].split("/")[1] for row in rows)


def test_tensorboard_reads_the_figures(recorded):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = recorded
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = open_run(run).read_metrics()
    for chart, name in (("loss/train", "train_loss"), ("accuracy/validation", "val_accuracy")):
        assert [event.step for event in events.Scalars(chart)] == [1, 2]
        assert [event.value for event in events.Scalars(chart)] == pytest.approx([row[name] for row in rows])


def test_an_epoch_that_is_done_again_is_seen_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    row = dict.fromkeys(checkpointing._CHARTS.values(), 0.5)
    for epoch, loss in ((1, 3.0), (2, 9.0), (2, 2.0)):
        checkpointing._tell_tensorboard(tmp_path, row | {"epoch": epoch, "train_loss": loss, "val_loss": ""})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [(1, 3.0), (2, 2.0)]
    assert "loss/validation" not in events.Tags()["scalars"]


def test_without_tensorboard_it_is_refused_before_a_run_folder_is_made(train_arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "find_spec", lambda _: None)
    training = replace(train_arguments["recipe"].training, tensorboard=True)
    with pytest.raises(SettingsError, match=r"pip install 'actionfusion\[tensorboard\]'"):
        train(**train_arguments | {"out": tmp_path / "run", "training": training})
    assert not (tmp_path / "run").exists()


def test_the_source_is_named_by_its_commit(recorded, monkeypatch, tmp_path):
    config = yaml.safe_load((recorded[0] / "config.yaml").read_text())
    assert {"python", "actionfusion", "torch", "numpy", "av", "opencv"} <= config["versions"].keys()
    source = tmp_path / "package" / "src" / "inner" / "plan.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    monkeypatch.setattr(plan, "__file__", str(source))
    assert plan._git_state() is None, "no checkout"

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path / "package"), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    assert plan._git_state() is None, "a checkout, but not of this file"
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert plan._git_state() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    Path(source).write_text("changed")
    assert plan._git_state() == {"commit": git("rev-parse", "HEAD"), "changed": True}
