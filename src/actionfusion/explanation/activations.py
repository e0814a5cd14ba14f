"""What the backbones' stages respond to: the paper's Figure 7, activation maps of single channels.

Source: Ou and Sun 2019, section 3.4 and Fig. 7 (layers 1, 6 and 9 of the spatial network, the
first six channels of each).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actionfusion.errors import SettingsError
from actionfusion.explanation.target import AttributionTarget, FloatArray
from actionfusion.models.model import VideoModel
from actionfusion.streams import StreamName

PAPER_LAYERS = (1, 6, 9)
PAPER_DEPTH = 13
PAPER_CHANNELS = 6


@dataclass(frozen=True, eq=False)
class LayerActivations:
    """The strongest channels of a stage at one frame.

    Attributes:
        layer: number of the stage, from 1.
        name: as the backbone calls it, such as ``conv4_2``.
        width: channels of the stage.
        channels: which of them are here, counted from 0, the strongest first.
        maps: ``[len(channels), h, w]`` at the end of the stage.
    """

    layer: int
    name: str
    width: int
    channels: tuple[int, ...]
    maps: FloatArray


def default_layers(depth: int) -> tuple[int, ...]:
    """Choose layers 1, 6 and 9 of 13, as in the paper, or those as deep in a backbone of ``depth`` stages.

    Between them 1 is first and 13 last, so a backbone of 4 gives 1, 2 and 3.
    """
    return tuple(dict.fromkeys(1 + round((layer - 1) * (depth - 1) / (PAPER_DEPTH - 1)) for layer in PAPER_LAYERS))


def check_channels(channels: int) -> None:
    """Refuse to show no channel.

    Raises:
        SettingsError: a number below 1.
    """
    if channels < 1:
        raise SettingsError("channels", f"{channels} channels cannot be shown", "take 1 or more")


def check_layers(model: VideoModel, layers: Sequence[int]) -> None:
    """Refuse stages that a backbone of the model does not have.

    Raises:
        SettingsError: no stage at all, one that is not there, or one twice; a model without backbones.
    """
    backbones = model.all_backbones()
    if not backbones:
        raise SettingsError("layers", "the model has no backbone whose stages could be shown", "leave them out")
    depth = min(len(backbone.stages) for backbone in backbones.values())
    if not layers:
        raise SettingsError("layers", "none is asked for", f"give numbers from 1 to {depth}")
    for layer in layers:
        if not 1 <= layer <= depth:
            reason = f"there is no stage {layer}, the run's backbones have {depth}"
            raise SettingsError("layers", reason, f"give numbers from 1 to {depth}")
    if len(set(layers)) < len(layers):
        raise SettingsError("layers", "a stage is asked for twice", "give each once")


def layer_activations(
    target: AttributionTarget,
    stream: StreamName,
    layers: Sequence[int] | None = None,
    *,
    position: int,
    channels: int = PAPER_CHANNELS,
) -> list[LayerActivations]:
    """Compute activation maps of chosen stages of a stream's backbone at one sampled frame.

    Of each stage come the channels of most energy, the sum of squares over the map at this frame.  The paper shows the
    first six; but a ReLU leaves many channels without any response to a picture, and their maps would be black.

    Args:
        target: model and clip.
        stream: whose backbone.
        layers: numbers of stages, from 1; where None, those of `default_layers`.
        position: of the sampled frame, from 0.
        channels: how many of each stage; all of them where it has fewer.

    Raises:
        SettingsError: a stream without a backbone, a stage that there is not, no channel, or no such frame.
    """
    model, backbone = target.model, target.model.backbone(stream)
    if backbone is None:
        reason = f"the model has no backbone of {stream}"
        raise SettingsError("stream", reason, f"take {' or '.join(model.all_backbones()) or 'another model'}")
    if layers is None:
        layers = default_layers(len(backbone.stages))
    check_layers(model, layers)
    check_channels(channels)
    if not 0 <= position < target.num_frames:
        reason = f"there is no sampled frame {position}"
        raise SettingsError("position", reason, f"take 0 to {target.num_frames - 1}")
    with torch.no_grad():
        pictures = model.normalizers[stream](target.clips[stream][:, position : position + 1]).flatten(0, 1)
        maps = backbone.stage_maps(pictures, [backbone.stages[layer - 1] for layer in layers])
    found = []
    for layer in layers:
        name = backbone.stages[layer - 1]
        values = maps[name][0]
        energy = values.square().sum(dim=(1, 2))
        best = energy.argsort(descending=True, stable=True)[:channels]
        shown: FloatArray = values[best].float().cpu().numpy()
        found.append(LayerActivations(layer, name, len(energy), tuple(best.tolist()), shown))
    return found
