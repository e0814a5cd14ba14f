"""Features of frozen backbones on the disk, each file with what it is, and refused where that is not what is wanted.

    <folder>/rgb-1f0c…/recipe.json                       all that the features of this stream follow from
    <folder>/rgb-1f0c…/plain/<video>.safetensors         features [T, D, h, w] of the clip that prediction sees
    <folder>/rgb-1f0c…/view-6b2e…-003/<video>.safetensors  the same of an augmented view, the third
    <folder>/flow-9a41…/…

A stream's folder is named by its recipe: the backbone's facts and weights, and what is cut from a video.  So one folder
serves all models, and what two of them have in common is computed once.  Each file appears whole or not at all.  Its
metadata says what it is, with a CRC-32 over that and the features.  **A video that was replaced under its old name is
not noticed**; remove the folder then.
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
from actionfusion.models.model import VideoModel
from actionfusion.settings import parse_json, plain, read_json
from actionfusion.streams import StreamName
from actionfusion.video.clip import ClipSettings

DtypeName = Literal["float16", "bfloat16", "float32"]

FORMAT = 2
RECIPE = "recipe.json"
SUFFIX = ".safetensors"
_METADATA, _TENSOR = "clip", "features"
_HEADER_BYTES = 1024  # more than a file holds besides its features
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class AugmentedViews:
    """What the augmented views of a training set follow from.

    Args:
        seed: of the views.
        augmentation: how clips vary.
        videos: digest of the training videos' names in their order, by which they are numbered.
    """

    seed: int
    augmentation: Augmentation
    videos: str

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps(plain(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FeatureRecipe:
    """All that the stored features of one stream follow from, besides the videos themselves.

    Args:
        stream: rgb or flow.
        clip: what is cut from a video, as far as this stream is concerned.
        backbone: its facts.
        weights: SHA-256 of the backbone's weights.
        shape: of a clip's features, ``[T, D, h, w]``.
        dtype: precision of the features.
        source: whether clips are cut from the videos or from the prepared store, whose JPEGs differ a little.
    """

    stream: StreamName
    clip: Mapping[str, Any]
    backbone: Mapping[str, Any]
    weights: str
    shape: tuple[int, ...]
    dtype: DtypeName
    source: Literal["videos", "prepared"]
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        text = json.dumps(self.as_json(), sort_keys=True)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).hexdigest())

    def as_json(self) -> dict[str, Any]:
        """Give the recipe as ``recipe.json`` holds it."""
        parts = ("stream", "clip", "backbone", "weights", "shape", "dtype", "source")
        return {"format": FORMAT} | {name: plain(getattr(self, name)) for name in parts}

    @property
    def clip_bytes(self) -> int:
        """Bytes that a clip takes, at most."""
        numbers = 1
        for size in self.shape:
            numbers *= size
        return numbers * int(getattr(torch, self.dtype).itemsize) + _HEADER_BYTES


def feature_recipes(
    network: VideoModel, clip: ClipSettings, dtype: DtypeName, *, prepared: bool
) -> dict[StreamName, FeatureRecipe]:
    """Make the recipe of each stream's features, with a hash over the weights of its backbone."""
    found = {}
    for stream, backbone in network.all_backbones().items():
        size = backbone.map_size(network.settings.size_of(stream))
        found[stream] = FeatureRecipe(
            stream=stream,
            clip=_of_stream(clip, stream),
            backbone={
                "kind": type(backbone).__name__,
                "input": [type(part).__name__ for part in network.normalizers[stream].modules()],
                **{name: plain(getattr(backbone, name)) for name in ("in_channels", "out_channels", "stride")},
                **{name: plain(getattr(backbone, name)) for name in ("mean", "std")},
            },
            weights=weights_digest(backbone.state_dict()),
            shape=(clip.frames, backbone.out_channels, size, size),
            dtype=dtype,
            source="prepared" if prepared else "videos",
        )
    return found


def _of_stream(clip: ClipSettings, stream: StreamName) -> dict[str, Any]:
    facts: dict[str, Any] = {"frames": clip.frames, "sampling": clip.sampling, "decoded_size": clip.decoded_size}
    facts |= {"stride": clip.stride} if clip.sampling == "dense" else {}
    if stream == "rgb":
        return facts | {"size": clip.frame_size}
    return facts | {"flow_frames": clip.flow_frames, "flow": plain(clip.flow)}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, precisions and values of weights, on whichever device they are."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()


def names_digest(names: Sequence[str]) -> str:
    """Hash names in their order."""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


