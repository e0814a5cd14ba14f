"""Count what a model computes for a clip."""

from __future__ import annotations

import torch

from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings


def clip_flops(model_class: type[VideoModel], settings: ModelSettings) -> int:
    """Count the floating point operations of one clip, forward (a multiply-add is two), without computing any."""
    # Not above: counting imports TorchDynamo, which takes a second; a run of this version keeps the number.
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    with torch.device("meta"), torch.inference_mode():
        network = model_class(settings).eval()
        clip = {
            str(stream): torch.empty(1, settings.frames, *settings.shape_of(stream), dtype=torch.uint8)
            for stream in network.reads
        }
        with FlopCounterMode(display=False) as counter:
            network.scores(network(**clip))
    return int(counter.get_total_flops())
