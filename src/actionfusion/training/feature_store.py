"""Maps of frozen towers on the disk, each file with what it is, and refused where that is not what is wanted.

    <folder>/recipe.json                             all that the maps follow from
    <folder>/even/<video>.safetensors                rgb and flow [T, D, h, w] of the clip of eqs 13-14
    <folder>/draw-003/<video>.safetensors            the same of a random clip, the third draw

Each file appears whole or not at all.  Its metadata says what it is, with a CRC-32 over that and the maps.  **A video
that was replaced under its old name is not noticed**; remove the folder then.
"""

from __future__ import annotations

import errno
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from actionfusion.data.augment import Augmentation
from actionfusion.data.store import entry_path
from actionfusion.errors import DatasetError, RecipeMismatch
from actionfusion.files import replacing, write_atomically
from actionfusion.models.fusion_network import FusionNetwork, TowerMaps
from actionfusion.settings import parse_json, plain, read_json
from actionfusion.video.clip import ClipSettings

DtypeName = Literal["float16", "bfloat16", "float32"]

FORMAT = 1
RECIPE = "recipe.json"
SUFFIX = ".safetensors"
_METADATA = "clip"
_HEADER_BYTES = 1024  # more than a file holds besides its maps
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Draws:
    """What the random clips of a training set follow from.

    Args:
        seed: of the draws.
        augmentation: how clips vary.
        videos: digest of the training videos' names in their order, by which they are numbered.
    """

    seed: int
    augmentation: Augmentation
    videos: str


@dataclass(frozen=True)
class FeatureRecipe:
    """All that stored maps follow from, besides the videos themselves.

    Args:
        clip: what is cut from a video.
        towers: settings of the towers.
        weights: SHA-256 of the towers' weights.
        shape: of a stream's maps, ``[T, D, h, w]``.
        dtype: precision of the maps.
        source: whether clips are cut from the videos or from the prepared store, whose JPEGs differ a little.
        draws: of the random clips; None where there are only those of eqs 13-14.
    """

    clip: ClipSettings
    towers: Mapping[str, Any]
    weights: str
    shape: tuple[int, int, int, int]
    dtype: DtypeName
    source: Literal["videos", "prepared"]
    draws: Draws | None = None
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        text = json.dumps(self.as_json(), sort_keys=True)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).hexdigest())

    def as_json(self) -> dict[str, Any]:
        """The recipe as ``recipe.json`` holds it."""
        parts = ("clip", "towers", "weights", "shape", "dtype", "source", "draws")
        return {"format": FORMAT} | {name: plain(getattr(self, name)) for name in parts}

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that have maps."""
        chosen: str = self.towers["streams"]
        return ("rgb", "flow") if chosen == "both" else (chosen,)

    @property
    def clip_bytes(self) -> int:
        """Bytes that a clip takes, at most."""
        frames, channels, height, width = self.shape
        size: int = getattr(torch, self.dtype).itemsize
        return len(self.streams) * frames * channels * height * width * size + _HEADER_BYTES


def feature_recipe(
    network: FusionNetwork,
    clip: ClipSettings,
    dtype: DtypeName,
    *,
    prepared: bool,
    draws: Draws | None = None,
) -> FeatureRecipe:
    """The recipe of this network's maps, with a hash over the weights of its towers."""
    settings = network.settings
    channels = network.towers[0].out_channels
    return FeatureRecipe(
        clip=clip,
        towers={name: plain(getattr(settings, name)) for name in ("streams", "layout", "batch_norm")},
        weights=tower_digest(network),
        shape=(clip.frames, channels, settings.map_size, settings.map_size),
        dtype=dtype,
        source="prepared" if prepared else "videos",
        draws=draws,
    )


def tower_digest(network: FusionNetwork) -> str:
    """SHA-256 over the names, shapes, precisions and values of the towers' weights, wherever they lie."""
    digest = hashlib.sha256()
    for prefix, tower in (("rgb", network.rgb_tower), ("flow", network.flow_tower)):
        for name, tensor in ({} if tower is None else tower.state_dict()).items():
            digest.update(f"{prefix}.{name} {list(tensor.shape)} {tensor.dtype}\0".encode())
            digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()


def names_digest(names: Sequence[str]) -> str:
    """A hash of names in their order."""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


