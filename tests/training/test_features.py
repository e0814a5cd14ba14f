"""Training from cached features is training end to end with frozen backbones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actionfusion.data.augment import Augmentation
from actionfusion.data.loading import ClipDataset, EpochLoader, LabelledSource
from actionfusion.errors import DatasetError, SettingsError, VideoDamaged
from actionfusion.models import FusionNetwork
from actionfusion.settings import plain
from actionfusion.training import feature_store, features
from actionfusion.training.feature_store import FeatureRecipe
from actionfusion.training.features import FeatureSettings, train_from_features
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe

CLIP = ClipSettings(frames=3, flow_frames=2, flow=FlowRecipe("dis", size=16))
VIDEOS = 5


class Noise:
    """A video of noise, made anew from its number at each reading."""

    def __init__(self, number: int, num_frames: int = 20) -> None:
        self.number, self.num_frames, self.recipe, self.frame_size = number, num_frames, CLIP.flow, 16

    def read(self, frames, fields):
        generator = np.random.default_rng(self.number)
        pictures = generator.integers(0, 256, (self.num_frames, 16, 16, 3), dtype=np.uint8)
        flow = generator.integers(1, 256, (self.num_frames, 16, 16, 2), dtype=np.uint8)
        return pictures[list(frames)], flow[list(fields)], np.array(frames) / 25


def make_network(seed: int = 0, **changes) -> FusionNetwork:
    torch.manual_seed(seed)
    small = {
        "frames": CLIP.frames,
        "image_size": 16,
        "flow_channels": 4,
        "backbone": (6, "M", 8),
        "batch_norm": False,
        "fc6_width": 12,
    }
    return FusionNetwork.practical(4, **{**small, "hidden": 7, **changes})


def make_clips(count: int = VIDEOS, start: int = 0, **changes) -> ClipDataset:
    sources = [
        LabelledSource(f"class {number % 4}/{number}.avi", partial(Noise, number), number % 4)
        for number in range(start, start + count)
    ]
    return ClipDataset(sources, CLIP, **{"augmentation": Augmentation(flip=True, smallest_crop=0.8)} | changes)


def make_maps(folder, network=None, learn=None, check=None, **changes):
    settings = FeatureSettings(folder=folder, **{"views": 2, "dtype": "float32"} | changes)
    return train_from_features(network or make_network(), learn or make_clips(), check, settings, prepared=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def losses_and_gradients(network, dataset, *, shuffle, epochs=(0, 1)):
    """Loss of each batch and the gradients of all of them together."""
    network.train().zero_grad(set_to_none=True)
    loader = EpochLoader(dataset, batch_size=3, shuffle=shuffle, workers=0)
    losses, names = [], []
    for epoch in epochs:
        for batch in loader.epoch(epoch):
            torch.manual_seed(3)  # of the dropout
            loss = F.cross_entropy(network(**batch.arguments(torch.device("cpu"))), batch.targets)
            loss.backward()
            losses.append(loss.item())
            names.append(batch.names)
    return losses, names, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "changes",
    [{}, {"streams": "rgb"}, {"streams": "flow"}, {"batch_norm": True}, {"fusion": "concat"}],
    ids=str,
)
def test_losses_and_gradients_are_those_of_frozen_backbones(tmp_path, changes):
    network = make_network(**changes)
    maps, checked, _ = make_maps(tmp_path / "features", network, check=make_clips(4, 10, augmentation=None))
    assert all(backbone.is_frozen for backbone in network.all_backbones().values())

    losses, names, gradients = losses_and_gradients(network, maps, shuffle=True)
    expected = losses_and_gradients(network, make_clips(), shuffle=True)
    assert names == expected[1]
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)  # batch norms are folded
    assert gradients.keys() == expected[2].keys()
    assert not any("backbones" in name for name in gradients)
    for name, gradient in gradients.items():
        # That of a bias before a batch norm is nothing but rounding.
        if not (changes.get("batch_norm") and name == "fusion.conv.bias"):
            small = 1e-5 * max(1.0, float(expected[2][name].abs().max()))
            torch.testing.assert_close(gradient, expected[2][name], rtol=1e-3, atol=small, msg=name)

    even = losses_and_gradients(network, checked, shuffle=False)[0]
    again = losses_and_gradients(network, make_clips(4, 10, augmentation=None), shuffle=False)[0]
    np.testing.assert_allclose(even, again, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_precision_moves_the_loss_no_further_than_its_rounding(tmp_path, dtype, step):
    """To first order |change of the loss| <= step * sum |gradient * value|: each value moves by that share at most."""
    network = make_network().eval()
    halves = make_maps(tmp_path / "half", network, dtype=dtype)[0]
    exact = make_maps(tmp_path / "full", network)[0]
    (half,) = EpochLoader(halves, batch_size=VIDEOS, shuffle=False, workers=0).epoch(1)
    (full,) = EpochLoader(exact, batch_size=VIDEOS, shuffle=False, workers=0).epoch(1)
    parts = {stream: part.requires_grad_() for stream, part in full.inputs.items()}
    assert parts.keys() == {"rgb", "flow"}
    loss = F.cross_entropy(network(features=parts), full.targets)
    loss.backward()
    bound = step * sum(float((part.grad * part.detach()).abs().sum()) for part in parts.values())

    with torch.no_grad():
        change = abs(float(F.cross_entropy(network(features=half.inputs), half.targets) - loss))
    assert {part.dtype for part in half.inputs.values()} == {getattr(torch, dtype)}
    assert 0 < change < bound < 0.2


def test_the_number_of_workers_changes_neither_store_nor_batches(tmp_path):
    batches = []
    for workers in (0, 2):
        network, clips = make_network(), make_clips()
        settings = FeatureSettings(folder=tmp_path / str(workers), views=2)
        maps = train_from_features(network, clips, None, settings, prepared=False, workers=workers)[0]
        loader = EpochLoader(maps, batch_size=2, shuffle=True, workers=workers)
        batches.append([batch for epoch in (0, 1) for batch in loader.epoch(epoch)])

    assert contents(tmp_path / "0") == contents(tmp_path / "2")
    for one, other in zip(*batches, strict=True):
        assert one.names == other.names
        assert one.inputs.keys() == other.inputs.keys() == {"rgb", "flow"}
        assert all(torch.equal(part, other.inputs[stream]) for stream, part in one.inputs.items())


def test_epochs_take_the_views_in_turn(tmp_path):
    maps = make_maps(tmp_path / "features", views=3)[0]
    (one, *_), others = maps[4, 1], [maps[epoch, 1] for epoch in (0, 1, 2, 7)]
    assert [torch.equal(one["rgb"], other[0]["rgb"]) for other in others] == [False, True, False, True]


def test_what_is_there_is_not_computed_again_and_more_views_only_add(tmp_path, monkeypatch):
    folder, check = tmp_path / "features", make_clips(2, 10, augmentation=None)
    first = make_maps(folder, check=check)[2]
    before = contents(folder)
    again = make_maps(folder, check=check)[2]
    more = make_maps(folder, check=check, views=3)[2]

    assert (first.made, first.kept) == (2 * VIDEOS + 2, 0)
    assert (again.made, again.kept) == (0, 2 * VIDEOS + 2)
    assert (more.made, more.kept) == (VIDEOS, 2 * VIDEOS + 2)
    assert before.items() <= contents(folder).items()
    assert sum(map(len, before.values())) <= first.size
    assert "12 clips computed" in str(first)


def test_without_views_both_parts_are_the_clips_of_eqs_13_and_14(tmp_path):
    maps, _, report = make_maps(tmp_path / "features", views=0)
    assert report.made == VIDEOS
    network = make_network()
    losses = losses_and_gradients(network, maps, shuffle=False)[0]
    even = losses_and_gradients(network, make_clips(augmentation=None), shuffle=False)[0]
    np.testing.assert_allclose(losses, even, rtol=1e-6)


def test_filling_moves_no_random_numbers_and_leaves_the_network_as_it_was(tmp_path):
    network = make_network(batch_norm=True).train()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    before = torch.get_rng_state()
    make_maps(tmp_path / "features", network)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_the_space_is_told_first(tmp_path, caplog):
    with caplog.at_level("INFO", "actionfusion.training"):
        make_maps(tmp_path / "features")
    assert "features: 10 clips to compute, 0.1 MB; " in caplog.text


KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    import test_features
    from actionfusion.training import feature_store
    saved, real = 0, feature_store.save_file
    def save_file(tensors, path, metadata):
        global saved
        if saved == int(sys.argv[3]):
            path.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        saved += 1
        real(tensors, path, metadata)
    feature_store.save_file = save_file
    test_features.make_maps(test_features.Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    make_maps(tmp_path / "whole")
    killed = tmp_path / "killed"
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(Path(__file__).parent), str(killed), "7"]
    assert subprocess.run(script, check=False, capture_output=True).returncode == -signal.SIGKILL
    (leftover,) = killed.rglob(".*.partial")
    assert len(list(killed.rglob("*.safetensors"))) == 7  # both streams of three clips, and one of the fourth

    hours_ago = time.time() - 3 * 3600
    os.utime(leftover, (hours_ago, hours_ago))
    report = make_maps(killed)[2]
    assert (report.made, report.kept) == (2 * VIDEOS - 3, 3)
    assert contents(killed) == contents(tmp_path / "whole")


def test_several_processes_share_the_work(tmp_path):
    make_maps(tmp_path / "whole")
    network, clips = make_network(), make_clips()
    settings = FeatureSettings(folder=tmp_path / "shared", views=2, dtype="float32")
    made = [
        train_from_features(network, clips, None, settings, prepared=False, share=(number, 3))[2].made
        for number in range(3)
    ]
    assert made == [4, 3, 3]
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


def test_what_differs_is_kept_apart(tmp_path):
    """A clip's features follow from all of these: each is computed anew beside what is there, which stays as it is."""
    folder = tmp_path / "features"
    make_maps(folder)
    other_clip = make_clips()
    other_clip.settings = replace(CLIP, frames=4)
    frames = ClipDataset(make_clips().sources, replace(CLIP, flow_frames=4), augmentation=make_clips().augmentation)
    for changes, made in (
        ({"network": make_network(seed=1)}, 2 * VIDEOS),
        ({"network": make_network(batch_norm=True)}, 2 * VIDEOS),
        ({"learn": other_clip, "network": make_network(frames=4)}, 2 * VIDEOS),
        ({"learn": frames, "network": make_network(flow_channels=8)}, 2 * VIDEOS),
        ({"dtype": "float16"}, 2 * VIDEOS),
        ({"seed": 1}, 2 * VIDEOS),
        ({"views": 0}, VIDEOS),
        ({"learn": make_clips(augmentation=Augmentation(flip=True))}, 2 * VIDEOS),
        ({"learn": make_clips(4, 3)}, 4),  # two of these videos are there already
    ):
        before = contents(folder)
        assert make_maps(folder, **changes)[2].made == made, changes
        assert before.items() <= contents(folder).items()
        assert make_maps(folder, **changes)[2].made == 0, changes
    settings = FeatureSettings(folder=folder, views=2, dtype="float32")
    assert train_from_features(make_network(), make_clips(), None, settings, prepared=True)[2].made == 2 * VIDEOS


