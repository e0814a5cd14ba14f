"""Count what a model computes for a clip."""

from __future__ import annotations

import torch

from actionfusion.models import model_class
from actionfusion.models.model_settings import ModelSettings

_counted: dict[tuple[str, str], int] = {}  # by the settings as text, since those of an average hold dictionaries


def clip_flops(model: str, settings: ModelSettings) -> int:
    """Count the floating point operations of one clip, forward (a multiply-add is two), without computing any."""
    key = (model, repr(settings))
    if key not in _counted:
        _counted[key] = _count(model, settings)
    return _counted[key]


def _count(model: str, settings: ModelSettings) -> int:
    # Not above: counting imports TorchDynamo, which takes a second; a run of this version keeps the number.
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    with torch.device("meta"), torch.inference_mode():
        network = model_class(model)(settings).eval()
        clip = {
            str(stream): torch.empty(1, settings.frames, *settings.shape_of(stream), dtype=torch.uint8)
            for stream in network.reads
        }
        with FlopCounterMode(display=False) as counter:
            network.scores(network(**clip))
    return int(counter.get_total_flops())
