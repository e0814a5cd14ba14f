"""What a training is going to do, with its data found and its settings resolved, before anything is written."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from actionfusion.data.dataset import LabelledVideos, open_data
from actionfusion.data.listing import Part
from actionfusion.data.loading import ClipDataset, EpochLoader, KeyedDataset
from actionfusion.data.recorded_split import write_split
from actionfusion.data.training_rates import training_rates
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.models import model_class
from actionfusion.models.model import VideoModel
from actionfusion.run_folder import SPLIT, RunFolder, create_run, writing
from actionfusion.settings import plain
from actionfusion.training.checkpointing import refuse_without_tensorboard
from actionfusion.training.cost import StepCost, free_memory, training_cost
from actionfusion.training.distributed import Processes
from actionfusion.training.features import Progress, train_from_features
from actionfusion.training.guards import refuse_full_disk, refuse_too_large, refuse_unlearnable, refuse_wrong_gradients
from actionfusion.training.recipe import Recipe
from actionfusion.training.start import Start, start_from
from actionfusion.upgrade import FORMAT
from actionfusion.version import __version__


@dataclass(frozen=True)
class Plan:
    """A training that can begin.

    Attributes:
        recipe: as given, with the model's settings and the clips' streams as resolved.
        videos: found and split.
        processes: that learn together, with this one's device.
    """

    recipe: Recipe
    videos: LabelledVideos
    processes: Processes

    def check(self, out: Path) -> StepCost:
        """Find what would stop the training later.

        Args:
            out: the run folder that is to be written.

        Returns:
            What a step needs.

        Raises:
            ActionFusionError: the store lacks videos or was made by another recipe, a class has no training video, or
                there is too little memory or disk.
        """
        given = self.recipe
        self._refuse_idle_settings()
        folder = given.features.folder
        if folder is not None and folder.absolute().is_relative_to(out.absolute()):
            remedy = "choose a folder beside it, which several runs can share"
            raise SettingsError("features.folder", "is in the run folder, which must not exist yet", remedy)
        self.videos.check_store(given.clip)
        refuse_unlearnable(self.videos)
        if given.training.tensorboard:
            refuse_without_tensorboard()
        if self.model.solved and self.processes.share.processes > 1:
            raise SettingsError("model", f"{given.model} is solved in one process", "start it without torchrun")
        if not given.training.stages[0].labels and self.processes.share.processes > 1:
            reason = f"{given.model} learns without labels first, in one process"
            raise SettingsError("model", reason, "start it without torchrun")
        precision = given.training.precision
        refuse_wrong_gradients(self.model, given.network, precision, self.processes.device.type)
        cost = training_cost(self.model, given.network, given.training, cached=self.from_features or self.model.solved)
        if given.training.check_memory:
            refuse_too_large(cost, given.training.batch_size, self.free_memory())
        refuse_full_disk(out, cost.disk)
        return cost

    @property
    def model(self) -> type[VideoModel]:
        """The class of the model."""
        return model_class(self.recipe.model)

    def _refuse_idle_settings(self) -> None:
        training, without = self.recipe.training, "take --features.cache false and no --features.folder"
        if self.from_features and training.freeze not in (None, "all"):
            reason = f"{training.freeze} leaves layers that learn, and cached features are of backbones that do not"
            raise SettingsError("training.freeze", reason, f"leave it out, or {without}")
        if self.from_features and training.recompute_frames is not None:
            reason = "the backbones do not run where their features are cached"
            raise SettingsError("training.recompute_frames", reason, f"set it to null, or {without}")

    @property
    def from_features(self) -> bool:
        """Whether the backbones' features are read in place of clips."""
        return self.recipe.features.folder is not None

    def free_memory(self) -> int | None:
        """Find the bytes that this process could still take; none where it is not known."""
        free, device = free_memory(self.processes.device), self.processes.device
        return free // self.processes.beside if free is not None and device.type == "cpu" else free

    @property
    def workers(self) -> int:
        """Processes that read videos ahead for this one."""
        chosen = self.recipe.training.workers
        return chosen if chosen is not None else max(min((os.cpu_count() or 1) // self.processes.beside - 1, 8), 0)

    def config(self) -> dict[str, Any]:
        """Give ``config.yaml`` as plain values: every setting as resolved, and no path of this machine."""
        given = self.recipe
        return {
            "format": FORMAT,
            "model": given.model,
            "clip": plain(given.clip),
            "network": plain(given.network),
            "data": describe_data(self.videos),
            "augmentation": plain(given.augmentation),
            "training": plain(given.training),
            "features": given.features.recorded(),
            "pretrained": given.pretrained_name,
            "pretrained_fc6": given.pretrained_fc6,
            "flow_start": given.flow_start,
            "seed": given.seed,
            "processes": self.processes.share.processes,
            "versions": _versions(),
            "git": _git_state(),
        }

    def create_run(self, out: Path, start: Start) -> RunFolder:
        """Start the run folder.

        Args:
            out: the folder.
            start: what the weights start from.

        Raises:
            RunFolderError: it holds something already, or cannot be written.
        """
        own = {"format", "model", "clip", "network"}
        further = {name: part for name, part in self.config().items() if name not in own}
        further |= {"start": start.record, "rates": training_rates(self.videos)}
        given, videos = self.recipe, self.videos
        run = create_run(
            out,
            model=given.model,
            clip=given.clip,
            network=given.network,
            labels=videos.listing.labels,
            further=further,
        )
        with writing(out / SPLIT):
            write_split(out / SPLIT, videos)
        return run

    def run_folder(self, out: Path) -> RunFolder:
        """Give the run folder that another process writes."""
        given = self.recipe
        return RunFolder(out, given.model, given.clip, given.network, self.videos.listing.labels, self.config())

    def make_network(self) -> VideoModel:
        """Make the network with random weights, on the CPU."""
        torch.manual_seed(self.recipe.seed)
        network = self.model(self.recipe.network)
        network.freeze_backbones(self.recipe.training.freeze)
        network.recompute_backbones(self.recipe.training.recompute_frames)
        return network

    def start(self, network: VideoModel) -> Start:
        """Put the weights that the recipe starts from into the new network.

        Raises:
            ActionFusionError: the pretrained weights are missing or do not fit.
        """
        listing = self.videos.listing
        tested = [listing.entries[index].path for index in self.videos.split.test]
        return start_from(network, self.recipe, listing.labels, tested)

    def clips(self) -> tuple[ClipDataset, ClipDataset | None]:
        """Give the training clips, and the clips that end the stages if there are any.

        Raises:
            DatasetError: the split has no part to validate on.
        """
        given, videos = self.recipe, self.videos
        parts: dict[str, Part | None] = {"hold_out": "val", "test": "test", "none": None}
        part = parts[videos.settings.validation]
        chosen = videos.part(part) if part else ()
        if part and not chosen:
            reason = f"split {videos.split.name!r} has no {part} part to validate on"
            raise DatasetError(videos.listing.root, reason, "choose another split, or --data.validation none")
        clip, seed = given.clip, given.seed
        learn = ClipDataset(videos.sources(videos.split.train, clip), clip, augmentation=given.augmentation, seed=seed)
        return learn, ClipDataset(videos.sources(chosen, clip), clip, seed=seed) if chosen else None

    def samples(
        self, network: VideoModel, progress: Progress | None = None
    ) -> tuple[KeyedDataset, KeyedDataset | None, str | None]:
        """Give the clips, or the backbones' features of them, and a line that says what was computed for that.

        Args:
            network: with the backbones' weights, on its device; cached features freeze them.
            progress: called for each clip whose features are computed.

        Raises:
            DatasetError: the split has no part to validate on.
            ActionFusionError: the features cannot be computed, or are those of something else.
        """
        learn, check = self.clips()
        if not self.from_features:
            return learn, check, None
        share = self.processes.share
        cached, checked, report = train_from_features(
            network,
            learn,
            check,
            self.recipe.features,
            prepared=self.prepared,
            workers=self.workers,
            share=(share.rank, share.processes),
            progress=progress,
        )
        others = f", the share of one of {share.processes} processes" if share.processes > 1 else ""
        return cached, checked, f"{report}{others}"

    @property
    def prepared(self) -> bool:
        """Whether clips come from the prepared store."""
        return self.videos.settings.store is not None

    def loaders(self, learn: KeyedDataset, check: KeyedDataset | None) -> tuple[EpochLoader, EpochLoader | None]:
        """Make the batches to learn from, and to validate on."""
        together = partial(
            EpochLoader,
            batch_size=self.recipe.training.batch_size,
            workers=self.workers,
            share=self.processes.share,
            pin_memory=self.processes.device.type == "cuda",
        )
        return (
            together(learn, shuffle=True, accumulate=self.recipe.training.accumulate),
            together(check, shuffle=False) if check is not None else None,
        )


def make_plan(given: Recipe, processes: Processes) -> Plan:
    """Find the videos and resolve the settings.

    Args:
        given: the recipe.
        processes: that are to learn together.

    Raises:
        ActionFusionError: the data or the settings are at fault.
    """
    videos = open_data(given.data)
    return Plan(given.fitted(len(videos.listing.labels)), videos, processes)


def describe_data(videos: LabelledVideos) -> dict[str, Any]:
    """Describe the data for ``config.yaml``: no path of this machine, but a digest of the split."""
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
        # So that a resumed run goes on without them; earlier runs say nothing of it.
        **({"missing": settings.missing} if settings.missing != "refuse" else {}),
    }


def _git_state() -> dict[str, Any] | None:
    """Find the commit of this package's source and whether it was changed since; none outside a checkout of git."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", *words]
        done = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may be within somebody else's checkout
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "../.."))}
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    modules = {"av": av, "numpy": np, "opencv": cv2, "torch": torch}
    own = {"python": platform.python_version(), "actionfusion": __version__}
    return own | {name: str(module.__version__) for name, module in modules.items()}