def test_a_video_replaced_under_its_name_is_computed_anew(tmp_path):
    """Two folders of clips may hold `walk/1.avi` each, and share a features folder."""
    files = [tmp_path / f"{number}.avi" for number in range(VIDEOS)]
    for file in files:
        file.write_bytes(file.name.encode())
    clips = make_clips()
    clips.sources = [replace(source, file=file) for source, file in zip(clips.sources, files, strict=True)]
    folder = tmp_path / "features"
    assert make_maps(folder, learn=clips)[2].made == 2 * VIDEOS
    assert make_maps(folder, learn=clips)[2].made == 0

    for file in files[:2]:  # a copy of the same bytes, hashed once and then known by its time again
        os.utime(file, (1, 1))
    with mock.patch.object(feature_store, "source_hash", wraps=feature_store.source_hash) as hashed:
        assert make_maps(folder, learn=clips)[2].made == 0
        assert hashed.call_count == 2
        assert make_maps(folder, learn=clips)[2].made == 0
        assert hashed.call_count == 2

    files[3].write_bytes(b"other")  # as long as before
    maps, _, report = make_maps(folder, learn=clips)
    assert report.made == 2
    files[4].write_bytes(b"another")
    make_maps(folder, learn=clips)  # another training changes them in the middle of this one
    assert isinstance(maps[0, 4], DatasetError)
    assert not isinstance(maps[0, 3], DatasetError)


