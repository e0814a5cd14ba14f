"""The command ``train``: a folder of labelled videos becomes a run folder."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from pathlib import Path

from rich.console import Console
from rich.text import Text

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings
from actionfusion.data.loading import EpochLoader, KeyedDataset
from actionfusion.errors import SettingsError, TrainingError
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.run_folder import LOG, WEIGHTS, RunFolder, open_run, refuse_taken
from actionfusion.training.checkpoint import load_network, read_network, read_state
from actionfusion.training.cost import StepCost
from actionfusion.training.distributed import Processes, find_processes
from actionfusion.training.dry_run import try_one_batch
from actionfusion.training.features import FeatureSettings
from actionfusion.training.guards import fitting_batch, is_lost_connection, is_out_of_memory
from actionfusion.training.interrupt import NEVER, stop_switch
from actionfusion.training.loop import fit
from actionfusion.training.plan import Plan, TrainArguments, make_plan
from actionfusion.training.progress import ConsoleProgress, SilentProgress, features_progress
from actionfusion.training.resume import (
    forget_places,
    recorded_arguments,
    refuse_contradictions,
    refuse_unknown_places,
    remember_places,
)
from actionfusion.training.settings import TrainingSettings
from actionfusion.video.clip import ClipSettings

log = logging.getLogger("actionfusion.training")

Loaders = tuple[EpochLoader, EpochLoader | None]


def train(
    *,
    out: Path | None = None,
    data: DataSettings = DataSettings(),
    clip: ClipSettings = ClipSettings(),
    network: FusionNetworkSettings = FusionNetworkSettings(),
    augmentation: Augmentation = Augmentation(),
    training: TrainingSettings = TrainingSettings(),
    features: FeatureSettings = FeatureSettings(),
    pretrained: str | None = None,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> Path:
    """Train a recogniser on a folder of labelled videos and write a run folder.

    Ctrl-C stops it after the step that it is at; a second Ctrl-C stops it at once.  Either leaves a run that predicts
    with the weights of the best epoch so far, and that ``resume`` goes on with.

    Args:
        out: the run folder to write; it must not exist yet, or be empty. None writes ``runs/<date>-<time>``.
        data: which videos, and the split.
        clip: what is cut from each video.
        network: the network; classes, picture size and flow channels follow the data and the clip.
        augmentation: how training clips vary.
        training: how the network learns.
        features: whether the towers stay as they are, and their maps are computed once before the run begins.
        pretrained: ImageNet weights of VGG-16: ``imagenet`` fetches them, a path reads a local file; none starts from
            random weights.
        seed: of weights, order, sampling, augmentation and dropout.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
        resume: go on with the run in ``out`` from its last checkpoint, to the result of an uninterrupted training; all
            other arguments are the run's, and one that contradicts it is refused.
        dry_run: check all that can be checked, try one batch, tell time and memory, and write nothing.

    Returns:
        The run folder; a dry run does not make it.

    Raises:
        ActionFusionError: the data, the settings or the run folder are at fault; the message says which.
    """
    given = TrainArguments(data, clip, network, augmentation, training, pretrained, seed, device, features)
    processes = find_processes(device)
    if dry_run and (resume or processes.share.processes > 1):
        raise SettingsError("dry_run", "tries a new training in one process", "leave out --resume and torchrun")
    if resume:
        return _go_on(out, given, processes)
    out = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    plan = make_plan(given, processes)
    if processes.main:
        refuse_taken(out)
    cost = plan.check(out)
    model, start = plan.make_network()
    if dry_run:
        _introduce(plan, start)
        with _explained(plan, cost):
            try_one_batch(plan, model, cost, _tell)
        return out
    # Before there is a run folder, so that the same command goes on where computing features was stopped.
    learn, check, computed = _samples(plan, model, cost)
    if not processes.main:
        return _help(plan, cost, model, plan.run_folder(out), plan.loaders(learn, check), resume=False)
    run = plan.create_run(out)
    remember_places(run, data, features.folder, device)
    with _log_file(out / LOG), _explained(plan, cost):
        _introduce(plan, start)
        if computed:
            _tell(computed)
        _fit_or_stop(plan, model, run, plan.loaders(learn, check), resume=False)
    return _finished(run)


def _go_on(out: Path | None, given: TrainArguments, processes: Processes) -> Path:
    if out is None:
        raise SettingsError("out", "is not given", "say which run to go on with: --resume --out RUN")
    run, state = open_run(out), read_state(out)
    defaults = {name: parameter.default for name, parameter in signature(train).parameters.items()}
    recorded = recorded_arguments(out)
    given = given.completed(recorded, defaults)
    if state["session"] >= len(recorded["training"].sessions):
        if processes.main:
            Console(stderr=True).print(Text(f"{out}: the training is finished already"), soft_wrap=True)
        return run.path
    refuse_unknown_places(run, given.data, given.features)
    plan = make_plan(given, processes)
    now = plan.config()
    refuse_contradictions(run.config, now, out)
    cost = plan.check(out)
    model, _ = plan.make_network(load=False)
    if plan.from_features:
        load_network(run, model)  # features are those of its towers
    learn, check, computed = _samples(plan, model, cost)
    loaders = plan.loaders(learn, check)
    if not processes.main:
        return _help(plan, cost, model, run, loaders, resume=True)
    _turn_back(out, state["log_size"])
    with _log_file(out / LOG), _explained(plan, cost):
        for name in ("versions", "git"):
            if now[name] != run.config.get(name):
                _tell(f"note: other {name} than at the start, {now[name]} now; last digits may differ, or more")
        _tell(f"resumed in session {state['session'] + 1} after {len(state['rows'])} epochs and {state['step']} steps")
        if computed:
            _tell(f"resumed with {computed}")
        _fit_or_stop(plan, model, run, loaders, resume=True)
    return _finished(run)


def _turn_back(out: Path, log_size: int) -> None:
    """What came after the checkpoint is done again, and told again."""
    for leftover in out.glob(".*.partial"):
        leftover.unlink()
    if (out / LOG).is_file():
        os.truncate(out / LOG, min(log_size, (out / LOG).stat().st_size))


def _samples(plan: Plan, model: FusionNetwork, cost: StepCost) -> tuple[KeyedDataset, KeyedDataset | None, str | None]:
    """What is learnt from and validated on, once all processes have computed their share of it."""
    model.to(plan.processes.device)
    with features_progress(shown=plan.processes.main) as progress:
        samples = plan.samples(model, progress)
    if plan.from_features:
        with _explained(plan, cost):
            plan.processes.wait()
    return samples


def _help(plan: Plan, cost: StepCost, model: FusionNetwork, run: RunFolder, loaders: Loaders, *, resume: bool) -> Path:
    """Learn beside the main process, which writes and talks."""
    plan.processes.draw_apart(plan.arguments.seed)
    settings = plan.arguments.training
    with _explained(plan, cost):
        fit(
            model.to(plan.processes.device), *loaders, settings,
            run=run, progress=SilentProgress(), resume=resume, processes=plan.processes,
        )  # fmt: skip
    return run.path


def _introduce(plan: Plan, start: str) -> None:
    videos = plan.videos
    _tell(f"{videos.listing.dataset}, {len(videos.listing.labels)} classes, split {videos.split.describe()}")
    for note in (*videos.listing.notes, *videos.split.notes):
        _tell(f"note: {note}")
    if videos.settings.validation == "test":
        _tell("note: the test part ends the sessions and chooses the weights, so its accuracy flatters")
    for line in (start, *plan.towers_notes()):
        _tell(line)


def _finished(run: RunFolder) -> Path:
    forget_places(run)
    Console(stderr=True).print(Text(f"written to {run.path}"), soft_wrap=True)
    return run.path


def _tell(line: str) -> None:
    log.info("%s", line)
    Console(stderr=True).print(Text(line), soft_wrap=True)


def _fit_or_stop(plan: Plan, model: FusionNetwork, run: RunFolder, loaders: Loaders, *, resume: bool) -> None:
    processes, settings = plan.processes, plan.arguments.training
    # Several processes would have to agree on the step after which they stop; they stop at once instead.
    switch = stop_switch() if processes.share.processes == 1 else nullcontext(NEVER)
    try:
        with ConsoleProgress() as progress, switch as stop:
            fit(
                model.to(processes.device), *loaders, settings,
                run=run, progress=progress, resume=resume, stop=stop, processes=processes,
            )  # fmt: skip
    except (KeyboardInterrupt, TrainingError) as error:
        if not (run.path / WEIGHTS).is_file():
            model.load_state_dict(read_network(run))
            run.save_weights(model)
        if isinstance(error, TrainingError):
            log.info("%s", error)
        else:
            log.info("stopped by hand")
            line = f"stopped by hand; the run can predict, and train --resume --out {run.path} goes on with it"
            Console(stderr=True).print(Text(line), soft_wrap=True)
        raise


@contextmanager
def _explained(plan: Plan, cost: StepCost) -> Iterator[None]:
    """Say in one line that the memory was not enough, and what would be, or that another process has ended."""
    share = plan.processes.share
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            size = plan.arguments.training.batch_size
            reason = f"a batch of {size} clips did not fit into the memory of {plan.processes.device}"
            raise TrainingError("training.batch_size", reason, fitting_batch(cost, size, plan.free_memory())) from error
        if share.processes > 1 and is_lost_connection(error):
            remedy = "see what that one says; --resume goes on from the last checkpoint"
            subject = f"process {share.rank} of {share.processes}"
            raise TrainingError(subject, "another process has ended in the middle of a step", remedy) from error
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
