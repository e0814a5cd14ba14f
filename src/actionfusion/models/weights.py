"""Files of pretrained weights: read without running code, from a path or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from actionfusion.errors import WeightsError

Fc6Start = Literal["file", "random"]
"""What fc6 starts from: the pretrained file where it has an fc6 that fits, or random weights."""
FlowStart = Literal["random", "mean"]
"""What the flow's first layer starts from: random weights, or the mean of the RGB filters."""

_TORCH_SUFFIXES = {".pth", ".pt", ".bin"}
# The hub's HTTP library changed between its versions; what it raises is the base of the hub's own HTTP error.
HUB_FAILURES: tuple[type[BaseException], ...] = (OSError, RuntimeError, ValueError, *HfHubHTTPError.__bases__)


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, read.

    Attributes:
        source: the file, or the hub's name for it.
        name: the same without a path of this machine, for what is kept.
        sha256: of the file.
        tensors: by name.
    """

    source: str
    name: str
    sha256: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What a model took from a checkpoint; ``str()`` of it is a message for users.

    Attributes:
        source: name of the file without its folder, or the hub's name for it.
        sha256: of the file.
        loaded: parameters of the model that came from the checkpoint.
        random: parameters of the model that stayed as they were.
        averaged: those of ``loaded`` that are the mean of the checkpoint's RGB filters.
        misfits: those of ``random`` that the checkpoint has in another shape.
    """

    source: str
    sha256: str
    loaded: tuple[str, ...]
    random: tuple[str, ...]
    averaged: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()

    def __str__(self) -> str:
        line = f"{self.source} (SHA-256 {self.sha256[:12]}): loaded {modules_line(by_module(self.loaded))}"
        if self.averaged:
            line += f", of these by the mean of its RGB filters {', '.join(self.averaged)}"
        line += f"; left random {modules_line(by_module(self.random))}"
        if self.misfits:
            line += f", of these in another shape there {modules_line(by_module(self.misfits))}"
        return line


def modules_line(counts: Mapping[str, int]) -> str:
    """Write what `by_module` counted as ``backbones.flow (24), fc6 (2)``."""
    return ", ".join(f"{module} ({count})" for module, count in counts.items()) or "nothing"


def by_module(names: Iterable[str]) -> dict[str, int]:
    """Count parameters by module, in order; each backbone counts as one."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        module = ".".join(parts[:2]) if parts[0] == "backbones" else parts[0]
        counts[module] = counts.get(module, 0) + 1
    return counts


def fetch_from_hub(repository: str, file: str, remedy: str) -> Path:
    """Fetch a file of the Hugging Face hub, or find it in the hub's cache.

    Args:
        repository: such as ``timm/vgg16.tv_in1k``.
        file: its name there.
        remedy: what to do where the hub cannot be reached.

    Raises:
        WeightsError: it is not in the cache and cannot be fetched.
    """
    try:
        with quiet_hub():
            return Path(hf_hub_download(repo_id=repository, filename=file))
    except HUB_FAILURES as error:
        reason = "cannot be fetched from the Hugging Face hub"
        raise WeightsError(f"{repository}/{file}", reason, remedy) from error


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the hub's library from printing each of its retries while the block lasts."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
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
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            reason = f"its tensor {name} is sparse, quantised or complex"
            raise WeightsError(path, reason, "give weights of plain numbers")
    return Checkpoint(source or str(path), source or path.name, file_sha256(path), tensors)


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpickle_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an unknown file is refused below, in one line
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it holds more than tensors, which could run code when read, or it is damaged"
        raise WeightsError(path, reason, "give a state_dict saved by torch.save, or a .safetensors file") from error
    except Exception as error:  # damaged bytes lead PyTorch to errors of any kind
        raise WeightsError(path, "not a whole PyTorch file", "download it again") from error
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(path, "it holds no plain dictionary of tensors", "give a state_dict saved by torch.save")
    return values
