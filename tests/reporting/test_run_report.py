"""``report`` on a real run folder: what it shows, what it does without, and what it refuses."""

import json
import shutil

import pytest
import yaml

from actionfusion.__main__ import main
from actionfusion.errors import OutputError, RunFolderError, SettingsError, WeightsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.reporting.chosen_clips import choose_clips
from actionfusion.reporting.run_report import report
from actionfusion.training.features import FeatureSettings
from actionfusion.training.recipe import load_recipe


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_run, shapes_root):
    """The tiny run with its ``evaluation_test.json``."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("reports") / "tiny run")
    evaluate(run, shapes_root)
    return run


@pytest.fixture
def run(evaluated, tmp_path):
    return shutil.copytree(evaluated, tmp_path / "run")


def _change(run, **change):
    path = run / "evaluation_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_a_run_with_its_videos_has_every_section(run, shapes_root, parse, capsys):
    page = report(run, shapes_root)
    assert page == run / "report_test.html"
    root = parse(page.read_text(encoding="utf-8"))
    sections = [section.attributes["id"] for section in root.find("section")]
    assert sections == ["model", "clips", "training", "confusion", "classes", "calibration", "mistakes", "repeat"]
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    assert root.find("h1")[0].text == "run"
    assert f"{evaluation['correct']} of 16 test clips" in root.find("dd", class_="note")[0].text
    strips = root.find("figure", class_="strip")
    assert [strip.find("h3")[0].text for strip in strips] == [clip.video for clip in choose_clips(evaluation)]
    frames = load_recipe("tiny").clip.frames
    heated = sum("a row of heat maps" in section.text for section in root.find("section", id="clips"))
    assert heated == 1
    assert 1 + 2 * frames * len(strips) < len(root.find("img")) <= 1 + 3 * frames * len(strips)
    assert "Among the most confident mistakes" in strips[0].text
    assert "start all weights at random" in " ".join(root.find("section", id="repeat")[0].text.split())
    assert str(shapes_root) not in page.read_text(encoding="utf-8")
    assert str(page) in capsys.readouterr().err


def test_heat_maps_can_be_left_out_and_want_weights(run, shapes_root, parse):
    (run / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no weights"):
        report(run, shapes_root)
    root = parse(report(run, shapes_root, heat=False).read_text(encoding="utf-8"))
    strips = root.find("figure", class_="strip")
    assert len(root.find("img")) == 1 + 2 * load_recipe("tiny").clip.frames * len(strips)


def test_the_recipe_on_the_page_trains_the_same_run(run, tmp_path, parse, train_arguments):
    root = parse(report(run).read_text(encoding="utf-8"))
    (block,) = root.find("pre", id="recipe")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(block.find("code")[0].children), encoding="utf-8")
    again = load_recipe(recipe)
    for name in ("clip", "augmentation", "training"):
        assert getattr(again, name) == getattr(train_arguments["recipe"], name), name
    assert (again.data.dataset, again.data.split) == ("folder", "folders")
    assert again.data.root is None
    commands = root.find("section", id="repeat")[0].find("code")[0].text
    assert "actionfusion train --config recipe.yaml --data.root DATA --out runs/run" in commands


def test_the_recipe_on_the_page_keeps_features_as_the_run_did(run, tmp_path, parse):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["features"] = FeatureSettings(cache=True, views=3).recorded()
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (block,) = parse(report(run).read_text(encoding="utf-8")).find("pre", id="recipe")
    (tmp_path / "recipe.yaml").write_text("".join(block.find("code")[0].children), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml").features == FeatureSettings(cache=True, views=3)


def test_the_page_says_what_the_run_has_set_of_its_model(run, parse):
    text = parse(report(run).read_text(encoding="utf-8")).find("section", id="model")[0].text
    assert "In this run: backbone " in text


def test_without_the_folder_of_the_videos_the_page_says_so(run, parse, capsys):
    root = parse(report(run).read_text(encoding="utf-8"))
    assert not root.find("img")
    assert "without --root" in root.find("section", id="clips")[0].text
    assert "without --root" in capsys.readouterr().err


def test_missing_and_broken_videos_are_counted(run, shapes_root, tmp_path, parse):
    shown = [clip.video for clip in choose_clips(json.loads((run / "evaluation_test.json").read_text()))]
    root = shutil.copytree(shapes_root, tmp_path / "shapes")
    (root / shown[0]).unlink()
    (root / shown[1]).write_bytes(b"no video")
    section = parse(report(run, root).read_text(encoding="utf-8")).find("section", id="clips")[0]
    assert len(section.find("figure")) == len(shown) - 2
    assert f"2 film strips of {len(shown)} could not be made, first: {shown[0]} is not there" in section.text
    shutil.rmtree(root)
    section = parse(report(run, root).read_text(encoding="utf-8")).find("section", id="clips")[0]
    assert "There are no film strips here" in section.text


def test_a_run_that_was_not_evaluated_is_evaluated_or_the_command_is_named(run, shapes_root, tmp_path):
    path = run / "evaluation_test.json"
    before = path.read_bytes()
    path.unlink()
    with pytest.raises(RunFolderError, match=r"not been evaluated; give --root DIR, or run: actionfusion eval"):
        report(run)
    report(run, shapes_root, out=tmp_path / "page.html")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"videos": None}, "videos is None"),
        ({"part": "val"}, "is about the val part"),
        ({"confusion": [[1]]}, "does not fit 8 labels"),
    ],
)
def test_an_evaluation_of_something_else_is_refused(run, change, named):
    _change(run, **change)
    with pytest.raises(RunFolderError, match=named):
        report(run)
    assert not (run / "report_test.html").exists()


def test_an_evaluation_of_other_classes_is_refused(run, make_evaluation):
    _change(run, **make_evaluation([[1, 0], [0, 1]], ["walk", "run"]))
    with pytest.raises(RunFolderError, match="other classes than the run's"):
        report(run)


def test_an_empty_test_and_a_single_video_give_a_page(run, shapes_root, parse, make_evaluation):
    labels = json.loads((run / "evaluation_test.json").read_text())["labels"]
    for clips in (0, 1):
        confusion = [[0] * 8 for _ in labels]
        confusion[2][5] = clips
        _change(run, **make_evaluation(confusion, labels))
        root = parse(report(run, shapes_root).read_text(encoding="utf-8"))
        assert root.find("dd", class_="value")[0].text == ("0.0 %" if clips else "–")
        assert "nan" not in root.find("main")[0].text.lower()
        assert bool(root.find("section", id="clips")) == bool(clips)


def test_numbers_that_are_none_leave_the_page_whole(run, shapes_root, parse):
    rows = run / "metrics.csv"
    head, first = rows.read_text().splitlines()[:2]
    cells = first.split(",")
    rows.write_text("\n".join([head, first, ",".join(["2", "1", cells[2], "nan", "nan", "nan", "", "nan"])]) + "\n")
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    for entry in evaluation["videos"]:
        entry["probabilities"] = [float("nan")] * 8
    _change(run, videos=evaluation["videos"], top1=float("nan"))
    root = parse(report(run, shapes_root).read_text(encoding="utf-8"))
    assert "nan" not in root.find("main")[0].text.lower()
    assert len(root.find("section", id="training")[0].find("table")[0].find("tr")) == 1 + 2
    assert not root.find("figure", class_="strip")
    rows.write_text(f"{head}\n1,1,fast,1,1,,,1\n")
    with pytest.raises(RunFolderError, match=r"metrics\.csv: cannot be read"):
        report(run)


def test_an_unwritable_page_is_named_in_one_line(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        report(run, out=tmp_path / "file" / "page.html")
    assert main(["report", str(run), "--out", str(tmp_path / "file" / "page.html")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SettingsError, match="is a folder, where a file is to be written"):
        report(run, out=tmp_path)


def test_the_command_is_the_function(run, shapes_root, tmp_path):
    assert main(["report", str(run), "--root", str(shapes_root), "--out", str(tmp_path / "a.html")]) == 0
    report(run, shapes_root, out=tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
