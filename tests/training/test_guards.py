"""What is refused before the first step, what stops a training, and what stays when it stops."""

import math
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from actionfusion.__main__ import main
from actionfusion.data.dataset import DataSettings, LabelledVideos, open_data
from actionfusion.data.listing import Split
from actionfusion.data.loading import ClipDataset, EpochLoader, Step
from actionfusion.errors import DatasetError, RecipeMismatch, RunFolderError, SettingsError, TrainingError
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.run_folder import open_run
from actionfusion.training import cost as cost_module
from actionfusion.training import guards, learner, loop, plan
from actionfusion.training.cost import StepCost, free_memory, step_cost
from actionfusion.training.train import train


def spoil(monkeypatch, step, value):
    """Make the loss of one step something else, keeping its graph."""
    real, seen = FusionNetwork.loss, []

    def spoilt(*arguments, **options):
        seen.append(1)
        loss = real(*arguments, **options)
        return loss * value if len(seen) == step else loss

    monkeypatch.setattr(FusionNetwork, "loss", spoilt)


@pytest.mark.parametrize(
    ("value", "told"), [(math.nan, "the loss: is nan"), (math.inf, "is inf"), (1e6, "has exploded to")]
)
def test_a_bad_loss_stops_with_its_videos_and_keeps_good_weights(
    train_arguments, tmp_path, monkeypatch, shapes_root, value, told
):
    spoil(monkeypatch, 3, value)
    with pytest.raises(TrainingError) as caught:
        train(**train_arguments | {"out": tmp_path / "run"})
    assert told in str(caught.value)
    names = [path.relative_to(shapes_root).as_posix() for path in (shapes_root / "train").rglob("*.mp4")]
    assert sum(name in str(caught.value) for name in names) == 8, "the eight clips of the batch"
    run = open_run(tmp_path / "run")
    assert str(caught.value) in (run.path / "train.log").read_text()
    monkeypatch.undo()
    run.load_network()  # refuses weights that are not finite


def test_a_bad_gradient_never_reaches_the_weights(tiny_run, shapes_root):
    run = open_run(tiny_run)
    videos = open_data(DataSettings(root=shapes_root, split="folders"))
    batch = next(
        EpochLoader(
            ClipDataset(videos.sources(videos.split.test[:2], run.clip), run.clip),
            batch_size=2, shuffle=False, workers=0,
        ).epoch(1)
    )  # fmt: skip
    network = run.load_network()
    next(network.parameters()).register_hook(lambda gradient: gradient * math.nan)
    pupil = learner.Learner(network, loop.TrainingSettings())
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    with pytest.raises(TrainingError, match=r"the gradient: has norm nan on the batch of .*mp4"):
        pupil.step(Step((batch,), 2), 0.1)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.named_parameters())


def test_a_loss_as_bad_as_guessing_is_no_explosion():
    guards.refuse_bad_loss(10 * math.log(101), 101, 20.0, ["a.avi"])
    guards.refuse_bad_loss(14.0, 2, 20.0, ["a.avi"])
    with pytest.raises(TrainingError, match="exploded"):
        guards.refuse_bad_loss(21.0, 2, 20.0, ["a.avi"])


def test_a_class_without_training_videos_is_refused(shapes_root):
    videos = open_data(DataSettings(root=shapes_root, split="folders"))
    first = [index for index in videos.split.train if videos.listing.entries[index].label != "motion_up"]
    split = Split("mine", tuple(first), videos.split.test)
    with pytest.raises(DatasetError, match=r"'mine'.* 1 classes without a training video: 'motion_up'"):
        guards.refuse_unlearnable(LabelledVideos(videos.listing, split, videos.settings))


def test_a_label_out_of_range_is_refused_before_the_first_step(tiny_run, shapes_root, monkeypatch):
    run = open_run(tiny_run)
    videos = open_data(DataSettings(root=shapes_root, split="folders"))
    sources = videos.sources(videos.split.train, run.clip)
    sources[5] = replace(sources[5], target=8)
    loader = EpochLoader(ClipDataset(sources, run.clip), batch_size=2, shuffle=False, workers=0)
    monkeypatch.setattr(learner.Learner, "step", None)
    with pytest.raises(DatasetError, match=rf"{sources[5].name}: has class number 8, the network has 0 to 7"):
        loop.fit(FusionNetwork(run.network), loader, None, loop.TrainingSettings(), run=run, progress=None)


