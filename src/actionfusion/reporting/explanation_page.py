"""The page of ``explain``: one HTML file that needs nothing but itself, and the video where that is large.

No script, no network: pictures are data URIs, charts are HTML or inline SVG, and a policy in the page forbids the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actionfusion.explanation.contributions import GateStatistics, StreamContributions, shares
from actionfusion.explanation.explanation import Explanation
from actionfusion.explanation.target import FloatArray
from actionfusion.models.layer_norm_lstm import GATE_NAMES
from actionfusion.reporting.filmstrip import (
    Picture,
    common_scale,
    data_uri,
    flow_pictures,
    flow_wheel,
    square,
    webp_uri,
)
from actionfusion.reporting.heatmaps import activation_picture, drawn_flow, heat_over, scaled_heat, weight_heat
from actionfusion.reporting.rendering import environment
from actionfusion.video.reading import read_frames

MOST_LISTED = 5
# A larger video is named, not held in the page; browsers are slow with data URIs much beyond.
MOST_INLINED_BYTES = 6_000_000
STREAM_NAMES = {"rgb": "Appearance", "flow": "Motion"}
CHART_WIDTH, CHART_HEIGHT = 300, 110


@dataclass(frozen=True)
class FrameWeight:
    """The weight of a frame by one of the model's weights of frames, and its share of the clip's largest."""

    value: float
    share: float


@dataclass(frozen=True)
class Moment:
    """One sampled frame on the page, with its pictures in the order of the page's rows."""

    number: int
    time: str
    pictures: Sequence[Picture]
    drop: float
    share: float
    probability: float
    weights: Sequence[FrameWeight]


@dataclass(frozen=True)
class Step:
    """A bar of the waterfall from nothing seen to the whole clip; both ends as shares of the chart's width."""

    name: str
    value: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class GateLine:
    """One gate in a chart: SVG paths of its mean and of the band between the outer quantiles."""

    name: str
    mean: str
    band: str
    first: float
    last: float


def render_explanation(title: str, explanation: Explanation, video: Path) -> str:
    """Render the page; the same explanation and video give the same text.

    Args:
        title: the name of the video.
        explanation: what is shown.
        video: the overlay, in the same folder as the page.
    """
    order = np.argsort(-explanation.probabilities, kind="stable").tolist()
    scale = common_scale([explanation.clip])
    moments = _moments(explanation, scale)
    drops = explanation.drops
    # The largest rise and the largest fall of the log-odds, for the chart's scale; never both 0.
    reach = (max(float(-drops.min()), 0.0), max(float(drops.max()), 0.0)) if drops.any() else (0.0, 1.0)
    rows = ["occlusion"] if explanation.cam is None else ["Grad-CAM", "occlusion"]
    rows += [name for name, weights in explanation.attention.items() if weights.ndim == 3]
    if explanation.clip.flow is not None:
        rows.append("flow to the next frame")
    content = video.read_bytes()
    template = environment().get_template("explain.html.j2")
    return template.render(
        title=title,
        explanation=explanation,
        best=explanation.labels[order[0]],
        probability=float(explanation.probabilities[explanation.target]),
        ranking=[(explanation.labels[at], float(explanation.probabilities[at])) for at in order[:MOST_LISTED]],
        rows=rows,
        weighed=[name for name, weights in explanation.attention.items() if weights.ndim == 1],
        moments=moments,
        strongest=max(moments, key=lambda moment: moment.drop),
        reach=reach,
        moved=float(np.abs(drops).sum()),
        scale=scale,
        wheel=None if explanation.clip.flow is None else flow_wheel(scale),
        figures=_activations(explanation, scale),
        gates=[(lstm.name, lstm.units, _gate_lines(lstm)) for lstm in explanation.gates],
        chart=(CHART_WIDTH, CHART_HEIGHT),
        steps=_steps(explanation.streams),
        overlay=data_uri(content, "video/mp4") if len(content) <= MOST_INLINED_BYTES else video.name,
        poster=webp_uri(read_frames(video, [int(explanation.clip.positions[explanation.position])]).images[0]),
        video=video.name,
    )


