"""``evaluate`` on a real run folder: the right videos, counted once, broken ones apart."""

import json
import shutil

import numpy as np
import pytest
import yaml

from actionfusion.errors import DatasetError, RunFolderError, SettingsError, WeightsError
from actionfusion.evaluation.evaluate import evaluate


def test_figures_are_those_of_the_videos_one_by_one(tiny_run, shapes_root, tmp_path, capsys):
    evaluation = evaluate(tiny_run, shapes_root, out=tmp_path / "figures.json")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written == evaluation.as_json()
    assert written["count"] == 16
    assert written["part"] == "test"
    assert written["selected_on_part"] is True
    assert {row["video"] for row in written["videos"]} == {
        str(path.relative_to(shapes_root)) for path in (shapes_root / "test").glob("*/*.mp4")
    }
    assert all(row["video"].split("/")[1] == row["label"] for row in written["videos"])
    right = sum(row["label"] == row["predicted"] for row in written["videos"])
    assert written["correct"] == right == np.trace(written["confusion"])
    printed = capsys.readouterr().out
    assert f"{right}/16" in printed
    assert "flatters" in printed


def test_broken_videos_are_listed_and_not_counted(tiny_run, shapes_root, tmp_path):
    root = shutil.copytree(shapes_root, tmp_path / "shapes")
    broken = sorted((root / "test" / "motion_up").glob("*.mp4"))[0]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    evaluation = evaluate(tiny_run, root, out=tmp_path / "figures.json")
    assert evaluation.figures.top1.count == 15
    assert [item.video for item in evaluation.failed] == [str(broken.relative_to(root))]


def test_other_videos_than_the_runs_are_refused(tiny_run, shapes_root, tmp_path):
    root = shutil.copytree(shapes_root, tmp_path / "shapes")
    sorted((root / "test" / "motion_up").glob("*.mp4"))[0].unlink()
    with pytest.raises(DatasetError, match="1 of the 16 test videos of the run's split are not there: 'test/motion_up"):
        evaluate(tiny_run, root, out=tmp_path / "figures.json")
    for part in ("train", "test"):
        shutil.rmtree(root / part / "motion_up")
    with pytest.raises(DatasetError, match="2 of the 16 test videos"):
        evaluate(tiny_run, root, out=tmp_path / "figures.json")


def test_videos_that_came_later_change_nothing(tiny_run, shapes_root, tmp_path):
    root = shutil.copytree(shapes_root, tmp_path / "shapes")
    first = sorted((root / "train" / "motion_up").glob("*.mp4"))[0]
    shutil.copy(first, root / "test" / "motion_up" / "later.mp4")
    (root / "test" / "unheard_of").mkdir()
    shutil.copy(first, root / "test" / "unheard_of" / "later.mp4")
    before = evaluate(tiny_run, shapes_root, out=tmp_path / "before.json")
    assert evaluate(tiny_run, root, out=tmp_path / "after.json").as_json() == before.as_json()


def test_a_changed_split_is_refused(tiny_run, shapes_root, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    table = (run / "split.csv").read_text()
    (run / "split.csv").write_text(table.replace(",train\n", ",test\n", 1))
    with pytest.raises(RunFolderError, match="one of them was changed"):
        evaluate(run, shapes_root, out=tmp_path / "figures.json")
    (run / "split.csv").write_text(table.replace(",train\n", ",exam\n", 1))
    with pytest.raises(DatasetError, match="column part: 'exam'"):
        evaluate(run, shapes_root, out=tmp_path / "figures.json")
    (run / "split.csv").unlink()
    with pytest.raises(RunFolderError, match="what it was trained on"):
        evaluate(run, shapes_root, out=tmp_path / "figures.json")


def test_a_part_that_is_not_there_and_no_root_are_said(tiny_run, shapes_root):
    with pytest.raises(DatasetError, match="no val part"):
        evaluate(tiny_run, shapes_root, part="val")
    with pytest.raises(SettingsError, match="--root"):
        evaluate(tiny_run)


def damage_config(run, **changes):
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_broken_run_folders_say_what_is_wrong(tiny_run, shapes_root, tmp_path):
    def copy(name):
        return shutil.copytree(tiny_run, tmp_path / name)

    run = copy("labels")
    (run / "labels.txt").write_text("one\ntwo\n")
    with pytest.raises(RunFolderError, match="2 labels for 8 classes"):
        evaluate(run, shapes_root)
    run = copy("unknown")
    damage_config(run, clip={"frames": 8, "colour": "red"})
    with pytest.raises(RunFolderError, match=r"no setting 'clip\.colour'"):
        evaluate(run, shapes_root)
    run = copy("weights")
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        evaluate(run, shapes_root)
    run = copy("shape")
    damage_config(run, network=yaml.safe_load((run / "config.yaml").read_text())["network"] | {"hidden": 7})
    with pytest.raises(WeightsError, match="wanted"):
        evaluate(run, shapes_root)
    run = copy("garbage")
    (run / "config.yaml").write_text(": [")
    with pytest.raises(RunFolderError, match="cannot be read"):
        evaluate(run, shapes_root)


def test_weights_that_are_not_numbers_are_refused(tiny_run, shapes_root, tmp_path):
    from safetensors.torch import load_file, save_file

    run = shutil.copytree(tiny_run, tmp_path / "run")
    tensors = load_file(run / "model.safetensors")
    next(value for value in tensors.values() if value.is_floating_point()).fill_(float("nan"))
    save_file(tensors, run / "model.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        evaluate(run, shapes_root)
