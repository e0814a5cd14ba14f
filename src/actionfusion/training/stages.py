"""The stages of a training: how fast it learns, and when it has learned enough.

Source: Ou and Sun 2019, section 3.6: a first stage at 1e-5 until the accuracy stays (140 epochs), a second from its
result at 1e-6 (46 epochs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from actionfusion.errors import SettingsError


@dataclass(frozen=True)
class Stage:
    """One run through the data, epoch after epoch, at one learning rate.

    Args:
        learning_rate: of Adam.
        max_epochs: the most epochs it takes.
        patience: epochs without a better validation accuracy after which it ends; none means that it runs all epochs
            and keeps its last weights instead of its best.
        schedule: ``constant`` as in the paper, or ``cosine``: from a tenth of the rate up to it over the first
            ``warmup`` of the steps, then down to zero along a half cosine.
        warmup: share of the steps that ``cosine`` climbs for.
        labels: learn the classes; false learns from the clips alone, which is the first stage of few models.  Nothing
            is validated there.

    Raises:
        SettingsError: a value outside its range.
    """

    learning_rate: float = 1e-5
    max_epochs: int = 140
    patience: int | None = 10
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.1
    labels: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < 1:
            raise SettingsError("stages.learning_rate", f"{self.learning_rate}", "take a rate between 0 and 1")
        if self.max_epochs < 1:
            raise SettingsError("stages.max_epochs", f"{self.max_epochs}", "take 1 or more")
        if self.patience is not None and self.patience < 1:
            raise SettingsError("stages.patience", f"{self.patience}", "take 1 or more, or null to run all epochs")
        if not 0 <= self.warmup < 1:
            raise SettingsError("stages.warmup", f"{self.warmup}", "take a share from 0 up to but not including 1")

    def rate_at(self, progress: float) -> float:
        """Find the learning rate when a share ``progress`` (0 to 1) of the stage's steps is done."""
        if self.schedule == "constant":
            return self.learning_rate
        if progress < self.warmup:
            return self.learning_rate * (0.1 + 0.9 * progress / self.warmup)
        descent = (progress - self.warmup) / (1 - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * descent))


PAPER_STAGES = (
    Stage(learning_rate=1e-5, max_epochs=140, patience=10),
    Stage(learning_rate=1e-6, max_epochs=46, patience=10),
)


@dataclass
class Plateau:
    """Notices when validation accuracy no longer rises.

    A tie in accuracy goes to the lower loss, but only a higher accuracy resets the patience: the paper's rule speaks
    of accuracy alone.

    Attributes:
        accuracy: of the best epoch so far; none before the first.
        loss: likewise.
        epochs_since: epochs since the accuracy last rose.
    """

    accuracy: float | None = None
    loss: float | None = None
    epochs_since: int = 0

    def update(self, accuracy: float, loss: float) -> bool:
        """Take an epoch's validation figures; true if they are the best so far."""
        risen = self.accuracy is None or accuracy > self.accuracy
        better = risen or (accuracy == self.accuracy and self.loss is not None and loss < self.loss)
        if better:
            self.accuracy, self.loss = accuracy, loss
        self.epochs_since = 0 if risen else self.epochs_since + 1
        return better

    def reached(self, patience: int | None) -> bool:
        """Tell whether the accuracy has not risen for as many epochs as the patience allows; none allows any number."""
        return patience is not None and self.epochs_since >= patience
