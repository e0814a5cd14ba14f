"""What earlier versions wrote, in today's words: settings by their names, and the names of weights.

Version 0.1 knew one network and wrote no ``format``; that is format 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = 2

RENAMED = {
    "clip.flow_fields": "clip.flow_frames",
    "network.tower": "network.backbone",
    "training.sessions": "training.stages",
    "training.freeze_towers": "training.freeze",
    "features.draws": "features.views",
}
"""Settings by their earlier names; recipes may hold them too."""

_ADDED = {"pretrained_fc6": "file", "flow_start": "random"}
_ADDED_TO_AUGMENTATION = {"drawn_by": "place"}
_ADDED_TO_NETWORK: Mapping[str, Mapping[str, Any]] = {"fusion": {"norm_streams": False}}
"""Settings that came within format 2, as everything was done before; the last by model."""

_TENSORS = {"rgb_tower.": "backbones.rgb.", "flow_tower.": "backbones.flow."}


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give settings their present names.

    Args:
        values: sections with their settings, as a recipe or ``config.yaml`` holds them.
    """
    renamed = dict(values)
    for before, after in RENAMED.items():
        section, name = before.split(".")
        settings = renamed.get(section)
        if isinstance(settings, Mapping) and name in settings:
            new = after.split(".")[1]
            renamed[section] = {new if key == name else key: value for key, value in settings.items()}
    return renamed


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Bring ``config.yaml`` of an earlier version up to this one.

    Args:
        config: its plain values; what is damaged in them is left for the reader to refuse.
    """
    config = {**_ADDED, **config}
    if isinstance(network := config.get("network"), Mapping):
        config["network"] = {**_ADDED_TO_NETWORK.get(str(config.get("model", "fusion")), {}), **network}
    if isinstance(augmentation := config.get("augmentation"), Mapping):
        config["augmentation"] = {**_ADDED_TO_AUGMENTATION, **augmentation}
    if "format" in config:
        return config
    config = with_new_names(config)
    clip, network = config.get("clip"), config.get("network")
    if isinstance(clip, Mapping) and isinstance(network, Mapping):
        streams = network.get("streams", "both")
        config["clip"] = {
            **clip,
            "streams": ["rgb", "flow"] if streams == "both" else [streams],
            "size": None,
            "sampling": "spread",
            "stride": 1,
        }
        config["network"] = {
            **network,
            "frames": clip.get("frames"),
            "flow_size": network.get("image_size"),
        }
    return {"format": FORMAT, "model": "fusion", **config}


def tensor_name(name: str) -> str:
    """Give a weight its present name; ``network.`` and ``optimizer.`` of a checkpoint may stand before it."""
    for before, after in _TENSORS.items():
        for start in ("", "network.", "optimizer."):
            if name.startswith(start + before):
                return start + after + name.removeprefix(start + before)
    return name
