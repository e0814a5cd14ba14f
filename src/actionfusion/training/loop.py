"""The training loop: session by session, epoch by epoch, batch by batch.

Source: Ou and Sun 2019, section 3.6: cross-entropy on the last hidden state, all parts trained at the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from actionfusion.data.loading import Batch, EpochLoader
from actionfusion.errors import SettingsError
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.run_folder import RunFolder
from actionfusion.training.progress import Progress
from actionfusion.training.sessions import PAPER_SESSIONS, Plateau, Session

log = logging.getLogger("actionfusion.training")


@dataclass(frozen=True)
class TrainingSettings:
    """How the network learns.

    Args:
        sessions: one after the other, each from the best weights of the one before.
        batch_size: clips a step.
        weight_decay: decoupled, as in AdamW, on weight matrices and kernels alone; 0 is the paper's plain Adam.
        clip_norm: largest norm of all gradients together; none clips nothing.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1.
        workers: processes that read videos ahead; none takes one less than there are cores, at most 8.

    Raises:
        SettingsError: a value outside its range.
    """

    sessions: tuple[Session, ...] = PAPER_SESSIONS
    batch_size: int = 4
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    workers: int | None = None

    def __post_init__(self) -> None:
        if not self.sessions:
            raise SettingsError("training.sessions", "there is none", "give at least one session")
        if self.batch_size < 1:
            raise SettingsError("training.batch_size", f"{self.batch_size}", "take 1 or more")
        if self.weight_decay < 0:
            raise SettingsError("training.weight_decay", f"{self.weight_decay}", "take 0 or more")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise SettingsError("training.clip_norm", f"{self.clip_norm}", "take a positive norm, or null")
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError("training.label_smoothing", f"{self.label_smoothing}", "take 0 to below 1")
        if self.workers is not None and self.workers < 0:
            raise SettingsError("training.workers", f"{self.workers}", "take 0 or more, or null")


@dataclass(frozen=True)
class Figures:
    """Mean cross-entropy and accuracy (0 to 1) over a pass, each clip counted once."""

    loss: float
    accuracy: float


def fit(
    network: FusionNetwork,
    training: EpochLoader,
    validation: EpochLoader | None,
    settings: TrainingSettings,
    *,
    run: RunFolder,
    progress: Progress,
) -> list[dict[str, object]]:
    """Train through all sessions; the run folder holds the best weights (or the last, see ``Session.patience``).

    Args:
        network: on the device that it is to train on.
        training: training clips.
        validation: clips that tell when a session ends; none makes every session run all its epochs.
        settings: how to learn.
        run: where weights and metrics go after every epoch.
        progress: told about every batch and epoch.

    Returns:
        The rows of ``metrics.csv``.
    """
    rows: list[dict[str, object]] = []
    for number, session in enumerate(settings.sessions, 1):
        if number > 1:
            network.load_state_dict(run.read_weights())
        log.info("session %d: learning rate %g, at most %d epochs", number, session.learning_rate, session.max_epochs)
        learner = _Learner(network, session, settings, progress)
        plateau = Plateau(session.patience if validation else None)
        for epoch in range(session.max_epochs):
            started = time.perf_counter()
            progress.epoch_started(number, epoch + 1, session.max_epochs, len(training))
            learnt = learner.learn(training, epoch, len(rows) + 1)
            checked = measure(network, validation.epoch(0)) if validation else None
            better = checked is None or plateau.update(checked.accuracy, checked.loss)
            if better or plateau.patience is None:
                run.save_weights(network)
            rows.append(
                {
                    "epoch": len(rows) + 1,
                    "session": number,
                    "learning_rate": learner.rate,
                    "train_loss": learnt.loss,
                    "train_accuracy": learnt.accuracy,
                    "val_loss": checked.loss if checked else "",
                    "val_accuracy": checked.accuracy if checked else "",
                    "seconds": round(time.perf_counter() - started, 3),
                }
            )
            run.write_metrics(rows)
            progress.epoch_ended(rows[-1])
            if plateau.reached:
                log.info("session %d: accuracy has not risen for %d epochs", number, session.patience)
                break
    return rows


def measure(network: nn.Module, batches: Iterator[Batch]) -> Figures:
    """Loss and accuracy over a pass, without dropout and without learning."""
    device = next(network.parameters()).device
    network.eval()
    total = _Total()
    with torch.inference_mode():
        for batch in batches:
            targets = batch.targets.to(device)
            logits = network(batch.rgb.to(device), batch.flow.to(device))
            total.add(float(F.cross_entropy(logits, targets)), logits, targets)
    return total.figures()


class _Total:
    """Running sums over a pass."""

    def __init__(self) -> None:
        self.loss, self.correct, self.count = 0.0, 0, 0

    def add(self, mean_loss: float, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.loss += mean_loss * len(targets)
        self.correct += int((logits.argmax(1) == targets).sum())
        self.count += len(targets)

    def figures(self) -> Figures:
        count = max(self.count, 1)
        return Figures(self.loss / count, self.correct / count)


class _Learner:
    """The network and its optimiser during one session."""

    def __init__(
        self, network: FusionNetwork, session: Session, settings: TrainingSettings, progress: Progress
    ) -> None:
        self.network, self.session, self.settings, self.progress = network, session, settings, progress
        # Decay belongs on weights that multiply features; gains, shifts and biases are left alone.
        decayed = [tensor for tensor in network.parameters() if tensor.ndim > 1]
        others = [tensor for tensor in network.parameters() if tensor.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        # Without decay AdamW is Adam to the bit.
        self.optimizer = torch.optim.AdamW(groups, lr=session.learning_rate, betas=(0.9, 0.999), eps=1e-8)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def learn(self, training: EpochLoader, epoch: int, epoch_of_run: int) -> Figures:
        """One epoch; ``epoch`` counts from 0 in the session, ``epoch_of_run`` from 1 over all sessions."""
        device = next(self.network.parameters()).device
        self.network.train()
        total = _Total()
        for step, batch in enumerate(training.epoch(epoch_of_run)):
            progress = (epoch + step / len(training)) / self.session.max_epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.session.rate_at(progress)
            targets = batch.targets.to(device, non_blocking=True)
            logits = self.network(batch.rgb.to(device, non_blocking=True), batch.flow.to(device, non_blocking=True))
            loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
            self.optimizer.step()
            total.add(loss.item(), logits, targets)
            figures = total.figures()
            self.progress.batch_done(figures.loss, figures.accuracy)
        return total.figures()
