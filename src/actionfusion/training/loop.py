"""The training loop: stage by stage, epoch by epoch, batch by batch.

Source: Ou and Sun 2019, section 3.6: cross-entropy on the last hidden state, all parts trained at the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from actionfusion.data.loading import EpochLoader
from actionfusion.models.model import VideoModel
from actionfusion.peak import matrix_peak
from actionfusion.run_folder import RunFolder
from actionfusion.training.checkpoint import TrainingState, load_checkpoint
from actionfusion.training.checkpointing import RunWriter
from actionfusion.training.cost import training_cost
from actionfusion.training.distributed import Processes
from actionfusion.training.guards import refuse_targets_out_of_range
from actionfusion.training.interrupt import NEVER, StopRequested, StopSwitch
from actionfusion.training.learner import Learner
from actionfusion.training.measuring import Figures, measure
from actionfusion.training.progress import Progress
from actionfusion.training.settings import PRECISIONS, TrainingSettings
from actionfusion.training.stages import Stage
from actionfusion.training.throughput import Speed, speed

log = logging.getLogger("actionfusion.training")


def fit(
    network: VideoModel,
    training: EpochLoader,
    validation: EpochLoader | None,
    settings: TrainingSettings,
    *,
    run: RunFolder,
    progress: Progress,
    resume: bool = False,
    stop: StopSwitch = NEVER,
    processes: Processes | None = None,
) -> list[dict[str, object]]:
    """Train through all stages; the run folder holds the best weights (or the last, see ``Stage.patience``).

    Args:
        network: on the device that it is to train on.
        training: training clips.
        validation: clips that decide when a stage ends; none makes every stage run all its epochs.
        settings: how to learn.
        run: where weights, metrics and checkpoints go.
        progress: called after every batch and epoch.
        resume: go on from the run's checkpoint; the result is the same as without the interruption, on the CPU to the
            bit.
        stop: ends the training between two steps, with a checkpoint.
        processes: that learn together; none is this one alone.

    Returns:
        The rows of ``metrics.csv``.

    Raises:
        KeyboardInterrupt: ``stop`` was turned on.
        RunFolderError: the run cannot be written, or has no checkpoint to go on from.
        DatasetError: a class number that the network has no output for.
        TrainingError: the loss is no number or has exploded.
    """
    refuse_targets_out_of_range(network.settings.num_classes, training, validation)
    learner = Learner(network, settings, processes)
    writer = RunWriter(run, learner)
    state = load_checkpoint(run, learner) if resume else TrainingState()
    if not resume:
        writer.save_checkpoint(state)
    try:
        while state.stage < len(settings.stages):
            stage = settings.stages[state.stage]
            _announce(stage, state)
            progress.epoch_started(
                state.stage + 1, state.epoch + 1, stage.max_epochs, steps=len(training), done=state.step
            )
            for _ in _steps(learner, training, stage, state, progress):
                if settings.checkpoint_steps and state.step % settings.checkpoint_steps == 0:
                    writer.save_checkpoint(state)
                stop.check()
            reached = _speed(learner, training, state)
            checked = _validate(learner, validation if stage.labels else None, state, stop)
            better = checked is None or state.plateau.update(checked.accuracy, checked.loss)
            state.end_epoch(_row(state, stage, len(training), checked, reached))
            settled = state.plateau.reached(stage.patience)
            ended = settled or state.epoch == stage.max_epochs
            save = writer.keep_weights(better=better, every=stage.patience is None, ended=ended)
            writer.save_epoch(state.rows)
            progress.epoch_ended(state.rows[-1])
            if settled:
                log.info("stage %d: accuracy has not risen for %d epochs", state.stage + 1, stage.patience)
            if ended:
                state.end_stage()
                if state.stage < len(settings.stages):
                    writer.reload_weights()
            if save:
                writer.save_checkpoint(state)
    except StopRequested:
        writer.save_checkpoint(state)
        writer.draw_curves(state.rows)
        raise KeyboardInterrupt from None
    writer.draw_curves(state.rows)
    return state.rows


def _steps(
    learner: Learner, training: EpochLoader, stage: Stage, state: TrainingState, progress: Progress
) -> Iterator[None]:
    """Do the rest of an epoch step by step; between two steps ``state`` says all that there is to know."""
    started = time.perf_counter() - state.seconds
    asked = time.perf_counter()
    for step in training.steps(len(state.rows) + 1, state.step):
        state.waited += time.perf_counter() - asked
        rate = _rate(stage, state.epoch, state.step, len(training))
        state.totals.add(learner.step(step, rate, labels=stage.labels))
        state.step += 1
        state.seconds = time.perf_counter() - started
        figures = state.totals.figures()
        progress.step_done(figures.loss, figures.accuracy)
        yield
        asked = time.perf_counter()


def _validate(
    learner: Learner, validation: EpochLoader | None, state: TrainingState, stop: StopSwitch
) -> Figures | None:
    """Measure loss and accuracy over the whole validation part, each clip counted once over all processes."""
    if validation is None:
        return None
    started = time.perf_counter()
    learner.processes.agree(learner.network)
    own = measure(learner.network, stop.watch(validation.epoch(0)), learner.settings.precision)
    state.seconds += time.perf_counter() - started
    return learner.processes.sum(own).figures()


def _rate(stage: Stage, epoch: int, step: int, steps: int) -> float:
    return stage.rate_at((epoch + step / steps) / stage.max_epochs)


def _speed(learner: Learner, training: EpochLoader, state: TrainingState) -> Speed:
    """Find how fast the epoch's learning was."""
    cost = training_cost(
        type(learner.network), learner.network.settings, learner.settings, cached=training.dataset.cached
    )
    return speed(
        clips=state.totals.count,
        seconds=state.seconds,
        waited=state.waited,
        flops_per_clip=cost.flops,
        peak=matrix_peak(learner.device, PRECISIONS[learner.settings.precision]) * learner.processes.share.processes,
    )


def _announce(stage: Stage, state: TrainingState) -> None:
    if state.epoch == state.step == 0:
        log.info(
            "stage %d: learning rate %g, at most %d epochs%s",
            state.stage + 1,
            stage.learning_rate,
            stage.max_epochs,
            "" if stage.labels else ", without labels",
        )


def _row(state: TrainingState, stage: Stage, steps: int, checked: Figures | None, reached: Speed) -> dict[str, object]:
    trained = state.totals.figures()
    return {
        "epoch": len(state.rows) + 1,
        "session": state.stage + 1,
        "learning_rate": _rate(stage, state.epoch, steps - 1, steps),
        "train_loss": trained.loss,
        "train_accuracy": trained.accuracy if stage.labels else "",
        "val_loss": checked.loss if checked else "",
        "val_accuracy": checked.accuracy if checked else "",
        "seconds": round(state.seconds, 3),
        "samples_per_second": round(reached.samples_per_second, 3),
        "data_wait": round(reached.data_wait, 4),
        "tflops": round(reached.tflops, 6),
        "peak_share": round(reached.peak_share, 4),
    }
