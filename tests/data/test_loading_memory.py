"""The memory of a worker that cuts clips stays flat over epochs, from video and from the store."""

import multiprocessing
from functools import partial

import av
import numpy as np
import psutil
import pytest

from actionfusion.data.augment import Augmentation
from actionfusion.data.loading import ClipDataset, EpochLoader, LabelledSource
from actionfusion.data.prepare import prepare
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.video_source import VideoSource

SETTINGS = ClipSettings(4, 4, FlowRecipe("dis", 10.0, 64))
CLIPS, FIRST, LAST = 24, 4, 16
MEGABYTE = 2**20
# What one epoch reads is 4.2 MB of clips.  The heap of a process wavers by some megabytes.
MOST = 15 * MEGABYTE


def write_noise(path, seed, count=20):
    generator = np.random.default_rng(seed)
    with path.open("wb") as file, av.open(file, "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for _ in range(count):
            picture = generator.integers(0, 256, (8, 10, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode())


@pytest.fixture(scope="module")
def openers(tmp_path_factory):
    root = tmp_path_factory.mktemp("noise")
    items = [(root / f"{seed}.avi", f"{seed}.avi") for seed in range(3)]
    for seed, (path, _) in enumerate(items):
        write_noise(path, seed)
    assert prepare(items, root / "store", SETTINGS.flow, workers=0).made == 3
    return {
        "video": [partial(VideoSource, path, SETTINGS.flow) for path, _ in items],
        "store": [partial(StoredVideo, entry_path(root / "store", name)) for _, name in items],
    }


class Hoarder(ClipDataset):
    """Keeps every clip that it gave."""

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        self.kept = [*getattr(self, "kept", []), sample]
        return sample


def growth(dataset_class, openers):
    """Bytes that one worker has for itself after the last epoch, beyond those after the first few."""
    sources = [LabelledSource(str(number), openers[number % len(openers)], 0) for number in range(CLIPS)]
    how = Augmentation((1, 3), flip=True, smallest_crop=0.7, brightness=0.2)
    before = set(multiprocessing.active_children())
    loader = EpochLoader(dataset_class(sources, SETTINGS, augmentation=how), batch_size=4, shuffle=True, workers=1)
    own = []
    for epoch in range(1, LAST + 1):
        assert sum(len(batch.names) for batch in loader.epoch(epoch)) == CLIPS
        (worker,) = set(multiprocessing.active_children()) - before
        own.append(psutil.Process(worker.pid).memory_full_info().uss)
    return own[-1] - own[FIRST - 1]


@pytest.mark.parametrize("source", ["video", "store"])
def test_a_worker_stays_as_large_as_it_was(source, openers):
    assert growth(ClipDataset, openers[source]) < MOST


def test_one_that_keeps_its_clips_would_be_found(openers):
    assert growth(Hoarder, openers["store"]) > 2 * MOST
