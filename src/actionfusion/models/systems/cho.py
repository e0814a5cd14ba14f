"""Local motion by group sparsity, classified by group-sparse codes in the space of several kernels.

    rgb [B, T, 3, H, W] --trajectories--> [B, M, D] --groups that rebuild the clip's motion--> which of them are local
    all, and local alone, in bags of words --8 chi-square kernels, weighted--> codes over training clips --> residuals

A clip is of the class whose training clips rebuild it best.

Source: Cho, Lee, Chang and Oh 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.solving import DescribedClips, SolveReport
from actionfusion.models.systems.described import DescribedSystem, UInt8Array, grey_pictures
from actionfusion.models.systems.encoders import BagOfWords, ChannelEncoder
from actionfusion.models.systems.group_sparsity import group_codes, group_residuals, largest_eigenvalue
from actionfusion.models.systems.machines import Integers, Numbers, choose, distances
from actionfusion.models.systems.trajectories import TrajectorySettings, describe_trajectories

_STRENGTHS = (2.0, 10.0, 50.0)  # inverses of the penalty
_UNTESTED = 10.0
_ROUNDS = 10  # of k-means over a clip's trajectories


@dataclass(frozen=True)
class ChoSettings(TrajectorySettings):
    """Settings of the system of Cho et al.

    Args:
        groups: of like trajectories, that a clip's are divided into.
        sparsity: share of the penalty that leaves no group; the larger, the fewer groups are local motion.
        words: V, of each channel's bag.
        learned: the most descriptors of the training clips that words are found from, evenly from all.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**TrajectorySettings.LEAST, "groups": 1, "words": 1, "learned": 1}
    SHARES: ClassVar[tuple[str, ...]] = ("sparsity",)

    groups: int = 20
    sparsity: float = 0.3
    words: int = 1000
    learned: int = 100_000

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of short trajectories in 32-pixel frames and small vocabularies, for tests.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"groups": 4, "words": 8, **changes})


