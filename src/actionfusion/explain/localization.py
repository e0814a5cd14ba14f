"""Where the network looks: Grad-CAM on the fused map, and occlusion, which needs no gradient.

Both give a map for each sampled frame, ``[T, h, w]``, of what speaks for one class there.  Two ways that share nothing
but the network are held against each other, and on generated clips against where the actors are.

Sources: Selvaraju et al. 2017 (Grad-CAM); Zeiler and Fergus 2014 (occlusion); Zhang et al. 2016 (the pointing game).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.explain.question import FloatArray, Question, log_odds
from actionfusion.models.clip_input import FLOW_ZERO

HiddenName = Literal["input", "map"]
BoolArray = npt.NDArray[np.bool_]
MOST_CELLS = 8


def grad_cam(question: Question) -> FloatArray:
    """Grad-CAM of the class on X_conv.

    A channel weighs at each frame as much as the log-odds grow with it there, on average over the places of that frame:
    the LSTMs may use the same channel otherwise at another time, so frames do not share weights.

    Returns:
        ``[T, h, w]``, 0 or more, in log-odds.
    """
    network = question.network
    with torch.no_grad():
        fused = network.fuse(question.maps)
    with torch.enable_grad():
        fused = fused.detach().requires_grad_()
        odds = log_odds(network.classify(fused), question.target)
        (gradient,) = torch.autograd.grad(odds.sum(), fused)
    weights = gradient.mean(dim=(-2, -1), keepdim=True)
    cam: FloatArray = F.relu((weights * fused.detach()).sum(dim=2))[0].float().cpu().numpy()
    return cam


def occlusion(question: Question, *, hidden: HiddenName = "input", cells: int | None = None) -> FloatArray:
    """How far the log-odds of the class fall when a patch is hidden at one sampled frame.

    The patch is two cells wide and sits on each cell of a grid in turn.  In the input it covers RGB with the clip's
    mean colour and the flow with no motion, at the same place; one frame's towers are run for each patch.  On the fused
    map it covers all channels with 0; no tower is run, which makes it many times as fast with VGG-16.

    Args:
        question: network, clip and class.
        hidden: where the patch lies, ``input`` or (fused) ``map``.
        cells: height and width of the grid; where None, the fused map's in ``map``, and in ``input`` as many but at
            most 8, since the time grows with the square.

    Returns:
        ``[T, cells, cells]`` in log-odds: above 0 where the patch hid what speaks for the class.

    Raises:
        SettingsError: a grid without cells, or finer than what it lies on.
    """
    settings = question.network.settings
    side = settings.image_size if hidden == "input" else settings.map_size
    if cells is None:
        cells = settings.map_size if hidden == "map" else min(settings.map_size, MOST_CELLS)
    if not 1 <= cells <= side:
        raise SettingsError("cells", f"a grid of {cells} cannot lie on {side} places", f"take 1 to {side}")
    masks = _patches(side, cells).to(question.rgb.device)
    drops = [
        _hide_input(question, moment, masks) if hidden == "input" else _hide_map(question, moment, masks)
        for moment in range(question.num_frames)
    ]
    result: FloatArray = torch.stack(drops).view(-1, cells, cells).float().cpu().numpy()
    return result


def _patches(side: int, cells: int) -> Tensor:
    """Masks ``[cells * cells, side, side]``, true where the patch of a cell lies."""
    step = side / cells
    spans = torch.zeros(cells, side, dtype=torch.bool)
    for cell in range(cells):
        spans[cell, max(math.floor((cell - 0.5) * step), 0) : math.ceil((cell + 1.5) * step)] = True
    return (spans[:, None, :, None] & spans[None, :, None, :]).flatten(0, 1)


def _hide_input(question: Question, moment: int, masks: Tensor) -> Tensor:
    rgb, flow = question.rgb[:, moment : moment + 1], question.flow[:, moment : moment + 1]
    colour, _ = question.nothing()
    drops = []
    for part in torch.split(masks[:, None, None], question.batch()):
        with torch.no_grad():
            changed = question.network.tower_maps(torch.where(part, colour, rgb), flow.masked_fill(part, FLOW_ZERO))
        drops.append(question.answer - question.odds_of(question.with_frame(moment, changed)))
    return torch.cat(drops)


def _hide_map(question: Question, moment: int, masks: Tensor) -> Tensor:
    network = question.network
    with torch.no_grad():
        fused = network.fuse(question.maps)
        drops = []
        for part in torch.split(masks, question.batch()):
            many = fused.repeat(len(part), 1, 1, 1, 1)
            many[:, moment] = many[:, moment].masked_fill(part[:, None], 0)
            drops.append(question.answer - log_odds(network.classify(many), question.target))
    return torch.cat(drops)


def enlarged(maps: FloatArray, height: int, width: int) -> FloatArray:
    """Maps ``[T, h, w]`` at a picture's size, ``[T, height, width]``, interpolated linearly between cell centres."""
    values = torch.from_numpy(np.ascontiguousarray(maps, np.float32))[:, None]
    result: FloatArray = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)[:, 0].numpy()
    return result


def rank_agreement(first: FloatArray, second: FloatArray) -> float | None:
    """Spearman's rank correlation of two ways' maps, over all frames and cells, on the coarser of their grids.

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
    """The pointing game: whether each frame's largest value lies within the target.

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
    """How much of each frame's map (what speaks for the class) lies within the target.

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
