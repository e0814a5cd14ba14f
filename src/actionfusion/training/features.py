"""Cached features: what frozen backbones make of the clips, computed once, for all that follows them to train from.

A random clip that is kept is an augmented view: a function of (seed, number of the view, name of the video), as a
training clip is one of (seed, epoch, name), so that all splits of a set share them.  At the paper's full size a clip
takes 6.8 MB in half precision, and the backbones that it saves are 91 % of a training step's arithmetic.  A run that
was killed goes on with what is missing.

The paper's own times (section 3.6: 140 epochs of UCF101 in a day) fit its data sets only if something of this kind was
done.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from actionfusion.data.loading import Batch, ClipDataset, KeyedDataset, LabelledSource, batches_of, good_or_error
from actionfusion.errors import ActionFusionError, DatasetError, SettingsError
from actionfusion.models.model import VideoModel
from actionfusion.plain_progress import giga
from actionfusion.settings import plain
from actionfusion.streams import StreamName
from actionfusion.training.feature_store import (
    AugmentedViews,
    DtypeName,
    FeatureRecipe,
    FeatureStore,
    SourceFile,
    feature_recipes,
)
from actionfusion.video.clip import ClipSettings

log = logging.getLogger("actionfusion.training")

FOLDER = "features"

Progress = Callable[[int, int], None]
"""Called with the number of clips done and of all clips to compute."""

_LEFT_BEHIND_SECONDS = 3600  # writing a file takes seconds; what is older than this was left by a process that died


@dataclass(frozen=True)
class FeatureSettings:
    """Whether the backbones stay as they are, and their features are computed once.

    Args:
        folder: of the features, which all runs and models can share; what is missing there is computed before the first
            step.  None trains end to end, but for ``cache``.
        cache: keep them in the folder ``features`` beside the run where no ``folder`` is given.
        views: augmented views kept of each training video; epochs take them in turn, so that more of them are nearer to
            the ever new clips of a training end to end.  0 keeps the plain clip alone.
        dtype: precision of the kept features: float16, bfloat16 or float32, which takes twice the space.
        seed: of the views, apart from the run's, so that runs of several seeds can share them.

    Raises:
        SettingsError: a value outside its range.
    """

    folder: Path | None = None
    cache: bool = False
    views: int = 4
    dtype: DtypeName = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.views < 0:
            raise SettingsError("features.views", f"{self.views}", "take 0 or more")
        if self.seed < 0:
            raise SettingsError("features.seed", f"{self.seed}", "take 0 or more")
        if self.dtype not in get_args(DtypeName):
            raise SettingsError("features.dtype", f"{self.dtype!r}", f"take one of {', '.join(get_args(DtypeName))}")

    def beside(self, out: Path) -> FeatureSettings:
        """Name the folder of a run where ``cache`` leaves it open."""
        return replace(self, folder=out.parent / FOLDER) if self.cache and self.folder is None else self

    def recorded(self) -> dict[str, Any] | None:
        """Give what a run records of them, which is nothing of where they are; None where there are none."""
        if self.folder is None and not self.cache:
            return None
        return {name: value for name, value in plain(self).items() if name != "cache"} | {"folder": None}


FeatureSample = tuple[dict[StreamName, Tensor], int, str]
Stores = Mapping[StreamName, FeatureStore]


class FeatureDataset(KeyedDataset):
    """Reads the features of a video at each access; what `ClipDataset` is to clips.

    Args:
        stores: by stream, hold the features of all these videos.
        sources: the videos, which are not opened.
        files: the videos by their names, with the bytes that the features are of.
        settings: what the features are of.
        views: augmented views kept of each video, taken in turn by epochs; 0 for the plain clip.
        seed: of the order.
    """

    cached = True

    def __init__(
        self,
        stores: Stores,
        sources: Sequence[LabelledSource],
        files: Mapping[str, SourceFile],
        settings: ClipSettings,
        *,
        views: int = 0,
        seed: int = 0,
    ) -> None:
        self.stores, self.sources, self.views, self.seed = dict(stores), list(sources), views, seed
        self.settings = settings
        self._bytes_of = {source.name: files[source.name].identity for source in self.sources}

    def __getitem__(self, key: tuple[int, int]) -> FeatureSample | ActionFusionError:
        """Read the features of (epoch, index), or the error that their file gave."""
        epoch, index = key
        source, view = self.sources[index], epoch % self.views if self.views else None
        try:
            found = {
                stream: store.read(source.name, view, self._bytes_of[source.name])
                for stream, store in self.stores.items()
            }
        except ActionFusionError as error:
            return error
        return found, source.target, source.name

    def collate(self, samples: Sequence[FeatureSample | ActionFusionError]) -> Batch | ActionFusionError:
        """Put features side by side, or give the first error among them."""
        good = good_or_error(samples)
        if isinstance(good, ActionFusionError):
            return good
        features, targets, names = zip(*good, strict=True)
        inputs = {stream: torch.stack([each[stream] for each in features]) for stream in self.stores}
        return Batch(inputs, torch.tensor(targets, dtype=torch.int64), tuple(names), cached=True)


@dataclass(frozen=True)
class FillReport:
    """What `fill_features` did.

    Attributes:
        made: clips of which something was computed.
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
        return f"features: {self.made} clips computed{rate}, {self.kept} there before, {giga(self.size)} in all"


