"""A training that was stopped, however that was, ends as if nothing had happened."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import actionfusion
from actionfusion.__main__ import main
from actionfusion.data.dataset import DataSettings
from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.files import write_atomically
from actionfusion.run_folder import at_work, open_run
from actionfusion.training import checkpoint, loop, plan
from actionfusion.training.learner import Learner
from actionfusion.training.train import _log_file, log, train

TIMES = {"seconds", "samples_per_second", "data_wait", "tflops", "peak_share"}
RECIPE = {
    "data": {"dataset": "folder", "split": "folders", "validation": "test"},
    "clip": {"frames": 2, "flow_frames": 2, "flow": {"engine": "dis", "bound": 8.0, "size": 32}},
    "network": {
        "backbone": [4, "M", 8], "batch_norm": True, "fc6_width": 8, "hidden": 6, "head": "linear",
        "dropout_fc6": 0.5, "dropout_lstm": 0.25,
    },
    "augmentation": {"intervals": [2, 6], "flip": True},
    "training": {
        "batch_size": 1, "accumulate": 3, "workers": 0, "checkpoint_steps": 2, "weight_decay": 0.01, "clip_norm": 5.0,
        "stages": [
            {"learning_rate": 0.01, "max_epochs": 4, "patience": 2},
            {"learning_rate": 0.001, "max_epochs": 2, "patience": 2, "schedule": "cosine"},
        ],
    },
}  # fmt: skip
STEPS = 3  # an epoch: eight clips, three at a time


@pytest.fixture(scope="module")
def root(tmp_path_factory, shapes_root):
    """Two of the generated classes."""
    root = tmp_path_factory.mktemp("two")
    for part in ("train", "test"):
        (root / part).mkdir()
        for label in ("motion_up", "motion_down"):
            (root / part / label).symlink_to(shapes_root / part / label)
    return root


@pytest.fixture(scope="module")
def recipe(stored_recipe, root):
    return stored_recipe(root, RECIPE)


# Each line of its input is a plan; each plan is done by a fork, so that the imports are paid once.
DRIVER = """
import json, os, signal, sys, time
import jsonargparse
import actionfusion.training.train, actionfusion.training.checkpoint as checkpoint
from actionfusion.__main__ import main
from actionfusion.models import FusionNetwork, FusionNetworkSettings
from actionfusion.run_folder import RunFolder
from actionfusion.training import checkpointing, loop
from actionfusion.training.cost import training_cost
from actionfusion.training.learner import Learner
from actionfusion.training.settings import TrainingSettings

def count(owner, name, number, act):
    real, seen = getattr(owner, name), []
    def counted(*arguments, **options):
        seen.append(1)
        if len(seen) == number:
            act(*arguments, **options)
        return real(*arguments, **options)
    setattr(owner, name, counted)

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half_written(tensors, path, metadata):
    path.write_bytes(bytes(1000))
    kill()

ACTS = {
    "step": (Learner, "step", kill),
    "forward in validation": (loop, "measure", kill),
    "weights": (RunFolder, "save_weights", kill),
    "after the weights": (RunFolder, "write_metrics", kill),
    "next stage": (Learner, "restart", kill),
    "checkpoint": (checkpoint, "save_file", half_written),
    "interrupt": (Learner, "step", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)),
    "terminate": (Learner, "step", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)),
}

