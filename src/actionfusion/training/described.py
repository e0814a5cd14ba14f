"""Describe the clips that a solved model, or a probe, is solved from."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from actionfusion.data.listing import Listing
from actionfusion.data.loading import ClipDataset, KeyedDataset, LabelledSource, batches_of
from actionfusion.data.splits import units_of
from actionfusion.models.model import Features, VideoModel
from actionfusion.models.solving import DescribedClips
from actionfusion.training.feature_store import weights_digest
from actionfusion.training.features import Progress
from actionfusion.training.plan import Plan

_CACHED_BATCH = 16


class _Describer(Protocol):
    def describe(self, features: Features) -> Tensor: ...


@dataclass
class KnownDescriptions:
    """Plain clips as the model that came last described them: the folds of a protocol have most of them in common."""

    model: Hashable = None
    values: dict[Hashable, Tensor] = field(default_factory=dict)

    def by(self, model: Hashable) -> dict[Hashable, Tensor]:
        """Give those of a model, and forget those of any other."""
        if model != self.model:
            self.model, self.values = model, {}
        return self.values


def describe_clips(
    plan: Plan,
    network: VideoModel,
    describer: _Describer,
    dataset: KeyedDataset,
    progress: Progress | None = None,
    *,
    before: KnownDescriptions | None = None,
) -> DescribedClips:
    """Describe every clip of a part, a few at a time: all cached views, or the plain clips.

    Args:
        plan: of the training.
        network: whose backbones run where the features are not cached, on its device.
        describer: the model that is solved, or the probe's head.
        dataset: the clips or features.
        progress: called after each few.
        before: what the model itself described; plain clips in there are not read again, and others are put there.

    Raises:
        ActionFusionError: a video or its features cannot be read.
    """
    device, known = next(network.parameters()).device, dict[Hashable, Tensor]()
    keys = [(view, index) for view in range(getattr(dataset, "views", 0) or 1) for index in range(len(dataset))]
    of: dict[tuple[int, int], Hashable] = {key: key for key in keys}
    running: AbstractContextManager[object] = torch.inference_mode() if dataset.cached else network.evaluating()
    if isinstance(dataset, ClipDataset):
        dataset = ClipDataset(dataset.sources, dataset.settings, seed=dataset.seed)
        known = before.by(_model(network, dataset)) if before is not None else known
        of = {key: _video(dataset.sources[key[1]]) for key in keys}
    size, wanted = _CACHED_BATCH if dataset.cached else 1, [key for key in keys if of[key] not in known]
    few = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    with running:
        for done, (some, batch) in enumerate(zip(few, batches_of(dataset, few, plan.workers), strict=True), 1):
            inputs: Features = batch.inputs
            if not dataset.cached:
                inputs = network.features({stream: clip.to(device) for stream, clip in inputs.items()})
            values = describer.describe({stream: each.float() for stream, each in inputs.items()}).cpu()
            known |= {of[key]: value for key, value in zip(some, values, strict=True)}
            if progress is not None:
                progress(min(done * size, len(wanted)), len(wanted))
    sources = [dataset.sources[index] for _, index in keys]
    group_of = _groups(plan.videos.listing)
    return DescribedClips(
        # Put together out of inference mode, whose tensors could not be saved or learned from.
        torch.stack([known[of[key]] for key in keys]),
        torch.tensor([source.target for source in sources]),
        tuple(source.name for source in sources),
        tuple(group_of[source.name] for source in sources),
    )


def _groups(listing: Listing) -> dict[str, str | None]:
    """Name for each video what it may not be parted from: its group, and videos that show the same."""
    found = dict[str, str | None]()
    for unit in units_of(listing, range(len(listing.entries))):
        for entry in map(listing.entries.__getitem__, unit.videos):
            is_alone = entry.group is None and len(unit.videos) == 1
            found[entry.path] = None if is_alone else unit.key
    return found


def _model(network: VideoModel, dataset: ClipDataset) -> Hashable:
    """Name all that the description of a clip follows from, but the clip."""
    return type(network), network.settings, dataset.settings, weights_digest(network.state_dict())


def _video(source: LabelledSource) -> Hashable:
    """Name a video and its bytes, as far as size and time tell."""
    status = source.file.stat() if source.file is not None else None
    return source.name, source.file, status and (status.st_size, status.st_mtime_ns)
