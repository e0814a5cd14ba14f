"""The recipe, spelled out once: what a YAML file, the command line, ``train``, ``protocol`` and ``--resume`` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings
from actionfusion.errors import ActionFusionError, SettingsError
from actionfusion.models import model_class
from actionfusion.models.model_settings import ModelSettings
from actionfusion.models.weights import Fc6Start, FlowStart
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
        pretrained: what the backbones start from: ``imagenet``, a file of weights, or a run folder, of which all is
            taken that fits; none starts from random weights.
        pretrained_fc6: of fc6: file takes it from there too, where it is there and fits; random leaves it random, as
            section 3.6 of the paper may be read.
        flow_start: of the flow's first layer, where pretrained weights are of pictures: random (the paper), or mean, of
            the RGB filters for each channel.  A run folder brings its own.
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
    pretrained_fc6: Fc6Start = "file"
    flow_start: FlowStart = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        settings = model_class(self.model).Settings
        if cast("ModelSettings | None", self.network) is None:
            object.__setattr__(self, "network", settings())
        elif type(self.network) is not settings:
            reason = f"{type(self.network).__name__} are not the settings of model {self.model!r}"
            raise SettingsError("network", reason, f"give {settings.__name__}")
        if self.pretrained == "":
            remedy = "give imagenet, a file of weights, a run folder, or null for none"
            raise SettingsError("pretrained", "is empty", remedy)
        for name, kind in (("pretrained_fc6", Fc6Start), ("flow_start", FlowStart)):
            value, choices = getattr(self, name), get_args(kind)
            if value not in choices:
                raise SettingsError(name, f"{value!r} is no choice", f"choose one of {', '.join(choices)}")

    @property
    def pretrained_name(self) -> str | None:
        """``pretrained`` as it is kept: of a file or a run folder its name alone."""
        given = self.pretrained
        return given if given is None or given == "imagenet" else Path(given).absolute().name

    def changed(self, **changes: Any) -> Recipe:
        """Replace fields; another model takes its own default settings where none are given."""
        if changes.get("model", self.model) != self.model:
            changes.setdefault("network", None)
        return replace(self, **changes)

    def fitted(self, num_classes: int) -> Recipe:
        """Fit the model's settings to the clips and classes, the clips' streams and a first stage to the model.

        Raises:
            SettingsError: settings that do not go together, or a stage without labels of a model that has none.
        """
        clip, settings, kind = self.clip, self.network, model_class(self.model)
        clip = replace(clip, streams=kind.streams(settings))
        settings = replace(
            settings,
            num_classes=num_classes,
            frames=clip.frames,
            image_size=clip.frame_size,
            flow_size=clip.flow.size,
            flow_channels=clip.flow_channels,
        )
        return replace(self, clip=clip, network=settings, training=self._staged(kind.unlabelled_epochs(settings)))

    def _staged(self, epochs: int) -> TrainingSettings:
        """Put the model's stage without labels before the others, unless the recipe has it already."""
        first = self.training.stages[0]
        if not epochs and not all(stage.labels for stage in self.training.stages):
            reason = f"{self.model} learns nothing without labels"
            raise SettingsError("training.stages", reason, "leave labels: false out")
        if not epochs or not first.labels:
            return self.training
        unlabelled = replace(first, max_epochs=epochs, patience=None, labels=False)
        return replace(self.training, stages=(unlabelled, *self.training.stages))


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
