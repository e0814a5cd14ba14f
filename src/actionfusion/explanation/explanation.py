"""The explanation of one class on one clip, by all methods together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actionfusion.explanation.activations import (
    PAPER_CHANNELS,
    LayerActivations,
    check_channels,
    check_layers,
    layer_activations,
)
from actionfusion.explanation.contributions import (
    GATE_QUANTILES,
    GateStatistics,
    StreamContributions,
    attention_weights,
    frame_drops,
    gate_statistics,
    running_probabilities,
    shares,
    stream_contributions,
)
from actionfusion.explanation.localization import HiddenName, grad_cam, occlusion, rank_agreement
from actionfusion.explanation.target import AttributionTarget, FloatArray, no_maps
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.layer_norm_lstm import GATE_NAMES
from actionfusion.models.model import VideoModel
from actionfusion.streams import StreamName
from actionfusion.video.clip import Clip

DIGITS = 5


@dataclass(frozen=True, eq=False)
class Explanation:
    """What speaks for a class on a clip.

    Attributes:
        labels: class names.
        target: index of the class.
        clip: as the model saw it.
        log_odds: of the class.
        running: probabilities ``[T, K]`` after the first k sampled frames; the last row is that of the whole clip.
        position: of the sampled frame that the activations are of, counted from 0: the middle one.
        activations: by stream with a backbone.
        cam: Grad-CAM, ``[T, h, w]``; None where the model has no maps for it.
        hidden: what occlusion hid a part of.
        occluded: fall of the log-odds, ``[T, cells, cells]``.
        agreement: rank correlation of the two; None where one is the same everywhere, or there is no Grad-CAM.
        drops: fall of the log-odds without each frame, ``[T]``.
        gates: of the LSTMs.
        attention: weights by which the model reads the clip, by name: ``[T]`` of frames or ``[T, h, w]`` of places.
        streams: Shapley values.
    """

    labels: tuple[str, ...]
    target: int
    clip: Clip
    log_odds: float
    running: FloatArray
    position: int
    activations: Mapping[StreamName, Sequence[LayerActivations]]
    cam: FloatArray | None
    hidden: HiddenName
    occluded: FloatArray
    agreement: float | None
    drops: FloatArray
    gates: Sequence[GateStatistics]
    attention: Mapping[str, FloatArray]
    streams: StreamContributions

    @property
    def probabilities(self) -> FloatArray:
        """Probabilities of all classes, ``[K]``."""
        row: FloatArray = self.running[-1]
        return row

    @property
    def label(self) -> str:
        """Name of the class."""
        return self.labels[self.target]

    def as_json(self) -> dict[str, Any]:
        """Give all figures as plain values, and of the maps the grids themselves; what the model lacks is left out."""
        maps: dict[str, Any] = {} if self.cam is None else {"grad_cam": _plain(self.cam)}
        maps |= {"occlusion": _plain(self.occluded), "occlusion_hides": self.hidden}
        if self.cam is not None:
            maps["rank_agreement"] = None if self.agreement is None else round(self.agreement, DIGITS)
        found: dict[str, Any] = {
            "label": self.label,
            "log_odds": round(self.log_odds, DIGITS),
            "probabilities": dict(zip(self.labels, _plain(self.probabilities), strict=True)),
            "frames": {
                "positions": self.clip.positions.tolist(),
                "times": _plain(self.clip.times),
                "drops": _plain(self.drops),
                "shares": _plain(shares(self.drops)),
                "running_probability": _plain(self.running[:, self.target]),
            },
            "streams": {
                name: round(value, DIGITS) if isinstance(value, float) else value
                for name, value in asdict(self.streams).items()
            },
            "maps": maps,
            "gates": {lstm.name: _gates(lstm) for lstm in self.gates},
        }
        if self.attention:
            found["attention"] = {name: _plain(weights) for name, weights in self.attention.items()}
        if self.activations:
            shown = {
                str(stream): [{"layer": one.layer, "name": one.name, "channels": list(one.channels)} for one in layers]
                for stream, layers in self.activations.items()
            }
            found["activations"] = {"frame": self.position, **shown}
        return found


def _gates(lstm: GateStatistics) -> dict[str, Any]:
    quantiles = zip(GATE_QUANTILES, lstm.quantiles, strict=True)
    return {
        "order": list(GATE_NAMES),
        "units": lstm.units,
        "mean": _plain(lstm.mean),
        "quantiles": {str(at): _plain(part) for at, part in quantiles},
    }


def _plain(values: np.ndarray[Any, Any]) -> Any:
    return np.round(values.astype(np.float64), DIGITS).tolist()


def explain_clip(
    recognizer: Recognizer,
    clip: Clip,
    label: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    channels: int = PAPER_CHANNELS,
    hidden: HiddenName = "input",
) -> Explanation:
    """Explain one class on one clip by all methods that the model allows; nothing of it is random.

    Args:
        recognizer: the trained model.
        clip: cut with its settings.
        label: the class; the most probable one where None.
        layers: numbers of the backbones' stages; the paper's 1, 6 and 9 of 13 where None, or those as deep.
        channels: the strongest so many of each stage.
        hidden: what occlusion hides a part of: the input, or the map of the model's explained layer.

    Raises:
        SettingsError: a class, a stage, a number of channels or a map that there is not.
        RecipeMismatch: a clip of another flow recipe.
    """
    model = recognizer.network
    check_options(model, layers, channels, hidden)
    target = AttributionTarget.of(recognizer, clip, label)
    position = target.num_frames // 2
    cam = None if model.explained_layer is None else grad_cam(target)
    occluded = occlusion(target, hidden=hidden)
    return Explanation(
        labels=recognizer.labels,
        target=target.index,
        clip=clip,
        log_odds=target.log_odds,
        running=running_probabilities(target),
        position=position,
        activations={
            stream: layer_activations(target, stream, layers, position=position, channels=channels)
            for stream in model.all_backbones()
        },
        cam=cam,
        hidden=hidden,
        occluded=occluded,
        agreement=None if cam is None else rank_agreement(cam, occluded),
        drops=frame_drops(target),
        gates=gate_statistics(target),
        attention=attention_weights(target),
        streams=stream_contributions(target),
    )


def check_options(model: VideoModel, layers: Sequence[int] | None, channels: int, hidden: HiddenName) -> None:
    """Refuse what a model does not have, before anything is computed.

    Raises:
        SettingsError: a stage, a number of channels or a map that there is not.
    """
    if hidden == "map" and model.explained_layer is None:
        raise no_maps()
    if layers is not None:
        check_layers(model, layers)
    check_channels(channels)
