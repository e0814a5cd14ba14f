"""What a training starts from: what is taken, printed and kept in the run, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load, load_file, save_file

from actionfusion.__main__ import main
from actionfusion.errors import DatasetError, RunFolderError, SettingsError, WeightsError
from actionfusion.models import model_class
from actionfusion.models.backbones import make_backbone
from actionfusion.models.weights import LoadReport
from actionfusion.run_folder import open_run
from actionfusion.training.recipe import Recipe, load_recipe
from actionfusion.training.start import start_from, start_line
from actionfusion.training.train import train
from actionfusion.video.flow import FlowRecipe

pytestmark = pytest.mark.usefixtures("drawn_once")

V0_1 = Path(__file__).parents[1] / "earlier_versions" / "v0_1"
BACKBONES = {"backbones.rgb": 16, "backbones.flow": 16}  # four convolutions and their batch norms each


@pytest.fixture(scope="module")
def recipe(train_arguments, three) -> Recipe:
    given: Recipe = train_arguments["recipe"]
    # Nothing is learned, so that the run holds what it started from.
    training = replace(given.training, stages=(replace(given.training.stages[0], learning_rate=1e-30),))
    return given.changed(data=replace(given.data, root=three), training=training)


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory) -> Path:
    """Weights of the narrow backbone alone, for pictures."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    save_file(make_backbone("narrow", 3, batch_norm=True).state_dict(), path)
    return path


