"""The networks that others would take, by the package transformers: published sizes, random weights, one call each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from actionfusion.inference.runtimes.backend import (
    Backend,
    BackendName,
    OpenVINOBackend,
    PrecisionName,
    TorchBackend,
    compile_openvino,
    read_openvino,
)
from actionfusion.inference.runtimes.sub_models import SubModel, TensorSpec
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe

if TYPE_CHECKING:
    from actionfusion.video.clip import UInt8Array

CLASSES = 400
# Of ImageNet; which ones they are costs nothing.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Peer:
    """A published network.

    Attributes:
        title: name, and the source of its sizes.
        configuration: class of transformers with the published sizes as its defaults.
        network: class of transformers, which classifies clips.
        frames: of a clip.
        size: their height and width in pixels.
        changes: of the configuration, where the defaults are not the published sizes.
        small: changes that make it tiny, to see that a script runs.
    """

    title: str
    configuration: str
    network: str
    frames: int
    size: int
    changes: dict[str, Any]
    small: dict[str, Any]

    @property
    def clip(self) -> ClipSettings:
        """What is cut from a video for it."""
        return ClipSettings(frames=self.frames, flow=FlowRecipe("dis", size=self.size), streams=("rgb",))


_TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
PEERS = {
    "videomae": Peer(
        "VideoMAE ViT-B (Tong et al. 2022), 16 frames, 224 px",
        "VideoMAEConfig",
        "VideoMAEForVideoClassification",
        16,
        224,
        {},
        _TINY,
    ),
    "timesformer": Peer(
        "TimeSformer-B, divided space-time (Bertasius et al. 2021), 8 frames, 224 px",
        "TimesformerConfig",
        "TimesformerForVideoClassification",
        8,
        224,
        {},
        _TINY,
    ),
    "vjepa2": Peer(
        "V-JEPA 2 ViT-L (Assran et al. 2025), 64 frames, 256 px",
        "VJEPA2Config",
        "VJEPA2ForVideoClassification",
        64,
        256,
        {},
        # Attention to 8192 tokens takes the time, however narrow: fewer frames too.
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "frames_per_clip": 4}
        | {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2},
    ),
}


class _Probabilities(nn.Module):
    """From a clip ``[1, T, 3, H, W]`` uint8, as ours take it, to probabilities."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("deviation", 255 * torch.tensor(_DEVIATION)[:, None, None])

    def forward(self, clip: Tensor) -> Tensor:
        return torch.softmax(self.network((clip.float() - self.mean) / self.deviation).logits, dim=-1)


def make_peer(name: str, *, tiny: bool) -> tuple[nn.Module, ClipSettings]:
    """Build a network with random weights, and what is cut for it.

    Raises:
        ImportError: transformers is not there.
    """
    import transformers  # noqa: PLC0415

    peer = PEERS[name]
    given = peer.changes | (peer.small if tiny else {})
    torch.manual_seed(0)
    configuration = getattr(transformers, peer.configuration)(num_labels=CLASSES, **given)
    network = getattr(transformers, peer.network)(configuration)
    if hasattr(getattr(network, "vjepa2", None), "predictor"):
        network.vjepa2.predictor = None  # for pretraining alone; answers do not use it
    frames = given.get("frames_per_clip", peer.frames)
    clip = ClipSettings(frames=frames, flow=peer.clip.flow, streams=("rgb",))
    return _Probabilities(network).eval(), clip


def count_peer(name: str, *, tiny: bool) -> dict[str, int]:
    """Count parameters, and floating point operations of a clip by torch's counter (a multiply-add is two)."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    with torch.device("meta"), torch.inference_mode():
        module, clip = make_peer(name, tiny=tiny)
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(1, clip.frames, 3, clip.frame_size, clip.frame_size, dtype=torch.uint8))
    return {"parameters": sum(each.numel() for each in module.parameters()), "flops": int(counter.get_total_flops())}


def convert_peer(name: str, path: Path, *, tiny: bool) -> None:
    """Write a network as OpenVINO's model, in full precision."""
    from openvino import convert_model, save_model  # noqa: PLC0415

    module, clip = make_peer(name, tiny=tiny)
    example = torch.zeros(1, clip.frames, 3, clip.frame_size, clip.frame_size, dtype=torch.uint8)
    with torch.inference_mode():
        model = convert_model(module, example_input=example, input=[list(example.shape)])
    save_model(model, path, compress_to_fp16=False)


def open_peer(
    name: str, runtime: BackendName, precision: PrecisionName, path: Path, *, tiny: bool
) -> tuple[Backend, ClipSettings]:
    """Open a network in a runtime; OpenVINO's from what `convert_peer` wrote."""
    module, clip = make_peer(name, tiny=tiny)
    inputs = (TensorSpec("clip", (1, clip.frames, 3, clip.frame_size, clip.frame_size), "uint8"),)
    if runtime == "torch":
        sub_model = SubModel("clip", lambda: module, inputs, ("probabilities",))
        return TorchBackend(sub_model, precision, torch.device("cpu")), clip
    compiled = compile_openvino(read_openvino(path), precision)
    return OpenVINOBackend((compiled, None), precision, inputs, ("probabilities",)), clip


def answer_peer(backend: Backend, rgb: UInt8Array) -> None:
    """Run a network on the frames ``[T, 3, H, W]`` of a clip.

    Raises:
        RuntimeError: what comes are no probabilities.
    """
    made = backend.run({"clip": rgb[None]})["probabilities"]
    if made.shape != (1, CLASSES) or not np.isclose(made.sum(), 1, atol=1e-2):
        raise RuntimeError(f"the network gave {made.shape} that sum to {made.sum()}")