@dataclass(frozen=True)
class _Clip:
    """A clip whose features are wanted; ``view`` None is the plain one, ``part`` the number of its data set."""

    part: int
    view: int | None
    index: int
    missing: tuple[StreamName, ...]


@dataclass(frozen=True)
class FeatureWork:
    """What a features folder is to hold.

    Attributes:
        recipes: by stream.
        views: of the augmented views, if there are any.
        parts: data sets with the number of views of each; 0 for one of plain clips.
    """

    recipes: Mapping[StreamName, FeatureRecipe]
    views: AugmentedViews | None
    parts: tuple[tuple[ClipDataset, int], ...]

    @cached_property
    def files(self) -> Mapping[str, SourceFile]:
        """The videos, by their names."""
        return {source.name: SourceFile(source) for dataset, _ in self.parts for source in dataset.sources}

    def stores(self, folder: Path) -> dict[StreamName, FeatureStore]:
        """Open the stores of all streams, which need not be there yet.

        Raises:
            ActionFusionError: as `FeatureStore`.
        """
        return {stream: FeatureStore(folder, recipe, self.views) for stream, recipe in self.recipes.items()}

    def clips(self, stores: Stores) -> list[_Clip]:
        """List all clips, with the streams whose features the stores lack."""
        found = []
        for part, (dataset, views) in enumerate(self.parts):
            for view in range(views) if views else (None,):
                for index, source in enumerate(dataset.sources):
                    missing = tuple(
                        stream for stream, store in stores.items() if not store.has(self.files[source.name], view)
                    )
                    found.append(_Clip(part, view, index, missing))
        return found

    def missing(self, folder: Path) -> int:
        """Count the clips that are still to be computed; a folder that is not there is not made.

        Raises:
            ActionFusionError: as `FeatureStore`, or the disk is too small for what is missing.
        """
        clips = [clip for clip in self.clips(self.stores(folder)) if clip.missing]
        refuse_small_disk(folder, self.recipes, clips)
        return len(clips)


def refuse_without_backbones(network: VideoModel) -> None:
    """See that there are features to keep: each stream has a backbone, which sees whole frames.

    Raises:
        SettingsError: a stream has none, or the model describes clips itself; its features are the clips themselves.
    """
    if without := [name for name in network.reads if network.backbone(name) is None or not network.exportable]:
        reason = f"the model has no backbone for {without[0]} whose features could be kept"
        raise SettingsError("features.folder", reason, "leave it out")


def feature_work(
    network: VideoModel, learn: ClipDataset, check: ClipDataset | None, settings: FeatureSettings, *, prepared: bool
) -> FeatureWork:
    """Find what `train_from_features` wants in the folder.

    Args:
        network: with the weights that it starts from.
        learn: as for `train_from_features`.
        check: as for `train_from_features`.
        settings: as for `train_from_features`; the folder is not looked at.
        prepared: as for `train_from_features`.

    Raises:
        SettingsError: a stream without a backbone, whose features are the clips themselves.
    """
    refuse_without_backbones(network)
    views = None
    if settings.views and learn.augmentation is not None:
        views = AugmentedViews(settings.seed, replace(learn.augmentation, drawn_by="name"))
    augmentation = views.augmentation if views else None
    seen = ClipDataset(learn.sources, learn.settings, augmentation=augmentation, seed=settings.seed)
    parts = [(seen, settings.views if views else 0)] + ([(check, 0)] if check is not None else [])
    return FeatureWork(feature_recipes(network, learn.settings, settings.dtype, prepared=prepared), views, tuple(parts))