class Cho(DescribedSystem):
    """Local motion and multiple-kernel group-sparse classification of Cho et al.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = ChoSettings
    source: ClassVar[Source] = Source(
        "Cho, Lee, Chang and Oh, Robust action recognition using local motion and group sparsity, Pattern Recognition "
        "47(5), 2014",
        kept="local motion is chosen without labels by group sparsity, local and full motion make several kernels, and "
        "group-sparse codes over the training clips in their space classify by the least residual",
        differs="it follows the abstract, since sizes were not to be had: groups are k-means clusters of a clip's "
        "trajectories, local are those that a group lasso rebuilds their mean from, kernels are chi-square of bags of "
        "words and weighted by their alignment with the classes, a clip of T consecutive frames is read, and the "
        "row of `compare` has 500 words and 500 trajectories",
        published={"ucf11": "88.0 % (as the paper's table gives it; its protocol was not to be had)"},
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {"words": 500, "samples": 500}}
    settings: ChoSettings
    exemplars: Tensor
    labels: Tensor
    spread: Tensor
    kernel_weights: Tensor
    strength: Tensor
    gram: Tensor | None
    largest: Tensor | None

    def __init__(self, settings: ChoSettings | None = None) -> None:
        settings = settings or ChoSettings()
        super().__init__(settings)
        self.encoder = ChannelEncoder(settings.channels, partial(BagOfWords, words=settings.words))
        kernels, classes = 2 * len(settings.channels), settings.num_classes
        # Before it is solved, a random clip of each class stands in for the training clips.
        self.register_buffer("exemplars", torch.rand(classes, kernels, settings.words) / settings.words)
        self.register_buffer("labels", torch.arange(classes, dtype=torch.float32))
        self.register_buffer("spread", torch.ones(kernels))
        self.register_buffer("kernel_weights", torch.full((kernels,), 1 / kernels))
        self.register_buffer("strength", torch.tensor(_UNTESTED))
        self.factor = nn.Parameter(torch.ones(()))
        # Of the training clips, with its largest eigenvalue; made when the first clip is answered.
        self.register_buffer("gram", None, persistent=False)
        self.register_buffer("largest", None, persistent=False)

    @property
    def rows(self) -> tuple[str, ...]:
        """The training clips and their classes."""
        return "exemplars", "labels"

    @property
    def described_width(self) -> int:
        """M * (D + 1)."""
        return self.settings.samples * (sum(self.settings.channels.values()) + 1)

    def describe_pictures(self, pictures: UInt8Array) -> npt.NDArray[np.float32]:
        """Describe the trajectories of one clip, ``[n, D + 1]``; the last column is 1 for local motion."""
        described = describe_trajectories(grey_pictures(pictures), self.settings)
        local = local_motion(described, self.settings.groups, self.settings.sparsity)
        return np.concatenate((described, local[:, None].astype(np.float32)), 1)

    def answer_values(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips: the less the residual, the more."""
        if self.gram is None or self.largest is None:
            self.gram = self._kernel(self.exemplars)
            self.largest = largest_eigenvalue(self.gram)
        products = self._kernel(self._encode(values)).T
        return -self.factor * self._residuals(self.gram, self.largest, products, self.labels, self.strength)

    def _encode(self, values: Tensor) -> Tensor:
        """Make histograms ``[B, C, V]`` of described clips: each channel of all trajectories, then of local ones."""
        rows = values.reshape(len(values), self.settings.samples, -1)
        every, local = rows[..., :-1], rows[..., -1:]
        encoded = torch.cat((self.encoder(every), self.encoder(every * local)), 1)
        return encoded.reshape(len(values), -1, self.settings.words)

    def _kernel(self, histograms: Tensor) -> Tensor:
        """Compute the weighted sum of the kernels ``[B, N]`` of histograms and the training clips."""
        return (-distances(histograms, self.exemplars) / self.spread).exp() @ self.kernel_weights

    def _residuals(
        self, gram: Tensor, largest: Tensor, products: Tensor, labels: Tensor, strength: Tensor | float
    ) -> Tensor:
        number = self.settings.num_classes
        groups = labels.long().clamp(0, number - 1)
        codes = group_codes(gram, products, groups, number, 1 / strength, largest=largest)
        return group_residuals(gram, products, groups, codes, number)

    def make_rows(self, saved: Mapping[str, Tensor]) -> None:
        """Make rows, and forget the kernel of those before."""
        super().make_rows(saved)
        self.gram = None

    def _load_from_state_dict(self, *given: Any, **named: Any) -> None:
        super()._load_from_state_dict(*given, **named)
        self.gram = None

    @torch.no_grad()
    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the words, the weights of the kernels, and the penalty; the training clips are kept."""
        rows = clips.values.reshape(len(clips.values), self.settings.samples, -1)
        self.encoder.solve(rows[..., :-1], self.settings.learned)
        self.exemplars = self.each(self._encode, clips.values)
        self.labels = clips.targets.to(self.spread)
        apart = distances(self.exemplars, self.exemplars)
        self.spread.copy_(apart.mean((0, 1)).clamp(min=1e-6))
        kernels = (-apart / self.spread).exp()
        self.kernel_weights.copy_(alignments(kernels, self.labels))
        self.gram = None

        def margins_of(learn: Integers, held: Integers, strength: float) -> Numbers:
            known, asked = torch.from_numpy(learn), torch.from_numpy(held)
            # What is held out has no part in the weights either.
            gram = kernels[known] @ alignments(kernels[known][:, known], self.labels[known])
            within, products = gram[:, known], gram[:, asked]
            margins = -self._residuals(within, largest_eigenvalue(within), products, self.labels[known], strength)
            return margins.double().cpu().numpy()

        factor, report = choose(clips, margins_of, _STRENGTHS, _UNTESTED)
        self.factor.fill_(factor)
        self.strength.fill_(report.strength)
        return report


def local_motion(described: npt.NDArray[np.float32], groups: int, sparsity: float) -> npt.NDArray[np.bool_]:
    """Tell which trajectories ``[n]`` are in the groups that a clip's mean descriptor is rebuilt from.

    Args:
        described: ``[n, D]``.
        groups: of like trajectories, by k-means.
        sparsity: of the codes, a share of the penalty that leaves none.
    """
    rows = torch.from_numpy(described)
    if not len(rows):
        return np.zeros(0, np.bool_)
    centers = rows[torch.linspace(0, len(rows) - 1, min(groups, len(rows))).long()]
    for _ in range(_ROUNDS):
        nearest = torch.cdist(rows, centers).argmin(1)
        member = F.one_hot(nearest, len(centers)).to(rows)
        counts = member.sum(0)[:, None]
        centers = torch.where(counts > 0, member.T @ rows / counts.clamp(min=1), centers)
    products = (rows @ rows.mean(0))[:, None]
    sizes = torch.bincount(nearest, minlength=len(centers))
    whole = torch.zeros(len(centers)).index_add(0, nearest, products[:, 0].square()).sqrt() / sizes.clamp(min=1).sqrt()
    codes = group_codes(rows @ rows.T, products, nearest, len(centers), float(sparsity * whole.max()))
    return np.asarray((codes[:, 0] != 0).numpy())


def alignments(kernels: Tensor, labels: Tensor) -> Tensor:
    """Weigh kernels ``[N, N, C]`` by how well they say which pairs of clips are of one class, ``[C]``, of the sum 1.

    The weight is the correlation over all pairs of two clips, where it is positive.

    Source: Cristianini et al. 2001 (kernel-target alignment).
    """
    pairs = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels)[pairs].to(kernels)[:, None]
    wanted, given = same - same.mean(), kernels[pairs] - kernels[pairs].mean(0)
    alike = ((wanted * given).sum(0) / given.square().sum(0).sqrt().clamp(min=1e-6)).clamp(min=0)
    return alike / alike.sum() if alike.sum() > 0 else torch.full_like(alike, 1 / len(alike))
