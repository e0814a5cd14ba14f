"""Where the model looks: Grad-CAM on the maps that it names, and occlusion, which needs no gradient.

Both give a map for each sampled frame, ``[T, h, w]``, of what speaks for one class there.  The two methods share
nothing but the model; they are compared with each other, and on generated clips with where the actors are.

Sources: Selvaraju et al. 2017 (Grad-CAM); Zeiler and Fergus 2014 (occlusion); Zhang et al. 2016 (the pointing game).
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.explanation.target import AttributionTarget, FloatArray, fitting, log_odds, no_maps
from actionfusion.models.model import VideoModel

HiddenName = Literal["input", "map"]
BoolArray = npt.NDArray[np.bool_]
MOST_CELLS = 8


def grad_cam(target: AttributionTarget) -> FloatArray:
    """Compute Grad-CAM of the class on the model's explained layer.

    A channel weighs at each step as much as the log-odds grow with it there, on average over the places of that step:
    an LSTM may use the same channel otherwise at another time, so steps do not share weights.

    Returns:
        ``[T, h, w]``, 0 or more, in log-odds; maps of fewer steps than frames are interpolated over time.

    Raises:
        SettingsError: a model without such a layer.
    """
    model, kept = target.model, list[Tensor]()

    def start_gradients(output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # until the end of the block below; the layers before this one need none
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # which what follows may change in place

    with torch.no_grad(), target.changed_maps(start_gradients):
        odds = log_odds(model.log_scores(model.classify(target.features)), target.index)
        (gradient,) = torch.autograd.grad(odds.sum(), kept[-1])
    maps, gradient = model.explained_maps(kept[-1].detach()), model.explained_maps(gradient)
    weights = gradient.mean(dim=(-2, -1), keepdim=True)
    return _over_frames(F.relu((weights * maps).sum(dim=2))[0], target.num_frames)


def _over_frames(maps: Tensor, frames: int) -> FloatArray:
    """Interpolate maps ``[t, h, w]`` to ``[frames, h, w]``, linearly between the middles of the steps."""
    if len(maps) != frames:
        over_time = F.interpolate(maps.flatten(1).T[None], frames, mode="linear", align_corners=False)
        maps = over_time[0].T.reshape(frames, *maps.shape[1:])
    found: FloatArray = maps.float().cpu().numpy()
    return found


def occlusion(target: AttributionTarget, *, hidden: HiddenName = "input", cells: int | None = None) -> FloatArray:
    """Measure how far the log-odds of the class fall when a patch is hidden for a moment.

    The patch is two cells wide and sits on each cell of a grid in turn.  In the input it covers RGB with the clip's
    mean colour and the flow with no motion, at the same place, and the backbones run anew for the frames that it
    covers.  On the map it covers all channels with 0, and no layer before the map runs anew, which makes it many times
    as fast with a large backbone.  It lasts one step of the explained layer's maps: a sampled frame, or as many as a
    step stands for.  Without such maps it lasts one frame.

    Args:
        target: model, clip and class.
        hidden: where the patch is put, ``input`` or ``map`` (of the explained layer).
        cells: height and width of the grid; where None, the map's in ``map``, and in ``input`` as many but at most 8,
            since the time grows with the square.

    Returns:
        ``[T, cells, cells]`` in log-odds: above 0 where the patch hid what speaks for the class.

    Raises:
        SettingsError: a grid without cells, or finer than what it covers; a map where the model has none.
    """
    shape = target.map_shape
    if hidden == "map":
        if shape is None:
            raise no_maps()
        side = shape[-1]
    else:
        side = min(target.model.settings.size_of(stream) for stream in target.streams)
    if cells is None:
        most = side if hidden == "map" else MOST_CELLS
        cells = min(side if shape is None else shape[-1], most)
    if not 1 <= cells <= side:
        raise SettingsError("cells", f"a grid of {cells} does not fit {side} positions", f"take 1 to {side}")
    steps = target.num_frames if shape is None else shape[0]
    if hidden == "map":
        masks = _patches(side, cells)
        drops = torch.stack([_hide_map(target, step, masks) for step in range(steps)])
    else:
        ends = [round(step * target.num_frames / steps) for step in range(steps + 1)]
        drops = torch.stack([_hide_input(target, *span, cells) for span in pairwise(ends)])
    return _over_frames(drops.view(-1, cells, cells), target.num_frames)


def _patches(side: int, cells: int) -> Tensor:
    """Make masks ``[cells * cells, side, side]``, true within the patch of a cell."""
    step = side / cells
    spans = torch.zeros(cells, side, dtype=torch.bool)
    for cell in range(cells):
        spans[cell, max(math.floor((cell - 0.5) * step), 0) : math.ceil((cell + 1.5) * step)] = True
    return (spans[:, None, :, None] & spans[None, :, None, :]).flatten(0, 1)


def _hide_input(target: AttributionTarget, start: int, end: int, cells: int) -> Tensor:
    blank, drops = target.blank(), []
    masks = {name: _patches(values.shape[-1], cells).to(values.device) for name, values in target.clips.items()}
    for some in torch.split(torch.arange(cells * cells), target.batch()):
        covered = {
            name: torch.where(masks[name][some][:, None, None], blank[name], values[:, start:end])
            for name, values in target.clips.items()
        }
        changed = target.replaced(start, target.frame_features(covered))
        drops.append(target.log_odds - target.log_odds_of(changed))
    return torch.cat(drops)


def _hide_map(target: AttributionTarget, step: int, masks: Tensor) -> Tensor:
    assert target.map_shape is not None
    whole, drops = target.log_odds, []  # known before the model is changed
    for part in torch.split(masks, fitting(math.prod(target.map_shape))):
        with target.changed_maps(partial(_masked, target.model, step, part)):
            drops.append(whole - target.log_odds_of(target.features))
    return torch.cat(drops)


def _masked(model: VideoModel, step: int, masks: Tensor, output: Tensor) -> Tensor:
    """Repeat an explained layer's output once for each mask, and hide each by its own mask at one step.

    The clip is repeated here and not before, so that the layers before it run for one clip alone.
    """
    many = output.repeat(len(masks), *[1] * (output.ndim - 1))
    model.explained_maps(many)[:, step].masked_fill_(masks[:, None].to(many.device), 0)
    return many


def enlarged(maps: FloatArray, height: int, width: int) -> FloatArray:
    """Enlarge maps ``[T, h, w]`` to ``[T, height, width]``, interpolated linearly between the centres of cells."""
    values = torch.from_numpy(np.ascontiguousarray(maps, np.float32))[:, None]
    result: FloatArray = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)[:, 0].numpy()
    return result


def rank_agreement(first: FloatArray, second: FloatArray) -> float | None:
    """Compute Spearman's rank correlation of two methods' maps, over all frames and cells, on the coarser grid.

    Args:
        first: ``[T, h, w]``.
        second: ``[T, h', w']``; what speaks against the class counts as 0, as it does in Grad-CAM.

    Returns:
        From -1 to 1; None where a map is the same everywhere, which has no ranks.
    """
    side = min(first.shape[-1], second.shape[-1])
    pair = [
        F.adaptive_avg_pool2d(torch.from_numpy(np.maximum(maps, 0))[:, None], side).numpy().ravel()
        for maps in (first, second)
    ]
    if any(np.ptp(values) == 0 for values in pair):
        return None
    return float(spearmanr(*pair).statistic)


def pointing_hits(maps: FloatArray, targets: BoolArray) -> BoolArray:
    """Play the pointing game: find for each frame whether its map's largest value is within the target area.

    Args:
        maps: ``[T, h, w]``; a frame whose map is the same everywhere points nowhere and misses.
        targets: ``[T, H, W]``, true within the target and what is tolerated around it.

    Returns:
        ``[T]``.
    """
    height, width = targets.shape[1:]
    flat = enlarged(maps, height, width).reshape(len(maps), -1)
    hit = targets.reshape(len(targets), -1)[np.arange(len(flat)), flat.argmax(axis=1)]
    result: BoolArray = hit & (np.ptp(flat, axis=1) > 0)
    return result


def share_within(maps: FloatArray, targets: BoolArray) -> npt.NDArray[np.float64]:
    """Measure how much of each frame's map (what speaks for the class) is within the target area.

    Args:
        maps: ``[T, h, w]``.
        targets: ``[T, H, W]``.

    Returns:
        ``[T]``, 0 to 1; NaN for a frame without anything that speaks for the class.
    """
    height, width = targets.shape[1:]
    heat = np.maximum(enlarged(maps, height, width), 0).astype(np.float64)
    total = heat.sum(axis=(1, 2))
    inside = (heat * targets).sum(axis=(1, 2))
    share: npt.NDArray[np.float64] = np.divide(inside, total, out=np.full(len(total), np.nan), where=total > 0)
    return share
