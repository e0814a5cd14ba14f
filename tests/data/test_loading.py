"""Batches are a function of (seed, epoch, index) alone, whatever the number of workers."""

import multiprocessing
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.data.augment import Augmentation
from actionfusion.data.loading import Batch, ClipDataset, EpochLoader, EpochPlan, LabelledSource, Share
from actionfusion.errors import SettingsError, VideoDamaged
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe

SETTINGS = ClipSettings(frames=3, flow_frames=2, flow=FlowRecipe("dis", size=16))


class Noise:
    """A video of noise, made anew from its number at each reading."""

    def __init__(self, number: int, num_frames: int = 20) -> None:
        self.number, self.num_frames, self.recipe = number, num_frames, SETTINGS.flow
        self.frame_size = self.recipe.size
        self.frame_size = SETTINGS.frame_size

    def read(self, frames, fields):
        generator = np.random.default_rng(self.number)
        pictures = generator.integers(0, 256, (self.num_frames, 16, 16, 3), dtype=np.uint8)
        flow = generator.integers(1, 256, (self.num_frames, 16, 16, 2), dtype=np.uint8)
        return pictures[list(frames)], flow[list(fields)], np.array(frames) / 25


def damaged():
    raise VideoDamaged("b.avi", "stops at frame 3", "make it again")


def make_dataset(count: int = 7, **changes) -> ClipDataset:
    sources = [LabelledSource(f"{number}.avi", partial(Noise, number), number % 3) for number in range(count)]
    return ClipDataset(sources, SETTINGS, **{"augmentation": Augmentation(flip=True, smallest_crop=0.8)} | changes)


def collect(dataset: ClipDataset, workers: int, epochs=(1, 2)) -> list[Batch]:
    loader = EpochLoader(dataset, batch_size=3, shuffle=True, workers=workers)
    return [batch for epoch in epochs for batch in loader.epoch(epoch)]


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert [batch.names for batch in first] == [batch.names for batch in second]
    for one, other in zip(first, second, strict=True):
        for stream in ("rgb", "flow"):
            np.testing.assert_array_equal(one.inputs[stream].numpy(), other.inputs[stream].numpy())


def test_the_number_of_workers_changes_nothing():
    assert_equal(collect(make_dataset(), 0), collect(make_dataset(), 2))


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such sockets")
@pytest.mark.parametrize(("length", "works"), [(75, True), (76, False)])
def test_temporary_files_in_too_deep_a_folder_are_refused_and_not_waited_for(monkeypatch, length, works):
    own = Path(tempfile.mkdtemp(prefix="af", dir="/tmp"))
    deep = own / ("d" * (length - len(str(own)) - 1))
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    # Python keeps the folder of its first socket.
    monkeypatch.setitem(multiprocessing.process.current_process()._config, "tempdir", None)
    try:
        make = partial(EpochLoader, make_dataset(), batch_size=2, shuffle=False)
        if works:
            assert len(list(make(workers=1).epoch(0))) == 4
        else:
            with pytest.raises(SettingsError, match=r"too long a name for the sockets .*, over 75 bytes; set TMPDIR"):
                make(workers=1)
        assert len(list(make(workers=0).epoch(0))) == 4
    finally:
        shutil.rmtree(own)


def test_an_epoch_can_be_read_alone():
    both, second = collect(make_dataset(), 0), collect(make_dataset(), 0, epochs=(2,))
    assert_equal(both[3:], second)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_be_gone_on_with_and_what_is_passed_over_is_not_read(workers):
    whole = collect(make_dataset(), 0, epochs=(4,))
    dataset = make_dataset()
    for name in whole[0].names:
        dataset.sources[int(name.removesuffix(".avi"))] = LabelledSource(name, damaged, 0)
    loader = EpochLoader(dataset, batch_size=3, shuffle=True, workers=workers)
    assert_equal(whole[1:], [batch for step in loader.steps(4, 1) for batch in step.batches])
    assert list(loader.steps(4, 3)) == []


@given(
    count=st.integers(1, 40), size=st.integers(1, 5), accumulate=st.integers(1, 4), processes=st.integers(1, 5),
    epoch=st.integers(1, 3),
)  # fmt: skip
def test_the_shares_of_all_processes_hold_each_video_once(count, size, accumulate, processes, epoch):
    plans = [
        EpochPlan(count, size, shuffle=True, accumulate=accumulate, share=Share(rank, processes))
        for rank in range(processes)
    ]
    passes = [key for plan in plans for batch in plan.batches(epoch) for key in batch]
    assert sorted(passes) == [(epoch, index) for index in range(count)]
    together = list(zip(*(plan.steps(epoch) for plan in plans), strict=True))
    assert len(together) == plans[0].steps_per_epoch
    alone = EpochPlan(count, size * accumulate * processes, shuffle=True)
    for shares, (whole,) in zip(together, (step.batches for step in alone.steps(epoch)), strict=True):
        assert [key for share in shares if share.counted for batch in share.batches for key in batch] == list(whole)
        assert {share.count for share in shares} == {len(whole)}
        assert shares[0].counted, "the main process has always some"
        for share in shares:
            assert 1 <= len(share.batches) <= accumulate
            assert all(1 <= len(batch) <= size for batch in share.batches)
        assert max(map(_size, shares)) - min(map(_size, shares)) <= 1


def _size(share):
    return sum(map(len, share.batches)) if share.counted else 0


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_global_random_numbers_alone(workers):
    before = torch.get_rng_state()
    collect(make_dataset(), workers, epochs=(1,))
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_and_seeds_differ():
    first, second = collect(make_dataset(), 0)[:3], collect(make_dataset(), 0)[3:]
    other = collect(make_dataset(seed=1), 0)[:3]
    for batches in (second, other):
        assert any((one.inputs["rgb"] != two.inputs["rgb"]).any() for one, two in zip(first, batches, strict=True))


def test_every_video_comes_once_an_epoch():
    names = [name for batch in collect(make_dataset(), 0, epochs=(5,)) for name in batch.names]
    assert sorted(names) == sorted(f"{number}.avi" for number in range(7))


def test_without_augmentation_every_epoch_is_the_same():
    dataset = make_dataset(augmentation=None)
    loader = EpochLoader(dataset, batch_size=4, shuffle=False, workers=0)
    assert_equal(list(loader.epoch(1)), list(loader.epoch(2)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_video_stops_with_its_own_error(workers):
    dataset = make_dataset()
    dataset.sources[4] = LabelledSource("b.avi", damaged, 0)
    with pytest.raises(VideoDamaged, match="stops at frame 3"):
        collect(dataset, workers)
