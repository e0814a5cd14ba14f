"""ImageNet weights of VGG-16 for both towers and fc6: from the Hugging Face hub, or from a file.

No file is ever unpickled with code in it.  The picture's tower takes all its convolutions; the flow's tower all but the
first, whose channels are others; fc6 takes VGG-16's first fully connected layer.  All else stays as it was.

Sources: Ou and Sun 2019, sections 3.1 and 3.6.  `specification.md` A2-14 for fc6.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from actionfusion.errors import WeightsError
from actionfusion.models.fusion_network import FusionNetwork

Fc6Start = Literal["vgg", "random"]

HUB_REPOSITORY = "timm/vgg16.tv_in1k"
HUB_FILE = "model.safetensors"
# The same layer in torchvision's layout, and in timm's, where it is a 7x7 convolution.
FC6_NAMES = ("classifier.0", "pre_logits.fc1")

_TORCH_SUFFIXES = {".pth", ".pt", ".bin"}
# The hub's HTTP library changed between its versions; what it raises is the base of the hub's own HTTP error.
_HUB_FAILURES: tuple[type[BaseException], ...] = (OSError, RuntimeError, ValueError, *HfHubHTTPError.__bases__)


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint gave to a network; ``str()`` of it is for people.

    Attributes:
        source: the file, or the hub's name for it.
        loaded: parameters of the network that came from the checkpoint.
        random: parameters of the network that stayed as they were.
    """

    source: str
    loaded: tuple[str, ...]
    random: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source}: loaded {_by_module(self.loaded)}; left random {_by_module(self.random)}"


def _by_module(names: tuple[str, ...]) -> str:
    """``flow_tower (24 tensors), fc6 (2)``: first parts of the names, in order, with a tensor count each."""
    counts: dict[str, int] = {}
    for name in names:
        first_convolution = name.startswith("flow_tower.features.0.")
        module = "flow_tower.features.0" if first_convolution else name.split(".", maxsplit=1)[0]
        counts[module] = counts.get(module, 0) + 1
    return ", ".join(f"{module} ({count})" for module, count in counts.items()) or "nothing"


def imagenet_targets(network: FusionNetwork, fc6: Fc6Start = "vgg") -> dict[str, str]:
    """Parameters of the network that VGG-16 has a value for, with the value's name in torchvision's layout.

    These are also the parameters that fine-tuning moves more slowly than the new ones.

    Args:
        network: any size; one without a stream or without fc6 has fewer of them.
        fc6: ``random`` leaves fc6 out.
    """
    targets: dict[str, str] = {}
    for tower_name, tower in (("rgb_tower", network.rgb_tower), ("flow_tower", network.flow_tower)):
        for name in () if tower is None else tower.state_dict():
            layer = name.split(".")[1]
            is_counter = name.endswith("num_batches_tracked")
            if not is_counter and not (tower_name == "flow_tower" and layer == "0"):
                targets[f"{tower_name}.{name}"] = name
    if network.fc6 is not None and fc6 == "vgg":
        for kind in ("weight", "bias"):
            targets[f"fc6.{kind}"] = f"{FC6_NAMES[0]}.{kind}"
    return targets


def load_imagenet(network: FusionNetwork, source: str | Path | None = None, *, fc6: Fc6Start = "vgg") -> LoadReport:
    """Put ImageNet's VGG-16 into a network, in place; nothing is changed if anything does not fit.

    Args:
        network: with the ``vgg16`` tower; any other whose layers the file fits will do.
        source: a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file in torchvision's or timm's layout; None fetches
            ``timm/vgg16.tv_in1k`` from the Hugging Face hub, or takes it from the hub's cache.
        fc6: ``vgg`` takes fc6 from VGG-16's first fully connected layer; ``random`` leaves it as it is.

    Returns:
        What was loaded and what was not.

    Raises:
        WeightsError: no file, no network, a file that is unsafe, damaged, or of other names or shapes.
    """
    targets = imagenet_targets(network, fc6)
    subject = str(source) if source is not None else f"{HUB_REPOSITORY}/{HUB_FILE}"
    tensors = _read(Path(source) if source is not None else _from_hub(subject))
    state = network.state_dict(keep_vars=True)
    values = {
        ours: _fitted(subject, theirs, tensors[theirs], state[ours])
        for ours, theirs in _in_layout_of(tensors, targets, subject).items()
    }
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)
    trainable = [name for name, value in state.items() if isinstance(value, nn.Parameter)]
    return LoadReport(
        source=subject,
        loaded=tuple(name for name in trainable if name in targets),
        random=tuple(name for name in trainable if name not in targets),
    )


def _from_hub(subject: str) -> Path:
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would print each of its retries
    try:
        return Path(hf_hub_download(repo_id=HUB_REPOSITORY, filename=HUB_FILE))
    except _HUB_FAILURES as error:
        raise WeightsError(
            subject,
            "cannot be fetched from the Hugging Face hub",
            f"download {HUB_FILE} of {HUB_REPOSITORY} there (or torchvision's vgg16 .pth) and give its path",
        ) from error
    finally:
        logger.setLevel(level)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(path, "there is no such file", "give the path of VGG-16 weights")
    suffix = path.suffix.lower()
    if suffix in _TORCH_SUFFIXES:
        return _unpickle_tensors(path)
    if suffix != ".safetensors":
        known = ", ".join([".safetensors", *sorted(_TORCH_SUFFIXES)])
        raise WeightsError(path, f"{suffix or 'no suffix'} is no format of weights", f"give one of {known}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(path, "not a whole safetensors file", "download it again") from error


def _unpickle_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a strange file is refused below, in one line
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it holds more than tensors, which could run code when read, or it is damaged"
        raise WeightsError(path, reason, "give a state_dict saved by torch.save, or a .safetensors file") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise WeightsError(path, "not a whole PyTorch file", "download it again") from error
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(path, "it holds no plain dictionary of tensors", "give a state_dict saved by torch.save")
    return values


def _in_layout_of(tensors: dict[str, Tensor], targets: dict[str, str], subject: str) -> dict[str, str]:
    """The targets with their names as this file has them, torchvision's or timm's."""
    torchvision_fc6, timm_fc6 = FC6_NAMES
    if f"{torchvision_fc6}.weight" not in tensors and f"{timm_fc6}.weight" in tensors:
        targets = {ours: theirs.replace(torchvision_fc6, timm_fc6) for ours, theirs in targets.items()}
    missing = sorted(set(targets.values()) - set(tensors))
    if missing:
        reason = f"it lacks {len(missing)} tensors: {_listed(missing)}"
        raise WeightsError(subject, reason, "give VGG-16 weights in torchvision's or timm's layout")
    return targets


def _fitted(subject: str, name: str, value: Tensor, target: Tensor) -> Tensor:
    """The value in its target's shape; timm's 7x7 convolution is torchvision's matrix row by row."""
    is_fc6 = name.startswith(FC6_NAMES)
    flat = value.flatten(1) if is_fc6 and value.ndim == 4 else value
    if flat.shape == target.shape:
        return flat
    remedy = "leave fc6 random, or take 224-pixel frames" if is_fc6 else "take the vgg16 tower without batch norm"
    reason = f"{name} has shape {list(value.shape)} where the network wants {list(target.shape)}"
    raise WeightsError(subject, reason, remedy)


def _listed(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
