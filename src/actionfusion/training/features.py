"""Cached features: the maps of both frozen towers, computed once, for fusion, fc6 and the LSTMs to train from.

A random clip that is kept is a draw: a function of (seed, number of the draw, index of the video), as a training clip
is one of (seed, epoch, index).  At full size a clip takes 6.8 MB in half precision, and the towers that it saves are
91 % of a training step's arithmetic.  A run that was killed goes on with the clips that are missing.

Source: specification A2-29 and A4: the paper's times fit its data sets only if something of this kind was done.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from actionfusion.data.loading import Batch, ClipDataset, KeyedDataset, LabelledSource, batches_of
from actionfusion.errors import ActionFusionError, DatasetError, RecipeMismatch, SettingsError
from actionfusion.models.fusion_network import FusionNetwork, TowerMaps
from actionfusion.training.feature_store import (
    Draws,
    DtypeName,
    FeatureRecipe,
    FeatureStore,
    feature_recipe,
    names_digest,
    tower_digest,
)

log = logging.getLogger("actionfusion.training")

Progress = Callable[[int, int], None]
"""Called with the number of clips done and of all clips to compute."""

_LEFT_BEHIND_SECONDS = 3600  # writing a file takes seconds; what is older than this was left by a process that died


@dataclass(frozen=True)
class FeatureSettings:
    """Whether the towers stay as they are, and their maps are computed once.

    Args:
        folder: where the maps lie; what is missing there is computed before the first step.  None trains end to end.
        draws: random clips kept of each training video; epochs take them in turn, so that more draws are nearer to the
            ever new clips of a training end to end.  0 keeps one, that of eqs 13-14.
        dtype: precision of the kept maps: float16, bfloat16 or float32, which takes twice the space.
        seed: of the draws, apart from the run's, so that runs of several seeds can share them.

    Raises:
        SettingsError: a value outside its range.
    """

    folder: Path | None = None
    draws: int = 4
    dtype: DtypeName = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 0:
            raise SettingsError("features.draws", f"{self.draws}", "take 0 or more")
        if self.seed < 0:
            raise SettingsError("features.seed", f"{self.seed}", "take 0 or more")
        if self.dtype not in get_args(DtypeName):
            raise SettingsError("features.dtype", f"{self.dtype!r}", f"take one of {', '.join(get_args(DtypeName))}")


MapSample = tuple[TowerMaps, int, str]


class MapDataset(KeyedDataset):
    """Reads the maps of a video at each access; what `ClipDataset` is to clips.

    Args:
        store: holds the maps of all these videos.
        sources: the videos, which are not opened.
        draws: draws kept of each video, taken in turn by epochs; 0 for the clip of eqs 13-14.
        seed: of the order.
    """

    maps = True

    def __init__(
        self, store: FeatureStore, sources: Sequence[LabelledSource], *, draws: int = 0, seed: int = 0
    ) -> None:
        self.store, self.sources, self.draws, self.seed = store, list(sources), draws, seed
        self.settings = store.recipe.clip

    def __getitem__(self, key: tuple[int, int]) -> MapSample | ActionFusionError:
        """The maps of (epoch, index), or the error that their file gave."""
        epoch, index = key
        source, draw = self.sources[index], epoch % self.draws if self.draws else None
        try:
            return self.store.read(source.name, draw, index), source.target, source.name
        except ActionFusionError as error:
            return error

    def collate(self, samples: Sequence[MapSample | ActionFusionError]) -> Batch | ActionFusionError:
        """Maps side by side, or the first error among them; a stream that is not used has 0 channels."""
        good: list[MapSample] = []
        for sample in samples:
            if isinstance(sample, ActionFusionError):
                return sample
            good.append(sample)
        maps, targets, names = zip(*good, strict=True)
        frames, _, height, width = self.store.recipe.shape
        unused = torch.empty(len(good), frames, 0, height, width)
        rgb, flow = (unused if part[0] is None else torch.stack(part) for part in zip(*maps, strict=True))
        return Batch(rgb, flow, torch.tensor(targets, dtype=torch.int64), tuple(names), maps=True)


@dataclass(frozen=True)
class FillReport:
    """What `fill_features` did.

    Attributes:
        made: clips computed.
        kept: clips that were there already.
        size: bytes of all of them, made and kept.
        seconds: that it took.
    """

    made: int
    kept: int
    size: int
    seconds: float

    def __str__(self) -> str:
        rate = f" in {self.seconds:.0f} s" if self.made else ""
        return f"features: {self.made} clips computed{rate}, {self.kept} there before, {_amount(self.size)} in all"


def fill_features(
    network: FusionNetwork,
    store: FeatureStore,
    clips: Sequence[tuple[ClipDataset, int]],
    *,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> FillReport:
    """Compute the maps that the store lacks, a clip at a time, so that they do not depend on where it was stopped.

    Args:
        network: with the towers of the store's recipe, on the device that is to compute.
        store: where the maps go.
        clips: data sets with the number of draws of each; 0 draws for one that cuts the clips of eqs 13-14.
        workers: processes that cut clips ahead of the towers; 0 cuts them in this process.
        share: of several processes, the number of this one and how many they are; wait for all before reading.
        progress: called after each clip.

    Raises:
        RecipeMismatch: the network's towers are not those of the recipe.
        DatasetError: the disk is full, or too small for what is missing; what was made stays.
        VideoError: a video cannot be read.
    """
    if tower_digest(network) != store.recipe.weights:
        raise RecipeMismatch(store.folder, "its recipe is of other towers' weights", "open it with this network")
    started = time.perf_counter()
    number, count = share
    if number == 0:
        _remove_leftovers(store.folder)
    wanted = list(_keys(clips))[number::count]
    missing = [key for key in wanted if not store.has(key[1].sources[key[3]].name, key[2], key[3])]
    refuse_small_disk(store.folder, store.recipe, len(missing))
    done = 0
    for part, (dataset, _) in enumerate(clips):
        keys = [(draw, index) for which, _, draw, index in missing if which == part]
        batches = batches_of(dataset, [[(draw or 0, index)] for draw, index in keys], workers)
        for (draw, index), batch in zip(keys, batches, strict=True):
            store.write(batch.names[0], draw, index, _maps(network, batch))
            done += 1
            if progress is not None:
                progress(done, len(missing))
    size = store.recipe.clip_bytes * len(wanted)
    return FillReport(len(missing), len(wanted) - len(missing), size, time.perf_counter() - started)


def _keys(clips: Sequence[tuple[ClipDataset, int]]) -> Iterator[tuple[int, ClipDataset, int | None, int]]:
    """Number of the data set, the data set, draw and index of each clip."""
    for part, (dataset, draws) in enumerate(clips):
        for draw in range(draws) if draws else (None,):
            for index in range(len(dataset)):
                yield part, dataset, draw, index


def _maps(network: FusionNetwork, batch: Batch) -> TowerMaps:
    """The maps of a batch of one clip, without its batch dimension."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            maps = network.tower_maps(batch.rgb.to(device), batch.flow.to(device))
    finally:
        network.train(was_training)
    return TowerMaps(*(None if part is None else part[0] for part in maps))