def test_what_one_split_computed_serves_another(tmp_path):
    folder = tmp_path / "features"
    make_maps(folder, learn=make_clips(4), check=make_clips(2, 4, augmentation=None))
    assert make_maps(folder, learn=make_clips(4, 1), check=make_clips(1, 5, augmentation=None))[2].made == 2


def test_the_weights_behind_the_backbones_do_not_matter(tmp_path):
    network = make_network()
    make_maps(tmp_path / "features", network)
    with torch.no_grad():
        network.fc6.weight.add_(1)
    network.train()
    assert make_maps(tmp_path / "features", network)[2].made == 0


@pytest.mark.parametrize("place", [0, 3, 20, 60, 200, 400, 800, -1])
def test_damage_anywhere_is_found(tmp_path, place):
    maps = make_maps(tmp_path / "features")[0]
    path = maps.stores["rgb"].path(maps.sources[1].name, 0)
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    assert isinstance(maps[0, 1], DatasetError)
    assert not isinstance(maps[0, 0], DatasetError)
    with pytest.raises(DatasetError, match=r"1\.avi.*remove it and start again"):
        list(EpochLoader(maps, batch_size=2, shuffle=False, workers=0).epoch(0))


def test_another_file_in_the_place_of_one_that_was_read_is_found(tmp_path):
    maps = make_maps(tmp_path / "features")[0]
    assert not isinstance(maps[0, 1], DatasetError)
    first, second = (maps.stores["rgb"].path(source.name, 0) for source in maps.sources[:2])
    shutil.copy(first, second)
    assert isinstance(maps[0, 1], DatasetError)


