from __future__ import annotations

from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import auto_cli

from actionfusion.errors import SettingsError
from actionfusion.models import FusionNetworkSettings


def _parsed(*arguments: str) -> FusionNetworkSettings:
    def command(network: FusionNetworkSettings = FusionNetworkSettings()) -> FusionNetworkSettings:
        return network

    parsed: FusionNetworkSettings = auto_cli(command, args=list(arguments))
    return parsed


def _differences(a: FusionNetworkSettings, b: FusionNetworkSettings) -> dict[str, Any]:
    return {f.name: getattr(b, f.name) for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}


def test_the_defaults_are_the_practical_mode() -> None:
    assert FusionNetworkSettings() == FusionNetworkSettings.practical(101)


def test_faithful_and_practical_differ_in_two_settings() -> None:
    practical, faithful = FusionNetworkSettings.practical(101), FusionNetworkSettings.faithful(101)

    assert _differences(practical, faithful) == {"conv_reduce": "flatten", "head": "literal"}


def test_the_faithful_mode_is_the_papers() -> None:
    settings = FusionNetworkSettings.faithful()

    assert settings.backbone == "vgg16"
    assert (settings.num_classes, settings.image_size, settings.flow_channels) == (101, 224, 8)
    assert (settings.hidden, settings.last_hidden, settings.fc6_width) == (101, 101, 4096)
    assert (settings.fusion, settings.fusion_time_kernel, settings.fusion_space_kernel) == ("conv3d", 3, 3)
    assert (settings.norm, settings.dropout_fc6, settings.dropout_lstm, settings.dropout_last) == (
        "tf",
        0.5,
        0.25,
        0.25,
    )
    assert not settings.batch_norm


@pytest.mark.parametrize(("head", "last"), [("literal", 11), ("scaled", 11), ("linear", 101)])
def test_the_last_lstm_has_a_unit_per_class_unless_a_dense_layer_follows(head: str, last: int) -> None:
    settings = FusionNetworkSettings.faithful(11, head=head)

    assert settings.hidden == 101
    assert settings.last_hidden == last


def test_the_literal_head_in_practice_has_no_dropout_on_its_logits() -> None:
    assert FusionNetworkSettings.practical(11, head="literal").dropout_last == 0
    assert FusionNetworkSettings.practical(11, head="literal", dropout_last=0.1).dropout_last == 0.1
    assert FusionNetworkSettings.faithful(11).dropout_last == 0.25


def test_two_classes_take_the_linear_head_in_practice() -> None:
    assert FusionNetworkSettings.practical(2).head == FusionNetworkSettings.tiny(2).head == "linear"
    with pytest.raises(SettingsError, match="choose linear"):
        FusionNetworkSettings.faithful(2)
    with pytest.raises(SettingsError, match="choose linear"):
        replace(FusionNetworkSettings(), num_classes=2)
    assert FusionNetworkSettings.faithful(2, norm="none").last_hidden == 2


def test_tiny_is_what_its_recipe_says() -> None:
    recipe = yaml.safe_load((resources.files("actionfusion") / "recipes" / "tiny.yaml").read_text())

    tiny = asdict(FusionNetworkSettings.tiny(8))
    assert {name: tiny[name] for name in recipe["network"]} == recipe["network"]
    assert FusionNetworkSettings.tiny(8) == FusionNetworkSettings(num_classes=8, image_size=64, **recipe["network"])


def test_named_modes_take_changes() -> None:
    settings = FusionNetworkSettings.tiny(5, backbone=(4, "M", 8), norm="ba", hidden=7)

    assert (settings.backbone, settings.norm, settings.hidden, settings.num_classes) == ((4, "M", 8), "ba", 7, 5)
    with pytest.raises(TypeError, match="widht"):
        FusionNetworkSettings.tiny(5, widht=3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_classes": 1}, "network.num_classes"),
        ({"image_size": 8}, "network.image_size"),
        ({"image_size": 16}, "network.image_size"),  # a map of 1, which the fc branch cannot pool
        ({"flow_channels": 0}, "network.flow_channels"),
        ({"streams": "audio"}, "network.streams"),
        ({"backbone": "resnet"}, "network.backbone"),
        ({"backbone": (8, "M")}, "network.backbone"),
        ({"backbone": ()}, "network.backbone"),
        ({"fusion": "bilinear"}, "network.fusion"),
        ({"fusion_time_kernel": 5}, "network.fusion_time_kernel"),
        ({"fusion_rgb_share": 1.5}, "network.fusion_rgb_share"),
        ({"fusion_fc": True, "streams": "rgb"}, "network.fusion_fc"),
        ({"fusion_fc": True, "branches": "conv"}, "network.fusion_fc"),
        ({"fusion_space_kernel": 2}, "network.fusion_space_kernel"),
        ({"branches": "none"}, "network.branches"),
        ({"conv_reduce": "min"}, "network.conv_reduce"),
        ({"fc6_width": 0}, "network.fc6_width"),
        ({"temporal_head": "max"}, "network.temporal_head"),
        ({"temporal_head": "mean", "head": "scaled"}, "network.head"),
        ({"hidden": 0}, "network.hidden"),
        ({"merge_dim": -1}, "network.merge_dim"),
        ({"norm": "layer"}, "network.norm"),
        ({"norm_streams": True}, "network.norm_streams"),
        ({"head": "softmax"}, "network.head"),
        ({"dropout_fc6": 1.0}, "network.dropout_fc6"),
        ({"dropout_lstm": -0.1}, "network.dropout_lstm"),
        ({"dropout_last": 25}, "network.dropout_last"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as error:
        FusionNetworkSettings(**changes)

    assert error.value.subject == named


def test_a_map_of_one_pixel_will_do_where_nothing_pools_it() -> None:
    settings = FusionNetworkSettings(image_size=16, branches="conv", conv_reduce="average")

    assert (settings.map_size, settings.pools) == (1, False)


@pytest.mark.parametrize(
    "settings",
    [
        FusionNetworkSettings.faithful(),
        FusionNetworkSettings.tiny(16),
        FusionNetworkSettings.tiny(16, backbone=(8, "M", 16, 16), norm_inputs=True),
    ],
    ids=["faithful", "tiny", "layout"],
)
def test_settings_go_through_yaml_and_back(settings: FusionNetworkSettings, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"network": asdict(settings)}))

    parsed = _parsed(f"--config={path}")

    assert parsed == settings


def test_flags_change_single_settings() -> None:
    parsed = _parsed("--network.backbone=[8, M, 16]", "--network.norm=ba", "--network.dropout_lstm=0")

    assert parsed == FusionNetworkSettings(backbone=(8, "M", 16), norm="ba", dropout_lstm=0)


def test_every_setting_is_described() -> None:
    assert FusionNetworkSettings.__doc__ is not None
    described = {line.split(":")[0].strip() for line in FusionNetworkSettings.__doc__.splitlines() if ":" in line}

    assert {f.name for f in fields(FusionNetworkSettings)} <= described
