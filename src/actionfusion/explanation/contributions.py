"""When and in which stream: what each sampled frame and each stream adds to the prediction.

Sources: Shapley 1953, as used for networks by Lundberg and Lee 2017; Ou and Sun 2019, section 3.3 (the gates).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from actionfusion.explanation.target import AttributionTarget, FloatArray

GATE_QUANTILES = (0.1, 0.5, 0.9)


def frame_drops(target: AttributionTarget) -> FloatArray:
    """Measure how far the log-odds of the class fall without each sampled frame.

    In place of the frame comes its neighbour once more, in all streams, as if the frame had never been sampled: the one
    before and the one after in turn, and the mean of both log-odds (at the ends: the only neighbour).  Shortening the
    clip instead would also change how many steps an LSTM makes, when each comes, and what a mean over time is divided
    by, and models of a fixed number of frames could not be asked; so even a frame that the model ignores would count.
    The mean of both neighbours' features would show what moves twice, which no frame does.

    What is measured is what a frame says beyond its neighbours: a clip that stands still has no frame that matters, and
    what several frames show is lost only with all of them.

    Returns:
        ``[T]`` in log-odds; a clip of one frame has no neighbours, and is compared with features of zeros.
    """
    features, last = target.features, target.num_frames - 1
    drops = []
    for position in range(target.num_frames):
        beside = [near for near in (position - 1, position + 1) if 0 <= near <= last]
        instead = [{name: values[:, near : near + 1] for name, values in features.items()} for near in beside]
        if not instead:
            instead = [{name: torch.zeros_like(values) for name, values in features.items()}]
        odds = torch.cat([target.log_odds_of(target.replaced(position, frame)) for frame in instead])
        drops.append(target.log_odds - odds.mean())
    result: FloatArray = torch.stack(drops).float().cpu().numpy()
    return result


def shares(drops: FloatArray) -> FloatArray:
    """Turn drops into shares of all that they change together, -1 to 1; zeros where nothing changes anything.

    What speaks against the class is negative; the absolute shares sum to 1.
    """
    total = float(np.abs(drops).sum())
    result: FloatArray = (drops / total if total else np.zeros_like(drops)).astype(np.float32)
    return result


def running_probabilities(target: AttributionTarget) -> FloatArray:
    """Compute what the model predicts from the first k sampled frames alone, for each k.

    It sees a clip that ends there; a model of a fixed number of frames sees the k-th again in place of those to come.
    The flow around the k-th frame is among what it sees, and reaches L/2 frames of the video further.

    Returns:
        Probabilities ``[T, K]``; the last row is the prediction of the whole clip.
    """
    model, rows = target.model, []
    with torch.no_grad():
        for end in range(1, target.num_frames + 1):
            positions = list(range(end))
            if model.fixed_frames:
                positions += [end - 1] * (target.num_frames - end)
            seen = {name: values[:, positions] for name, values in target.features.items()}
            rows.append(model.scores(model.classify(seen))[0])
    result: FloatArray = torch.stack(rows).float().cpu().numpy()
    return result


@dataclass(frozen=True, eq=False)
class GateStatistics:
    """How far the gates of one LSTM are open at each step, over its units.

    Attributes:
        name: as the model calls it.
        units: H.
        mean: ``[T, 3]``, 0 (shut) to 1 (open), in the order input, forget, output.
        quantiles: ``[3, T, 3]``, of ``GATE_QUANTILES``.
    """

    name: str
    units: int
    mean: FloatArray
    quantiles: FloatArray


def gate_statistics(target: AttributionTarget) -> list[GateStatistics]:
    """Measure the gates of the model's LSTMs over the sampled frames; none where it names no LSTM."""
    memories = target.model.memories
    for lstm in memories.values():
        lstm.recorded = []
    try:
        target.log_odds_of(target.features)
        recorded = {name: lstm.recorded or [] for name, lstm in memories.items()}
    finally:
        for lstm in memories.values():
            lstm.recorded = None
    found = []
    for name, lstm in memories.items():
        gates = recorded[name][-1][0].float()
        quantiles = torch.quantile(gates, gates.new_tensor(GATE_QUANTILES), dim=-1)
        found.append(GateStatistics(name, lstm.hidden_size, gates.mean(dim=-1).cpu().numpy(), quantiles.cpu().numpy()))
    return found


def attention_weights(target: AttributionTarget) -> dict[str, FloatArray]:
    """Collect the weights by which the model reads the clip: ``[T]`` of frames or ``[T, h, w]`` of places, by name."""
    with torch.no_grad():
        weights = target.model.attention(target.features)
    return {name: values[0].float().cpu().numpy() for name, values in weights.items()}


@dataclass(frozen=True)
class StreamContributions:
    """Shapley values of the streams, in log-odds of the class.

    Attributes:
        streams: what the model reads.
        nothing: log-odds where nothing is seen: the clip's mean colour at rest.
        appearance: what the frames add, on average over both orders of adding; None where the model reads none.
        motion: likewise the flow.
        together: how much more both add than one and the other alone; half of it is in each of the values above.  None
            with one stream.
        answer: log-odds of the clip: ``nothing`` and the contributions in sum.
    """

    streams: Literal["both", "rgb", "flow"]
    nothing: float
    appearance: float | None
    motion: float | None
    together: float | None
    answer: float


def stream_contributions(target: AttributionTarget) -> StreamContributions:
    """Compute exact Shapley values of appearance and motion: with two streams, four clips.

    A stream that is not seen has the clip's mean colour in every pixel of every frame, or no motion anywhere.
    """
    frame = target.frame_features(target.blank())
    empty = {
        name: values.expand(-1, target.num_frames, *[-1] * (values.ndim - 2)).contiguous()
        for name, values in frame.items()
    }
    nothing, whole = target.log_odds_of(empty).item(), target.log_odds
    if len(target.streams) == 1:
        (stream,), added = target.streams, whole - nothing
        appearance, motion = (added, None) if stream == "rgb" else (None, added)
        return StreamContributions(stream, nothing, appearance, motion, None, whole)
    rgb, flow = (target.log_odds_of({**empty, stream: target.features[stream]}).item() for stream in ("rgb", "flow"))
    return StreamContributions(
        "both",
        nothing,
        appearance=((rgb - nothing) + (whole - flow)) / 2,
        motion=((flow - nothing) + (whole - rgb)) / 2,
        together=whole - rgb - flow + nothing,
        answer=whole,
    )
