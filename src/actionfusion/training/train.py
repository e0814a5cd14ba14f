"""The command ``train``: a folder of labelled videos becomes a run folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from actionfusion.data.listing import shown
from actionfusion.data.loading import EpochLoader, KeyedDataset
from actionfusion.data.recorded_split import refuse_other_data
from actionfusion.errors import SettingsError, TrainingError, WeightsError
from actionfusion.files import refuse_unwritable, remove_partials
from actionfusion.models.model import VideoModel
from actionfusion.run_folder import CONFIG, LOG, WEIGHTS, RunFolder, at_work, open_run, refuse_taken
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.training.checkpoint import load_network, read_network, read_state
from actionfusion.training.chosen import choose, rooted
from actionfusion.training.cost import StepCost
from actionfusion.training.distributed import Processes, find_processes
from actionfusion.training.dry_run import try_one_batch
from actionfusion.training.guards import fitting_batch, is_lost_connection, is_lost_reader, is_out_of_memory
from actionfusion.training.interrupt import NEVER, stop_switch
from actionfusion.training.loop import fit
from actionfusion.training.plan import Plan, make_plan
from actionfusion.training.probe import BesideRun, SolvedRun, solve_beside, solve_model
from actionfusion.training.progress import ConsoleProgress, SilentProgress, features_progress
from actionfusion.training.recipe import Recipe
from actionfusion.training.resume import (
    forget_begun,
    forget_paths,
    is_begun,
    recorded_recipe,
    refuse_contradictions,
    refuse_unknown_paths,
    remember_paths,
)
from actionfusion.training.start import Start, refuse_other_start

log = logging.getLogger("actionfusion.training")

Loaders = tuple[EpochLoader, EpochLoader | None]


def train(
    recipe: Recipe | None = None,
    *,
    root: PathLike | None = None,
    out: Path | None = None,
    device: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
    **changes: Any,
) -> Path:
    """Train a recogniser on a folder of labelled videos and write a run folder.

    Ctrl-C stops it after the step that it is at; a second Ctrl-C stops it at once.  Either leaves a run that predicts
    with the weights of the best epoch so far, and that ``resume`` goes on with.

    Args:
        recipe: what is trained, on what, and how; None is the run's own with ``resume``, else the recipe of the model's
            name, and ``small`` for fusion.
        root: folder of the videos, a folder for each class, or a table of them, or an address; the same as data.root.
        out: the run folder to write; it must not exist yet, or be empty. None writes ``runs/<name of the root>``, with
            a number where that is taken.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
        resume: go on with the run in ``out`` from its last checkpoint, to the result of an uninterrupted training; the
            recipe is the run's, and a setting that contradicts it is refused.
        dry_run: check all that can be checked, try one batch, say what time and memory it takes, and write nothing.
        changes: fields of the recipe to replace, such as ``data`` and ``seed``.

    Returns:
        The run folder; a dry run does not make it.

    Raises:
        ActionFusionError: the data, the settings or the run folder are at fault; the message says which.
    """
    if dry_run and (resume or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        raise SettingsError("dry_run", "tries a new training in one process", "leave out --resume and torchrun")
    if resume:
        return _go_on(out, recipe, root, device, changes)
    processes = find_processes(device)
    given, out, chosen = choose(recipe, root, out, changes)
    processes.wait()  # that none finds the run folder which another has begun, and takes the next name
    plan = make_plan(given, processes)
    with at_work(out) if processes.main and not dry_run else nullcontext():
        return _train(plan, out, chosen, device, dry_run=dry_run)


def _train(
    plan: Plan,
    out: Path,
    chosen: Sequence[str],
    device: str | None,
    *,
    dry_run: bool = False,
    begun: RunFolder | None = None,
) -> Path:
    processes = plan.processes
    if processes.main:
        if dry_run:
            refuse_unwritable(out / CONFIG)
        if dry_run or not is_begun(out):
            refuse_taken(out)
    cost = plan.check(out)
    model = plan.make_network()
    start = _start(plan, model)
    if begun is not None:
        refuse_other_start(begun, start)
    said = tuple(_introduction(plan, start))
    if processes.main:
        _show(*chosen, f"videos: {shown(str(plan.videos.listing.root))}", *said)
    if dry_run:
        with _explained(plan, cost):
            try_one_batch(plan, model, cost, _say)
        return out
    # Before there is a run folder, so that the same command goes on where computing features was stopped.
    learn, check, computed = _samples(plan, model, cost)
    if not processes.main:
        return _help(plan, cost, model, plan.run_folder(out), plan.loaders(learn, check), resume=False)
    solved = solve_model(plan, model, learn, check) if model.solved else solve_beside(plan, model, learn, check)
    forget_begun(out)  # not before all that can fail has been done
    run = plan.create_run(out, start)
    remember_paths(run, plan.recipe, device)
    with _log_file(out / LOG), _explained(plan, cost):
        for line in (*said, *filter(None, [computed])):
            log.info("%s", line)
        if computed:
            _show(f"{computed}, kept in {plan.recipe.features.folder}; they can be deleted")
        _say(solved.line)
        _fit_or_stop(plan, model, run, plan.loaders(learn, check), solved, resume=False)
    return _finished(run)


def _go_on(
    out: Path | None, recipe: Recipe | None, root: PathLike | None, device: str | None, changes: Mapping[str, Any]
) -> Path:
    if out is None:
        raise SettingsError("out", "is not given", "say which run to go on with: --resume --out RUN")
    recorded, recorded_device = recorded_recipe(out)
    given = rooted((recipe or recorded).changed(**changes), root, changes)
    given = given.changed(features=given.features.beside(out))
    device = device or recorded_device
    processes = find_processes(device)
    with at_work(out) if processes.main else nullcontext():
        if processes.share.processes == 1 and is_begun(out):
            begun = open_run(out)
            refuse_unknown_paths(begun, given.data, given.features)
            plan = make_plan(given, processes)
            refuse_contradictions(begun.config, plan.config(), out)
            chosen = [f"{out} was stopped before its first checkpoint, and begins again"]
            return _train(plan, out, chosen, device, begun=begun)
        return _resume(out, given, processes)


def _resume(out: Path, given: Recipe, processes: Processes) -> Path:
    run, state = open_run(out), read_state(out)
    if state["stage"] >= len(run.config["training"]["stages"]):
        if processes.main:
            forget_paths(run)  # a kill may have come before that
            Console(stderr=True).print(Text(f"{out}: the training is finished already"), soft_wrap=True)
        return run.path
    refuse_unknown_paths(run, given.data, given.features)
    plan = make_plan(given, processes)
    now = plan.config()
    refuse_contradictions(run.config, now, out)
    refuse_other_data(run, plan.videos)
    cost = plan.check(out)
    model = plan.make_network()
    if plan.from_features:
        load_network(run, model)  # features are those of its backbones
    learn, check, computed = _samples(plan, model, cost)
    loaders = plan.loaders(learn, check)
    if not processes.main:
        return _help(plan, cost, model, run, loaders, resume=True)
    beside = solve_beside(plan, model, learn, check, run)
    _turn_back(out, state["log_size"])
    with _log_file(out / LOG), _explained(plan, cost):
        for name in ("versions", "git"):
            if now[name] != run.config.get(name):
                _say(f"note: other {name} than at the start, {now[name]} now; last digits may differ, or more")
        _say(f"resumed in stage {state['stage'] + 1} after {len(state['rows'])} epochs and {state['step']} steps")
        if computed:
            _say(f"resumed with {computed}")
        if beside.head is not None:
            _say(beside.line)
        _fit_or_stop(plan, model, run, loaders, beside, resume=True)
    return _finished(run)


def _turn_back(out: Path, log_size: int) -> None:
    """Take back what came after the checkpoint: it is done and logged again."""
    remove_partials(out)
    if (out / LOG).is_file():
        os.truncate(out / LOG, min(log_size, (out / LOG).stat().st_size))


def _samples(plan: Plan, model: VideoModel, cost: StepCost) -> tuple[KeyedDataset, KeyedDataset | None, str | None]:
    """Give what is trained and validated on, once all processes have computed their share of it."""
    model.to(plan.processes.device)
    with _explained(plan, cost), features_progress(shown=plan.processes.main) as progress:
        samples = plan.samples(model, progress)
    if plan.from_features:
        with _explained(plan, cost):
            plan.processes.wait()
    return samples


def _help(plan: Plan, cost: StepCost, model: VideoModel, run: RunFolder, loaders: Loaders, *, resume: bool) -> Path:
    """Learn beside the main process, which writes and talks."""
    plan.processes.draw_apart(plan.recipe.seed)
    settings = plan.recipe.training
    with _explained(plan, cost):
        fit(
            model.to(plan.processes.device), *loaders, settings,
            run=run, progress=SilentProgress(), resume=resume, processes=plan.processes,
        )  # fmt: skip
    return run.path


def _start(plan: Plan, model: VideoModel) -> Start:
    """Load what the model starts from; where ImageNet's weights are not here, the way without them is offered too."""
    try:
        return plan.start(model)
    except WeightsError as error:
        if plan.recipe.pretrained != "imagenet" or plan.recipe.model != Recipe.model:
            raise
        remedy = f"{error.remedy}, or train from scratch: --config scratch"
        raise WeightsError(error.subject, error.reason, remedy) from error