# Found once and inherited; with shapes alone nothing is computed that a fork could stumble over.
training_cost(FusionNetwork, FusionNetworkSettings(**json.loads(sys.argv[1])), TrainingSettings(), cached=False)
loop.matrix_peak = lambda *_: 1e12  # to measure it takes half a second
checkpointing.save_curves = lambda _, path: path.write_bytes(b"drawn elsewhere")
for line in sys.stdin:
    words, where, number = json.loads(line)
    child = os.fork()
    if not child:
        if where:
            owner, name, act = ACTS[where]
            count(owner, name, number, act)
        sys.stderr = open(os.devnull, "w")
        os._exit(main(words))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def driver():
    """Trains in a process of its own; gives the exit code."""
    resolved = RECIPE["network"] | {
        "num_classes": 2,
        "frames": 2,
        "image_size": 32,
        "flow_size": 32,
        "flow_channels": 4,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(resolved)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(actionfusion.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )

    def drive(*words, where=None, number=0):
        process.stdin.write(json.dumps([["train", *map(str, words)], where, number]) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield drive
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


@pytest.fixture(scope="module")
def undisturbed(recipe, driver, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert driver("--config", recipe, "--out", run) == 0
    return run


def tensors(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def metrics(run):
    with (run / "metrics.csv").open() as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def told(run):
    """The log without times, and without the lines that tell of the interruption."""
    lines = [line[24:] for line in (run / "train.log").read_text().splitlines()]
    return [re.sub(r" +[\d.]+ s$", "", line) for line in lines if not line.startswith(("resumed", "stopped", "speed"))]


def assert_same_end(run, undisturbed):
    for name in ("checkpoint.safetensors", "model.safetensors"):
        ours, theirs = tensors(run / name), tensors(undisturbed / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), f"{name}: {key}"
    assert metrics(run) == metrics(undisturbed)
    assert told(run) == told(undisturbed)
    state, other = (checkpoint.read_state(folder) for folder in (run, undisturbed))
    for name in ("stage", "epoch", "step", "totals", "plateau"):
        assert state[name] == other[name]
    assert {item.name for item in run.iterdir()} == {item.name for item in undisturbed.iterdir()}


def test_the_checkpoint_holds_optimiser_and_random_numbers(undisturbed):
    held = tensors(undisturbed / "checkpoint.safetensors")
    parameters = [name for name in held if name.startswith("network.") and f"optimizer.{name[8:]}:exp_avg" in held]
    assert len(parameters) == len(list(open_run(undisturbed).load_network().parameters()))
    assert held["random.cpu.0"].numel() > 5000
    assert len(metrics(undisturbed)) > 4, "the second stage was reached"


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments",
    [
        [("step", 1), ("step", 3), ("step", 2)],
        [("step", STEPS + 2), ("forward in validation", 1), ("step", STEPS + 1)],
        [("weights", 1), ("after the weights", 2), ("next stage", 1)],
        [("checkpoint", 2), ("checkpoint", 3), ("checkpoint", 4)],
        [("interrupt", 2), ("interrupt", STEPS + 1), ("terminate", 4)],
    ],
    ids=["in the first epoch", "around validation", "around weights", "writing checkpoints", "by hand"],
)
def test_stopped_anywhere_it_ends_the_same(recipe, driver, undisturbed, tmp_path, moments):
    run = tmp_path / "run"
    words = ("--config", recipe, "--out", run)
    for where, number in moments:
        code = driver(*words, where=where, number=number)
        assert code == (1 if where in {"interrupt", "terminate"} else -9)
        words = ("--resume", "--out", run)
    assert driver(*words) == 0
    assert_same_end(run, undisturbed)


def test_by_hand_it_stops_after_a_step_and_can_predict(recipe, driver, tmp_path):
    run = tmp_path / "run"
    assert driver("--config", recipe, "--out", run, where="interrupt", number=2) == 1
    assert checkpoint.read_state(run)["step"] == 2
    assert "stopped by hand" in (run / "train.log").read_text()
    open_run(run).load_network()


def test_a_finished_run_is_left_alone(undisturbed, capsys):
    before = {item.name: item.read_bytes() for item in undisturbed.iterdir()}
    (undisturbed / "resume.json").write_text('{"data": {}, "device": null}')  # a kill came before its end
    assert train(out=undisturbed, resume=True) == undisturbed
    assert "finished already" in capsys.readouterr().err
    assert {item.name: item.read_bytes() for item in undisturbed.iterdir()} == before


@pytest.fixture(scope="module")
def unfinished(recipe, driver, tmp_path_factory):
    """Killed in its third step, with a checkpoint before the first."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    assert driver("--config", recipe, "--out", run, where="step", number=3) == -9
    return run


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seed", "1"], "seed is 0 in the run and 1 now"),
        (["--training.batch_size", "5"], "training.batch_size is 1 in the run and 5 now"),
        (["--clip.flow.bound", "9"], "clip.flow.bound is 8.0 in the run and 9.0 now"),
        (["--network.hidden", "7", "--augmentation.flip", "false"], "network.hidden is 6 in the run and 7 now"),
        (["--data.split", "stratified-7:3"], "data.split is folders in the run"),
        (["--config", "tiny"], "training.stages"),
    ],
)
def test_a_contradiction_is_refused_and_named(unfinished, root, capsys, words, named):
    (unfinished / ".lock").unlink(missing_ok=True)  # which the kill has left
    before = {item.name: item.read_bytes() for item in unfinished.iterdir()}
    words = [*words, "--data.root", str(root)]
    assert main(["train", "--resume", "--out", str(unfinished), *words]) == 1
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert {item.name: item.read_bytes() for item in unfinished.iterdir()} == before


def test_other_videos_are_refused(unfinished, root, tmp_path):
    for path in sorted(root.glob("*/*/*.mp4"))[1:]:
        (tmp_path / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.relative_to(root)).symlink_to(path)
    data = DataSettings(root=tmp_path, split="folders", validation="test")
    with pytest.raises(SettingsError, match=r"data\.digest"):
        train(out=unfinished, resume=True, data=data)


def test_the_places_are_kept_only_until_the_end(unfinished, undisturbed, root, recipe):
    places = json.loads((unfinished / "resume.json").read_text())["data"]
    assert places == {"root": str(root), "store": str(recipe.with_name("store"))}
    assert not (undisturbed / "resume.json").exists()


@pytest.mark.parametrize("out", [None, "absent"])
def test_without_a_run_there_is_nothing_to_go_on_with(tmp_path, out):
    with pytest.raises((SettingsError, RunFolderError), match=r"out|is no run folder"):
        train(out=out and tmp_path / out, resume=True)


def test_a_damaged_checkpoint_is_named(unfinished, tmp_path):
    run = Path(shutil.copytree(unfinished, tmp_path / "run"))
    content = (run / "checkpoint.safetensors").read_bytes()
    write_atomically(run / "checkpoint.safetensors", content[: len(content) // 2])
    with pytest.raises(RunFolderError, match=r"checkpoint\.safetensors: is damaged"):
        train(out=run, resume=True)
    (run / "model.safetensors").touch()
    (run / "checkpoint.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"has no checkpoint\.safetensors"):
        train(out=run, resume=True)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("words", [["--resume"], ["--config"]])
def test_killed_before_its_first_checkpoint_it_begins_again(words, recipe, unfinished, undisturbed, tmp_path):
    run = Path(shutil.copytree(unfinished, tmp_path / "run"))
    (run / "checkpoint.safetensors").unlink()
    for ending in ("partial", "lock"):  # of the file that it was at
        (run / f".{0:032x}.{ending}").touch()
    assert main(["train", *words, *([str(recipe)] if words == ["--config"] else []), "--out", str(run)]) == 0
    assert_same_end(run, undisturbed)


def test_a_folder_that_somebody_trains_in_is_named(unfinished, recipe, capsys):
    with at_work(unfinished):
        assert main(["train", "--resume", "--out", str(unfinished)]) == 1
    assert "another process is at work in it" in (told := capsys.readouterr().err)
    assert told.count("\n") == 1


@pytest.fixture
def one_thread():
    """As in the processes that are compared with: sums of several threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_is_told_once(capsys):
    with _log_file(Path("/dev/full")):
        for line in ("one", "two"):
            log.info(line)
    told = capsys.readouterr().err
    assert told == "note: /dev/full cannot be written (No space left on device), and will lack lines\n"


@pytest.mark.usefixtures("one_thread")
def test_a_full_disk_leaves_the_last_checkpoint(recipe, undisturbed, small_disk, monkeypatch, capsys):
    monkeypatch.setattr(plan, "refuse_full_disk", lambda *_: None)  # as if others had filled it later
    disk = small_disk(f"size={int((undisturbed / 'checkpoint.safetensors').stat().st_size * 1.6) // 4096 * 4096}")
    assert main(["train", "--config", str(recipe), "--out", str(disk / "run")]) == 1
    assert re.search(r"cannot be written \(.*No space left.*--resume", capsys.readouterr().err)
    assert checkpoint.read_state(disk / "run")["format"] == checkpoint.FORMAT
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    assert main(["train", "--resume", "--out", str(disk / "run")]) == 0
    assert_same_end(disk / "run", undisturbed)


def test_the_settings_of_a_run_are_those_it_was_given(unfinished, root, recipe):
    from actionfusion.training.recipe import load_recipe
    from actionfusion.training.resume import recorded_recipe

    recorded, device = recorded_recipe(unfinished)
    assert device is None
    assert recorded.data == DataSettings(
        root=str(root), dataset="folder", store=str(recipe.with_name("store")), split="folders", validation="test"
    )
    assert recorded.training.stages[1].schedule == "cosine"
    tiny = load_recipe("tiny").network
    assert asdict(recorded.network).keys() == asdict(tiny).keys()


def test_moments_come_back_in_the_layout_of_their_weights(tiny_run):
    network = open_run(tiny_run).load_network()
    learner = Learner(network, loop.TrainingSettings())
    learner.restore(tensors(tiny_run / "checkpoint.safetensors"))
    again = learner.tensors()
    before = tensors(tiny_run / "checkpoint.safetensors")
    assert again.keys() == {name for name in before if not name.startswith("random.")}
    assert all(torch.equal(before[name], tensor) for name, tensor in again.items())
