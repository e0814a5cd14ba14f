"""Turn videos into batches: the same batches whatever the number of workers.

A sample is a function of the seed, the epoch and the video's name alone: the batch sampler hands (epoch, index) to the
data set, which draws its random numbers from these.  So an epoch can be resumed in its middle, several processes can
share it, and a video's clips stay the same whichever others are trained on.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from actionfusion.data.augment import Augmentation, augment
from actionfusion.data.handover import Handover, init_worker, load
from actionfusion.data.listing import canonical
from actionfusion.errors import ActionFusionError, SettingsError
from actionfusion.storage import AnyPath
from actionfusion.streams import StreamName
from actionfusion.video.clip import Clip, ClipSettings, ClipSource, cut_clip, stacked_inputs
from actionfusion.video.sampling import random_interval, sample_generator

OpenSource = Callable[[], ClipSource]
Item = TypeVar("Item")

# Of the 107 bytes that a socket's path may have, multiprocessing takes 32 for "/pymp-xxxxxxxx/listener-xxxxxxxx".
_LONGEST_TEMPORARY = 107 - 32


@dataclass(frozen=True)
class LabelledSource:
    """A video that can be opened, with its class.

    Attributes:
        name: the video's path as the listing gives it.
        open: opens the video, or its entry in the prepared store.
        target: number of its class.
        file: the video, the folder of its pictures, or its entry in the prepared store; None where nothing lies on a
            disk.
    """

    name: str
    open: OpenSource
    target: int
    file: AnyPath | None = None

    @cached_property
    def number(self) -> int:
        """What its random clips are drawn by: a hash of the name, however the disk stores accented letters."""
        name = canonical(self.name).encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big")


@dataclass(frozen=True)
class Batch:
    """B clips, or what frozen backbones made of them.

    Attributes:
        inputs: by stream ``[B, T, C, H, W]`` uint8; or features ``[B, T, ...]`` in floating point.
        targets: ``[B]`` class numbers, int64.
        names: B paths.
        cached: whether ``inputs`` are features.
    """

    inputs: Mapping[StreamName, torch.Tensor]
    targets: torch.Tensor
    names: tuple[str, ...]
    cached: bool = False

    def pin_memory(self) -> Batch:
        """Put the batch in page-locked memory; the loader calls this where a GPU waits for it."""
        pinned = {name: tensor.pin_memory() for name, tensor in self.inputs.items()}
        return replace(self, inputs=pinned, targets=self.targets.pin_memory())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Name all that a worker hands over apart from the rest."""
        return {str(name): tensor for name, tensor in self.inputs.items()} | {"targets": self.targets}

    def rebuilt(self, tensors: Mapping[str, Any]) -> Batch:
        """Return the batch with these tensors in place of its own; None stands for one that is on its way."""
        inputs: Mapping[StreamName, Any] = {name: tensors[name] for name in self.inputs}
        return replace(self, inputs=inputs, targets=tensors["targets"])

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """Return the arguments of `VideoModel.forward`, on a device."""
        moved = {str(name): tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return {"features": moved} if self.cached else moved


class KeyedDataset(Dataset[Any]):
    """Samples that are functions of (epoch, index), and how they become a batch: what `EpochLoader` reads.

    Attributes:
        sources: the videos, by their index.
        settings: what a clip is.
        seed: of the order.
        cached: whether the samples are features of frozen backbones, which do not run.
    """

    sources: Sequence[LabelledSource]
    settings: ClipSettings
    seed: int
    cached: bool = False

    def __len__(self) -> int:
        """Count the videos."""
        return len(self.sources)

    def collate(self, samples: Sequence[Any]) -> Batch | ActionFusionError:
        """Put samples side by side, or return the first error among them."""
        raise NotImplementedError


Key = tuple[int, int]
Sample = tuple[Clip, int, str]


class ClipDataset(KeyedDataset):
    """Cuts a clip of a video at each access.

    Args:
        sources: the videos.
        settings: what a clip is.
        augmentation: how training clips vary; None cuts the clip that prediction sees and changes nothing.
        seed: of the run.
    """

    def __init__(
        self,
        sources: Sequence[LabelledSource],
        settings: ClipSettings,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.sources = list(sources)
        self.settings = settings
        self.augmentation = augmentation
        self.seed = seed

    def reading(self, streams: tuple[StreamName, ...]) -> ClipDataset:
        """Return the same clips with these streams alone, where that leaves their pictures as they are."""
        settings = replace(self.settings, streams=streams)
        if settings.decoded_size != self.settings.decoded_size:
            return self
        return ClipDataset(self.sources, settings, augmentation=self.augmentation, seed=self.seed)

    def __getitem__(self, key: Key) -> Sample | ActionFusionError:
        """Return the clip of (epoch, index), or the error that its video gave.

        Errors are handed on as values: a worker process would turn a raised one into a bare RuntimeError.
        """
        epoch, index = key
        source = self.sources[index]
        try:
            if self.augmentation is None:
                return cut_clip(source.open(), self.settings), source.target, source.name
            # The sampler may run twice for one clip (when a file holds fewer frames than it says): each time anew from
            # the same numbers, so that the clip does not depend on it.
            number = source.number if self.augmentation.drawn_by == "name" else index
            clip = cut_clip(source.open(), self.settings, partial(self._random_positions, epoch, number))
            changes = sample_generator(self.seed, epoch, number).spawn(1)[0]
            return augment(clip, self.augmentation, changes), source.target, source.name
        except ActionFusionError as error:
            return error

    def collate(self, samples: Sequence[Sample | ActionFusionError]) -> Batch | ActionFusionError:
        """Put clips side by side, or return the first error among them."""
        good = good_or_error(samples)
        if isinstance(good, ActionFusionError):
            return good
        clips, targets, names = zip(*good, strict=True)
        stacked = stacked_inputs(clips, self.settings.streams)
        inputs = {name: torch.from_numpy(arrays) for name, arrays in stacked.items()}
        return Batch(inputs, torch.tensor(targets, dtype=torch.int64), tuple(names))

    def _random_positions(self, epoch: int, number: int, num_frames: int) -> np.ndarray:
        assert self.augmentation is not None
        generator, settings = sample_generator(self.seed, epoch, number), self.settings
        dense = settings.sampling == "dense"
        intervals = (settings.stride, settings.stride) if dense else self.augmentation.intervals
        return random_interval(num_frames, settings.frames, generator, intervals)


@dataclass(frozen=True)
class Share:
    """The part of one of several processes that learn together.

    Attributes:
        rank: of this process, from 0.
        processes: how many there are.
    """

    rank: int = 0
    processes: int = 1


WHOLE = Share()


@dataclass(frozen=True)
class Step:
    """What one step of the optimiser learns from, in one process.

    Attributes:
        batches: one after the other in memory; at least one.
        count: videos of the batches of all processes together.
        counted: false where there were fewer videos than processes: the batch then stands in, and must not count.
    """

    batches: tuple[Batch, ...]
    count: int
    counted: bool = True


@dataclass(frozen=True)
class _StepKeys:
    """A step before it is read: the keys of each batch."""

    batches: tuple[tuple[Key, ...], ...]
    count: int
    counted: bool


class EpochPlan:
    """Which (epoch, index) keys make up the batches and steps of an epoch.

    Args:
        count: number of videos.
        batch_size: videos a batch; the last batch of a pass may be smaller.
        shuffle: another order each epoch, from (seed, epoch) alone.
        seed: of the run.
        accumulate: batches of each process that make one step.
        share: this process's part; all parts together hold each video once.
    """

    def __init__(
        self, count: int, batch_size: int, *, shuffle: bool, seed: int = 0, accumulate: int = 1, share: Share = WHOLE
    ) -> None:
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.share = share
        self.step_size = batch_size * accumulate * share.processes

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser, the same number in all processes."""
        return math.ceil(self.count / self.step_size)

    def batches(self, epoch: int) -> list[tuple[Key, ...]]:
        """List this process's batches of a pass in which each video is seen once."""
        keys = self._keys(epoch)
        return _pieces(keys, self.batch_size)[self.share.rank :: self.share.processes]

    def steps(self, epoch: int, start: int = 0) -> Iterator[_StepKeys]:
        """Yield the steps of an epoch, from step ``start`` on."""
        keys = self._keys(epoch)
        for whole in _pieces(keys, self.step_size)[start:]:
            rank, processes = self.share.rank, self.share.processes
            # The first processes have one more where it does not come out even, so that the main one has always some.
            ends = [-(-len(whole) * number // processes) for number in (rank, rank + 1)]
            own = whole[slice(*ends)]
            yield _StepKeys(tuple(_pieces(own or whole[:1], self.batch_size)), len(whole), counted=bool(own))

    def _keys(self, epoch: int) -> tuple[Key, ...]:
        order = np.arange(self.count)
        if self.shuffle:
            # The further numbers keep the order's random numbers apart from every sample's.
            order = np.random.default_rng([self.seed, epoch, 2**31, 1]).permutation(self.count)
        return tuple((epoch, int(index)) for index in order)


class _Chosen(Sampler[list[Key]]):
    """Hands the loader the batches that were put into it last."""

    def __init__(self) -> None:
        self.batches: Sequence[Sequence[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter([list(batch) for batch in self.batches])

    def __len__(self) -> int:
        return len(self.batches)


class EpochLoader:
    """Batches of a data set, pass by pass.

    Args:
        dataset: the clips, or features of them.
        batch_size: clips a batch.
        shuffle: whether the order changes from epoch to epoch.
        workers: processes that cut clips ahead of the network; 0 cuts them in this process.
        accumulate: batches that make one step.
        share: this process's part, where several learn together.
        pin_memory: whether batches go to page-locked memory, for a GPU.

    Raises:
        SettingsError: there are workers, and the folder of temporary files has too long a name for their sockets.
    """

    def __init__(
        self,
        dataset: KeyedDataset,
        *,
        batch_size: int,
        shuffle: bool,
        workers: int,
        accumulate: int = 1,
        share: Share = WHOLE,
        pin_memory: bool = False,
    ) -> None:
        _refuse_long_sockets(workers)
        self.dataset = dataset
        self.plan = EpochPlan(
            len(dataset), batch_size, shuffle=shuffle, seed=dataset.seed, accumulate=accumulate, share=share
        )
        self._chosen = _Chosen()
        self._pin = pin_memory
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._chosen,
            num_workers=workers,
            collate_fn=Handover(dataset.collate, workers),
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=init_worker,
            # Without its own generator, each pass would take numbers from torch's, and change dropout's.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Count the steps of an epoch."""
        return self.plan.steps_per_epoch

    def first(self) -> Batch:
        """Read the first batch of the first epoch in this process.

        Raises:
            VideoError: a video cannot be read.
        """
        return _good(self.dataset.collate([self.dataset[key] for key in self.plan.batches(1)[0]]))

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield this process's batches of one epoch; over all processes each video comes once.

        Raises:
            VideoError: a video cannot be read.
        """
        return self._read(self.plan.batches(number))

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """Yield the steps of one epoch, from step ``start`` on; earlier ones are not read.

        Raises:
            VideoError: a video cannot be read.
        """
        steps = list(self.plan.steps(epoch, start))
        batches = self._read([batch for step in steps for batch in step.batches])
        for step in steps:
            yield Step(tuple(islice(batches, len(step.batches))), step.count, step.counted)

    def _read(self, batches: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        self._chosen.batches = batches
        for batch in load(self._loader, pin=self._pin) if batches else ():
            yield _good(batch)


def _good(batch: Batch | ActionFusionError) -> Batch:
    if isinstance(batch, ActionFusionError):
        raise batch
    return batch


def _pieces(keys: Sequence[Key], size: int) -> list[tuple[Key, ...]]:
    return [tuple(keys[start : start + size]) for start in range(0, len(keys), size)]


def batches_of(dataset: KeyedDataset, keys: Sequence[Sequence[Key]], workers: int) -> Iterator[Batch]:
    """Yield the batches of these keys (epoch, index), in this order.

    Raises:
        ActionFusionError: a sample cannot be had.
    """
    _refuse_long_sockets(workers)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=keys,  # type: ignore[arg-type]  # any iterable of lists will do
        num_workers=workers,
        collate_fn=Handover(dataset.collate, workers),
        worker_init_fn=init_worker,
        generator=torch.Generator(),  # as in EpochLoader
    )
    for batch in load(loader):
        yield _good(batch)


def _refuse_long_sockets(workers: int) -> None:
    """Refuse workers that could not hand a batch over: the training would wait for ever."""
    folder = tempfile.gettempdir()
    if workers and sys.platform != "win32" and len(os.fsencode(folder)) > _LONGEST_TEMPORARY:
        reason = f"has too long a name for the sockets of worker processes, over {_LONGEST_TEMPORARY} bytes"
        raise SettingsError(folder, reason, "set TMPDIR to a shorter path, or take 0 workers")


def good_or_error(samples: Sequence[Item | ActionFusionError]) -> list[Item] | ActionFusionError:
    """Return the samples, or the first error among them."""
    good: list[Item] = []
    for sample in samples:
        if isinstance(sample, ActionFusionError):
            return sample
        good.append(sample)
    return good
