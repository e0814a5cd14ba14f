"""The command ``train``: a folder of labelled videos becomes a run folder."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings, LabelledVideos, open_data
from actionfusion.data.loading import ClipDataset, EpochLoader
from actionfusion.data.recorded_split import write_split
from actionfusion.errors import DatasetError
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.pretrained import load_imagenet
from actionfusion.run_folder import LOG, SPLIT, WEIGHTS, RunFolder, create_run
from actionfusion.training.loop import TrainingSettings, fit
from actionfusion.training.progress import ConsoleProgress
from actionfusion.version import __version__
from actionfusion.video.clip import ClipSettings

log = logging.getLogger("actionfusion.training")


def train(
    *,
    out: Path | None = None,
    data: DataSettings = DataSettings(),
    clip: ClipSettings = ClipSettings(),
    network: FusionNetworkSettings = FusionNetworkSettings(),
    augmentation: Augmentation = Augmentation(),
    training: TrainingSettings = TrainingSettings(),
    pretrained: str | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Train a recogniser on a folder of labelled videos and write a run folder.

    Stopping it with Ctrl-C leaves a run with the weights of the best epoch so far.

    Args:
        out: the run folder to write; it must not exist yet, or be empty. None writes ``runs/<date>-<time>``.
        data: which videos, and the split.
        clip: what is cut from each video.
        network: the network; classes, picture size and flow channels follow the data and the clip.
        augmentation: how training clips vary.
        training: how the network learns.
        pretrained: ImageNet weights of VGG-16: ``imagenet`` fetches them, a path reads a local file; none starts from
            random weights.
        seed: of weights, order, sampling, augmentation and dropout.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

    Returns:
        The run folder.

    Raises:
        ActionFusionError: the data, the settings or the run folder are at fault; the message says which.
    """
    out = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    videos = open_data(data)
    videos.check_store(clip.flow)
    network = replace(
        network,
        num_classes=len(videos.listing.labels),
        image_size=clip.flow.size,
        flow_channels=clip.flow_channels,
    )
    torch.manual_seed(seed)
    model = FusionNetwork(network)
    start = str(load_imagenet(model, _checkpoint(pretrained))) if pretrained else "all weights start at random"
    further = {
        "data": describe_data(videos),
        "augmentation": augmentation,
        "training": training,
        "pretrained": "imagenet" if pretrained else None,
        "seed": seed,
        "versions": _versions(),
    }
    run = create_run(out, clip=clip, network=network, labels=videos.listing.labels, further=further)
    write_split(out / SPLIT, videos)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with _log_file(out / LOG):
        _tell(f"{videos.listing.dataset}, {len(videos.listing.labels)} classes, split {videos.split.describe()}")
        for note in (*videos.listing.notes, *videos.split.notes):
            _tell(f"note: {note}")
        _tell(start)
        loaders = _loaders(videos, clip, augmentation, training, seed, pin_memory=chosen.type == "cuda")
        _fit_or_stop(model.to(chosen), loaders, training, run)
    Console(stderr=True).print(Text(f"written to {run.path}"), soft_wrap=True)
    return run.path


def _checkpoint(pretrained: str) -> str | None:
    """The local file, or None for the hub's."""
    return None if pretrained == "imagenet" else pretrained


def _tell(line: str) -> None:
    log.info("%s", line)
    Console(stderr=True).print(Text(line), soft_wrap=True)


def describe_data(videos: LabelledVideos) -> dict[str, object]:
    """What ``config.yaml`` says of the data: no path of this machine, but a digest of the split."""
    settings, split = videos.settings, videos.split
    return {
        "dataset": settings.dataset,
        "split": settings.split,
        "split_name": split.name,
        "split_notes": list(split.notes),
        "seed": settings.seed,
        "validation": settings.validation,
        "validation_fraction": settings.validation_fraction,
        "group_pattern": settings.group_pattern,
        "counts": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "digest": videos.digest(),
    }


def _loaders(
    videos: LabelledVideos,
    clip: ClipSettings,
    augmentation: Augmentation,
    training: TrainingSettings,
    seed: int,
    *,
    pin_memory: bool,
) -> tuple[EpochLoader, EpochLoader | None]:
    workers = training.workers if training.workers is not None else min((os.cpu_count() or 1) - 1, 8)
    part = {"hold_out": "val", "test": "test", "none": None}[videos.settings.validation]
    chosen = videos.part(part) if part else ()  # type: ignore[arg-type]
    if part and not chosen:
        reason = f"split {videos.split.name!r} has no {part} part to validate on"
        raise DatasetError(videos.listing.root, reason, "choose another split, or --data.validation none")
    learn = ClipDataset(videos.sources(videos.split.train, clip.flow), clip, augmentation=augmentation, seed=seed)
    check = ClipDataset(videos.sources(chosen, clip.flow), clip, seed=seed)
    size = training.batch_size
    return (
        EpochLoader(learn, batch_size=size, shuffle=True, workers=workers, pin_memory=pin_memory),
        EpochLoader(check, batch_size=size, shuffle=False, workers=workers, pin_memory=pin_memory) if chosen else None,
    )


def _fit_or_stop(
    model: FusionNetwork, loaders: tuple[EpochLoader, EpochLoader | None], training: TrainingSettings, run: RunFolder
) -> None:
    learn, check = loaders
    try:
        with ConsoleProgress() as progress:
            fit(model, learn, check, training, run=run, progress=progress)
    except KeyboardInterrupt:
        if not (run.path / WEIGHTS).is_file():
            run.save_weights(model)
        _tell("stopped by hand; the run holds its weights so far and can predict")
        raise


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _versions() -> dict[str, str]:
    modules = {"av": av, "numpy": np, "opencv": cv2, "torch": torch}
    own = {"python": platform.python_version(), "actionfusion": __version__}
    return own | {name: str(module.__version__) for name, module in modules.items()}
