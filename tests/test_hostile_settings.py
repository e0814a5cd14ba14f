"""Whoever gives a run, an export, a recipe or a store away chooses neither what is imported nor what else is read."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
import pytest
import yaml

from actionfusion.__main__ import main
from actionfusion.data.store import Contents, SourceIdentity, StoredVideo, write_stored_video
from actionfusion.errors import DatasetError
from actionfusion.inference.exports.description import describe
from actionfusion.inference.exports.exported import open_export
from actionfusion.inference.runtimes.prepared import Artifact, find_prepared
from actionfusion.inference.runtimes.sub_models import clip_model
from actionfusion.run_folder import open_run
from actionfusion.training.feature_store import FeatureStore, feature_recipes
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.reading import Frame

_opened: list[str] = []
sys.addaudithook(lambda event, args: _opened.append(str(args[0])) if event == "open" else None)

# What stands in place of a section; {module} and {file} are the trap's.
SECTIONS = {
    "class": {"class_path": "{module}.X"},
    "class with arguments": {"class_path": "{module}.X", "init_args": {"frames": 8}},
    "class by name": "{module}.X",
    "other file": "{file}",
    "list": [{"class_path": "{module}.X"}],
    "nothing": None,
}
# What stands in place of the whole file.
TEXTS = {
    "tag": "clip: !!python/object/apply:importlib.import_module [{module}]\n",
    "tag of a module": "clip: !!python/module:{module} {{}}\n",
    "alias": "clip: &a {{frames: 8}}\nnetwork: *a\n",
    "alias bomb": "a: &a [x, x, x, x]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in pairwise("abcdefghi")),
    "deep": "clip: " + "[" * 20_000,
    "other file": "{file}",
    "class": "class_path: {module}.X\n",
    "digits": "seed: " + "1" * 100_000,
    "UTF-16": "clip: 8".encode("utf-16").decode("latin-1"),
    "empty": "",
}  # fmt: skip
JSON_TEXTS = {
    "deep": "[" * 100_000,
    "tag": TEXTS["tag"],
    "digits": '{{"format": ' + "1" * 100_000 + "}}",
    "NaN": '{{"format": Infinity}}',
    "class": '{{"class_path": "{module}.X"}}',
    "other file": '"{file}"',
    "null": "null",
}


class Trap:
    """A module that must not be imported, and a file with good settings that must not be read."""

    def __init__(self, folder: Path) -> None:
        self.module = f"trap_{uuid4().hex}"
        self.imported = folder / "imported"
        (folder / f"{self.module}.py").write_text(f"open({str(self.imported)!r}, 'w').close()\nclass X: pass\n")
        self.file = folder / "other.yaml"
        self.file.write_text("frames: 8\nflow_fields: 4\n")

    def set(self, value):
        """With the names of the trap."""
        if isinstance(value, str):
            return value.format(module=self.module, file=self.file)
        if isinstance(value, dict):
            return {name: self.set(part) for name, part in value.items()}
        return [self.set(part) for part in value] if isinstance(value, list) else value

    def write(self, path: Path, text: str) -> None:
        path.write_bytes(self.set(text).encode("latin-1"))

    def is_untouched(self) -> bool:
        return not self.imported.exists() and self.module not in sys.modules and str(self.file) not in _opened


@pytest.fixture
def trap(tmp_path, monkeypatch):
    folder = tmp_path / "trap"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    made = Trap(folder)
    _opened.clear()
    return made


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def refused(trap, capsys):
    """See that a command ends in one line and leaves the trap alone."""

    def check(*words):
        code = main([str(word) for word in words])
        said = capsys.readouterr().err
        assert code in (1, 2), said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert "Traceback" not in said
        assert trap.is_untouched()
        return said

    return check


def _change(path: Path, names: str, value: object) -> None:
    """Put a value into a YAML or JSON file, such as at ``clip.flow``."""
    read, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    values = read(path.read_text())
    *above, last = names.split(".")
    inner = values
    for name in above:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[int(last) if isinstance(inner, list) else last] = value
    path.write_text(write(values))


def test_the_trap_works(trap):
    assert trap.is_untouched()
    __import__(trap.module)
    trap.file.read_text()
    assert trap.imported.exists()
    assert str(trap.file) in _opened


@pytest.mark.parametrize("attack", SECTIONS)
@pytest.mark.parametrize("section", ["clip", "clip.flow", "network", "network.tower"])
def test_the_settings_of_a_run(trap, run, refused, shapes_root, section, attack):
    _change(run / "config.yaml", section, trap.set(SECTIONS[attack]))
    video = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    assert "config.yaml" in refused("predict", run, video)


@pytest.mark.parametrize("attack", TEXTS)
def test_the_whole_file_of_a_run(trap, run, refused, attack):
    trap.write(run / "config.yaml", TEXTS[attack])
    assert "config.yaml" in refused("predict", run, "a.mp4")


@pytest.mark.parametrize("attack", SECTIONS)
@pytest.mark.parametrize("name", ["data", "data.validation", "data.seed", "seed"])
def test_a_run_that_is_evaluated(trap, run, refused, shapes_root, name, attack):
    if (name, attack) == ("data.seed", "nothing"):
        pytest.skip("a split that was not drawn")
    _change(run / "config.yaml", name, trap.set(SECTIONS[attack]))
    refused("evaluate", run, "--root", shapes_root)


@pytest.mark.parametrize("command", [("train",), ("protocol", "official")])
@pytest.mark.parametrize("attack", SECTIONS)
@pytest.mark.parametrize("section", ["clip", "clip.flow", "training", "training.stages", "training.stages.0"])
def test_a_recipe(trap, refused, tmp_path, command, section, attack):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("clip: {flow: {}}\ntraining: {stages: [{}]}\n")
    _change(recipe, section, trap.set(SECTIONS[attack]))
    assert "mine.yaml" in refused(*command, "--config", recipe, "--data.root", tmp_path, "--out", tmp_path / "out")


@pytest.mark.parametrize("attack", sorted(TEXTS.keys() - {"empty"}))
def test_the_whole_file_of_a_recipe(trap, refused, tmp_path, attack):
    recipe = tmp_path / "mine.yaml"
    trap.write(recipe, TEXTS[attack])
    assert "mine.yaml" in refused("train", "--config", recipe, "--data.root", tmp_path)
    assert "mine.yaml" in refused("prepare", "folder", tmp_path, "--store", tmp_path / "store", "--config", recipe)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--clip={file}"],
        ["train", "--clip", "{file}"],
        ["train", "--clip", '{{"class_path": "{module}.X"}}'],
        ["train", "--clip", "{module}.X"],
        ["train", "--clip.flow={file}"],
        ["train", "--clip.class_path", "{module}.X"],
        ["train", "--clip.init_args.frames", "8"],
        ["train", "--clip.help", "{module}.X"],
        ["train", "--training.stages", '[{{"class_path": "{module}.X"}}]'],
        ["train", "--training.stages", '["{file}"]'],
        ["train", "--training.stages={file}"],
        ["train", "--training.stages", "{module}.X"],
        ["train", "--training.stages+", '{{"class_path": "{module}.X"}}'],
        ["train", "--training.stages.class_path", "{module}.X"],
        ["train", "--network.tower", '{{"class_path": "{module}.X"}}'],
        ["train", "--network.tower", "{file}"],
        ["train", "--data.root", '{{"class_path": "{module}.X"}}'],
        ["train", "--print_config"],
        ["prepare", "folder", "root", "--store", "store", "--flow", "{file}"],
        ["prepare", "folder", "root", "--store", "store", "--flow", '{{"class_path": "{module}.X"}}'],
        ["protocol", "official", "--seeds", "{file}"],
        ["protocol", "official", "--data", "{file}"],
        ["predict", "run", "a.mp4", "--config", "{file}"],
    ],
)
def test_words(trap, refused, words):
    refused(*map(trap.set, words))


@pytest.fixture
def unfinished(run, shapes_root):
    (run / "resume.json").write_text(json.dumps({"data": {"root": str(shapes_root)}, "device": None}))
    return run


def test_the_unfinished_run_can_be_gone_on_with(unfinished, capsys):
    assert main(["train", "--resume", "--out", str(unfinished)]) == 0
    assert "finished already" in capsys.readouterr().err


@pytest.mark.parametrize("attack", SECTIONS)
@pytest.mark.parametrize(
    "section", ["clip", "training", "training.stages", "training.stages.0", "data", "network", "augmentation"]
)
def test_a_run_that_is_resumed(trap, unfinished, refused, section, attack):
    _change(unfinished / "config.yaml", section, trap.set(SECTIONS[attack]))
    refused("train", "--resume", "--out", unfinished)


@pytest.mark.parametrize("attack", sorted(SECTIONS.keys() - {"other file", "class by name"}))
@pytest.mark.parametrize("name", ["data", "data.root", "device"])
def test_the_places_of_a_run_that_is_resumed(trap, unfinished, refused, name, attack):
    if attack == "nothing" and name != "data":
        pytest.skip("what stands there")
    _change(unfinished / "resume.json", name, trap.set(SECTIONS[attack]))
    assert "resume.json" in refused("train", "--resume", "--out", unfinished)


@pytest.mark.parametrize("attack", JSON_TEXTS)
def test_the_whole_file_of_places(trap, unfinished, refused, attack):
    trap.write(unfinished / "resume.json", JSON_TEXTS[attack])
    assert "resume.json" in refused("train", "--resume", "--out", unfinished)


@pytest.fixture
def exported(run, tmp_path) -> Path:
    """What an export says of itself, with a model of one byte."""
    folder = tmp_path / "export"
    folder.mkdir()
    opened = open_run(run)
    sub_model = clip_model(opened.load_network, opened.model_class, opened.network, opened.clip)
    about = describe(opened, sub_model, "onnx", "fp32", "0" * 64) | {"model": "model.onnx", "files": {"model.onnx": 1}}
    (folder / "model.json").write_text(json.dumps(about))
    (folder / "model.onnx").write_bytes(b"x")
    assert open_export(folder).clip == opened.clip
    return folder


OF_FORMAT_1 = ("flow_recipe", "sampling", "sampling.frames")


@pytest.mark.parametrize("attack", SECTIONS)
@pytest.mark.parametrize(
    "name",
    [
        "clip",
        "clip.flow",
        "clip.frames",
        *OF_FORMAT_1,
        "labels.0",
        "inputs",
        "inputs.0",
        "inputs.0.shape",
        "output",
        "files",
    ],
)
def test_an_export(trap, exported, refused, name, attack):
    if name == "labels.0" and isinstance(SECTIONS[attack], str):
        pytest.skip("a label like any other")
    if name in OF_FORMAT_1:
        _change(exported / "model.json", "export_format", 1)
    _change(exported / "model.json", name, trap.set(SECTIONS[attack]))
    assert "model.json" in refused("predict", exported, "a.mp4")


@pytest.mark.parametrize("name", ["../../../../dev/zero", "/dev/zero", "a/b", "", ".."])
def test_an_export_names_no_file_elsewhere(trap, exported, refused, name):
    _change(exported / "model.json", "files", {name: 1})
    _change(exported / "model.json", "model", name)
    refused("predict", exported, "a.mp4")


@pytest.mark.parametrize("attack", JSON_TEXTS)
def test_the_whole_file_of_an_export(trap, exported, refused, attack):
    trap.write(exported / "model.json", JSON_TEXTS[attack])
    assert "model.json" in refused("predict", exported, "a.mp4")


@pytest.mark.parametrize("attack", JSON_TEXTS)
def test_what_is_prepared(trap, run, attack):
    opened = open_run(run)
    sub_model = clip_model(opened.load_network, opened.model_class, opened.network, opened.clip)
    artifact = Artifact(opened, sub_model, "onnx", "fp32")
    artifact.folder.mkdir(parents=True)
    trap.write(artifact.folder / "prepared.json", JSON_TEXTS[attack])
    assert find_prepared(artifact)[0] is None
    outside = artifact.fingerprint() | {"model": "../../../other", "weights": {}, "files": {"../../../other": {}}}
    (artifact.folder / "prepared.json").write_text(json.dumps(outside))
    (run.parent / "other").write_text("x")
    assert find_prepared(artifact) == (None, "it is damaged")
    assert trap.is_untouched()


@pytest.mark.parametrize("attack", JSON_TEXTS)
def test_a_feature_store(trap, run, tmp_path, attack):
    opened = open_run(run)
    recipe = feature_recipes(opened.load_network(), opened.clip, "float32", prepared=False)["rgb"]
    store = FeatureStore(tmp_path / "features", recipe)
    store.begin()
    assert FeatureStore(tmp_path / "features", recipe).folder == store.folder
    trap.write(store.folder / "recipe.json", JSON_TEXTS[attack])
    with pytest.raises(DatasetError, match="features"):
        FeatureStore(tmp_path / "features", recipe)
    assert trap.is_untouched()


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "a.avi.zip"
    pictures = [cv2.blur(np.full((32, 32, 3), 20 * number, np.uint8), (3, 3)) for number in range(3)]
    frames = [Frame(number, number / 25, picture) for number, picture in enumerate(pictures)]
    with path.open("wb") as stream:
        write_stored_video(
            stream, frames, Contents.of_flow(FlowRecipe("farneback", 8, 32)), SourceIdentity("a.avi", 1, "0" * 64), 95
        )
    return path


def _stored_with(stored, path, text):
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist()[:-1]:
            new.writestr(name, old.read(name))
        new.writestr("clip.json", text)


@pytest.mark.parametrize("attack", SECTIONS)
@pytest.mark.parametrize("name", ["recipe", "recipe.size", "source", "frames", "times", "times.1", "quality", "format"])
def test_a_stored_video(trap, stored, tmp_path, name, attack):
    if name == "times.1" and attack == "nothing":
        pytest.skip("NumPy's NaN, which is refused below")
    index = tmp_path / "clip.json"
    with zipfile.ZipFile(stored) as archive:
        index.write_bytes(archive.read("clip.json"))
    _stored_with(stored, tmp_path / "b.zip", index.read_text())
    assert StoredVideo(tmp_path / "b.zip").num_frames == 3
    _change(index, name, trap.set(SECTIONS[attack]))
    _stored_with(stored, tmp_path / "a.zip", index.read_text())
    with pytest.raises(DatasetError, match=r"a\.zip: "):
        StoredVideo(tmp_path / "a.zip")
    assert trap.is_untouched()


@pytest.mark.parametrize("text", [*JSON_TEXTS.values(), '{{"format": 1, "times": [0, null, 1]}}'])
def test_the_whole_index_of_a_stored_video(trap, stored, tmp_path, text):
    _stored_with(stored, tmp_path / "a.zip", trap.set(text))
    with pytest.raises(DatasetError, match=r"a\.zip: "):
        StoredVideo(tmp_path / "a.zip")


@pytest.fixture(scope="module")
def evaluated(tiny_run, shapes_root, tmp_path_factory) -> Path:
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run"))
    assert main(["evaluate", str(run), "--root", str(shapes_root)]) == 0
    return run


@pytest.mark.parametrize("attack", JSON_TEXTS)
def test_an_evaluation(trap, evaluated, refused, tmp_path, attack):
    run = Path(shutil.copytree(evaluated, tmp_path / "hostile"))
    trap.write(run / "evaluation_test.json", JSON_TEXTS[attack])
    assert "evaluation_test.json" in refused("versus", run, evaluated)
    assert "evaluation_test.json" in refused("report", run)
    assert "evaluation_test.json" in refused("report_comparison", evaluated, run, "--out", tmp_path / "a.html")


@pytest.mark.parametrize("attack", SECTIONS)
@pytest.mark.parametrize("name", ["videos", "videos.0", "videos.0.label", "videos.0.video", "labels", "count", "split"])
def test_a_part_of_an_evaluation(trap, evaluated, refused, tmp_path, name, attack):
    if name in ("videos.0.label", "videos.0.video", "split") and isinstance(SECTIONS[attack], str):
        pytest.skip("a text like any other")
    run = Path(shutil.copytree(evaluated, tmp_path / "hostile"))
    _change(run / "evaluation_test.json", name, trap.set(SECTIONS[attack]))
    assert "evaluation_test.json" in refused("versus", run, evaluated)
    assert "evaluation_test.json" in refused("report", run)


@pytest.mark.parametrize("text", [
    *JSON_TEXTS.values(), '{{"folds": {{"class_path": "{module}.X"}}}}', '{{"folds": ["{file}"]}}',
    '{{"folds": [{{"fold": "a", "run": "../evaluated"}}], "dataset": "a", "protocol": "b"}}',
])  # fmt: skip
def test_a_protocol(trap, evaluated, refused, tmp_path, text):
    folder = tmp_path / "protocol"
    folder.mkdir()
    shutil.copytree(evaluated, tmp_path / "evaluated")
    trap.write(folder / "protocol.json", text)
    assert "protocol.json" in refused("versus", folder, evaluated)


@pytest.mark.parametrize("attack", sorted(TEXTS.keys() - {"alias", "empty"}))
def test_the_recipe_of_a_protocol(trap, refused, shapes_root, tmp_path, attack):
    out = tmp_path / "out"
    (out / "fold-a").mkdir(parents=True)
    (out / "fold-a" / "config.yaml").write_text("")
    trap.write(out / "protocol.yaml", TEXTS[attack])
    refused("protocol", "random-7:3", "--config", "tiny", "--data.root", shapes_root / "train", "--out", out)


@pytest.mark.parametrize("attack", JSON_TEXTS)
def test_generated_clips(trap, refused, tmp_path, attack):
    shapes = tmp_path / "demo" / "clips"
    shapes.mkdir(parents=True)
    trap.write(shapes / "shapes.json", JSON_TEXTS[attack])
    from actionfusion.data.shapes_files import make_shapes

    with pytest.raises(DatasetError, match=r"clips"):
        make_shapes(shapes, train_per_class=1, val_per_class=0, test_per_class=0, seed=0)
    assert trap.is_untouched()