def test_a_file_cut_short_or_in_anothers_place_is_computed_anew(tmp_path):
    folder = tmp_path / "features"
    maps = make_maps(folder)[0]
    whole = contents(folder)
    first, second, third = (maps.stores["flow"].path(source.name, 1) for source in maps.sources[:3])
    first.write_bytes(first.read_bytes()[:-1])
    shutil.copy(third, second)
    third.unlink()
    assert "is damaged" in str(maps[1, 0])
    assert "something else" in str(maps[1, 1])
    assert "not there" in str(maps[1, 2])

    assert make_maps(folder)[2].made == 3
    assert contents(folder) == whole


def test_a_disk_too_small_is_refused_before_the_first_clip(tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: usage(0, 0, 100_000))
    with pytest.raises(DatasetError, match=r"10 clips want 0\.1 MB, and 0\.1 MB are free"):
        make_maps(tmp_path / "features")
    assert not list((tmp_path / "features").rglob("*.safetensors"))


def test_a_clip_of_the_papers_network_takes_the_space_of_its_feature_maps():
    recipe = FeatureRecipe("rgb", plain(ClipSettings()), {}, "", (17, 512, 14, 14), "float16", "videos")
    assert 0 <= 2 * recipe.clip_bytes - 2 * 17 * 100_352 * 2 <= 2_048  # of both streams
    assert 2 * recipe.clip_bytes - replace(recipe, dtype="float32").clip_bytes <= 2_000


def test_values_beyond_half_precision_are_refused(tmp_path):
    network = make_network()
    with torch.no_grad():
        network.backbone("rgb").features[0].weight.mul_(1e6)
    with pytest.raises(DatasetError, match="bfloat16 or float32"):
        make_maps(tmp_path / "half", network, dtype="float16")
    make_maps(tmp_path / "full", network)


def test_a_video_that_cannot_be_read_stops_with_its_own_error_and_the_rest_stays(tmp_path):
    clips = make_clips()

    def damaged():
        raise VideoDamaged("3.avi", "stops at frame 3", "make it again")

    good = clips.sources[3]
    clips.sources[3] = replace(good, open=damaged)
    with pytest.raises(VideoDamaged, match="stops at frame 3"):
        make_maps(tmp_path / "features", learn=clips)
    clips.sources[3] = good
    assert make_maps(tmp_path / "features", learn=clips)[2].kept == 3


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DatasetError, match="not empty"):
        make_maps(tmp_path)
    store = make_maps(tmp_path / "features")[0].stores["flow"]
    (store.folder / "recipe.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        make_maps(tmp_path / "features")


@pytest.mark.parametrize("wrong", [{"views": -1}, {"seed": -1}, {"dtype": "int8"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        FeatureSettings(**wrong)
