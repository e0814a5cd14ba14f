"""How models are trained to be compared: by one recipe, with the settings of each; and what that will cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from actionfusion.data.dataset import split_listing
from actionfusion.data.listing import Listing
from actionfusion.errors import ActionFusionError, SettingsError
from actionfusion.models import model_class
from actionfusion.plain_progress import duration, giga
from actionfusion.training.cost import training_cost
from actionfusion.training.recipe import Recipe, load_recipe
from actionfusion.video.clip import cut_clip

BASE = "small"


def comparison_recipe(row: str, base: str | None = None) -> Recipe:
    """Make a model's recipe: the clips, backbone, start and budget of one for all, and its own settings.

    A model that wants other clips, such as C3D, is trained by the recipe that it names itself.

    Args:
        row: its name in the table of models, or that with one of its variants, such as ``lrcn:flow``.
        base: a recipe in place of ``small``.

    Raises:
        SettingsError: no such model, variant or recipe.
    """
    model, _, variant = row.partition(":")
    kind = model_class(model)
    if variant and variant not in kind.variants:
        known = ", ".join(f"{model}:{name}" for name in kind.variants if name)
        raise SettingsError("models", f"{model} has no variant {variant!r}", f"choose one of {known or model}")
    common = load_recipe(base or BASE)
    made = (common if kind.recipe == BASE else load_recipe(kind.recipe)).changed(model=model)
    shared = {field.name for field in fields(kind.Settings)} & {"backbone", "batch_norm"}
    if "backbone" in shared:
        made = made.changed(pretrained=common.pretrained, flow_start=common.flow_start)
    given = {name: getattr(common.network, name) for name in shared if hasattr(common.network, name)}
    return made.changed(network=replace(made.network, **given | dict(kind.variants.get(variant, {}))))


@dataclass(frozen=True)
class Estimate:
    """What a comparison costs, about.

    Attributes:
        features: seconds for what is computed of each clip once.
        training: seconds for all steps of all folds.
        disk: bytes of the folds' weights and checkpoints.
        unknown: models that could not be tried.
    """

    features: float
    training: float
    disk: int
    unknown: tuple[str, ...]

    def line(self, free: int) -> str:
        """Say it, beside the bytes that are free."""
        features, training = duration(self.features), duration(self.training)
        unknown = f"; not counted: {', '.join(self.unknown)}" if self.unknown else ""
        return (
            f"estimated: at most {features} for features, which are computed once, and {training} for training; "
            f"run folders of {giga(self.disk)}, {giga(free)} are free{unknown}"
        )


def estimate(wanted: Sequence[tuple[Recipe, int]], listing: Listing) -> Estimate:
    """Try each model on one clip and one batch, and multiply.

    Args:
        wanted: recipes of the models, with their data, and how many folds each is to be trained on.
        listing: the videos.
    """
    features, training, disk, unknown, seen = 0.0, 0.0, 0, list[str](), set[tuple[object, ...]]()
    for recipe, folds in wanted:
        try:
            once, each, size = _try(recipe, listing)
        except ActionFusionError:
            unknown.append(recipe.model)
            continue
        shared = (getattr(recipe.network, "backbone", recipe.model), recipe.clip)
        if recipe.features.folder is None or shared not in seen:
            features += once
        seen.add(shared)
        training += folds * each
        disk += folds * size
    return Estimate(features, training, disk, tuple(unknown))


def _try(recipe: Recipe, listing: Listing) -> tuple[float, float, int]:
    """Estimate the seconds for the features of all clips and for a fold's training from them, and the fold's bytes."""
    videos = split_listing(listing, replace(recipe.data, split="all"))
    made = recipe.fitted(len(listing.labels))
    network, settings, count = model_class(made.model)(made.network), made.training, len(listing.entries)
    cached = made.features.folder is not None or network.solved
    size = training_cost(type(network), made.network, settings, cached=cached).disk
    if network.backbones:
        network.freeze_backbones("all" if cached else settings.freeze)
    (source,) = videos.sources(videos.split.train[:1], made.clip)
    began = time.perf_counter()
    with torch.set_grad_enabled(not cached):
        clip = cut_clip(source.open(), made.clip)
        inputs = {name: torch.from_numpy(values)[None] for name, values in clip.inputs(network.reads).items()}
        features = network.features(inputs)
        if network.solved:
            network.describe(features)
    once = time.perf_counter() - began
    views = 1 + (made.features.views if made.features.folder is not None else 0)
    if network.solved:
        return views * count * once, 0.0, size
    batch = settings.batch_size if cached else 1
    features = {stream: values.expand(batch, *values.shape[1:]) for stream, values in features.items()}
    began = time.perf_counter()
    loss = network.loss(network(features=features), torch.zeros(batch, dtype=torch.int64))
    loss.backward()  # type: ignore[no-untyped-call]
    step = time.perf_counter() - began
    epochs = sum(stage.max_epochs for stage in settings.stages)
    if not cached:  # every epoch computes each clip whole
        return 0.0, epochs * count * (once + step), size
    return views * count * once, epochs * math.ceil(count / batch) * step, size