def _moments(explanation: Explanation, scale: float) -> list[Moment]:
    clip = explanation.clip
    heats = {} if explanation.cam is None else {"Grad-CAM": scaled_heat(explanation.cam)}
    heats["Occlusion"] = scaled_heat(explanation.occluded)
    shown = {name: (weights, weight_heat(weights)) for name, weights in explanation.attention.items()}
    heats |= {name: heat for name, (weights, heat) in shown.items() if weights.ndim == 3}
    weighed = [(weights, heat.flatten()) for weights, heat in shown.values() if weights.ndim == 1]
    flows, parts = flow_pictures(clip, scale), shares(explanation.drops)
    moments = []
    for position, picture in enumerate(clip.rgb):
        frame, where = square(picture.transpose(1, 2, 0)), f"frame {position + 1} of {len(clip.rgb)}"
        pictures = [
            Picture(webp_uri(heat_over(frame, heat[position])), f"{name} on {where}") for name, heat in heats.items()
        ]
        moments.append(
            Moment(
                position + 1,
                f"{clip.times[position]:.2f} s",
                [*pictures, *flows[position : position + 1]],
                float(explanation.drops[position]),
                float(parts[position]),
                float(explanation.running[position, explanation.target]),
                [FrameWeight(float(weights[position]), float(heat[position])) for weights, heat in weighed],
            )
        )
    return moments


def _activations(explanation: Explanation, scale: float) -> list[tuple[str, str]]:
    """Draw Figure 7 for each stream with a backbone: its name and the picture."""
    clip, position = explanation.clip, explanation.position
    inputs = {"rgb": square(clip.rgb[position].transpose(1, 2, 0))}
    if clip.flow is not None and "flow" in explanation.activations:
        inputs["flow"] = drawn_flow(clip, scale)[position]
    return [
        (STREAM_NAMES[stream], webp_uri(activation_picture(inputs[stream], layers)))
        for stream, layers in explanation.activations.items()
    ]


def _steps(streams: StreamContributions) -> list[Step]:
    """Make the bars from nothing to the whole clip, on a scale that holds every end of a bar, and 0."""
    parts = [("appearance", streams.appearance), ("motion", streams.motion)]
    path, at = [("nothing seen", streams.nothing, 0.0, streams.nothing, "total")], streams.nothing
    for name, value in parts:
        if value is not None:
            path.append((name, value, at, at + value, "gain" if value >= 0 else "loss"))
            at += value
    path.append(("the clip", streams.answer, 0.0, streams.answer, "total"))
    ends = [end for _, _, *both, _ in path for end in both]
    low, span = min(*ends, 0.0), max(max(*ends, 0.0) - min(*ends, 0.0), 1e-6)
    return [
        Step(name, value, (min(start, end) - low) / span, (max(start, end) - low) / span, kind)
        for name, value, start, end, kind in path
    ]


def _gate_lines(lstm: GateStatistics) -> list[GateLine]:
    lines = []
    for index, name in enumerate(GATE_NAMES):
        mean = lstm.mean[:, index]
        low, high = lstm.quantiles[0, :, index], lstm.quantiles[-1, :, index]
        there, back = _points(high), _points(low)[::-1]
        band = "M" + "L".join(there + back) + "Z"
        lines.append(GateLine(name, "M" + "L".join(_points(mean)), band, float(mean[0]), float(mean[-1])))
    return lines


def _points(values: FloatArray) -> list[str]:
    """Place values 0..1 in the chart; a single one becomes a level line."""
    if len(values) == 1:
        values = np.repeat(values, 2)
    across: Sequence[float] = np.linspace(0, CHART_WIDTH, len(values)).tolist()
    return [f"{x:.1f} {(1 - float(y)) * CHART_HEIGHT:.1f}" for x, y in zip(across, values, strict=True)]
