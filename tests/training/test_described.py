"""Clips that a model described are not described again for the next fold, and each description is of its own bytes."""

import shutil
from dataclasses import replace

import pytest
import torch

from actionfusion.data.augment import Augmentation
from actionfusion.data.dataset import DataSettings
from actionfusion.data.loading import ClipDataset
from actionfusion.models import model_class
from actionfusion.training.described import KnownDescriptions, describe_clips
from actionfusion.training.distributed import Processes
from actionfusion.training.plan import make_plan
from actionfusion.training.recipe import Recipe
from actionfusion.training.settings import TrainingSettings
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe

KIND = model_class("dense_trajectories")


@pytest.fixture
def clips(shapes_root, tmp_path):
    for label in ("motion_up", "motion_down"):
        shutil.copytree(shapes_root / "train" / label, tmp_path / "clips" / "train" / label)
        shutil.copytree(shapes_root / "test" / label, tmp_path / "clips" / "test" / label)
    return tmp_path / "clips"


def _recipe(clips):
    return Recipe(
        "dense_trajectories",
        DataSettings(str(clips), split="folders", validation="none"),
        ClipSettings(8, 2, FlowRecipe("dis", size=32), sampling="dense"),
        KIND.Settings.tiny(2),
        Augmentation(),
        TrainingSettings(workers=0),
    )


@pytest.fixture
def described(clips, monkeypatch):
    """Describe the training part, and tell how many clips the model described for it."""
    kind, recipe = KIND, _recipe(clips)
    real, before = kind.describe, KnownDescriptions()

    def describe(changes=None, *, part=slice(None)):
        counted = []
        monkeypatch.setattr(
            kind, "describe", lambda model, features: counted.append(len(features["rgb"])) or real(model, features)
        )
        given = recipe.changed(network=replace(recipe.network, **changes or {}))
        plan = make_plan(given, Processes("cpu"))
        learn = ClipDataset(plan.clips()[0].sources[part], plan.recipe.clip)
        torch.manual_seed(0)
        network = kind(plan.recipe.network)
        found = describe_clips(plan, network, network, learn, before=before)
        fresh = describe_clips(plan, network, network, learn)
        assert torch.equal(found.values, fresh.values), "as without any before"
        assert torch.equal(found.targets, fresh.targets)
        assert (found.videos, found.groups) == (fresh.videos, fresh.groups)
        return sum(counted) - len(learn)

    return clips, describe


def test_a_fold_describes_what_the_folds_before_it_did_not(described):
    _, describe = described
    assert describe(part=slice(0, 5)) == 5
    assert describe(part=slice(2, 8)) == 3
    assert describe(part=slice(0, 8)) == 0


def test_other_bytes_and_other_settings_are_described_anew(described):
    clips, describe = described
    assert describe() == 8
    first, second = sorted((clips / "train" / "motion_up").iterdir())[:2]
    shutil.copy(second, first)
    assert describe() == 1
    assert describe({"samples": 7}) == 8


def test_what_shows_the_same_is_held_out_together(clips):
    first = sorted((clips / "train" / "motion_up").iterdir())[0]
    shutil.copy(first, first.with_name("copy.avi"))
    plan = make_plan(_recipe(clips), Processes("cpu"))
    network = KIND(plan.recipe.network)
    found = describe_clips(plan, network, network, plan.clips()[0])
    together = [video.rpartition("/")[2] for video, group in zip(found.videos, found.groups, strict=True) if group]
    assert sorted(together) == sorted([first.name, "copy.avi"])
    assert len(set(found.groups) - {None}) == 1