def config_of(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return values


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_from_scratch_the_run_says_so(tiny_run):
    config = config_of(tiny_run)
    assert (config["pretrained"], config["pretrained_fc6"], config["flow_start"]) == (None, "file", "random")
    start = config["start"]
    assert (start["source"], start["sha256"], start["loaded"], start["averaged"]) == (None, None, {}, {})
    assert sum(start["random"].values()) == len(list(open_run(tiny_run).load_network().parameters()))
    assert start_line(open_run(tiny_run)) == "all weights at random"


def test_a_file_is_recorded_by_its_name_and_hash(recipe, backbone_file, tmp_path, capsys):
    run = train(recipe, out=tmp_path / "run", pretrained=str(backbone_file), flow_start="mean")
    config, digest = config_of(run), sha256(backbone_file)
    assert (config["pretrained"], config["flow_start"]) == ("narrow.safetensors", "mean")
    start = config["start"]
    assert (start["source"], start["sha256"]) == ("narrow.safetensors", digest)
    assert start["loaded"] == BACKBONES
    assert start["averaged"] == {"backbones.flow": 1}
    assert start["random"].keys() == {"fusion", "fc6", "branch_lstms", "last_lstm", "head"}
    said = capsys.readouterr().err
    for text in (said, (run / "train.log").read_text()):
        assert f"narrow.safetensors (SHA-256 {digest[:12]}): loaded backbones.rgb (16), backbones.flow (16), " in text
    for name in ("config.yaml", "train.log"):
        assert str(backbone_file.parent) not in (run / name).read_text()
    assert start_line(open_run(run)) == (
        f"narrow.safetensors (SHA-256 {digest[:12]}), the first layer of backbones.flow by the mean of the RGB "
        "filters, random: fusion, fc6, branch_lstms, last_lstm, head"
    )
    learned, given = load_file(run / "model.safetensors"), load_file(backbone_file)
    assert torch.equal(learned["backbones.rgb.features.0.weight"], given["features.0.weight"])
    expected = given["features.0.weight"].sum(1) / 8
    torch.testing.assert_close(learned["backbones.flow.features.0.weight"][:, 3], expected)


def test_a_stopped_training_needs_no_file_of_weights_and_takes_no_other_start(
    recipe, backbone_file, tmp_path, stopped_at, capsys
):
    file, out = Path(shutil.copy(backbone_file, tmp_path)), tmp_path / "run"
    with stopped_at(2):
        train(recipe, out=out, pretrained=str(file), flow_start="mean")
    record = config_of(out)["start"]
    file.unlink()
    for words, named in (
        (["--flow_start", "random"], "flow_start is mean in the run and random now"),
        (["--pretrained_fc6", "random"], "pretrained_fc6 is file in the run and random now"),
        (["--pretrained", "other.pth"], "pretrained is narrow.safetensors in the run and other.pth now"),
    ):
        capsys.readouterr()
        assert main(["train", "--resume", "--out", str(out), *words]) == 1
        said = capsys.readouterr().err
        assert named in said
        assert said.count("\n") == 1
    assert main(["train", "--resume", "--out", str(out), "--pretrained", str(file)]) == 0
    assert config_of(out)["start"] == record


def test_a_run_from_before_there_was_a_choice_is_gone_on_with(recipe, tmp_path, stopped_at):
    out = tmp_path / "run"
    with stopped_at(2):
        train(recipe, out=out)
    config = config_of(out)
    for name in ("pretrained_fc6", "flow_start", "start"):
        del config[name]
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with pytest.raises(SettingsError, match="flow_start is random in the run and mean now"):
        train(out=out, resume=True, flow_start="mean")
    assert main(["train", "--resume", "--out", str(out)]) == 0


def test_a_run_is_fine_tuned_to_other_classes(recipe, tiny_run, tmp_path, capsys):
    assert len(open_run(tiny_run).labels) == 8
    run = train(recipe, out=tmp_path / "run", pretrained=str(tiny_run))
    assert len(open_run(run).labels) == 3
    start, digest = config_of(run)["start"], sha256(tiny_run / "model.safetensors")
    assert config_of(run)["pretrained"] == tiny_run.name
    assert (start["source"], start["sha256"]) == (f"{tiny_run.name}/model.safetensors", digest)
    assert start["random"] == {"head": 2}
    assert start["loaded"].keys() == {"backbones.rgb", "backbones.flow", "fusion", "fc6", "branch_lstms", "last_lstm"}
    said = capsys.readouterr().err
    assert f"{tiny_run.name}/model.safetensors (SHA-256 {digest[:12]}): loaded backbones.rgb (16), " in said
    assert "; left random head (2), of these in another shape there head (2)\n" in said
    assert str(tiny_run) not in (run / "train.log").read_text() + (run / "config.yaml").read_text()
    before, after = (load_file(each / "model.safetensors") for each in (tiny_run, run))
    same = [name for name in before if not name.startswith("head") and "running" not in name and "num" not in name]
    assert len(same) == sum(start["loaded"].values())
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_test_videos_that_the_start_has_seen_are_told_by_train_and_evaluate(recipe, tiny_run, tmp_path, capsys):
    """A run on other videos as its start is silent; the note of one on the same videos goes into the evaluation."""
    swapped = tmp_path / "seen"
    shutil.copytree(tiny_run, swapped)
    table = (swapped / "split.csv").read_text().splitlines()
    turn = {"train": "test", "test": "train"}
    parts = [line.rsplit(",", 1) for line in table[1:]]
    (swapped / "split.csv").write_text("\n".join([table[0], *(f"{row},{turn.get(part, part)}" for row, part in parts)]))
    silent = train(recipe, out=tmp_path / "silent", pretrained=str(tiny_run))
    assert config_of(silent)["start"]["seen_in_test"] == 0
    run = train(recipe, out=tmp_path / "run", pretrained=str(swapped))
    seen = config_of(run)["start"]["seen_in_test"]
    assert seen > 0
    note = f"{seen} test videos have the names of videos that the run it starts from was trained or validated on"
    assert note in capsys.readouterr().err
    assert main(["evaluate", str(run), "--root", str(recipe.data.root)]) == 0
    assert note in capsys.readouterr().out
    unknown = "the run it starts from started from a run itself, whose videos are not known here"
    assert unknown not in capsys.readouterr().err
    chained = train(recipe, out=tmp_path / "chained", pretrained=str(silent))
    assert unknown in capsys.readouterr().err
    assert main(["evaluate", str(chained), "--root", str(recipe.data.root)]) == 0
    assert unknown in capsys.readouterr().out
    config = config_of(silent)
    config["pretrained"], config["start"]["source"] = "imagenet", "timm/vgg16.tv_in1k/model.safetensors"
    (silent / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    train(recipe, out=tmp_path / "from_imagenet", pretrained=str(silent))
    assert unknown not in capsys.readouterr().err
    (swapped / "split.csv").write_text("nothing")
    with pytest.raises(DatasetError, match=r"split\.csv"):
        train(recipe, out=tmp_path / "refused", pretrained=str(swapped))


@pytest.fixture
def begun(recipe, tiny_run, tmp_path, monkeypatch):
    """A training from a run, given by a path relative to the working folder, that was killed before any checkpoint."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shutil.copytree(tiny_run, tmp_path / "here" / "source")
    monkeypatch.chdir(tmp_path / "here")

    def kill(*_, **__):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[train.__module__], "_fit_or_stop", kill)
        with pytest.raises(ZeroDivisionError):
            train(recipe, out=tmp_path / "run", pretrained="source")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "run"


def test_a_training_that_begins_again_has_the_same_start_from_any_folder(begun, tmp_path):
    record = config_of(begun)["start"]
    (tmp_path / "there" / "source").mkdir()  # of the same name, and no run
    train(out=begun, resume=True)
    assert config_of(begun)["start"] == record
    assert config_of(begun)["pretrained"] == "source"
    assert all(str(tmp_path / "here") not in (begun / name).read_text() for name in ("config.yaml", "train.log"))
    assert not (begun / "resume.json").exists()


def test_a_training_that_cannot_begin_again_keeps_its_folder(begun, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in begun.iterdir()}
    weights = tmp_path / "here" / "source" / "model.safetensors"
    values = load_file(weights)
    save_file({name: value + 1 if value.is_floating_point() else value for name, value in values.items()}, weights)
    assert main(["train", "--resume", "--out", str(begun)]) == 1
    assert "was begun from source/model.safetensors (SHA-256" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "here")
    assert main(["train", "--resume", "--out", str(begun)]) == 1
    assert "source" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(begun), "--training.batch_size", "3"]) == 1
    assert "training.batch_size is" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before


def started(recipe: Recipe, labels: int, **changes: Any) -> tuple[Any, tuple[str, ...], dict[str, Any]]:
    """The network, the lines and the record of a start, without a training."""
    given = recipe.changed(**changes).fitted(labels)
    torch.manual_seed(5)
    network = model_class(given.model)(given.network)
    network.freeze_backbones(given.training.freeze)
    start = start_from(network, given, [f"class {number}" for number in range(labels)])
    return network, start.lines, vars(start.record)


def test_a_run_of_version_0_1_is_a_start(recipe):
    network, lines, record = started(recipe, 5, pretrained=str(V0_1 / "run_plain"))
    assert record["random"] == {"head": 2}
    assert record["sha256"] == sha256(V0_1 / "run_plain" / "model.safetensors")
    kept = load_file(V0_1 / "run_plain" / "model.safetensors")
    assert torch.equal(network.state_dict()["backbones.flow.features.0.weight"], kept["flow_tower.features.0.weight"])
    assert len(lines) == 1


def test_another_model_takes_the_backbone_of_a_run(recipe, tiny_run):
    lrcn = load_recipe("lrcn")
    given = lrcn.changed(clip=recipe.clip, network=replace(lrcn.network, backbone="narrow", batch_norm=True))
    _, lines, record = started(given, 3, pretrained=str(tiny_run))
    assert record["loaded"] == {"backbones.rgb": 16}
    assert record["random"].keys() == {"lstm", "answer"}
    assert len(lines) == 1


def test_flow_of_another_recipe_and_other_classes_are_noted(recipe, tiny_run):
    flow = FlowRecipe("farneback", 12.0, 64)
    _, lines, _ = started(recipe, 8, pretrained=str(tiny_run), clip=replace(recipe.clip, flow=flow))
    before, now = "dis at 64 px within 8 px", "farneback at 64 px within 12 px"
    assert lines[1:] == (
        f"note: the weights have learned from flow by {before}; now it is {now}",
        "note: the run tells as many classes apart, but others or in another order",
    )


def test_what_is_frozen_and_random_is_told(recipe, backbone_file, tiny_run):
    freeze = replace(recipe.training, freeze="conv1_1")
    given = {"pretrained": str(backbone_file), "training": freeze}
    note = "note: among them these start at random, and stay so: backbones.flow (2)"
    assert started(recipe, 3, **given)[1][1:] == ("the backbones' layers up to conv1_1 stay as they are", note)
    assert len(started(recipe, 3, **given, flow_start="mean")[1]) == 2
    image = replace(load_recipe("lrcn").network, backbone="narrow", batch_norm=True, streams="flow", flow_input="image")
    lrcn = load_recipe("lrcn").changed(network=image, clip=recipe.clip)
    assert len(started(lrcn, 3, **given)[1]) == 2
    assert len(started(recipe, 3, pretrained=str(tiny_run), training=freeze)[1]) == 2
    assert started(recipe, 3, training=freeze)[1][-1] == (
        "note: the backbones' layers up to conv1_1 start at random, and stay so"
    )


def test_a_run_of_another_backbone_is_refused_by_both_names(recipe, tiny_run):
    network = replace(recipe.network, backbone=(6, "M", 12))
    with pytest.raises(WeightsError) as error:
        started(recipe, 3, pretrained=str(tiny_run), network=network)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{tiny_run}: it is of model fusion with backbone narrow, of which no backbone fits model")
    assert "model fusion with backbone [6, 'M', 12]" in line


def test_a_model_without_backbones_goes_on_from_its_own_runs_alone(recipe, tiny_run, tmp_path):
    c3d = load_recipe("c3d").changed(data=recipe.data, training=recipe.training)
    clip = replace(c3d.clip, size=32, flow=replace(c3d.clip.flow, size=32))
    c3d = c3d.changed(clip=clip, network=replace(c3d.network, width=4, fc_width=8))
    run = train(c3d, out=tmp_path / "run")
    _, _, record = started(c3d, 5, pretrained=str(run))
    assert record["random"] == {"fc8": 2}
    with pytest.raises(WeightsError, match="of which nothing fits model c3d"):
        started(c3d, 3, pretrained=str(tiny_run))


def test_damaged_runs_are_refused_in_one_line_and_nothing_is_written(recipe, tiny_run, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "damaged"))
    whole = (run / "model.safetensors").read_bytes()
    tensors = load(whole)
    tensors["fc6.bias"][0] = torch.nan
    for damage, message in (
        (lambda: (run / "model.safetensors").write_bytes(whole[:-100]), "cannot be read"),
        (lambda: save_file(tensors, run / "model.safetensors"), "fc6.bias holds values that are not finite"),
        ((run / "model.safetensors").unlink, "the run has no weights"),
        (lambda: (run / "config.yaml").write_text("model: !!python/object:os.system x"), "tags"),
        ((run / "config.yaml").unlink, "is no run folder"),
    ):
        damage()
        with pytest.raises((WeightsError, RunFolderError), match=message) as error:
            train(recipe, out=tmp_path / "run", pretrained=str(run))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()


def test_the_record_of_a_start_is_read_within_bounds(tiny_run, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    config = config_of(run)
    for start in ({}, {**config["start"], "random": 3}, {**config["start"], "source": ["x"]}):
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "start": start}))
        with pytest.raises(RunFolderError, match=r"start"):
            start_line(open_run(run))


def test_a_choice_that_there_is_not_is_refused():
    with pytest.raises(SettingsError, match="flow_start: 'men' is no choice; choose one of random, mean"):
        Recipe(flow_start="men")
    with pytest.raises(SettingsError, match="pretrained_fc6: 'none' is no choice"):
        Recipe(pretrained_fc6="none")


def test_a_run_that_recorded_nothing_has_no_line():
    assert start_line(open_run(V0_1 / "run_plain")) is None
    assert str(LoadReport("a", "b" * 64, (), ("x",))) == "a (SHA-256 bbbbbbbbbbbb): loaded nothing; left random x (1)"
