"""Predict videos from features of them that are kept on the disk, as trainings share them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actionfusion.data.loading import Batch, ClipDataset, LabelledSource
from actionfusion.errors import VideoError
from actionfusion.evaluation.predictions import BATCH_SIZE, Predictions, pace_of, refuse_infinite
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.probe import ProbeHead
from actionfusion.plain_progress import PlainProgress
from actionfusion.terminal import Console
from actionfusion.training.feature_store import feature_recipes
from actionfusion.training.features import FeatureDataset, FeatureSettings, FeatureWork, fill_features


def predict_from_features(
    recognizer: Recognizer,
    sources: Sequence[LabelledSource],
    settings: FeatureSettings,
    probe: ProbeHead | None,
    *,
    prepared: bool,
) -> Predictions | None:
    """Predict the plain clip of every video, as `predict_videos` does, to the precision of the kept features.

    Args:
        recognizer: of the run, by PyTorch.
        sources: the videos.
        settings: with a folder; features that it lacks are computed and kept.
        probe: beside the run.
        prepared: whether the clips come from the prepared store.

    Returns:
        None where the features do not serve: a backbone that learned, none at all, a video that cannot be read, or one
        at another frame rate than those of the training.

    Raises:
        DatasetError: as `fill_features`.
        WeightsError: a score of a video is not finite.
    """
    network, clip = recognizer.network, recognizer.clip_settings
    if settings.folder is None or not network.exportable or set(network.reads) != set(network.all_backbones()):
        return None
    dataset = ClipDataset(sources, clip)
    work = FeatureWork(feature_recipes(network, clip, settings.dtype, prepared=prepared), None, ((dataset, 0),))
    stores = work.stores(settings.folder)
    if any(not store.folder.is_dir() for store in stores.values()):
        return None
    try:
        if any(pace_of(source.open(), recognizer.rates).note for source in sources):
            return None
        progress = PlainProgress(Console(stderr=True), "features of the test part")
        fill_features(network, work, settings.folder, progress=progress)
    except VideoError:
        return None
    kept, device = FeatureDataset(stores, sources, work.files, clip), next(network.parameters()).device
    rows, beside = [np.zeros((0, len(recognizer.labels)))], [np.zeros((0, len(recognizer.labels)))]
    with torch.inference_mode():
        for start in range(0, len(sources), BATCH_SIZE):
            owners = sources[start : start + BATCH_SIZE]
            batch = kept.collate([kept[0, start + number] for number in range(len(owners))])
            if not isinstance(batch, Batch):
                raise batch
            features = {stream: values.to(device, torch.float32) for stream, values in batch.inputs.items()}
            scores = network.scores(network.classify(features)).cpu().numpy()
            refuse_infinite(scores, owners)
            rows.append(scores)
            if probe is not None:
                beside.append(probe(features).softmax(-1).cpu().numpy())
    found = np.concatenate(rows).astype(np.float64)
    return Predictions(
        tuple(source.name for source in sources),
        np.array([source.target for source in sources], np.int64),
        found,
        found,
        len(found),
        (),
        None if probe is None else np.concatenate(beside).astype(np.float64),
    )
