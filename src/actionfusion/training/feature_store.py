"""Features of frozen backbones on the disk, each file with what it is, and refused where that is not what is wanted.

    <folder>/rgb-1f0c…/recipe.json                       all that the features of this stream follow from
    <folder>/rgb-1f0c…/plain/<video>.safetensors         features [T, D, h, w] of the clip that prediction sees
    <folder>/rgb-1f0c…/view-6b2e…-003/<video>.safetensors  the same of an augmented view, the third
    <folder>/flow-9a41…/…

A stream's folder is named by its recipe: the backbone's facts and weights, and what is cut from a video.  So one folder
serves all models, and what two of them have in common is computed once.  Each file appears whole or not at all.  Its
metadata says what it is and of which bytes, with a CRC-32 over that and the features; its time is that of the video,
whose bytes are hashed again only where time and size differ.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from actionfusion.data.augment import Augmentation
from actionfusion.data.loading import LabelledSource
from actionfusion.data.source_videos import source_hash, source_status
from actionfusion.data.store import entry_path
from actionfusion.errors import DatasetError, RecipeMismatch
from actionfusion.files import replacing, write_atomically
from actionfusion.models.model import VideoModel
from actionfusion.remote_path import RemotePath
from actionfusion.settings import parse_json, plain, read_json
from actionfusion.streams import StreamName
from actionfusion.video.clip import ClipSettings

DtypeName = Literal["float16", "bfloat16", "float32"]

FORMAT = 2
RECIPE = "recipe.json"
SUFFIX = ".safetensors"
_METADATA, _TENSOR, _SOURCE = "clip", "features", "source"
_HEADER_BYTES = 1024  # more than a file holds besides its features
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class AugmentedViews:
    """What the augmented views of a video follow from, besides its name.

    Args:
        seed: of the views.
        augmentation: how clips vary.
    """

    seed: int
    augmentation: Augmentation

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


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


class SourceFile:
    """A video whose features are kept, with the bytes that they follow from: one replaced under its name is noticed.

    Args:
        source: the video.
    """

    def __init__(self, source: LabelledSource) -> None:
        self.name, self._file = source.name, source.file
        self._identity: Mapping[str, Any] | None = None

    @cached_property
    def _status(self) -> tuple[int, int]:
        if isinstance(self._file, RemotePath):  # what the server said of it when it was listed
            status = self._file.stat()
            return status.st_size, status.st_mtime_ns
        return source_status(self._file) if self._file is not None else (0, 0)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Size and SHA-256; of an address, which would have to be fetched for its hash, size and time.

        Raises:
            VideoError: it is not there, or cannot be read.
        """
        if self._identity is None:
            size, modified = self._status
            own = {"sha256": source_hash(self._file)} if isinstance(self._file, Path) else {"modified": modified}
            self._identity = {"size": size, **own}
        return self._identity

    def is_of(self, recorded: Mapping[str, Any], kept: Path) -> bool:
        """Tell whether the features in a file are of these bytes; they are hashed where size or time differ."""
        size, modified = self._status
        alike = recorded.get("size") == size and kept.stat().st_mtime_ns == modified
        if self._identity is None and alike and isinstance(self._file, Path):
            self._identity = recorded
        same = recorded == self.identity
        if same and not alike:
            self.stamp(kept)
        return same

    def stamp(self, kept: Path) -> None:
        """Give features of these bytes the time of the video, which saves the next start the hash."""
        if isinstance(self._file, Path):
            with suppress(OSError):
                os.utime(kept, ns=(self._status[1], self._status[1]))


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
        self._whole = set[int]()  # of the files that were read and found whole, a hash of what they say and should say
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

    def _identity(self, name: str, view: int | None) -> dict[str, Any]:
        of_view = {} if view is None else {"views": self._views, "view": view}
        return {"recipe": self.recipe.digest, "video": name} | of_view

    def has(self, video: SourceFile, view: int | None) -> bool:
        """Tell whether the clip's file is there, by its length and what it says of itself.

        Raises:
            VideoError: the video is not there, or cannot be read.
        """
        path = self.path(video.name, view)
        try:
            with safe_open(path, framework="pt") as file:
                found = parse_json((file.metadata() or {})[_METADATA], video.name)
            ours = bool(self._identity(video.name, view).items() <= found.items())
            return ours and video.is_of(found[_SOURCE], path)
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError):
            return False

    def write(self, video: SourceFile, view: int | None, features: Tensor) -> None:
        """Keep a clip's features.

        Args:
            video: that they are of.
            view: number of the augmented view.
            features: ``[T, D, h, w]``.

        Raises:
            DatasetError: values that this precision does not hold, or a full disk.
        """
        name, path = video.name, self.path(video.name, view)
        kept = features.detach().to("cpu", getattr(torch, self.recipe.dtype)).contiguous()
        if not bool(kept.isfinite().all()):
            reason = f"its features hold values that {self.recipe.dtype} does not"
            remedy = "take --features.dtype bfloat16 or float32, or see to the backbone's weights"
            raise DatasetError(name, reason, remedy)
        try:
            with replacing(path) as temporary:
                identity = self._identity(name, view) | {_SOURCE: video.identity}
                save_file({_TENSOR: kept}, temporary, _metadata(identity, kept))
            video.stamp(path)
        except (OSError, SafetensorError) as error:
            full = isinstance(error, OSError) and error.errno in _DISK_FULL
            reason = "the disk is full" if full else f"cannot be written ({error})"
            raise DatasetError(path, reason, "make room and start again; what is there is kept") from error

    def read(self, name: str, view: int | None, source: Mapping[str, Any]) -> Tensor:
        """Read a clip's features ``[T, D, h, w]`` in the store's precision.

        Args:
            name: the video's path within its data set.
            view: number of the augmented view.
            source: what `SourceFile.identity` says of the video.

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
        identity = self._identity(name, view) | {_SOURCE: source}
        said = hash((path, metadata.get(_METADATA), json.dumps(identity, sort_keys=True)))
        # A sum over the bytes takes longer than reading them, and training reads them again and again.
        whole = said in self._whole or metadata == _metadata(identity, features)
        if not fits or not whole:
            raise DatasetError(path, "is damaged, or the features of something else", "remove it and start again")
        self._whole.add(said)
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
