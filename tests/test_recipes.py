"""Every recipe that ships loads, says what each line means, and names only what exists."""

import pytest

from actionfusion.errors import SettingsError
from actionfusion.recipes import recipe_names, recipe_path
from actionfusion.training.recipe import load_recipe


@pytest.mark.parametrize("name", recipe_names())
def test_it_loads_and_every_line_has_its_meaning(name):
    settings = load_recipe(name)
    assert {"data", "clip", "network", "augmentation", "training"} <= settings.keys()
    for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if value.strip() and not line.startswith("#"):
            assert "# " in line, f"{name}: {key.strip()} is not explained"


def test_an_unknown_recipe_names_those_that_exist():
    with pytest.raises(SettingsError, match="tiny"):
        load_recipe("no_such_recipe")


def test_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training:\n  batch_sise: 3\n")
    with pytest.raises(SettingsError, match="batch_sise"):
        load_recipe(path)
