"""When and in which stream: what each sampled frame and each of the two inputs adds to the answer.

Sources: Shapley 1953, as used for networks by Lundberg and Lee 2017; Ou and Sun 2019, section 3.3 (the gates).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from actionfusion.explain.question import FloatArray, Question
from actionfusion.models.fusion_network import StreamsName, TowerMaps
from actionfusion.models.layer_norm_lstm import LayerNormLSTM

GATE_QUANTILES = (0.1, 0.5, 0.9)


def frame_drops(question: Question) -> FloatArray:
    """How far the log-odds of the class fall without each sampled frame.

    In place of the frame comes its neighbour once more, RGB and flow, as if it had never been sampled: the one before
    and the one after in turn, and the mean of both answers (at the ends: the only neighbour).  Shortening the sequence
    instead would also change how many steps the LSTMs make, when each comes, and what the mean over time is divided by;
    so even a frame that the network takes no notice of would count.  The mean of both neighbours' maps would show what
    moves twice, which no frame does.

    What is measured is what a frame says beyond its neighbours: a clip that stands still has no frame that matters, and
    what several frames show is lost only with all of them.

    Returns:
        ``[T]`` in log-odds; a clip of one frame has no neighbours, and is held against empty maps.
    """
    last = question.num_frames - 1
    drops = []
    for moment in range(question.num_frames):
        beside = [place for place in (moment - 1, moment + 1) if 0 <= place <= last]
        instead = [_frame(question.maps, place) for place in beside] or [_empty(question.maps)]
        odds = torch.cat([question.odds_of(question.with_frame(moment, maps)) for maps in instead])
        drops.append(question.answer - odds.mean())
    result: FloatArray = torch.stack(drops).float().cpu().numpy()
    return result


def _frame(maps: TowerMaps, moment: int) -> TowerMaps:
    return TowerMaps(*(None if part is None else part[:, moment : moment + 1] for part in maps))


def _empty(maps: TowerMaps) -> TowerMaps:
    return TowerMaps(*(None if part is None else torch.zeros_like(part[:, :1]) for part in maps))


def shares(drops: FloatArray) -> FloatArray:
    """Drops as shares of all that they change together, -1 to 1; zeros where nothing changes anything.

    What speaks against the class is negative; the absolute shares sum to 1.
    """
    total = float(np.abs(drops).sum())
    result: FloatArray = (drops / total if total else np.zeros_like(drops)).astype(np.float32)
    return result


def running_probabilities(question: Question) -> FloatArray:
    """What the network says of the first k sampled frames alone, for each k.

    Fusion and LSTMs run over these frames as over a clip that ends there.  The flow around the k-th frame is among what
    they see, and reaches L/2 frames of the video further.

    Returns:
        Probabilities ``[T, K]``; the last row is the answer to the whole clip.
    """
    network, maps = question.network, question.maps
    rows = []
    with torch.no_grad():
        for end in range(1, question.num_frames + 1):
            first = TowerMaps(*(None if part is None else part[:, :end] for part in maps))
            rows.append(network.classify(network.fuse(first)).float().softmax(dim=1)[0])
    result: FloatArray = torch.stack(rows).cpu().numpy()
    return result


@dataclass(frozen=True, eq=False)
class GateStatistics:
    """How far the gates of one LSTM are open at each step, over its units.

    Attributes:
        name: ``conv``, ``fc`` (the two LSTM*) or ``last``.
        units: H.
        mean: ``[T, 3]``, 0 (shut) to 1 (open), in the order input, forget, output.
        quantiles: ``[3, T, 3]``, of ``GATE_QUANTILES``.
    """

    name: str
    units: int
    mean: FloatArray
    quantiles: FloatArray


def gate_statistics(question: Question) -> list[GateStatistics]:
    """The gates of the network's LSTMs over the sampled frames; none where the head is the mean over time."""
    network = question.network
    if network.settings.temporal_head == "mean":
        return []
    lstms: dict[str, nn.Module] = {**dict(network.branch_lstms.items()), "last": network.last_lstm}
    inputs: dict[str, Tensor] = {}
    hooks = [
        lstm.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, lstm in lstms.items()
    ]
    try:
        question.odds_of(question.maps)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for name, lstm in lstms.items():
        assert isinstance(lstm, LayerNormLSTM)
        with torch.no_grad():
            gates = lstm.gates(inputs[name])[0].float()
        quantiles = torch.quantile(gates, gates.new_tensor(GATE_QUANTILES), dim=-1)
        found.append(GateStatistics(name, lstm.hidden_size, gates.mean(dim=-1).cpu().numpy(), quantiles.cpu().numpy()))
    return found


@dataclass(frozen=True)
class StreamContributions:
    """Shapley values of the two inputs, in log-odds of the class.

    Attributes:
        streams: what the network sees.
        nothing: log-odds where neither is seen: the clip's mean colour at rest.
        appearance: what the frames add, on average over both orders of adding; None where the network has no such
            stream.
        motion: likewise the flow.
        together: how much more both add than one and the other alone; half of it is in each of the values above.  None
            with one stream.
        answer: log-odds of the clip: ``nothing`` and the contributions in sum.
    """

    streams: StreamsName
    nothing: float
    appearance: float | None
    motion: float | None
    together: float | None
    answer: float


def stream_contributions(question: Question) -> StreamContributions:
    """Exact Shapley values of appearance and motion: with two inputs, four clips.

    A stream that is not seen has the clip's mean colour in every pixel of every frame, or no motion anywhere.
    """
    network, whole = question.network, question.maps
    with torch.no_grad():
        frame = network.tower_maps(*question.nothing())
    empty = TowerMaps(*(None if part is None else part.expand(-1, question.num_frames, -1, -1, -1) for part in frame))
    nothing, answer = question.odds_of(empty).item(), question.answer
    streams = network.settings.streams
    if streams != "both":
        added = answer - nothing
        appearance, motion = (added, None) if streams == "rgb" else (None, added)
        return StreamContributions(streams, nothing, appearance, motion, None, answer)
    rgb = question.odds_of(TowerMaps(whole.rgb, empty.flow)).item()
    flow = question.odds_of(TowerMaps(empty.rgb, whole.flow)).item()
    return StreamContributions(
        streams,
        nothing,
        appearance=((rgb - nothing) + (answer - flow)) / 2,
        motion=((flow - nothing) + (answer - rgb)) / 2,
        together=answer - rgb - flow + nothing,
        answer=answer,
    )
