"""A clip becomes scores: the models by name, one file each, behind one contract (`model`)."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module

from actionfusion.errors import SettingsError
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.model import ModelSettings, VideoModel

__all__ = ["MODELS", "FusionNetwork", "FusionNetworkSettings", "ModelSettings", "VideoModel", "model_class"]

MODELS: Mapping[str, str] = {
    "fusion": "actionfusion.models.fusion_network:FusionNetwork",
    "c3d": "actionfusion.models.systems.c3d:C3D",
    "c3d_idt_svm": "actionfusion.models.systems.c3d_idt_svm:C3DAndTrajectories",
    "cho": "actionfusion.models.systems.cho:Cho",
    "dense_trajectories": "actionfusion.models.systems.dense_trajectories:DenseTrajectories",
    "learning_to_track": "actionfusion.models.systems.learning_to_track:LearningToTrack",
    "lrcn": "actionfusion.models.systems.lrcn:LRCN",
    "sgsh": "actionfusion.models.systems.sgsh:SGSH",
    "probe": "actionfusion.models.probe:Probe",
}


def model_class(name: str) -> type[VideoModel]:
    """Find a model by its name in the table.

    Raises:
        SettingsError: no such model; the message gives the nearest name.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(MODELS)}"
        raise SettingsError("model", f"there is no model {name!r}", remedy)
    module, _, class_name = MODELS[name].partition(":")
    found: type[VideoModel] = getattr(import_module(module), class_name)
    return found