def test_a_store_of_another_recipe_is_refused_before_a_run_folder_is_made(train_arguments, tmp_path, shapes_root):
    from actionfusion.data.prepare import prepare

    clip = train_arguments["recipe"].clip
    items = [(path, path.relative_to(shapes_root).as_posix()) for path in sorted(shapes_root.rglob("*.mp4"))[:1]]
    prepare(items, tmp_path / "store", replace(clip.flow, bound=clip.flow.bound + 1), workers=0)
    data = replace(train_arguments["recipe"].data, store=tmp_path / "store")
    with pytest.raises((RecipeMismatch, DatasetError)):
        train(**train_arguments | {"out": tmp_path / "run", "data": data})
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_network_names_tensors_and_shapes(tiny_run):
    from safetensors.torch import load_file

    run = open_run(tiny_run)
    other = FusionNetwork(replace(run.network, hidden=run.network.hidden + 1))
    pupil = learner.Learner(other, loop.TrainingSettings())
    with pytest.raises(ValueError, match=r"branch_lstms\.conv\.weight_ih \[.*wanted \["):
        pupil.restore(load_file(tiny_run / "checkpoint.safetensors"))


COST = StepCost(parameters=10, trainable=10, flops=1.0, forward_flops=1.0, fixed=1_000_000_000, per_clip=2_000_000_000)


def test_too_large_a_batch_is_told_the_largest_that_fits():
    guards.refuse_too_large(COST, 5, 11_000_000_000)
    guards.refuse_too_large(COST, 50, None)
    with pytest.raises(SettingsError, match=r"6 clips .* about 13\.0 GB, 12\.0 GB are free; .*batch_size 5"):
        guards.refuse_too_large(COST, 6, 12_000_000_000)
    with pytest.raises(SettingsError, match="one clip is too much"):
        guards.refuse_too_large(COST, 6, 2_000_000_000)


def test_a_run_that_cannot_fit_is_refused_before_a_run_folder_is_made(train_arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "free_memory", lambda _: 50_000_000)
    with pytest.raises(SettingsError, match=r"training\.batch_size: .*take --training\.batch_size [1-7] "):
        train(**train_arguments | {"out": tmp_path / "run"})
    assert not (tmp_path / "run").exists()
    lenient = replace(train_arguments["recipe"].training, check_memory=False)
    train(**train_arguments | {"out": tmp_path / "run", "training": lenient})


def test_memory_that_runs_out_is_told_in_one_line(train_arguments, tmp_path, monkeypatch):
    def exhaust(*_, **__):
        torch.empty(2**60, dtype=torch.uint8)  # PyTorch's own error

    monkeypatch.setattr(learner.Learner, "step", exhaust)
    with pytest.raises(
        TrainingError, match=r"a batch of 8 clips did not fit into the memory of cpu; take --training.batch_size 7 "
    ):
        train(**train_arguments | {"out": tmp_path / "run"})
    assert guards.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not guards.is_out_of_memory(RuntimeError("shapes do not fit"))


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(guards.shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**9, 10**9))
    guards.refuse_full_disk(tmp_path / "a" / "b", 16 * 30_000_000)
    with pytest.raises(RunFolderError, match=r"need up to 1\.3 GB, 1\.0 GB are free"):
        guards.refuse_full_disk(tmp_path / "a" / "b", 16 * 40_000_000)


def test_the_cost_of_the_papers_network_is_the_model_cards():
    """188,757,130 parameters, 1.1478 TFLOP forward, about 3.44 TFLOP with the backward pass."""
    cost = step_cost(FusionNetwork, FusionNetworkSettings.faithful(101))
    assert cost.parameters == 188_757_130
    assert cost.forward_flops == pytest.approx(2 * 573.877e9, rel=1e-5)
    assert cost.flops == pytest.approx(3.44e12, rel=0.01)
    assert cost.fixed == 16 * cost.parameters
    # The outputs of convolutions and pooling alone are 1.91 GiB; the normalised input and the map's halves come on top.
    assert 1.91 < cost.per_clip / 2**30 < 4


