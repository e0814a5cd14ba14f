"""Several processes learn what one would, count each video once, and end together."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import actionfusion
from actionfusion.errors import SettingsError
from actionfusion.training.checkpoint import read_state
from actionfusion.training.distributed import Processes, TorchrunProcesses, find_processes
from actionfusion.training.guards import is_lost_connection
from actionfusion.training.train import train

RECIPE = {
    "data": {"dataset": "folder", "split": "folders", "validation": "test"},
    "clip": {"frames": 2, "flow_frames": 2, "flow": {"engine": "dis", "bound": 8.0, "size": 32}},
    "network": {
        "backbone": [4, "M", 8], "fc6_width": 8, "hidden": 6, "head": "linear",
        "dropout_fc6": 0.0, "dropout_lstm": 0.0, "dropout_last": 0.0,
    },
    "augmentation": {"intervals": [2, 6], "flip": True},
    "training": {
        "batch_size": 2, "workers": 0, "clip_norm": 1.0, "checkpoint_steps": 2,
        "stages": [
            {"learning_rate": 0.001, "max_epochs": 1, "patience": 1},
            {"learning_rate": 0.001, "max_epochs": 1, "patience": 1},
        ],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory, shapes_root):
    """Eleven videos to learn from and seven to validate: neither comes out even for two processes of two clips."""
    root = tmp_path_factory.mktemp("uneven")
    labels = ("motion_up", "motion_down", "order_left_right", "order_right_left")
    for part, counts in (("train", (4, 3, 2, 2)), ("test", (2, 2, 2, 1))):
        for label, count in zip(labels, counts, strict=True):
            (root / part / label).mkdir(parents=True)
            for path in sorted((shapes_root / part / label).glob("*.mp4"))[:count]:
                (root / part / label / path.name).symlink_to(path)
    return root


@pytest.fixture(scope="module")
def recipe(stored_recipe, root):
    return stored_recipe(root, RECIPE)


def environment(**changes):
    own = {
        "PYTHONPATH": str(Path(actionfusion.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {**os.environ, **own, **changes}


def torchrun(*words, program=("-m", "actionfusion"), **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.Popen(
        [*command, *map(str, (*program, *words))],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), start_new_session=True,
        **options,
    )  # fmt: skip


def rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# Says as the last thing in each process which threads of the group are still there.
WATCHED = """
import atexit, sys
from pathlib import Path

def tell():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print("threads left:", [name for name in names if "gloo" in name], flush=True)

atexit.register(tell)
from actionfusion.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def together(recipe, tmp_path_factory):
    """A run of two processes, with what they said."""
    folder = tmp_path_factory.mktemp("together")
    run, program = folder / "run", folder / "watched.py"
    program.write_text(WATCHED)
    process = torchrun("train", "--config", recipe, "--out", run, "--device", "cpu", program=[program])
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return run, told


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """One process with the batch of both."""
    from actionfusion.__main__ import main

    run = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", "--config", str(recipe), "--out", str(run), "--training.batch_size", "4"]) == 0
    return run


@pytest.mark.slow
def test_two_processes_learn_what_one_with_the_double_batch_learns(together, alone):
    ours, theirs = (load_file(run / "checkpoint.safetensors") for run in (together[0], alone))
    for name, tensor in theirs.items():
        if name.startswith("network."):
            # Six steps of Adam at 1e-3: what differs is a last digit here and there.
            assert (ours[name] - tensor).abs().max() < 1e-4, name
        if name.endswith(":exp_avg"):
            assert (ours[name] - tensor).abs().max() <= 1e-3 * tensor.abs().max() + 1e-9, name


@pytest.mark.slow
def test_no_thread_of_the_group_is_at_work_when_python_ends(together):
    # One that drops a tensor while the interpreter goes away aborts the process after all is written.
    assert together[1].count("threads left: []") == 2, together[1]


@pytest.mark.slow
def test_their_figures_are_of_the_whole_set_each_video_once(together, alone):
    for ours, theirs in zip(rows(together[0]), rows(alone), strict=True):
        for name in ("train_loss", "val_loss"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-4)
        # Shares of 11 and of 7, so that a video left out or counted twice would show.
        assert float(ours["train_accuracy"]) * 11 == pytest.approx(round(float(ours["train_accuracy"]) * 11))
        assert float(ours["val_accuracy"]) * 7 == pytest.approx(round(float(ours["val_accuracy"]) * 7))
        assert ours["val_accuracy"] == theirs["val_accuracy"]


