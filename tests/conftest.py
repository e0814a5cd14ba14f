"""What several rooms' tests share: a generated data set, and a small run trained on it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real clips, which never come with the repository."""
    root = Path(os.environ.get("ACTIONFUSION_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not root.is_dir():
        pytest.skip("the real clips are not on this machine (set ACTIONFUSION_SHARED to their folder's parent)")
    return root


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory) -> Path:
    """Four training and two test clips of each of the eight generated classes."""
    from actionfusion.data.shapes_files import make_shapes

    root = tmp_path_factory.mktemp("shapes")
    return make_shapes(root, train_per_class=4, val_per_class=0, test_per_class=2, seed=7)


@pytest.fixture(scope="session")
def train_arguments(shapes_root) -> dict[str, object]:
    """Arguments of ``train`` for one quick epoch of the tiny network on the generated clips."""
    from actionfusion.training.recipe import load_recipe
    from actionfusion.training.sessions import Session

    recipe = load_recipe("tiny")
    return recipe | {
        "data": replace(recipe["data"], dataset="folder", root=shapes_root, split="folders", validation="test"),
        "training": replace(recipe["training"], sessions=(Session(1e-3, 1, 1),), batch_size=8, workers=0),
    }


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, train_arguments) -> Path:
    """A run folder of the tiny network after one epoch."""
    from actionfusion.training.train import train

    return train(**train_arguments | {"out": tmp_path_factory.mktemp("runs") / "tiny"})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip("only root may mount a small disk")
        return folder

    if sys.platform != "linux":
        pytest.skip("needs Linux's tmpfs")
    yield mount
    subprocess.run(["umount", folder], check=False, capture_output=True)
