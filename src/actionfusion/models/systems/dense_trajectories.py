"""Dense and improved trajectories, in a bag of words or in Fisher vectors, before support vector machines.

    rgb [B, T, 3, H, W] --trajectories--> [B, M, D] --words--> [B, C, V] --chi-square machine--> logits [B, K]
                                                    --Gaussians--> [B, F] --linear machine--> logits [B, K]

The C = 4 channels, trajectory, HOG, HOF and MBH, have vocabularies of their own.

Sources: Wang, Klaeser, Schmid and Liu 2011 and 2013; Wang and Schmid 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.solving import DescribedClips, SolveReport
from actionfusion.models.systems.described import DescribedSystem, grey_pictures
from actionfusion.models.systems.encoders import BagOfWords, ChannelEncoder, FisherVectors
from actionfusion.models.systems.machines import ChiSquareMachine, LinearMachine
from actionfusion.models.systems.trajectories import TrajectorySettings, UInt8Array, describe_trajectories


@dataclass(frozen=True)
class DenseTrajectoriesSettings(TrajectorySettings):
    """Settings of dense trajectories.  The defaults are the sizes of 2011.

    Args:
        encoding: bow (words and a chi-square machine, as in 2011) or fisher (Gaussians and a linear one, as in 2013).
        words: V, of each channel's bag (4000 in the paper).
        gaussians: of each channel's mixture (256 in the paper).
        learned: the most descriptors of the training clips that vocabularies are found from, evenly from all.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**TrajectorySettings.LEAST, "words": 1, "gaussians": 1, "learned": 1}

    encoding: Literal["bow", "fisher"] = "bow"
    words: int = 4000
    gaussians: int = 256
    learned: int = 100_000

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of short trajectories in 32-pixel frames and small vocabularies, for tests.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"words": 8, "gaussians": 2, **changes})


class DenseTrajectories(DescribedSystem):
    """Dense trajectories of Wang et al.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = DenseTrajectoriesSettings
    source: ClassVar[Source] = Source(
        "Wang, Klaeser, Schmid and Liu, Action recognition by dense trajectories, CVPR 2011 (journal: IJCV 2013); "
        "improved: Wang and Schmid, Action recognition with improved trajectories, ICCV 2013",
        kept="the grid, scales, flow, length and pruning of trajectories, the shape, HOG, HOF and MBH in tubes of "
        "2 x 2 x 3 cells, words with the multi-channel chi-square kernel; improved: the homography from matches, roots "
        "of histograms, PCA to half, Gaussians, signed roots and length 1",
        differs="a clip of T consecutive frames is read and not the whole video, in square pictures, with thresholds "
        "in pixels scaled from 240 to their height; of its trajectories at most M are kept; the camera's flow is "
        "subtracted and not computed anew on warped pictures, by SIFT and not SURF, and no people are masked; the "
        "penalty is chosen within the training part and not 100; the row of `compare` has 1000 words, not 4000",
        published={
            "ucf101": "85.9 % (official splits; improved, Fisher vectors); 83.5 % (THUMOS 2013 splits; multi-view "
            "super vectors)",
            "ucf11": "84.2 % (leave one group out; 2011, bag of words); 85.4 % (2013)",
            "ucfsports": "88.2 % (leave one out; 2011, bag of words); 89.1 % (2013)",
        },
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "": {"words": 1000},
        "improved": {"encoding": "fisher", "improved": True, "gaussians": 64},
    }
    settings: DenseTrajectoriesSettings

    def __init__(self, settings: DenseTrajectoriesSettings | None = None) -> None:
        settings = settings or DenseTrajectoriesSettings()
        super().__init__(settings)
        self.machine: ChiSquareMachine | LinearMachine
        if settings.encoding == "bow":
            self.encoder = ChannelEncoder(settings.channels, partial(BagOfWords, words=settings.words))
            self.machine = ChiSquareMachine(len(settings.channels), settings.words, settings.num_classes)
        else:
            self.encoder = ChannelEncoder(settings.channels, partial(FisherVectors, gaussians=settings.gaussians))
            self.machine = LinearMachine(self.encoder.width, settings.num_classes)

    @property
    def rows(self) -> tuple[str, ...]:
        """The chi-square machine's tensors of training clips."""
        return tuple(f"machine.{name}" for name in ChiSquareMachine.ROWS) if self.settings.encoding == "bow" else ()

    @property
    def described_width(self) -> int:
        """M * D."""
        return self.settings.samples * sum(self.settings.channels.values())

    def describe_pictures(self, pictures: UInt8Array) -> npt.NDArray[np.float32]:
        """Describe the trajectories of one clip, ``[n, D]``."""
        return describe_trajectories(grey_pictures(pictures), self.settings)

    def answer_values(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips."""
        logits: Tensor = self.machine(self._encode(values))
        return logits

    def _encode(self, values: Tensor) -> Tensor:
        """Encode described clips, as the machine takes them: ``[B, F]``, or ``[B, C, V]``."""
        encoded: Tensor = self.encoder(self._descriptors(values))
        return encoded.reshape(len(encoded), -1, self.settings.words) if self.settings.encoding == "bow" else encoded

    def _descriptors(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), self.settings.samples, -1)

    @torch.no_grad()
    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the vocabularies, then the machine."""
        self.encoder.solve(self._descriptors(clips.values), self.settings.learned)
        return self.machine.solve(self.each(self._encode, clips.values), clips)
