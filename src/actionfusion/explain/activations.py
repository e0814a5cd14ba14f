"""What the towers' layers see: the paper's Figure 7, activation maps of single channels.

Source: Ou and Sun 2019, section 3.4 and Fig. 7 (layers 1, 6 and 9 of the spatial network, the
first six channels of each).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from actionfusion.errors import SettingsError
from actionfusion.explain.question import FloatArray, Question
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.models.vgg16 import TowerLayout, VGGTower, convolution_names

StreamName = Literal["rgb", "flow"]
PAPER_LAYERS = (1, 6, 9)
PAPER_DEPTH = 13
PAPER_CHANNELS = 6


@dataclass(frozen=True, eq=False)
class LayerActivations:
    """The strongest channels of a layer at one frame.

    Attributes:
        layer: number of the convolution, from 1.
        name: as the VGG papers count it, such as ``conv4_2``.
        width: channels of the layer.
        channels: which of them are here, counted from 0, the strongest first.
        maps: ``[len(channels), h, w]`` after the ReLU, 0 or more.
    """

    layer: int
    name: str
    width: int
    channels: tuple[int, ...]
    maps: FloatArray


def streams_of(network: FusionNetwork) -> tuple[StreamName, ...]:
    """The streams that a network has."""
    both: tuple[StreamName, ...] = ("rgb", "flow")
    return both if network.settings.streams == "both" else (network.settings.streams,)


def default_layers(layout: TowerLayout) -> tuple[int, ...]:
    """Layers 1, 6 and 9 of 13, as in the paper, or the layers as deep in a tower of another length.

    Between them 1 is first and 13 last, so a tower of 4 gives 1, 2 and 3.
    """
    depth = len(convolution_names(layout))
    return tuple(dict.fromkeys(1 + round((layer - 1) * (depth - 1) / (PAPER_DEPTH - 1)) for layer in PAPER_LAYERS))


def check_layers(layout: TowerLayout, layers: Sequence[int]) -> None:
    """Refuse layers that a tower does not have.

    Raises:
        SettingsError: no layer at all, one that is not there, or one twice.
    """
    depth = len(convolution_names(layout))
    if not layers:
        raise SettingsError("layers", "none is asked for", f"give numbers from 1 to {depth}")
    for layer in layers:
        if not 1 <= layer <= depth:
            reason = f"there is no convolution {layer}, the run's towers have {depth}"
            raise SettingsError("layers", reason, f"give numbers from 1 to {depth}")
    if len(set(layers)) < len(layers):
        raise SettingsError("layers", "a layer is asked for twice", "give each once")


def layer_activations(
    question: Question, stream: StreamName, layers: Sequence[int], *, moment: int, channels: int = PAPER_CHANNELS
) -> list[LayerActivations]:
    """Activation maps of chosen layers of a tower at one sampled frame.

    Of each layer come the channels of most energy, the sum of squares over the map at this frame.  The paper shows the
    first six; but a ReLU leaves many channels without any answer to a picture, and their maps would be black.

    Args:
        question: network and clip.
        stream: whose tower.
        layers: numbers of convolutions, from 1.
        moment: which sampled frame, from 0.
        channels: how many of each layer; all of them where it has fewer.

    Raises:
        SettingsError: a stream or a layer that the network does not have, no channel, or no such frame.
    """
    network = question.network
    tower: VGGTower | None = network.rgb_tower if stream == "rgb" else network.flow_tower
    if tower is None:
        raise SettingsError("stream", f"the run has no {stream} stream", f"take {network.settings.streams}")
    check_layers(tower.layout, layers)
    if channels < 1:
        raise SettingsError("channels", f"{channels} channels cannot be shown", "take 1 or more")
    if not 0 <= moment < question.num_frames:
        raise SettingsError("moment", f"there is no sampled frame {moment}", f"take 0 to {question.num_frames - 1}")
    names, number, found = convolution_names(tower.layout), 0, {}
    with torch.no_grad():
        pictures, motion = network.normalizer(
            question.rgb[:, moment : moment + 1], question.flow[:, moment : moment + 1]
        )
        values = (pictures if stream == "rgb" else motion).flatten(0, 1)
        for layer in tower.features:
            values = layer(values)
            number += isinstance(layer, nn.Conv2d)
            if isinstance(layer, nn.ReLU) and number in layers:
                energy = values[0].square().sum(dim=(1, 2))
                best = energy.argsort(descending=True, stable=True)[:channels]
                maps: FloatArray = values[0, best].float().cpu().numpy()
                found[number] = LayerActivations(number, names[number - 1], len(energy), tuple(best.tolist()), maps)
    return [found[layer] for layer in layers]