def refuse_small_disk(folder: Path, recipe: FeatureRecipe, missing: int) -> None:
    """See that so many clips' maps fit onto the disk.

    Args:
        folder: where they are to lie, which need not be there yet.
        recipe: of the maps.
        missing: clips to compute.

    Raises:
        DatasetError: there is less space.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    needed, free = missing * recipe.clip_bytes, shutil.disk_usage(existing).free
    log.info("features: %d clips to compute, %s; %s are free", missing, _amount(needed), _amount(free))
    if needed > free:
        reason = f"{missing} clips want {_amount(needed)}, and {_amount(free)} are free"
        raise DatasetError(folder, reason, "make room, take fewer --features.draws, or float16")


def _remove_leftovers(folder: Path) -> None:
    for path in folder.rglob(".*.partial"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                path.unlink()


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@dataclass(frozen=True)
class FeatureWork:
    """What a features folder is to hold.

    Attributes:
        recipe: of the maps.
        clips: data sets with the number of draws of each, as `fill_features` takes them.
    """

    recipe: FeatureRecipe
    clips: tuple[tuple[ClipDataset, int], ...]

    def missing(self, folder: Path) -> int:
        """Clips that are still to be computed; a folder that is not there is not made.

        Raises:
            ActionFusionError: as `FeatureStore`, or the disk is too small for what is missing.
        """
        begun = folder.is_dir() and any(not item.name.startswith(".") for item in folder.iterdir())
        store = FeatureStore(folder, self.recipe) if begun else None
        missing = sum(
            store is None or not store.has(dataset.sources[index].name, draw, index)
            for _, dataset, draw, index in _keys(self.clips)
        )
        refuse_small_disk(folder, self.recipe, missing)
        return missing


def feature_work(
    network: FusionNetwork, learn: ClipDataset, check: ClipDataset | None, settings: FeatureSettings, *, prepared: bool
) -> FeatureWork:
    """What `train_from_features` wants in the folder.

    Args:
        network: with the weights that it starts from.
        learn: as for `train_from_features`.
        check: as for `train_from_features`.
        settings: as for `train_from_features`; the folder is not looked at.
        prepared: as for `train_from_features`.
    """
    draws = None
    if settings.draws and learn.augmentation is not None:
        names = names_digest([source.name for source in learn.sources])
        draws = Draws(settings.seed, learn.augmentation, names)
    drawn = ClipDataset(
        learn.sources, learn.settings, augmentation=learn.augmentation if draws else None, seed=settings.seed
    )
    recipe = feature_recipe(network, learn.settings, settings.dtype, prepared=prepared, draws=draws)
    parts = [(drawn, settings.draws if draws else 0)] + ([(check, 0)] if check is not None else [])
    return FeatureWork(recipe, tuple(parts))


def train_from_features(
    network: FusionNetwork,
    learn: ClipDataset,
    check: ClipDataset | None,
    settings: FeatureSettings,
    *,
    prepared: bool,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> tuple[MapDataset, MapDataset | None, FillReport]:
    """Freeze the towers, see that their maps of all clips are in the folder, and read these in place of the clips.

    Args:
        network: with the weights that it starts from, on its device.
        learn: training clips; their order and augmentation stay, but draws follow ``settings.seed``.
        check: validation clips.
        settings: with a folder.
        prepared: whether the clips come from the prepared store.
        workers: as for `fill_features`.
        share: as for `fill_features`.
        progress: as for `fill_features`.

    Raises:
        ActionFusionError: as `FeatureStore` and `fill_features`.
    """
    assert settings.folder is not None
    work = feature_work(network, learn, check, settings, prepared=prepared)
    store = FeatureStore(settings.folder, work.recipe)
    report = fill_features(network, store, work.clips, workers=workers, share=share, progress=progress)
    network.freeze_towers("all")
    maps = MapDataset(store, learn.sources, draws=work.clips[0][1], seed=learn.seed)
    return maps, MapDataset(store, check.sources) if check is not None else None, report
