"""Loss and accuracy over a pass through a part of the data."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from actionfusion.data.loading import Batch
from actionfusion.models.model import VideoModel
from actionfusion.training.settings import PRECISIONS, PrecisionName


@dataclass(frozen=True)
class Figures:
    """Mean cross-entropy and accuracy (0 to 1) over a pass, each clip counted once."""

    loss: float
    accuracy: float


@dataclass
class Totals:
    """Running sums over a pass.

    Attributes:
        loss: sum of the clips' cross-entropies.
        correct: clips that were classified correctly.
        count: clips.
    """

    loss: float = 0.0
    correct: int = 0
    count: int = 0

    def add(self, other: Totals) -> None:
        """Take more clips in."""
        self.loss += other.loss
        self.correct += other.correct
        self.count += other.count

    def figures(self) -> Figures:
        """Give the means; zero where nothing was counted."""
        count = max(self.count, 1)
        return Figures(self.loss / count, self.correct / count)


def totals_of(network: VideoModel, loss: float, logits: torch.Tensor, targets: torch.Tensor) -> Totals:
    """Sum over one batch of the network's logits, ``loss`` being the sum of its clips'."""
    scores = logits if logits.ndim == 2 else network.scores(logits)
    return Totals(loss, int((scores.argmax(1) == targets).sum()), len(targets))


def autocast(device: torch.device, precision: PrecisionName) -> AbstractContextManager[object]:
    """Let the network multiply in that precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def measure(network: VideoModel, batches: Iterable[Batch], precision: PrecisionName = "float32") -> Totals:
    """Sum loss and correct predictions over a pass, without dropout and without learning."""
    device = next(network.parameters()).device
    network.eval()
    totals = Totals()
    with torch.inference_mode(), autocast(device, precision):
        for batch in batches:
            targets = batch.targets.to(device)
            logits = network(**batch.arguments(device))
            totals.add(totals_of(network, float(network.loss(logits, targets)), logits, targets))
    return totals
