"""``train --dry_run``: one batch is tried, and the whole training estimated from it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from actionfusion.data.handover import THROUGH_A_PIPE, lack_of_shared_memory
from actionfusion.data.loading import ClipDataset, EpochLoader, Step
from actionfusion.models.model import VideoModel
from actionfusion.plain_progress import duration, giga
from actionfusion.training.cost import StepCost
from actionfusion.training.described import describe_clips
from actionfusion.training.features import feature_work, train_from_features
from actionfusion.training.guards import refuse_targets_out_of_range
from actionfusion.training.learner import Learner
from actionfusion.training.measuring import measure
from actionfusion.training.plan import Plan

_TRIES = 2  # the first pass warms up


@dataclass(frozen=True)
class Timing:
    """Seconds that one batch takes.

    Attributes:
        read: to read it in one process.
        learn: to learn from it.
        answer: to answer it without learning.
        lack: why batches will not go through shared memory, if so.
    """

    read: float
    learn: float
    answer: float
    lack: str | None = None

    def epoch(self, training_batches: int, validation_batches: int, workers: int) -> float:
        """Estimate the seconds of an epoch; worker processes read while the network computes."""

        def together(compute: float) -> float:
            return max(compute, self.read / workers) if workers else compute + self.read

        return training_batches * together(self.learn) + validation_batches * together(self.answer)


def try_one_batch(plan: Plan, network: VideoModel, cost: StepCost, say: Callable[[str], None]) -> None:
    """Read, learn from and answer one batch, and say what the training will take.

    Args:
        plan: what is to be trained.
        network: before its first step.
        cost: of a step.
        say: takes each line.

    Raises:
        ActionFusionError: a video cannot be read, or the loss is no number.
    """
    network.to(plan.processes.device)
    clips = plan.clips()
    if network.solved:
        _try_one_clip(plan, network, clips, cost, say)
        return
    learn, check = plan.loaders(*clips)
    settings = plan.recipe.training
    refuse_targets_out_of_range(network.settings.num_classes, learn, check)
    with TemporaryDirectory(prefix="actionfusion-") as folder:
        read, computing = _few_features(plan, network, clips, Path(folder)) if plan.from_features else (learn, None)
        timing = _time_a_batch(read, Learner(network, settings), plan.workers)
    workers = plan.workers
    epoch = timing.epoch(len(learn.plan.batches(1)), len(check.plan.batches(0)) if check else 0, workers)
    most = sum(stage.max_epochs for stage in settings.stages)
    free = plan.free_memory()
    if computing:
        say(computing)
    frozen = f", {cost.trainable:,} of them trainable" if cost.trainable < cost.parameters else ""
    say(f"network: {cost.parameters:,} parameters{frozen}, {cost.flops / 1e9:.3g} GFLOP a clip forward and backward")
    say(f"a batch of {settings.batch_size}: {timing.read:.3g} s to read in one process, {timing.learn:.3g} s to learn")
    say(
        f"an epoch: about {duration(epoch)}, {len(learn)} steps, {workers} reading processes on {os.cpu_count()} "
        f"cores; at most {most} epochs, {duration(most * epoch)}"
    )
    if timing.lack:
        say(f"{THROUGH_A_PIPE}{timing.lack}")
    say(
        f"memory: about {giga(cost.memory(settings.batch_size))} on {plan.processes.device}"
        + (f", {giga(free)} are free" if free is not None else "")
    )
    say(f"disk: {giga(cost.disk)} for weights and checkpoint")
    say("a dry run: nothing was written")


def _try_one_clip(
    plan: Plan,
    network: VideoModel,
    clips: tuple[ClipDataset, ClipDataset | None],
    cost: StepCost,
    say: Callable[[str], None],
) -> None:
    """Describe a clip of a model that is solved, and say what all of them will take."""
    learn, check = clips
    one = ClipDataset(learn.sources[:1], learn.settings, seed=learn.seed)
    seconds = min(
        _seconds(lambda: describe_clips(plan, network, network, one), plan.processes.device) for _ in range(2)
    )
    views = plan.recipe.features.views if plan.from_features else 0
    count = len(learn) * max(views, 1) + (len(check) if check else 0)
    say(f"network: {cost.parameters:,} parameters, {cost.trainable:,} of them solved from all training clips at once")
    say(f"a clip: {seconds:.3g} s to read and describe; all {count}: about {duration(count * seconds)} in one process")
    say(f"disk: {giga(cost.disk)} for weights and checkpoint")
    say("a dry run: nothing was written")


def _few_features(
    plan: Plan, network: VideoModel, clips: tuple[ClipDataset, ClipDataset | None], folder: Path
) -> tuple[EpochLoader, str]:
    """Compute features of one batch in a temporary folder, and a line about those that the training is to compute."""
    settings, (learn, check) = plan.recipe.features, clips
    assert settings.folder is not None
    missing = feature_work(network, learn, check, settings, prepared=plan.prepared).missing(settings.folder)
    batch = plan.recipe.training.batch_size
    few = ClipDataset(learn.sources[:batch], learn.settings, augmentation=learn.augmentation, seed=learn.seed)
    one_view = replace(settings, folder=folder, views=min(settings.views, 1))
    kept, _, report = train_from_features(network, few, None, one_view, prepared=plan.prepared)
    seconds = report.seconds / report.made
    line = f"features: {missing} clips to compute first, {seconds:.3g} s each, about {duration(missing * seconds)}"
    return plan.loaders(kept, None)[0], line


def _time_a_batch(loader: EpochLoader, learner: Learner, workers: int) -> Timing:
    started = time.perf_counter()
    batch = loader.first()
    step = Step((batch,), count=len(batch.names))
    read = time.perf_counter() - started
    learn = min(_seconds(lambda: learner.step(step, 1e-12), learner.device) for _ in range(_TRIES))
    answer = min(
        _seconds(lambda: measure(learner.network, [batch], learner.settings.precision), learner.device)
        for _ in range(_TRIES)
    )
    return Timing(read, learn, answer, lack_of_shared_memory(batch, workers))


def _seconds(act: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
