"""Writes a run as it grows: weights, metrics, curves and checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from actionfusion.curves import save_curves
from actionfusion.errors import SettingsError
from actionfusion.run_folder import CURVES, RunFolder, writing
from actionfusion.training.checkpoint import TrainingState, save_checkpoint
from actionfusion.training.learner import Learner

TENSORBOARD = "tensorboard"
_DRAWING = 0.05  # the most that drawing the curves may add to a training, as a share of its time
_CHARTS = {
    "loss/train": "train_loss",
    "loss/validation": "val_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "val_accuracy",
    "learning_rate": "learning_rate",
    "speed/samples_per_second": "samples_per_second",
    "speed/data_wait": "data_wait",
}


class RunWriter:
    """Writes a run; of several processes the main one alone does.

    Args:
        run: the folder.
        learner: whose weights are kept.
    """

    def __init__(self, run: RunFolder, learner: Learner) -> None:
        self.run, self.learner, self.processes = run, learner, learner.processes
        self.drawn, self.next_drawing = 0, 0.0

    def save_weights(self) -> None:
        """Put the network's weights in place of those that are there.

        Raises:
            RunFolderError: they cannot be written.
        """
        if self.processes.main:
            self.run.save_weights(self.learner.network)

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
        if time.monotonic() >= self.next_drawing:
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
        began = time.monotonic()
        with writing(self.run.path / CURVES):
            save_curves(rows, self.run.path / CURVES)
        ended = time.monotonic()
        self.drawn, self.next_drawing = len(rows), ended + (ended - began) / _DRAWING

    def save_checkpoint(self, state: TrainingState) -> None:
        """Replace the run's checkpoint.

        Raises:
            RunFolderError: it cannot be written; the one before it is whole.
        """
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
