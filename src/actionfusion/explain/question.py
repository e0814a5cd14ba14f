"""The question that every reason answers: why does this network hold this clip for that class?

The answer is counted in log-odds of the class, ln(p / (1 - p)): how much the network prefers it to all others together.
Unlike p it does not run into a wall where the network is sure, and unlike the class's own logit it falls when another
class gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actionfusion.errors import SettingsError
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.clip_input import FLOW_ZERO
from actionfusion.models.fusion_network import FusionNetwork, TowerMaps
from actionfusion.video.clip import Clip

FloatArray = npt.NDArray[np.float32]

# Values of stream maps that are held for one batch of changed clips: 64 MiB in single precision.
_BATCH_VALUES = 2**24


def log_odds(logits: Tensor, target: int) -> Tensor:
    """ln(p / (1 - p)) of a class, ``[B]``, from logits ``[B, K]``."""
    others = torch.cat((logits[:, :target], logits[:, target + 1 :]), dim=1)
    return logits[:, target] - others.logsumexp(dim=1)


def find_label(labels: Sequence[str], label: str) -> int:
    """The place of a class.

    Raises:
        SettingsError: no such class.
    """
    if label in labels:
        return labels.index(label)
    near = get_close_matches(label, labels, 1)
    remedy = f"take {near[0]}, or another of its labels.txt" if near else "take one of its labels.txt"
    raise SettingsError("label", f"{label!r} is no class of this run", remedy)


@dataclass(frozen=True, eq=False)
class Question:
    """A network, a clip and a class.

    Attributes:
        network: in evaluation mode.
        rgb: ``[1, T, 3, H, W]`` floating point, 0..255, on the network's device.
        flow: ``[1, T, 2L, H, W]`` floating point codes, 0..255, likewise.
        target: place of the class.
    """

    network: FusionNetwork
    rgb: Tensor
    flow: Tensor
    target: int

    @classmethod
    def of(cls, recognizer: Recognizer, clip: Clip, label: str | None = None) -> Question:
        """Ask about a clip.

        Args:
            recognizer: the trained network.
            clip: cut with its settings.
            label: the class; the most probable one where None.

        Raises:
            RecipeMismatch: a clip of another flow recipe.
            SettingsError: a class that the run does not have.
        """
        target = None if label is None else find_label(recognizer.labels, label)
        probabilities = recognizer.probabilities([clip])[0]
        parameter = next(recognizer.network.parameters())
        rgb, flow = (torch.from_numpy(part).to(parameter)[None] for part in (clip.rgb, clip.flow))
        return cls(recognizer.network, rgb, flow, int(probabilities.argmax()) if target is None else target)

    @property
    def num_frames(self) -> int:
        """T."""
        return self.rgb.shape[1]

    @cached_property
    def maps(self) -> TowerMaps:
        """The towers' maps of the clip, ``[1, T, D, h, w]`` each, without gradients."""
        with torch.no_grad():
            return self.network.tower_maps(self.rgb, self.flow)

    @cached_property
    def answer(self) -> float:
        """Log-odds of the class."""
        return self.odds_of(self.maps).item()

    def nothing(self) -> tuple[Tensor, Tensor]:
        """A frame in which nothing is seen: the clip's mean colour everywhere, and no motion.

        The mean colour is nearer to what the network knows than black; it leaves the clip's tint to be seen.

        Returns:
            ``[1, 1, 3, H, W]`` and ``[1, 1, 2L, H, W]``, as ``rgb`` and ``flow`` are.
        """
        colour = self.rgb.mean(dim=(0, 1, 3, 4)).view(1, 1, 3, 1, 1)
        return colour.expand_as(self.rgb[:, :1]), torch.full_like(self.flow[:, :1], FLOW_ZERO)

    def odds_of(self, maps: TowerMaps) -> Tensor:
        """Log-odds of the class ``[B]`` for changed towers' maps ``[B, T, D, h, w]``, without gradients."""
        with torch.no_grad():
            return log_odds(self.network.classify(self.network.fuse(maps)), self.target)

    def batch(self) -> int:
        """How many changed clips fit into one batch."""
        values = sum(part.numel() for part in self.maps if part is not None)
        return max(1, _BATCH_VALUES // values)

    def with_frame(self, moment: int, changed: TowerMaps) -> TowerMaps:
        """The clip's maps ``[B, T, D, h, w]`` with the frame at one moment changed, ``[B, 1, D, h, w]``."""

        def replaced(maps: Tensor | None, frame: Tensor | None) -> Tensor | None:
            if maps is None or frame is None:
                return None
            many = maps.repeat(len(frame), 1, 1, 1, 1)
            many[:, moment] = frame[:, 0]
            return many

        return TowerMaps(replaced(self.maps.rgb, changed.rgb), replaced(self.maps.flow, changed.flow))