@pytest.mark.slow
def test_only_the_main_process_writes_and_talks(together, alone):
    run, told = together
    assert {item.name for item in run.iterdir()} == {item.name for item in alone.iterdir()}
    log = (run / "train.log").read_text()
    for text in (told, log):
        assert text.count("epoch   1") == 1
    assert told.count("written to") == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["processes"] == 2
    held = load_file(run / "checkpoint.safetensors")
    assert not held["random.cpu.0"].equal(held["random.cpu.1"]), "each draws masks of its own"


@pytest.mark.slow
def test_two_processes_share_the_features_and_learn_the_same_from_them(recipe, tmp_path):
    from actionfusion.__main__ import main

    words = ["train", "--config", str(recipe), "--features.views", "2", "--features.dtype", "float32"]
    process = torchrun(*words, "--features.folder", tmp_path / "shared", "--out", tmp_path / "two", "--device", "cpu")
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    own = ["--features.folder", str(tmp_path / "own"), "--out", str(tmp_path / "one"), "--training.batch_size", "4"]
    assert main([*words, *own]) == 0

    assert "features: 15 clips computed" in told  # of 2 x 11 + 7, the larger half
    files = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "shared", tmp_path / "own")
    ]
    assert files[0] == files[1]
    ours, theirs = (load_file(tmp_path / run / "model.safetensors") for run in ("two", "one"))
    assert all((ours[name] - tensor).abs().max() < 1e-4 for name, tensor in theirs.items())


# The second process is killed in its fourth step, which is in the second of two stages, once the first is on the disk.
# Each says which process it is.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from actionfusion.__main__ import main
from actionfusion.errors import RunFolderError
from actionfusion.training.checkpoint import read_state
from actionfusion.training.learner import Learner

step, seen = Learner.step, []

def first_stage_is_kept():
    try:
        return read_state(Path(sys.argv[sys.argv.index("--out") + 1]))["stage"] == 1
    except RunFolderError:  # no checkpoint yet
        return False

def counted(*arguments, **options):
    seen.append(1)
    if len(seen) == 4 and os.environ["RANK"] == "1":
        while not first_stage_is_kept():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments, **options)

Learner.step = counted
print("process:", os.getpid(), flush=True)
sys.exit(main())
"""


@pytest.mark.slow
def test_one_that_is_killed_ends_all_and_resumed_they_end_as_if_undisturbed(recipe, together, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    run = tmp_path / "run"
    process = torchrun("train", "--config", recipe, "--out", run, "--device", "cpu", program=[tmp_path / "killed.py"])
    told, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in told
    children = re.findall(r"process: (\d+)", told)
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert len(rows(run)) == 1
    assert read_state(run)["format"] == 2
    with pytest.raises(SettingsError, match="processes is 2 in the run and 1 now"):
        train(out=run, resume=True)
    process = torchrun("train", "--resume", "--out", run)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "resumed in stage 2 after 1 epochs" in told
    for name in ("checkpoint.safetensors", "model.safetensors"):
        ours, theirs = load_file(run / name), load_file(together[0] / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name
    figures = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    assert [[row[name] for name in figures] for row in rows(run)] == [
        [row[name] for name in figures] for row in rows(together[0])
    ]


@pytest.mark.slow
def test_a_fault_that_one_meets_is_told_and_ends_all(recipe, tmp_path):
    settings = yaml.safe_load(recipe.read_text())
    store = Path(shutil.copytree(settings["data"]["store"], tmp_path / "store"))
    entry = sorted(store.rglob("*.zip"))[-1]  # of the test part: in the share of the second process
    entry.write_bytes(entry.read_bytes()[:-2000] + bytes(2000))
    words = ("--data.store", store, "--device", "cpu", "--out", tmp_path / "run")
    process = torchrun("train", "--config", recipe, *words)
    told, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"error: {entry}" in told


def test_what_the_others_see_of_an_end_is_recognised():
    """As gloo and NCCL say it."""
    gloo = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4343"
    assert is_lost_connection(RuntimeError(gloo))
    assert is_lost_connection(torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0."))
    assert not is_lost_connection(RuntimeError("shapes do not fit"))


def test_one_process_needs_no_accelerate():
    code = (
        "import sys; from actionfusion.training.train import train;"
        "from actionfusion.training.distributed import find_processes; find_processes('cpu');"
        "print('accelerate' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(WORLD_SIZE="1")
    )
    assert done.stdout.strip() == "False"


def test_the_device_is_chosen(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert type(find_processes("cpu")) is Processes
    assert find_processes("cpu").main
    with pytest.raises(SettingsError, match="cuda:1 for several processes"):
        TorchrunProcesses("cuda:1")
