"""All reasons for one class on one clip, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actionfusion.explain.activations import (
    PAPER_CHANNELS,
    LayerActivations,
    StreamName,
    check_layers,
    default_layers,
    layer_activations,
    streams_of,
)
from actionfusion.explain.contributions import (
    GATE_QUANTILES,
    GateStatistics,
    StreamContributions,
    frame_drops,
    gate_statistics,
    running_probabilities,
    shares,
    stream_contributions,
)
from actionfusion.explain.localization import HiddenName, grad_cam, occlusion, rank_agreement
from actionfusion.explain.question import FloatArray, Question
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.layer_norm_lstm import GATE_NAMES
from actionfusion.video.clip import Clip

DIGITS = 5


@dataclass(frozen=True, eq=False)
class Reasons:
    """What speaks for a class on a clip.

    Attributes:
        labels: class names.
        target: place of the class asked for.
        clip: as the network got it.
        answer: log-odds of the class.
        running: probabilities ``[T, K]`` after the first k sampled frames; the last row is the answer.
        moment: the sampled frame that the activations are of, counted from 0: the middle one.
        activations: by stream.
        cam: Grad-CAM, ``[T, h, w]``.
        hidden: what occlusion hid a part of.
        occluded: fall of the log-odds, ``[T, cells, cells]``.
        agreement: rank correlation of the two; None where one is the same everywhere.
        drops: fall of the log-odds without each frame, ``[T]``.
        gates: of the LSTMs.
        streams: Shapley values.
    """

    labels: tuple[str, ...]
    target: int
    clip: Clip
    answer: float
    running: FloatArray
    moment: int
    activations: Mapping[StreamName, Sequence[LayerActivations]]
    cam: FloatArray
    hidden: HiddenName
    occluded: FloatArray
    agreement: float | None
    drops: FloatArray
    gates: Sequence[GateStatistics]
    streams: StreamContributions

    @property
    def probabilities(self) -> FloatArray:
        """Of all classes, ``[K]``."""
        row: FloatArray = self.running[-1]
        return row

    @property
    def label(self) -> str:
        """The class asked for."""
        return self.labels[self.target]

    def as_json(self) -> dict[str, Any]:
        """Plain values: all figures, and of the maps the grids themselves."""
        return {
            "label": self.label,
            "log_odds": round(self.answer, DIGITS),
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
            "maps": {
                "grad_cam": _plain(self.cam),
                "occlusion": _plain(self.occluded),
                "occlusion_hides": self.hidden,
                "rank_agreement": None if self.agreement is None else round(self.agreement, DIGITS),
            },
            "gates": {
                lstm.name: {
                    "order": list(GATE_NAMES),
                    "units": lstm.units,
                    "mean": _plain(lstm.mean),
                    "quantiles": {
                        str(at): _plain(part) for at, part in zip(GATE_QUANTILES, lstm.quantiles, strict=True)
                    },
                }
                for lstm in self.gates
            },
            "activations": {
                "frame": self.moment,
                **{
                    stream: [
                        {"layer": layer.layer, "name": layer.name, "channels": list(layer.channels)} for layer in layers
                    ]
                    for stream, layers in self.activations.items()
                },
            },
        }


def _plain(values: np.ndarray[Any, Any]) -> Any:
    return np.round(values.astype(np.float64), DIGITS).tolist()


def give_reasons(
    recognizer: Recognizer,
    clip: Clip,
    label: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    channels: int = PAPER_CHANNELS,
    hidden: HiddenName = "input",
) -> Reasons:
    """Ask for all reasons.  Nothing of it is random.

    Args:
        recognizer: the trained network.
        clip: cut with its settings.
        label: the class; the most probable one where None.
        layers: numbers of convolutions; the paper's 1, 6 and 9 where None, or in another tower those as deep.
        channels: the strongest so many of each layer.
        hidden: what occlusion hides a part of: the input, or the fused map.

    Raises:
        SettingsError: a class, a layer or a number of channels that there is not.
        RecipeMismatch: a clip of another flow recipe.
    """
    layout = recognizer.network.settings.layout
    wanted = default_layers(layout) if layers is None else tuple(layers)
    check_layers(layout, wanted)
    question = Question.of(recognizer, clip, label)
    moment = question.num_frames // 2
    activations = {
        stream: layer_activations(question, stream, wanted, moment=moment, channels=channels)
        for stream in streams_of(recognizer.network)
    }
    cam, occluded = grad_cam(question), occlusion(question, hidden=hidden)
    return Reasons(
        labels=recognizer.labels,
        target=question.target,
        clip=clip,
        answer=question.answer,
        running=running_probabilities(question),
        moment=moment,
        activations=activations,
        cam=cam,
        hidden=hidden,
        occluded=occluded,
        agreement=rank_agreement(cam, occluded),
        drops=frame_drops(question),
        gates=gate_statistics(question),
        streams=stream_contributions(question),
    )
