r"""FstCN: convolutions factorised into space, then time, over a clip and its differences.

    clip        [B, T, C, h, w] --one frame--> SCL, conv, pool --fc--> spatial values  [B, F]  \\
    differences [B, T-1, ...]   --> SCL, conv, pool, P, TCL   --fc--> temporal values [B, F]  -- linear --> [B, n, K]

SCL are the spatial convolutional layers: a backbone.  P is the transformation and permutation operator: of each clip a
picture over (time, feature) is made, with a channel for each position of the map, whose features a learned matrix P
permutes, so that those which belong together are neighbours for the temporal convolutional layers, TCL.  In training
one frame at random stands for the clip; in evaluation each does, and its answer counts as much as it is concentrated.

Source: Sun, Jia, Yeung and Shi 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.models.backbones import make_backbone
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.systems.readout import Readout
from actionfusion.models.systems.single_frame import FrameSettings
from actionfusion.models.systems.towers import Towers
from actionfusion.streams import StreamName

_LEAST_WEIGHT = 1e-6  # of an answer that knows nothing, for clips of which no frame knows anything


def concentration(probabilities: Tensor) -> Tensor:
    """Compute the sparsity concentration index of probabilities ``[..., K]``: 0 of all alike, 1 of one alone."""
    classes = probabilities.shape[-1]
    return (classes * probabilities.amax(-1) - 1) / (classes - 1)


@dataclass(frozen=True)
class FstCNSettings(FrameSettings):
    """Settings of FstCN.

    Args:
        frames: T; 5 in the paper.
        backbone: whose maps are subtracted and convolved: efficientnet_lite0, vgg16, narrow, timm:NAME, or the widths
            of a VGG; own: none, the pictures are subtracted, and the paper's spatial layers see pictures and
            differences.
        width: features of each position before P; 128 in the paper.
        kernels: of each of the two convolutions of TCL, 3x3 and 5x5; 32 in the paper.
        fc: units of each fully connected layer of both branches; 4096 and 2048 in the paper.

    Raises:
        SettingsError: a value out of range, or two that do not go together.
    """

    LEAST: ClassVar[Mapping[str, int]] = {**FrameSettings.LEAST, "width": 1, "kernels": 1}
    OWN_LAYERS: ClassVar[bool] = True

    frames: int = 5
    width: int = 64
    kernels: int = 8
    fc: tuple[int, ...] = (128,)

    @classmethod
    def original(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of the paper's network on 204-pixel frames; six of them have its five differences.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        values = {"frames": 6, "image_size": 204, "width": 128, "kernels": 32, "fc": (4096, 2048), **changes}
        return super().original(num_classes, **values)

    @classmethod
    def tiny(cls, num_classes: int = 101, **changes: Any) -> Self:
        """Make settings of a narrow backbone and three 32-pixel frames, which learn from scratch on a CPU.

        Args:
            num_classes: K.
            changes: other settings, by name.
        """
        return super().tiny(num_classes, **{"frames": 3, "width": 16, "kernels": 4, "fc": (32,), **changes})


class Branch(nn.Module):
    """Convolve maps to ``width`` features at few positions, the start of both branches.

    Args:
        channels: D.
        width: features.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[N, D, h, h]`` to ``[N, width, s, s]``, s a third of h or one more."""
        return F.max_pool2d(F.relu(self.conv(maps)), 3, ceil_mode=True)


class Permutation(nn.Module):
    """Make of a clip's maps one picture over (time, feature), its features permuted by the learned matrix P.

    Args:
        width: features of a position.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(width))

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[B, T, width, s, s]`` to ``[B, s * s, T, width]``."""
        return maps.flatten(3).permute(0, 3, 1, 2) @ self.matrix


class FstCNTower(nn.Module):
    """Both branches after the spatial layers, and the classifier of their values.

    Args:
        settings: how.
        channels: of the maps or pictures.
        side: their height and width.
    """

    def __init__(self, settings: FstCNSettings, channels: int, side: int) -> None:
        super().__init__()
        self.spatial_layers: nn.Module = nn.Identity()
        if not settings.has_backbone:
            own = make_backbone("fstcn", channels, batch_norm=settings.batch_norm)
            self.spatial_layers, channels, side = own, own.out_channels, own.map_size(side)
        side = -(-side // 3)
        self.spatial, self.temporal = (Branch(channels, settings.width) for _ in range(2))
        self.permutation = Permutation(settings.width)
        self.temporal_layers = nn.ModuleList(
            nn.Conv2d(side**2, settings.kernels, size, padding=size // 2) for size in (3, 5)
        )
        self.dropout = nn.Dropout(settings.dropout)
        flat = replace(settings, pool="none")
        self.spatial_readout = Readout(flat, settings.width, side)
        steps = max(settings.frames - 1, 1)
        self.temporal_readout = Readout(flat, 2 * settings.kernels * steps * settings.width, 1)
        both = self.spatial_readout.out_features + self.temporal_readout.out_features
        self.answer = nn.Linear(both, settings.num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Map ``[B, T, C, h, w]`` to logits ``[B, n, K]``, n one in training, else T."""
        # Of a frame alone there is no difference but to itself.
        differences = clip[:, 1:] - clip[:, :-1] if clip.shape[1] > 1 else torch.zeros_like(clip)
        if self.training:
            drawn = torch.randint(clip.shape[1], (len(clip),), device=clip.device)
            clip = clip[torch.arange(len(clip), device=clip.device), drawn].unsqueeze(1)
        spatial = self.spatial_readout(self._apart(self.spatial, clip))
        picture = self.permutation(self._apart(self.temporal, differences))
        convolved = torch.cat([F.relu(layer(picture)) for layer in self.temporal_layers], 1)
        temporal = self.temporal_readout(self.dropout(convolved).flatten(1)[..., None, None])
        logits: Tensor = self.answer(torch.cat((spatial, temporal.unsqueeze(1).expand(-1, clip.shape[1], -1)), 2))
        return logits

    def _apart(self, branch: Branch, clip: Tensor) -> Tensor:
        """Run the spatial layers and a branch's start on each picture of ``[B, t, C, h, w]``."""
        seen: Tensor = branch(self.spatial_layers(clip.flatten(0, 1)))
        return seen.view(*clip.shape[:2], *seen.shape[1:])


