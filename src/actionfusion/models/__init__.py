"""A clip becomes scores: the models by name, one file each, behind one contract (`model`)."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module

from actionfusion.errors import SettingsError
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings

__all__ = ["MODELS", "FusionNetwork", "FusionNetworkSettings", "ModelSettings", "VideoModel", "model_class"]

MODELS: Mapping[str, str] = {
    "fusion": "actionfusion.models.fusion_network:FusionNetwork",
    "probe": "actionfusion.models.probe:Probe",
    "single_frame": "actionfusion.models.systems.single_frame:SingleFrame",
    "early_fusion": "actionfusion.models.systems.early_fusion:EarlyFusion",
    "late_fusion": "actionfusion.models.systems.late_fusion:LateFusion",
    "slow_fusion": "actionfusion.models.systems.slow_fusion:SlowFusion",
    "multiresolution": "actionfusion.models.systems.multiresolution:Multiresolution",
    "c3d": "actionfusion.models.systems.c3d:C3D",
    "fstcn": "actionfusion.models.systems.fstcn:FstCN",
    "two_stream": "actionfusion.models.systems.two_stream:TwoStream",
    "two_stream_fusion": "actionfusion.models.systems.two_stream_fusion:TwoStreamFusion",
    "lrcn": "actionfusion.models.systems.lrcn:LRCN",
    "composite_lstm": "actionfusion.models.systems.composite_lstm:CompositeLSTM",
    "soft_attention": "actionfusion.models.systems.soft_attention:SoftAttention",
    "conv_pooling": "actionfusion.models.systems.conv_pooling:ConvPooling",
    "deep_lstm": "actionfusion.models.systems.deep_lstm:DeepLSTM",
    "adascan": "actionfusion.models.systems.adascan:AdaScan",
    "two_stream_lstm": "actionfusion.models.systems.two_stream_lstm:TwoStreamLSTM",
    "snippets": "actionfusion.models.systems.snippets:Snippets",
    "dense_trajectories": "actionfusion.models.systems.dense_trajectories:DenseTrajectories",
    "c3d_idt_svm": "actionfusion.models.systems.c3d_idt_svm:C3DAndTrajectories",
    "cho": "actionfusion.models.systems.cho:Cho",
    "learning_to_track": "actionfusion.models.systems.learning_to_track:LearningToTrack",
    "sgsh": "actionfusion.models.systems.sgsh:SGSH",
}

# What a command makes of runs, and no recipe trains.
_OF_RUNS: Mapping[str, str] = {"average": "actionfusion.models.average:Average"}


def model_class(name: str) -> type[VideoModel]:
    """Find a model by its name in the table, or what is made of several.

    Raises:
        SettingsError: no such model; the message gives the nearest name.
    """
    place = MODELS.get(name) or _OF_RUNS.get(name)
    if place is None:
        near = get_close_matches(name, MODELS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(MODELS)}"
        raise SettingsError("model", f"there is no model {name!r}", remedy)
    module, _, class_name = place.partition(":")
    found: type[VideoModel] = getattr(import_module(module), class_name)
    return found
