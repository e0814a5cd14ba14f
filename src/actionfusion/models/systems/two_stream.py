"""Two-stream: a network of single frames and one of stacks of flow, whose scores are averaged or classified again.

    pictures [B, T, C, H, W] --backbone--> maps --fc--> logits [B, T, K] of each stream    average: [B, 2T, K]
    probabilities of each stream, averaged over T --L2 norm--> [B, 2K] --linear SVM-->     svm: [B, 2T + 1, K]

Source: Simonyan and Zisserman 2014.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import ReadoutSettings, make_classifier
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName


@dataclass(frozen=True)
class TwoStreamSettings(ReadoutSettings):
    """Settings of the two-stream network.

    Args:
        flow_channels: 2L, channels of the flow input; 20 in the paper.
        scores: how the streams' scores become one: average, or svm, a linear one that learns from the training clips'
            scores; it needs both streams.
        svm_penalty: weight of half the squared length of the SVM's weights beside a clip's loss.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    SHARES: ClassVar[tuple[str, ...]] = (*ReadoutSettings.SHARES, "svm_penalty")

    flow_channels: int = 20
    scores: Literal["average", "svm"] = "average"
    svm_penalty: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scores == "svm" and self.streams != "both":
            reason = f"there is one stream alone, {self.streams}, whose scores the SVM would read"
            raise SettingsError("network.scores", reason, "choose average, or both streams")

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's network: CNN-M-2048 of each stream, the flow of ten frames, 25 places to test.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {"frames": 25, "backbone": "cnn_m", "pool": "none", "fc": (4096, 2048), "dropout": 0.9, **changes}
        return cls(num_classes=num_classes, **values)


class LinearSVM(nn.Linear):
    """Compute the margins of a linear SVM, its weights and biases so many times the parameters.

    A learning rate that suits networks would move weights of margins from 0 to 1 too slowly.
    """

    TIMES = 30.0

    def reset_parameters(self) -> None:
        """Start at zero, since there is but one optimum."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Map ``[B, F]`` to margins ``[B, K]``."""
        return self.TIMES * super().forward(values)

    def loss(self, margins: Tensor, targets: Tensor, penalty: float) -> Tensor:
        """Sum the clips' squared hinge losses, each class against the others, and the penalty of each clip."""
        sides = 2 * F.one_hot(targets, margins.shape[-1]) - 1
        hinges = F.relu(1 - sides * margins.float()).square().sum(-1)
        length = (self.TIMES * self.weight).square().sum()
        return (hinges + penalty / 2 * length).sum() / margins.shape[-1]


class TwoStream(Towers):
    """The two-stream network of Simonyan and Zisserman 2014.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = TwoStreamSettings
    source: ClassVar[Source] = Source(
        "Simonyan and Zisserman, Two-stream convolutional networks for action recognition in videos, NIPS 2014",
        kept="a network of one frame and one of a stack of flow, each trained by itself, and both ways to join scores",
        differs="light pretrained backbones, pooled, the flow's too, where the paper's learns flow from scratch; the "
        "stack is that of the clips, four flow frames by the recipe small and ten in the paper and by the original "
        "settings, which have CNN-M-2048; the SVM learns beside the networks, from the scores that they give the "
        "training clips, by gradients that do not reach them",
        published={
            "ucf101": "88.0 % (official splits; SVM, flow trained with HMDB51 too); 86.9 % averaged; RGB alone 73.0 %, "
            "flow 83.7 %"
        },
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"svm": {"scores": "svm"}}
    settings: TwoStreamSettings

    def __init__(self, settings: TwoStreamSettings | None = None) -> None:
        settings = settings or TwoStreamSettings()
        super().__init__(settings)
        self.svm = LinearSVM(2 * settings.num_classes, settings.num_classes) if settings.scores == "svm" else None

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make the classifier of frames or stacks."""
        return make_classifier(self.settings, channels, self.settings.side_of(stream))

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, 2T, K]``; with the SVM its margins follow them, ``[B, 2T + 1, K]``."""
        logits = super().classify(features)
        if self.svm is None:
            return logits
        streams = logits.detach().float().softmax(-1).view(len(logits), 2, -1, logits.shape[-1]).mean(2)
        margins: Tensor = self.svm(F.normalize(streams, dim=-1).flatten(1).to(logits.dtype))
        return torch.cat((logits, margins.unsqueeze(1)), 1)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Sum the clips' cross-entropies, and for the SVM its own loss, the mean over classes."""
        if self.svm is None:
            return super().loss(logits, targets, smoothing)
        networks = super().loss(logits[:, :-1], targets, smoothing)
        return networks + self.svm.loss(logits[:, -1], targets, self.settings.svm_penalty)

    def log_scores(self, logits: Tensor) -> Tensor:
        """Compute log-probabilities ``[B, K]``: of the average, or the SVM's margins normalised, in their order."""
        return super().log_scores(logits) if self.svm is None else logits[:, -1].float().log_softmax(-1)

    def scores(self, logits: Tensor) -> Tensor:
        """Compute probabilities ``[B, K]``; see `log_scores`."""
        return super().scores(logits) if self.svm is None else logits[:, -1].float().softmax(-1)