class FstCN(Towers):
    """The factorised spatio-temporal convolutional network of Sun et al. 2015.

    Args:
        settings: the defaults with 101 classes where none are given.
    """

    Settings: ClassVar[type[ModelSettings]] = FstCNSettings
    source: ClassVar[Source] = Source(
        "Sun, Jia, Yeung and Shi, Human action recognition using factorized spatio-temporal convolutional networks, "
        "ICCV 2015",
        kept="both branches, a clip and its differences, the operator P and both parallel temporal layers, and scores "
        "weighted by their sparsity concentration index",
        differs="differences are of a pretrained backbone's maps, between sampled frames, not nine frames on; answers "
        "of a clip's frames are weighted, not of crops, and views are averaged, where the paper takes the largest over "
        "clips; all layers learn at once, without the auxiliary classifier; "
        "the original settings have the paper's layers, from pixels",
        published={"ucf101": "88.1 % (official splits; pretrained on ImageNet, several clips and crops of each video)"},
    )
    fixed_frames: ClassVar[bool] = True
    settings: FstCNSettings

    def make_tower(self, stream: StreamName, channels: int) -> nn.Module:
        """Make both branches."""
        return FstCNTower(self.settings, channels, self.settings.side_of(stream))

    def scores(self, logits: Tensor) -> Tensor:
        """Compute probabilities ``[B, K]``: the mean of all answers', by stream and by their concentration."""
        each = logits.float().softmax(-1)
        weights = self._weights(logits) * (concentration(each) + _LEAST_WEIGHT)
        return (each * (weights / weights.sum(1, keepdim=True)).unsqueeze(-1)).sum(1)

    def log_scores(self, logits: Tensor) -> Tensor:
        """Compute log-probabilities ``[B, K]`` of the same mean."""
        each = logits.float().log_softmax(-1)
        weights = self._weights(logits) * (concentration(each.exp()) + _LEAST_WEIGHT)
        return (each + (weights / weights.sum(1, keepdim=True)).log().unsqueeze(-1)).logsumexp(1)
