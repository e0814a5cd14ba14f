"""What several rooms' tests share: a generated data set, and a small run trained on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

# Time decides no test, and chance none of a change's: HYPOTHESIS_PROFILE=explore looks for examples never tried before.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


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


@pytest.fixture(scope="session")
def shelf_package(tmp_path_factory) -> Path:
    """The folder of an installed package that gives fsspec the protocol ``shelf``, in this process and its children."""
    import fsspec

    site = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("shelf_filesystem.py"), site)
    about = site / "shelf-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\nshelf = shelf_filesystem:ShelfFileSystem\n")
    sys.path.insert(0, str(site))
    fsspec.register_implementation("shelf", "shelf_filesystem.ShelfFileSystem", clobber=True)
    return site


@pytest.fixture
def shelf(shelf_package, tmp_path, monkeypatch) -> Path:
    """The folder that ``shelf://`` leads to, empty."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("SHELF", str(folder))
    monkeypatch.delenv("SHELF_FAULTS", raising=False)
    return folder


@pytest.fixture
def memory() -> Iterator[None]:
    """``memory://`` is empty, before and after."""
    from fsspec.implementations.memory import MemoryFileSystem

    def clear() -> None:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    clear()
    yield
    clear()


@pytest.fixture
def scratch(monkeypatch) -> Iterator[Path]:
    """The folder of temporary files, in which none of ours may be left at the end."""
    # A short name: torch's loaders put sockets into it, whose paths may have 107 characters, and else wait for ever.
    folder = Path(tempfile.mkdtemp(prefix="af"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    left = list(folder.glob("actionfusion-*"))
    shutil.rmtree(folder)
    assert left == []