class FeatureStore:
    """The features of one stream on the disk.

    Args:
        folder: of all features; that of the stream in it is made by `begin`.
        recipe: of the features wanted.
        views: of the augmented views; None where there are only plain clips.

    Raises:
        RecipeMismatch: the folder is that of an earlier version.
        DatasetError: the folder holds something else, or cannot be read.
    """

    def __init__(self, folder: Path, recipe: FeatureRecipe, views: AugmentedViews | None = None) -> None:
        self.recipe = recipe
        self._views = "" if views is None else views.digest
        self.folder = folder / f"{recipe.stream}-{recipe.digest[:16]}"
        path, remedy = self.folder / RECIPE, "remove the folder, or choose another --features.folder"
        try:
            refuse_foreign(folder)
            if path.is_file() and read_json(path, DatasetError, remedy) != recipe.as_json():
                raise DatasetError(path, "is damaged", remedy)
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
            raise DatasetError(folder, reason, "choose another --features.folder") from error

    def begin(self) -> None:
        """Make the stream's folder with its recipe, where it is not there.

        Raises:
            DatasetError: it cannot be written.
        """
        path = self.folder / RECIPE
        try:
            if not path.is_file():
                # Of several processes each may be the first to write the recipe, which is the same.
                write_atomically(path, json.dumps(self.recipe.as_json(), indent=1) + "\n")
        except OSError as error:
            reason = f"cannot be written ({error.strerror or error})"
            raise DatasetError(path, reason, "choose another --features.folder") from error

    def path(self, name: str, view: int | None) -> Path:
        """Name the file of a clip's features; ``view`` None is the clip that prediction sees."""
        return entry_path(self.folder / ("plain" if view is None else f"view-{self._views}-{view:03d}"), name, SUFFIX)

    def _identity(self, name: str, view: int | None, index: int) -> dict[str, Any]:
        of_view = {} if view is None else {"views": self._views, "view": view, "index": index}
        return {"recipe": self.recipe.digest, "video": name} | of_view

    def has(self, name: str, view: int | None, index: int) -> bool:
        """Tell whether the clip's file is there, by its length and what it says of itself."""
        try:
            with safe_open(self.path(name, view), framework="pt") as file:
                found = parse_json((file.metadata() or {})[_METADATA], name)
            return bool(self._identity(name, view, index).items() <= found.items())
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError):
            return False

    def write(self, name: str, view: int | None, index: int, features: Tensor) -> None:
        """Keep a clip's features.

        Args:
            name: the video's path within its data set.
            view: number of the augmented view.
            index: number of the video in its part of the split, which a view follows from.
            features: ``[T, D, h, w]``.

        Raises:
            DatasetError: values that this precision does not hold, or a full disk.
        """
        path = self.path(name, view)
        kept = features.detach().to("cpu", getattr(torch, self.recipe.dtype)).contiguous()
        if not bool(kept.isfinite().all()):
            reason = f"its features hold values that {self.recipe.dtype} does not"
            remedy = "take --features.dtype bfloat16 or float32, or see to the backbone's weights"
            raise DatasetError(name, reason, remedy)
        try:
            with replacing(path) as temporary:
                save_file({_TENSOR: kept}, temporary, _metadata(self._identity(name, view, index), kept))
        except (OSError, SafetensorError) as error:
            full = isinstance(error, OSError) and error.errno in _DISK_FULL
            reason = "the disk is full" if full else f"cannot be written ({error})"
            raise DatasetError(path, reason, "make room and start again; what is there is kept") from error

    def read(self, name: str, view: int | None, index: int) -> Tensor:
        """Read a clip's features ``[T, D, h, w]`` in the store's precision.

        Raises:
            DatasetError: they are not there, or are damaged.
        """
        path = self.path(name, view)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                features: Tensor = file.get_tensor(_TENSOR)
        except FileNotFoundError:
            raise DatasetError(path, "is not there", "start again; what is missing is computed") from None
        except (SafetensorError, OSError) as error:
            raise DatasetError(path, f"is damaged ({error})", "remove it and start again") from error
        fits = tuple(features.shape) == self.recipe.shape and features.dtype == getattr(torch, self.recipe.dtype)
        if not fits or metadata != _metadata(self._identity(name, view, index), features):
            raise DatasetError(path, "is damaged, or the features of something else", "remove it and start again")
        return features


def refuse_foreign(folder: Path) -> None:
    """See that a folder that is there holds features of this version, or nothing.

    Raises:
        RecipeMismatch: it is that of an earlier version.
        DatasetError: it holds something else.
        OSError: it cannot be read.
    """
    remedy = "choose another --features.folder, or remove it"
    items = [item for item in folder.iterdir() if not item.name.startswith(".")] if folder.is_dir() else []
    if any(item.name == RECIPE for item in items):
        raise RecipeMismatch(folder, "holds features as version 0.1 kept them", remedy)
    # A stream's folder is empty for the moment that another process needs to write the recipe into it.
    filled = [
        item for item in items if not item.is_dir() or any(not each.name.startswith(".") for each in item.iterdir())
    ]
    if filled and not any((item / RECIPE).is_file() for item in filled):
        raise DatasetError(folder, "is not empty and holds no features", remedy)


def _metadata(identity: Mapping[str, Any], features: Tensor) -> dict[str, str]:
    # One entry, since safetensors writes several in any order, and the same features are to give the same bytes.
    checksum = zlib.crc32(_bytes(features), zlib.crc32(json.dumps(identity, sort_keys=True).encode()))
    return {_METADATA: json.dumps(dict(identity) | {"crc32": checksum}, sort_keys=True)}