def _introduction(plan: Plan, start: Start) -> Iterator[str]:
    """Say what is trained on what; no line names a path of this machine, so that the log can have them all."""
    videos = plan.videos
    yield from videos.listing.describe_choice()
    yield f"{videos.listing.dataset}, {len(videos.listing.labels)} classes, split {videos.split.describe()}"
    yield videos.listing.describe_classes()
    for note in (*videos.listing.notes, *videos.split.notes):
        yield f"note: {note}"
    if videos.settings.validation == "test" and not plan.model.solved:
        yield "note: the test part ends the stages and chooses the weights, so its accuracy flatters"
    first = plan.recipe.training.stages[0]
    if not first.labels:
        yield f"stage 1 of {plan.recipe.model} learns without labels, {first.max_epochs} epochs"
    yield from start.lines


def _finished(run: RunFolder) -> Path:
    forget_paths(run)
    Console(stderr=True).print(Text(f"written to {run.path}"), soft_wrap=True)
    return run.path


def _say(line: str) -> None:
    log.info("%s", line)
    _show(line)


def _show(*lines: str) -> None:
    for line in lines:
        Console(stderr=True).print(Text(line), soft_wrap=True)


def _fit_or_stop(
    plan: Plan, model: VideoModel, run: RunFolder, loaders: Loaders, beside: BesideRun | SolvedRun, *, resume: bool
) -> None:
    processes, settings = plan.processes, plan.recipe.training
    if isinstance(beside, SolvedRun):
        beside.write(plan, model, run)
        return
    beside.write(run)
    # Several processes would have to agree on the step after which they stop; they stop at once instead.
    switch = stop_switch() if processes.share.processes == 1 else nullcontext(NEVER)
    try:
        with ConsoleProgress() as progress, switch as stop:
            fit(
                model.to(processes.device), *loaders, settings,
                run=run, progress=progress, resume=resume, stop=stop, processes=processes,
            )  # fmt: skip
        if compared := beside.against(run):
            _say(compared)
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
            size = plan.recipe.training.batch_size
            reason = f"a batch of {size} clips did not fit into the memory of {plan.processes.device}"
            raise TrainingError("training.batch_size", reason, fitting_batch(cost, size, plan.free_memory())) from error
        if is_lost_reader(error):
            reason = f"has been ended from outside ({' '.join(str(error).split())[:200]})"
            remedy = "see whether the machine ran out of memory, and take fewer --training.workers; --resume goes on"
            raise TrainingError("a process that reads videos", reason, remedy) from error
        if share.processes > 1 and is_lost_connection(error):
            remedy = "see what that one says; --resume goes on from the last checkpoint"
            subject = f"process {share.rank} of {share.processes}"
            raise TrainingError(subject, "another process has ended in the middle of a step", remedy) from error
        raise


class _Log(logging.FileHandler):
    """Says once that a line could not be written: the training goes on without it."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._said:
            self._said = True
            _show(f"note: {self.baseFilename} cannot be written ({error.strerror}), and will lack lines")


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # of lines that could not be written
            handler.close()