def fill_features(
    network: VideoModel,
    work: FeatureWork,
    folder: Path,
    *,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> FillReport:
    """Compute the features that a folder lacks, a clip at a time, so that they do not depend on where it was stopped.

    Args:
        network: with the backbones of the recipes, on the device that is to compute.
        work: what the folder is to hold.
        folder: of the features.
        workers: processes that cut clips ahead of the backbones; 0 cuts them in this process.
        share: of several processes, the number of this one and how many they are; wait for all before reading.
        progress: called after each clip.

    Raises:
        DatasetError: the disk is full, or too small for what is missing; what was made stays.
        VideoError: a video cannot be read.
    """
    started = time.perf_counter()
    stores, (number, count) = work.stores(folder), share
    if number == 0:
        for path in folder.rglob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                    path.unlink()
    wanted = work.clips(stores)[number::count]
    missing = [clip for clip in wanted if clip.missing]
    refuse_small_disk(folder, work.recipes, missing)
    for store in stores.values():
        store.begin()
    done, device = 0, next(network.parameters()).device
    # Evaluating takes a folded copy of the backbones, for which there is no need where nothing is missing.
    with network.evaluating() if missing else nullcontext(), _threads_beside(workers):
        for (part, streams), together in groupby(missing, lambda clip: (clip.part, clip.missing)):
            clips, dataset = list(together), work.parts[part][0]
            # Of a stream whose features are there nothing is computed again, and of flow that is not read nothing.
            cut = dataset.reading(streams)
            batches = batches_of(cut, [[(clip.view or 0, clip.index)] for clip in clips], workers)
            for clip, batch in zip(clips, batches, strict=True):
                for stream in streams:
                    features = network.stream_features(stream, batch.inputs[stream].to(device))[0]
                    stores[stream].write(work.files[batch.names[0]], clip.view, features)
                done += 1
                if progress is not None:
                    progress(done, len(missing))
    size = len(wanted) * sum(recipe.clip_bytes for recipe in work.recipes.values())
    return FillReport(len(missing), len(wanted) - len(missing), size, time.perf_counter() - started)


@contextmanager
def _threads_beside(workers: int) -> Iterator[None]:
    """Leave a core to each worker, half of them at most: threads keep a core busy while they wait for a taken one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads - workers, (threads + 1) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def refuse_small_disk(folder: Path, recipes: Mapping[StreamName, FeatureRecipe], missing: Sequence[_Clip]) -> None:
    """See that the features of these clips fit onto the disk.

    Args:
        folder: of the features, which need not be there yet.
        recipes: of the features, by stream.
        missing: clips to compute.

    Raises:
        DatasetError: there is less space.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    needed = sum(recipes[stream].clip_bytes for clip in missing for stream in clip.missing)
    free = shutil.disk_usage(existing).free
    log.info("features: %d clips to compute, %s; %s are free", len(missing), giga(needed), giga(free))
    if needed > free:
        reason = f"{len(missing)} clips want {giga(needed)}, and {giga(free)} are free"
        raise DatasetError(folder, reason, "make room, take fewer --features.views, or float16")


def train_from_features(
    network: VideoModel,
    learn: ClipDataset,
    check: ClipDataset | None,
    settings: FeatureSettings,
    *,
    prepared: bool,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> tuple[FeatureDataset, FeatureDataset | None, FillReport]:
    """Freeze the backbones, see that their features of all clips are in the folder, and read these in place of clips.

    Args:
        network: with the weights that it starts from, on its device.
        learn: training clips; their order and augmentation stay, but views follow ``settings.seed``.
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
    report = fill_features(network, work, settings.folder, workers=workers, share=share, progress=progress)
    network.freeze_backbones("all")
    stores = work.stores(settings.folder)
    kept = FeatureDataset(stores, learn.sources, work.files, learn.settings, views=work.parts[0][1], seed=learn.seed)
    checked = FeatureDataset(stores, check.sources, work.files, check.settings) if check is not None else None
    return kept, checked, report