MEASURED = """
import pathlib, re, torch
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.training.learner import Learner
from actionfusion.training.settings import TrainingSettings
from actionfusion.data.loading import Batch, Step

settings = FusionNetworkSettings.tiny(8, frames=8, image_size=64, backbone=(32, 32, "M", 32))
pupil = Learner(FusionNetwork(settings), TrainingSettings())
def batch(size):
    rgb = torch.zeros(size, 8, 3, 64, 64, dtype=torch.uint8)
    flow = torch.zeros(size, 8, 8, 64, 64, dtype=torch.uint8)
    return Step((Batch({"rgb": rgb, "flow": flow}, torch.zeros(size, dtype=torch.int64), ("a",) * size),), size)
peaks = []
for size in (2, 8):
    pupil.step(batch(size), 1e-4)
    # Not getrusage's peak, which a process inherits from the one that started it.
    peaks.append(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]))
print((peaks[1] - peaks[0]) / 6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_the_estimate_is_near_the_memory_that_a_step_takes():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    cost = step_cost(FusionNetwork, FusionNetworkSettings.tiny(8, frames=8, image_size=64, backbone=(32, 32, "M", 32)))
    assert 0.6 < cost.per_clip / float(done.stdout) < 1.5


def test_a_precision_that_the_cpu_gets_wrong_is_refused():
    short = FusionNetworkSettings.tiny(8, frames=2)
    guards.refuse_wrong_gradients(FusionNetwork, replace(short, frames=3), "bfloat16", "cpu")
    guards.refuse_wrong_gradients(FusionNetwork, short, "float32", "cpu")
    guards.refuse_wrong_gradients(FusionNetwork, short, "bfloat16", "cuda")
    guards.refuse_wrong_gradients(FusionNetwork, replace(short, fusion_time_kernel=1), "bfloat16", "cpu")
    with pytest.raises(SettingsError, match=r"training\.precision: bfloat16 on a CPU gives wrong gradients"):
        guards.refuse_wrong_gradients(FusionNetwork, short, "bfloat16", "cpu")


def test_free_memory_heeds_the_limit_of_a_container(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("1000000\n")
    (tmp_path / "current").write_text("400000\n")
    monkeypatch.setattr(cost_module, "_CGROUP_LIMITS", [(str(tmp_path / "max"), str(tmp_path / "current"))])
    assert free_memory(torch.device("cpu")) == 600_000
    (tmp_path / "max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > 10_000_000
    assert free_memory(torch.device("meta")) is None


def test_a_dry_run_tells_all_and_writes_nothing(tmp_path, shapes_root, capsys):
    words = ["train", "--config", "tiny", "--data.root", str(shapes_root), "--out", str(tmp_path / "run")]
    assert main([*words, "--dry_run", "--training.workers", "0"]) == 0
    told = capsys.readouterr().err
    for line in ("8 classes", "at most 6 epochs", "GB are free", "277,648 parameters", "nothing was written"):
        assert line in told
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_of_a_small_shared_memory(tmp_path, shapes_root, monkeypatch, capsys):
    monkeypatch.setattr("actionfusion.data.handover._free", lambda: 1000)
    words = ["train", "--config", "tiny", "--data.root", str(shapes_root), "--out", str(tmp_path / "run"), "--dry_run"]
    assert main([*words, "--training.workers", "1"]) == 0
    assert "batches come through a pipe, which is slower, since /dev/shm is too small, 0 MB" in capsys.readouterr().err
    assert main([*words, "--training.workers", "0"]) == 0
    assert "pipe" not in capsys.readouterr().err


def test_a_dry_run_finds_what_a_run_would(tmp_path, train_arguments, shapes_root):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(RunFolderError, match="not empty"):
        train(**train_arguments | {"out": tmp_path / "taken", "dry_run": True})
    with pytest.raises(SettingsError, match="dry_run"):
        train(**train_arguments | {"out": tmp_path / "taken", "dry_run": True, "resume": True})


def test_reading_and_computing_overlap_only_with_workers():
    from actionfusion.training.dry_run import Timing

    timing = Timing(read=4.0, learn=3.0, answer=1.0)
    assert timing.epoch(10, 5, workers=0) == 10 * 7 + 5 * 5
    assert timing.epoch(10, 5, workers=2) == 10 * 3 + 5 * 2
