"""The recipe, spelled out once: what a YAML file, the command line, ``train``, ``protocol`` and ``--resume`` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings
from actionfusion.errors import ActionFusionError, SettingsError
from actionfusion.models import model_class
from actionfusion.models.model import ModelSettings
from actionfusion.recipes import find_recipe
from actionfusion.settings import build_each, field_kinds, read_yaml
from actionfusion.training.features import FeatureSettings
from actionfusion.training.settings import TrainingSettings
from actionfusion.upgrade import with_new_names
from actionfusion.video.clip import ClipSettings


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and how.

    Args:
        model: its name in the table of models: fusion is the paper's.
        data: which videos, and the split.
        clip: what is cut from each video; which streams follows the model.
        network: the model's settings; classes, frames and sizes follow the data and the clip. None takes the model's
            defaults.
        augmentation: how training clips vary.
        training: how the model learns.
        features: whether the backbones stay as they are, and their features are computed once before the run begins.
        pretrained: weights that the backbones start from: ``imagenet``, or a file; none starts from random weights.
        seed: of weights, order, sampling, augmentation and dropout.

    Raises:
        SettingsError: no such model, or settings of another one.
    """

    model: str = "fusion"
    data: DataSettings = field(default_factory=DataSettings)
    clip: ClipSettings = field(default_factory=ClipSettings)
    network: ModelSettings = field(default=cast("ModelSettings", None))
    augmentation: Augmentation = field(default_factory=Augmentation)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    pretrained: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        settings = model_class(self.model).Settings
        if cast("ModelSettings | None", self.network) is None:
            object.__setattr__(self, "network", settings())
        elif type(self.network) is not settings:
            reason = f"{type(self.network).__name__} are not the settings of model {self.model!r}"
            raise SettingsError("network", reason, f"give {settings.__name__}")

    def changed(self, **changes: Any) -> Recipe:
        """Replace fields; another model takes its own default settings where none are given."""
        if changes.get("model", self.model) != self.model:
            changes.setdefault("network", None)
        return replace(self, **changes)

    def fitted(self, num_classes: int) -> Recipe:
        """Fit the model's settings to the clips and classes, and the clips' streams to the model."""
        clip, settings = self.clip, self.network
        clip = replace(clip, streams=model_class(self.model).streams(settings))
        settings = replace(
            settings,
            num_classes=num_classes,
            frames=clip.frames,
            image_size=clip.frame_size,
            flow_size=clip.flow.size,
            flow_channels=clip.flow_channels,
        )
        return replace(self, clip=clip, network=settings)


def recipe_kinds(model: str) -> dict[str, Any]:
    """Name the fields of a recipe of a model with their types, as `settings.build_each` takes them.

    Raises:
        SettingsError: no such model.
    """
    return dict(field_kinds(Recipe)) | {"network": model_class(model).Settings}


def recipe_from(values: Mapping[str, Any], subject: object, error: type[ActionFusionError] = SettingsError) -> Recipe:
    """Build a recipe of plain values, those that are missing at their defaults.

    Args:
        values: sections with their settings, of this version or an earlier one.
        subject: the file that they are from.
        error: what is raised.

    Raises:
        ActionFusionError: ``error``; a value that a recipe does not take.
    """
    model = str(values.get("model", Recipe.model))
    return Recipe(**build_each(recipe_kinds(model), with_new_names(values), subject, error))


def load_recipe(name: str | Path, **changes: Any) -> Recipe:
    """Read a recipe.

    Args:
        name: a recipe that ships with the package, or a YAML file.
        changes: fields to replace, such as ``data``.

    Raises:
        SettingsError: no such recipe, or a line in it that a recipe does not take.
    """
    path = find_recipe(str(name))
    return recipe_from(read_yaml(path), path).changed(**changes)
