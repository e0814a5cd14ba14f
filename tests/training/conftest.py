"""What the tests of training share: a recipe file beside the store of its data, and trainings that stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from actionfusion.data.prepare import prepare
from actionfusion.training.learner import Learner
from actionfusion.video.flow import FlowRecipe


@pytest.fixture(scope="session")
def stored_recipe(tmp_path_factory) -> Callable[[Path, Mapping[str, Any]], Path]:
    """Prepares the clips under a root for a recipe and gives the file of the recipe with both places in it."""

    def write(root: Path, recipe: Mapping[str, Any]) -> Path:
        folder = tmp_path_factory.mktemp("recipe")
        items = [(path, path.relative_to(root).as_posix()) for path in sorted(root.glob("*/*/*.mp4"))]
        prepare(items, folder / "store", FlowRecipe(**recipe["clip"]["flow"]), workers=0)
        places = {"root": str(root), "store": str(folder / "store")}
        (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "data": recipe["data"] | places}))
        return folder / "recipe.yaml"

    return write


@pytest.fixture
def stopped_at(monkeypatch) -> Callable[[int], AbstractContextManager[None]]:
    """Makes the training inside fail before a step, as a killed one would: without a word in the checkpoint."""

    @contextmanager
    def stopped(step: int) -> Iterator[None]:
        real, seen = Learner.step, []

        def counted(*arguments, **options):
            seen.append(1)
            if len(seen) == step:
                raise ZeroDivisionError
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Learner, "step", counted)
            with pytest.raises(ZeroDivisionError):
                yield

    return stopped
