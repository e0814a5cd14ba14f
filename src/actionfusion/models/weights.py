"""Files of pretrained weights: read without running code, from a path or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from actionfusion.errors import WeightsError

_TORCH_SUFFIXES = {".pth", ".pt", ".bin"}
# The hub's HTTP library changed between its versions; what it raises is the base of the hub's own HTTP error.
_HUB_FAILURES: tuple[type[BaseException], ...] = (OSError, RuntimeError, ValueError, *HfHubHTTPError.__bases__)


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, read.

    Attributes:
        source: the file, or the hub's name for it.
        sha256: of the file.
        tensors: by name.
    """

    source: str
    sha256: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What a model took from a checkpoint; ``str()`` of it is a message for users.

    Attributes:
        source: the file, or the hub's name for it.
        sha256: of the file.
        loaded: parameters of the model that came from the checkpoint.
        random: parameters of the model that stayed as they were.
    """

    source: str
    sha256: str
    loaded: tuple[str, ...]
    random: tuple[str, ...]

    def __str__(self) -> str:
        loaded, random = _by_module(self.loaded), _by_module(self.random)
        return f"{self.source} (SHA-256 {self.sha256[:12]}): loaded {loaded}; left random {random}"


def _by_module(names: Iterable[str]) -> str:
    """Summarise parameters by module, in order, with a tensor count each: ``backbones.flow (24), fc6 (2)``."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        module = ".".join(parts[:2]) if parts[0] == "backbones" else parts[0]
        counts[module] = counts.get(module, 0) + 1
    return ", ".join(f"{module} ({count})" for module, count in counts.items()) or "nothing"


def fetch_from_hub(repository: str, file: str, remedy: str) -> Path:
    """Fetch a file of the Hugging Face hub, or find it in the hub's cache.

    Args:
        repository: such as ``timm/vgg16.tv_in1k``.
        file: its name there.
        remedy: what to do where the hub cannot be reached.

    Raises:
        WeightsError: it is not in the cache and cannot be fetched.
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would print each of its retries
    try:
        return Path(hf_hub_download(repo_id=repository, filename=file))
    except _HUB_FAILURES as error:
        reason = "cannot be fetched from the Hugging Face hub"
        raise WeightsError(f"{repository}/{file}", reason, remedy) from error
    finally:
        logger.setLevel(level)


def read_checkpoint(path: Path, source: str | None = None) -> Checkpoint:
    """Read a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file; none is ever unpickled with code in it.

    Args:
        path: the file.
        source: its name in messages; the path where None.

    Raises:
        WeightsError: no such file, another format, damaged, or more than tensors in it.
    """
    if not path.is_file():
        raise WeightsError(path, "there is no such file", "give the path of a file of weights")
    suffix = path.suffix.lower()
    if suffix != ".safetensors" and suffix not in _TORCH_SUFFIXES:
        known = ", ".join([".safetensors", *sorted(_TORCH_SUFFIXES)])
        raise WeightsError(path, f"{suffix or 'no suffix'} is no format of weights", f"give one of {known}")
    if suffix in _TORCH_SUFFIXES:
        tensors = _unpickle_tensors(path)
    else:
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(path, "not a whole safetensors file", "download it again") from error
    with path.open("rb") as file:
        return Checkpoint(source or str(path), hashlib.file_digest(file, "sha256").hexdigest(), tensors)


def _unpickle_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an unknown file is refused below, in one line
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it holds more than tensors, which could run code when read, or it is damaged"
        raise WeightsError(path, reason, "give a state_dict saved by torch.save, or a .safetensors file") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise WeightsError(path, "not a whole PyTorch file", "download it again") from error
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(path, "it holds no plain dictionary of tensors", "give a state_dict saved by torch.save")
    return values
