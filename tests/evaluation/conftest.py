"""A few generated clips in groups, and a training that takes a second."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

LABELS = ("motion_down", "motion_up")


@pytest.fixture(scope="session")
def grouped_root(tmp_path_factory, shapes_root) -> Path:
    """Two classes of six clips each, two clips in each of the groups p0, p1 and p2."""
    root = tmp_path_factory.mktemp("grouped")
    for label in LABELS:
        (root / label).mkdir()
        for number, video in enumerate(sorted(shapes_root.glob(f"*/{label}/*.mp4"))):
            shutil.copy(video, root / label / f"p{number // 2}_{label}_{number}.mp4")
    return root


@pytest.fixture(scope="session")
def quick_arguments(grouped_root) -> dict[str, object]:
    """Arguments of ``train`` for one epoch of a very small network on these clips, on a split that leaks."""
    from actionfusion.training.recipe import load_recipe
    from actionfusion.training.stages import Stage

    recipe = load_recipe("tiny")
    data = replace(
        recipe.data, root=grouped_root, split="random-7:3", validation="hold_out", validation_fraction=0.3,
        group_pattern=r"(?P<group>p\d)_",
    )  # fmt: skip
    clip = replace(recipe.clip, frames=2, flow_frames=2, flow=replace(recipe.clip.flow, size=32))
    network = replace(recipe.network, backbone=(4, "M", 8), fc6_width=8, hidden=6)
    training = replace(recipe.training, stages=(Stage(1e-3, 1, None),), batch_size=4, workers=0)
    return {"recipe": recipe.changed(data=data, clip=clip, network=network, training=training)}


@pytest.fixture(scope="session")
def grouped_run(tmp_path_factory, quick_arguments) -> Path:
    """The run of these arguments."""
    from actionfusion.training.train import train

    return train(**quick_arguments | {"out": tmp_path_factory.mktemp("runs") / "grouped"})
