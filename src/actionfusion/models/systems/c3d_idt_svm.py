"""C3D beside improved trajectories, before one linear support vector machine.

    rgb [B, T, 3, H, W] --C3D on 16 frames in each 8, fc6 averaged--> [B, 4096], length 1
                        --improved trajectories, Fisher vectors-----> [B, F], length 1, beside it --machine--> [B, K]

C3D stays as it starts: from the weights of a file or of a run of `c3d`, or at random, which training says.

Source: Tran, Bourdev, Fergus, Torresani and Paluri 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from actionfusion.errors import SettingsError, WeightsError
from actionfusion.models.model import Features
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.solving import DescribedClips, SolveReport
from actionfusion.models.systems.c3d import C3D, C3DSettings
from actionfusion.models.systems.described import DescribedSystem, UInt8Array, full_precision, grey_pictures
from actionfusion.models.systems.encoders import ChannelEncoder, FisherVectors
from actionfusion.models.systems.machines import LinearMachine
from actionfusion.models.systems.trajectories import TrajectorySettings, describe_trajectories
from actionfusion.models.weights import Checkpoint, Fc6Start, FlowStart, LoadReport, read_checkpoint

_LENGTH, _STRIDE = 16, 8  # frames of C3D's clips, and from one to the next
_PREFIX = "c3d."


@dataclass(frozen=True)
class C3DAndTrajectoriesSettings(TrajectorySettings):
    """Settings of C3D beside trajectories.

    Args:
        frames: T, consecutive frames of a clip, 16 or more.
        crop: height and width of the middle of the frames that C3D sees, in pixels (112 in the paper).
        width: channels of C3D's first convolution.
        fc_width: units of fc6.
        gaussians: of each channel's mixture.
        learned: the most descriptors of the training clips that mixtures are found from, evenly from all.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {
        **TrajectorySettings.LEAST, "frames": _LENGTH, "crop": 16, "width": 1, "fc_width": 1, "gaussians": 1,
        "learned": 1,
    }  # fmt: skip

    improved: bool = True
    crop: int = 112
    width: int = 64
    fc_width: int = 4096
    gaussians: int = 256
    learned: int = 100_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop > self.image_size:
            reason = f"{self.crop} px are more than the frames' {self.image_size} px"
            raise SettingsError("network.crop", reason, "take larger frames")

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow C3D, short trajectories in 32-pixel frames and small vocabularies, for tests.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        small = {"frames": 16, "improved": False, "gaussians": 2, "crop": 28, "width": 2, "fc_width": 16}
        return super().tiny(num_classes, **{**small, **changes})


class C3DAndTrajectories(DescribedSystem):
    """fc6 of C3D and Fisher vectors of improved trajectories, in one linear machine.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = C3DAndTrajectoriesSettings
    source: ClassVar[Source] = Source(
        "Tran, Bourdev, Fergus, Torresani and Paluri, Learning spatiotemporal features with 3D convolutional networks, "
        "ICCV 2015; trajectories: Wang and Schmid, ICCV 2013",
        kept="fc6 of C3D averaged over clips of 16 frames that overlap by 8, beside improved trajectories' Fisher "
        "vectors, each of length 1, and a linear support vector machine",
        differs="one network and not three; its Sports-1M weights have to be given as a file, and without one it "
        "starts at random and stays so; it sees the middle of T consecutive frames and not the whole video; the "
        "trajectories differ as in dense_trajectories, and the pictures as in c3d",
        published={"ucf101": "90.4 % (official splits; three networks, pretrained on Sports-1M and I380K, with iDT)"},
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {"gaussians": 64}}
    settings: C3DAndTrajectoriesSettings

    def __init__(self, settings: C3DAndTrajectoriesSettings | None = None) -> None:
        settings = settings or C3DAndTrajectoriesSettings()
        super().__init__(settings)
        network = C3DSettings(
            settings.num_classes, _LENGTH, settings.crop, width=settings.width, fc_width=settings.fc_width
        )
        self.c3d = C3D(network).requires_grad_(requires_grad=False)
        del self.c3d.fc7, self.c3d.fc8
        self.encoder = ChannelEncoder(settings.channels, partial(FisherVectors, gaussians=settings.gaussians))
        self.machine = LinearMachine(settings.fc_width + self.encoder.width, settings.num_classes)

    @property
    def described_width(self) -> int:
        """M * D, of the trajectories, after fc6."""
        return self.settings.samples * sum(self.settings.channels.values())

    def describe(self, features: Features) -> Tensor:
        """Describe normalised pictures ``[B, T, 3, H, W]`` by fc6, of length 1, and by trajectories."""
        margin = (self.settings.image_size - self.settings.crop) // 2
        inner = features["rgb"][..., margin:, margin:][..., : self.settings.crop, : self.settings.crop]
        starts = range(0, self.settings.frames - _LENGTH + 1, _STRIDE)
        with torch.no_grad(), full_precision(inner):
            fc6 = torch.stack([self.c3d.run_to_fc6(inner[:, start : start + _LENGTH]) for start in starts]).mean(0)
            return torch.cat((F.normalize(fc6, dim=1).half(), super().describe(features)), 1)

    def describe_pictures(self, pictures: UInt8Array) -> npt.NDArray[np.float32]:
        """Describe the trajectories of one clip, ``[n, D]``."""
        return describe_trajectories(grey_pictures(pictures), self.settings)

    def answer_values(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips."""
        logits: Tensor = self.machine(self._encode(values))
        return logits

    def _encode(self, values: Tensor) -> Tensor:
        """Put fc6 and the Fisher vectors side by side, each of length 1, ``[B, fc_width + F]``."""
        vectors = F.normalize(self.encoder(self._descriptors(values)), dim=1)
        return torch.cat((values[:, : self.settings.fc_width], vectors), 1)

    def _descriptors(self, values: Tensor) -> Tensor:
        return values[:, self.settings.fc_width :].reshape(len(values), self.settings.samples, -1)

    @torch.no_grad()
    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the mixtures, then the machine."""
        self.encoder.solve(self._descriptors(clips.values), self.settings.learned)
        return self.machine.solve(self.each(self._encode, clips.values), clips)

    def load_pretrained(
        self, source: str | Path, *, fc6: Fc6Start = "file", flow_start: FlowStart = "random"
    ) -> LoadReport:
        """Put weights of a file into C3D, by the names of the model `c3d`, which the usual ports of Sports-1M have.

        Raises:
            WeightsError: no file, or none of its tensors has a name and shape of C3D's.
        """
        if source == "imagenet":
            return super().load_pretrained(source, fc6=fc6, flow_start=flow_start)
        report = self.load_fitting(read_checkpoint(Path(source)), fc6=fc6)
        if not any(name.startswith(_PREFIX) for name in report.loaded):
            raise WeightsError(source, "holds nothing of C3D", "give weights of C3D, or a run of the model c3d")
        return report

    def load_fitting(self, given: Checkpoint, *, fc6: Fc6Start = "file") -> LoadReport:
        """Do as any model does, and take a checkpoint of `c3d` for the C3D of this one."""
        own = self.state_dict()
        renamed = {_PREFIX + name if _PREFIX + name in own else name: value for name, value in given.tensors.items()}
        return super().load_fitting(replace(given, tensors=renamed), fc6=fc6)