class FeatureStore:
    """Maps on the disk.

    Args:
        folder: made if it is not there.
        recipe: of the maps wanted.

    Raises:
        RecipeMismatch: the folder holds maps of another recipe.
        DatasetError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path, recipe: FeatureRecipe) -> None:
        self.folder = folder
        self.recipe = recipe
        path = folder / RECIPE
        try:
            # Of several processes each may be the first to write the recipe, which is the same; its file comes first.
            taken = folder.is_dir() and any(not item.name.startswith(".") for item in folder.iterdir())
            if path.is_file():
                self._compare(path)
                return
            if taken:
                reason = f"is not empty and holds no {RECIPE}"
                raise DatasetError(folder, reason, "choose another --features.folder")
            write_atomically(path, json.dumps(recipe.as_json(), indent=1) + "\n")
        except OSError as error:
            reason = f"cannot be written or read ({error.strerror or error})"
            raise DatasetError(folder, reason, "choose another --features.folder") from error

    def _compare(self, path: Path) -> None:
        found = read_json(path, DatasetError, "remove the folder, or choose another --features.folder")
        wanted = self.recipe.as_json()
        differing = [name for name in wanted | found if found.get(name) != wanted.get(name)]
        if differing:
            details = (f"{name} {_short(found.get(name))}, wanted {_short(wanted.get(name))}" for name in differing)
            reason = f"was made with another recipe: {'; '.join(details)}"
            raise RecipeMismatch(
                self.folder, reason, f"{_remedy(differing)}choose another --features.folder, or remove it"
            )

    def path(self, name: str, draw: int | None) -> Path:
        """Where a clip's maps lie; ``draw`` None is the clip of eqs 13-14."""
        return entry_path(self.folder / ("even" if draw is None else f"draw-{draw:03d}"), name, SUFFIX)

    def _identity(self, name: str, draw: int | None, index: int) -> dict[str, Any]:
        of_draw = {} if draw is None else {"draw": draw, "index": index}
        return {"recipe": self.recipe.digest, "video": name} | of_draw

    def has(self, name: str, draw: int | None, index: int) -> bool:
        """Whether the clip's file is there, by its length and what it says of itself."""
        try:
            with safe_open(self.path(name, draw), framework="pt") as file:
                found = parse_json((file.metadata() or {})[_METADATA], name)
            return bool(self._identity(name, draw, index).items() <= found.items())
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError):
            return False

    def write(self, name: str, draw: int | None, index: int, maps: TowerMaps) -> None:
        """Keep a clip's maps.

        Args:
            name: the video's path within its data set.
            draw: number of the draw.
            index: number of the video in its part of the split, which a draw follows from.
            maps: ``[T, D, h, w]`` of each stream in use.

        Raises:
            DatasetError: values that this precision does not hold, or a full disk.
        """
        path = self.path(name, draw)
        dtype = getattr(torch, self.recipe.dtype)
        given: dict[str, Tensor | None] = maps._asdict()
        tensors = {stream: _kept(given[stream], dtype) for stream in self.recipe.streams}
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            reason = f"its maps hold values that {self.recipe.dtype} does not"
            raise DatasetError(name, reason, "take --features.dtype bfloat16 or float32, or see to the towers' weights")
        identity = self._identity(name, draw, index)
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, _metadata(identity, tensors))
        except (OSError, SafetensorError) as error:
            full = isinstance(error, OSError) and error.errno in _DISK_FULL
            reason = "the disk is full" if full else f"cannot be written ({error})"
            raise DatasetError(path, reason, "make room and start again; what is there is kept") from error

    def read(self, name: str, draw: int | None, index: int) -> TowerMaps:
        """A clip's maps ``[T, D, h, w]`` in the store's precision; None for a stream that is not used.

        Raises:
            DatasetError: the maps are not there, or are damaged.
        """
        path = self.path(name, draw)
        identity = self._identity(name, draw, index)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {stream: file.get_tensor(stream) for stream in self.recipe.streams}
        except FileNotFoundError:
            raise DatasetError(path, "is not there", "start again; what is missing is computed") from None
        except (SafetensorError, OSError) as error:
            raise DatasetError(path, f"is damaged ({error})", "remove it and start again") from error
        dtype = getattr(torch, self.recipe.dtype)
        fits = all(tensor.shape == self.recipe.shape and tensor.dtype == dtype for tensor in tensors.values())
        if not fits or metadata != _metadata(identity, tensors):
            raise DatasetError(path, "is damaged, or the maps of something else", "remove it and start again")
        return TowerMaps(tensors.get("rgb"), tensors.get("flow"))


def _kept(tensor: Tensor | None, dtype: torch.dtype) -> Tensor:
    assert tensor is not None
    return tensor.detach().to("cpu", dtype).contiguous()


def _metadata(identity: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    # One entry, since safetensors writes several in any order, and the same maps are to give the same bytes.
    checksum = zlib.crc32(json.dumps(identity, sort_keys=True).encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(_bytes(tensors[name]), checksum)
    return {_METADATA: json.dumps(dict(identity) | {"crc32": checksum}, sort_keys=True)}


def _remedy(differing: Sequence[str]) -> str:
    """What else would make the recipes the same, as clauses that end with ``or``."""
    hints = {
        "weights": "towers that start at random follow --seed: take the same, or --pretrained; or ",
        "draws": "random clips follow --features.seed and the augmentation, not --seed: take the same; or ",
    }
    return "".join(hints.get(name, "") for name in differing)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "..."
