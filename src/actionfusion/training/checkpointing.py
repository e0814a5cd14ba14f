"""Writes a run as it grows: weights, metrics, curves and checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from actionfusion.curves import save_curves
from actionfusion.errors import SettingsError
from actionfusion.run_folder import CURVES, RunFolder, writing
from actionfusion.training.checkpoint import TrainingState, save_checkpoint
from actionfusion.training.learner import Learner

TENSORBOARD = "tensorboard"
_SHARE = 0.05  # the most that drawing, or saving, is to add to a training, as a share of its time
_LONGEST = 30.0  # seconds of learning that a kill may cost
_CHARTS = {
    "loss/train": "train_loss",
    "loss/validation": "val_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "val_accuracy",
    "learning_rate": "learning_rate",
    "speed/samples_per_second": "samples_per_second",
    "speed/data_wait": "data_wait",
}


class _Chore:
    """What is done again and again, within a small share of the time."""

    def __init__(self) -> None:
        self.next = 0.0

    @property
    def due(self) -> bool:
        """Whether doing it now keeps to the share."""
        return time.monotonic() >= self.next

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Do it, and put off the next time by what it took."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self.next = ended + min((ended - began) / _SHARE, _LONGEST)


class RunWriter:
    """Writes a run; of several processes the main one alone does.

    Args:
        run: the folder.
        learner: whose weights are kept.
    """

    def __init__(self, run: RunFolder, learner: Learner) -> None:
        self.run, self.learner, self.processes = run, learner, learner.processes
        self.drawn, self._drawing, self._saving = 0, _Chore(), _Chore()

    def save_weights(self) -> None:
        """Put the network's weights in place of those that are there.

        Raises:
            RunFolderError: they cannot be written.
        """
        if self.processes.main:
            self.run.save_weights(self.learner.network)

    def keep_weights(self, *, better: bool, every: bool, ended: bool) -> bool:
        """Save an epoch's weights if they are to stay, and say, alike in all processes, whether to save the rest too.

        Epochs of seconds are passed over where to save each would take more than a small share of the time.

        Args:
            better: than the weights that are saved.
            every: the last weights are to stay, not the best.
            ended: it was the stage's last epoch.
        """
        due = ended or (better and not every) or bool(self.processes.gather(torch.tensor(self._saving.due))[0])
        if due and (better or every):
            self.save_weights()
        return due

    def reload_weights(self) -> None:
        """Give the weights that were saved last to all processes, and forget the optimiser's moments."""
        if self.processes.main:
            self.learner.network.load_state_dict(self.run.read_weights())
        self.processes.agree(self.learner.network)
        self.learner.restart()

    def save_epoch(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write ``metrics.csv`` and, where the settings want it, the last row for TensorBoard; draw the curves if due.

        Raises:
            RunFolderError: one of them cannot be written.
        """
        if not self.processes.main:
            return
        self.run.write_metrics(rows)
        if self._drawing.due:
            self.draw_curves(rows)
        if self.learner.settings.tensorboard:
            _tell_tensorboard(self.run.path / TENSORBOARD, rows[-1])

    def draw_curves(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace ``curves.png`` where it lacks rows.

        Raises:
            RunFolderError: it cannot be written.
        """
        if not self.processes.main or len(rows) == self.drawn:
            return
        with self._drawing.timed(), writing(self.run.path / CURVES):
            save_curves(rows, self.run.path / CURVES)
        self.drawn = len(rows)

    def save_checkpoint(self, state: TrainingState) -> None:
        """Replace the run's checkpoint.

        Raises:
            RunFolderError: it cannot be written; the one before it is whole.
        """
        with self._saving.timed():
            save_checkpoint(self.run, self.learner, state)


def refuse_without_tensorboard() -> None:
    """Raise SettingsError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        remedy = "pip install 'actionfusion[tensorboard]', or leave it off"
        raise SettingsError("training.tensorboard", "TensorBoard is not installed", remedy)


def _tell_tensorboard(folder: Path, row: Mapping[str, object]) -> None:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  Not everybody has it.

    epoch = int(str(row["epoch"]))
    # An epoch that is done again after an interruption takes the place of the one before.
    with writing(folder), SummaryWriter(folder, purge_step=epoch) as writer:
        for chart, name in _CHARTS.items():
            if row[name] != "":
                writer.add_scalar(chart, row[name], epoch)
