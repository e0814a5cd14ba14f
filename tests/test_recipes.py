"""Every recipe that ships loads, says what each line means, and names only what exists."""

import pytest

from actionfusion.data.augment import Augmentation
from actionfusion.errors import SettingsError
from actionfusion.models.fusion_network import FusionNetworkSettings
from actionfusion.recipes import recipe_names, recipe_path
from actionfusion.settings import read_yaml
from actionfusion.training.recipe import load_recipe


@pytest.mark.parametrize("name", recipe_names())
def test_it_loads_and_every_line_has_its_meaning(name):
    load_recipe(name)
    assert {"data", "clip", "network", "augmentation", "training"} <= read_yaml(recipe_path(name)).keys()
    for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if value.strip() and not line.startswith("#"):
            assert "# " in line, f"{name}: {key.strip()} is not explained"


def test_an_unknown_recipe_names_those_that_exist():
    with pytest.raises(SettingsError, match="tiny"):
        load_recipe("no_such_recipe")


@pytest.mark.parametrize(
    ("text", "named", "meant"),
    [
        ("training:\n  batch_sise: 3\n", "batch_sise", "training.batch_size"),
        ("trainin:\n  batch_size: 3\n", "trainin.batch_size", "training.batch_size"),
        ("clip:\n  flow:\n    enginee: dis\n", "flow.enginee", "clip.flow.engine"),
        ("seeed: 3\n", "seeed", "seed"),
        ("training:\n  stages:\n    - learning_rat: 0.1\n", "learning_rat", "learning_rate"),
    ],
)
def test_a_wrong_line_is_named_with_the_nearest_right_one(tmp_path, text, named, meant):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=rf"{named}'.*did you mean {meant}\?"):
        load_recipe(path)


def test_a_wrong_value_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("network:\n  head: lineal\n")
    with pytest.raises(SettingsError, match=r"network\.head.*lineal"):
        load_recipe(path)


SETS = ("ucf101", "ucf11", "ucfsports")


@pytest.mark.parametrize("name", SETS)
def test_faithful_is_the_paper_line_by_line(name):
    """Section 3.6, and the model card where the paper leaves a choice."""
    settings = load_recipe(f"{name}-faithful")
    clip, data, augmentation, training = (settings.clip, settings.data, settings.augmentation, settings.training)
    assert (clip.frames, clip.flow_frames, clip.flow.size) == (17, 4, 224)
    assert clip.flow.engine == "tvl1"
    assert settings.network == FusionNetworkSettings.faithful(101)
    assert augmentation == Augmentation(intervals=(2, 10))
    assert (data.dataset, data.split, data.validation) == (name, "random-7:3", "test")
    assert [(one.learning_rate, one.max_epochs, one.schedule) for one in training.stages] == [
        (1e-5, 140, "constant"),
        (1e-6, 46, "constant"),
    ]
    assert all(one.patience for one in training.stages)
    assert (training.backbone_rate_scale, training.weight_decay, training.clip_norm) == (1, 0, None)
    assert training.label_smoothing == 0
    assert (settings.pretrained, settings.pretrained_fc6, settings.flow_start) == ("imagenet", "file", "random")


@pytest.mark.parametrize(
    ("name", "split"), [("ucf101", "official-1"), ("ucf11", "grouped-7:3"), ("ucfsports", "stratified-7:3")]
)
def test_practical_never_looks_at_the_test_part(name, split):
    settings = load_recipe(f"{name}-practical")
    assert (settings.data.dataset, settings.data.split) == (name, split)
    assert settings.data.validation == "hold_out"
    assert settings.network == FusionNetworkSettings.practical(101)
    assert (settings.pretrained, settings.flow_start) == ("imagenet", "mean")
    training = settings.training
    assert training.stages[0].learning_rate * training.backbone_rate_scale == pytest.approx(1e-5)
    assert 5 <= training.clip_norm <= 10


@pytest.mark.parametrize(("name", "sampling"), [("c3d", "dense"), ("lrcn", "spread")])
def test_a_recipe_of_another_model_reads_no_flow(name, sampling):
    recipe = load_recipe(name).fitted(8)
    assert (recipe.model, recipe.clip.streams, recipe.clip.sampling) == (name, ("rgb",), sampling)
    assert recipe.network.image_size == recipe.clip.size


def test_a_recipe_names_its_model_and_takes_no_settings_of_another(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: lrcn\nnetwork:\n  hidden: 7\n")
    assert load_recipe(path).network.hidden == 7
    path.write_text("model: c3d\nnetwork:\n  hidden: 7\n")
    with pytest.raises(SettingsError, match=r"there is no setting 'network\.hidden'"):
        load_recipe(path)
    path.write_text("model: c3\n")
    with pytest.raises(SettingsError, match=r"there is no model 'c3'; did you mean c3d\?"):
        load_recipe(path)


def test_a_recipe_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "network:\n  tower: [4, M, 8]\ntraining:\n  freeze_towers: conv1_1\n  sessions:\n    - max_epochs: 3\n"
        "features:\n  draws: 5\n"
    )
    recipe = load_recipe(path)
    assert recipe.network.backbone == (4, "M", 8)
    assert (recipe.training.freeze, recipe.training.stages[0].max_epochs) == ("conv1_1", 3)
    assert recipe.features.views == 5
