"""What weakens a result is refused, or said with its number: leaks, videos that were trained on, bad input."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from actionfusion.__main__ import main
from actionfusion.errors import DatasetError, RunFolderError, SettingsError, WeightsError
from actionfusion.evaluation.calibration import calibration, tempered
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.intervals import clustered_wilson, clusters
from actionfusion.models.fusion_network import FusionNetwork


def split_rows(run):
    with (run / "split.csv").open() as file:
        return list(csv.DictReader(file))


def write_rows(run, rows):
    with (run / "split.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_a_leaking_split_says_how_many_clips_have_a_mate_in_training(grouped_run, grouped_root, tmp_path, capsys):
    written = evaluate(grouped_run, grouped_root, out=tmp_path / "figures.json").as_json()
    rows = split_rows(grouped_run)
    seen = {row["group"] for row in rows if row["part"] != "test"}
    mates = [row for row in rows if row["part"] == "test" and row["group"] in seen]
    assert written["leaks"] == {"group": len(mates), "double": 0}
    assert written["counts"] == {part: [row["part"] for row in rows].count(part) for part in ("train", "val", "test")}
    assert written["split_seed"] == 0
    assert mates, "the split leaks"
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count(f"{len(mates)} of 4 test videos have a group-mate in training") == 1


def test_groups_come_with_every_video_and_with_an_interval(grouped_run, grouped_root, tmp_path, capsys):
    evaluation = evaluate(grouped_run, grouped_root, out=tmp_path / "figures.json")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written == evaluation.as_json()
    group_of = {row["path"]: row["group"] for row in split_rows(grouped_run)}
    assert all(row["group"] == group_of[row["video"]] for row in written["videos"])
    assert written["groups"] == len({row["group"] for row in written["videos"]}) > 1
    right = [row["label"] == row["predicted"] for row in written["videos"]]
    units = clusters([row["group"] for row in written["videos"]], [row["video"] for row in written["videos"]])
    assert written["group_interval"] == pytest.approx(clustered_wilson(right, units))
    assert f"with {written['groups']} groups of videos" in capsys.readouterr().out


def test_without_groups_there_is_one_interval(tiny_run, shapes_root, tmp_path):
    written = evaluate(tiny_run, shapes_root, out=tmp_path / "figures.json").as_json()
    assert written["groups"] is None
    assert written["group_interval"] is None
    assert written["leaks"] == {"group": 0, "double": 0}
    assert written["trained_on"] is False
    assert written["top5"]["count"] == 16
    assert written["missing_classes"] == []
    assert {row["group"] for row in written["videos"]} == {None}
    assert set(written["per_class"][0]) == {
        "label", "count", "correct", "accuracy", "interval", "precision", "recall", "f1"
    }  # fmt: skip


def test_what_was_trained_on_is_refused_unless_forced_and_then_marked(grouped_run, grouped_root, tmp_path, capsys):
    words = ["evaluate", str(grouped_run), "--root", str(grouped_root), "--part", "train", "--out"]
    assert main([*words, str(tmp_path / "refused.json")]) == 1
    error = capsys.readouterr().err
    assert "the run was trained on these" in error
    assert "--force" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "refused.json").exists()
    assert main([*words, str(tmp_path / "forced.json"), "--force"]) == 0
    forced = json.loads((tmp_path / "forced.json").read_text())
    assert forced["trained_on"] is True
    assert forced["leaks"]["double"] == forced["count"]
    assert "trained on: training has seen these very videos" in capsys.readouterr().out


def test_a_root_whose_test_videos_were_trained_on_is_refused(grouped_run, grouped_root, tmp_path):
    root = shutil.copytree(grouped_root, tmp_path / "root")
    rows = split_rows(grouped_run)
    trained = [row for row in rows if row["part"] == "train"]
    tested = [row for row in rows if row["part"] == "test"]
    shutil.copy(root / trained[0]["path"], root / tested[0]["path"])
    some = evaluate(grouped_run, root, out=tmp_path / "figures.json")
    assert some.as_json()["leaks"]["double"] == 1
    assert any("1 of 4 test videos have a duplicate in training" in note for note in some.notes)
    assert not some.trained_on
    for row in tested:
        shutil.copy(root / trained[0]["path"], root / row["path"])
    with pytest.raises(SettingsError, match="trained on duplicates of these 4 videos"):
        evaluate(grouped_run, root, out=tmp_path / "figures.json")
    assert evaluate(grouped_run, root, out=tmp_path / "figures.json", force=True).trained_on


def test_doubles_that_a_manifest_knew_are_still_known(grouped_run, grouped_root, tmp_path):
    run = shutil.copytree(grouped_run, tmp_path / "run")
    rows = split_rows(run)
    trained = next(row for row in rows if row["part"] == "train")
    tested = next(row for row in rows if row["part"] == "test")
    trained["double_of"] = tested["double_of"] = "left/out.avi"
    write_rows(run, rows)
    assert evaluate(run, grouped_root, out=tmp_path / "figures.json").as_json()["leaks"]["double"] == 1


def test_a_split_written_before_doubles_were_is_still_read(grouped_run, grouped_root, tmp_path):
    run = shutil.copytree(grouped_run, tmp_path / "run")
    write_rows(run, [{name: cell for name, cell in row.items() if name != "double_of"} for row in split_rows(run)])
    before = evaluate(grouped_run, grouped_root, out=tmp_path / "before.json")
    assert evaluate(run, grouped_root, out=tmp_path / "figures.json").as_json() == before.as_json()


def test_a_temperature_is_fitted_on_the_validation_part(grouped_run, grouped_root, tmp_path, capsys):
    validated = evaluate(grouped_run, grouped_root, part="val", out=tmp_path / "val.json")
    assert validated.selected_on_part
    tested = evaluate(grouped_run, grouped_root, temperature="val", out=tmp_path / "figures.json")
    found = tested.as_json()["calibration"]

    def loss(temperature):
        return calibration(validated.targets, tempered(validated.probabilities, temperature)).nll

    assert all(loss(found["temperature"]) <= loss(other) + 1e-9 for other in (0.02, 0.3, 1.0, 2.0, 50.0))
    after = calibration(tested.targets, tempered(tested.probabilities, found["temperature"]))
    assert found["ece_calibrated"] == pytest.approx(after.ece)
    assert found["ece"] == pytest.approx(calibration(tested.targets, tested.probabilities).ece)
    assert len(found["bins"]) == 15
    assert "fitted on the validation part" in capsys.readouterr().out


def test_a_temperature_without_a_validation_part_is_refused(tiny_run, shapes_root, grouped_run, grouped_root):
    with pytest.raises(SettingsError, match=r"temperature: .*has no validation part"):
        evaluate(tiny_run, shapes_root, temperature="val")
    with pytest.raises(SettingsError, match="the very videos that it is then judged by"):
        evaluate(grouped_run, grouped_root, part="val", temperature="val")


def test_a_class_that_is_missing_from_the_test_is_named(grouped_run, grouped_root, tmp_path, capsys):
    root = shutil.copytree(grouped_root, tmp_path / "root")
    tested = [row for row in split_rows(grouped_run) if row["part"] == "test"]
    assert {row["label"] for row in tested} == {"motion_down", "motion_up"}
    for row in tested:
        if row["label"] == "motion_up":
            (root / row["path"]).write_bytes(b"no video")
    written = evaluate(grouped_run, root, out=tmp_path / "figures.json").as_json()
    assert written["missing_classes"] == ["motion_up"]
    assert written["mean_class_accuracy"] == written["top1"]
    assert len(written["failed"]) == sum(row["label"] == "motion_up" for row in tested)
    printed = capsys.readouterr().out
    assert "1 classes have no video here, and nothing is said of them: 'motion_up'" in printed
    assert "mean class accuracy" in printed


def test_a_single_video_says_little_and_says_so(grouped_run, grouped_root, tmp_path, capsys):
    root = shutil.copytree(grouped_root, tmp_path / "root")
    for row in [row for row in split_rows(grouped_run) if row["part"] == "test"][1:]:
        (root / row["path"]).unlink()
        (root / row["path"]).write_bytes(b"no video")
    written = evaluate(grouped_run, root, out=tmp_path / "figures.json").as_json()
    assert (written["count"], written["groups"], written["group_interval"]) == (1, 1, None)
    assert written["interval"][1] - written["interval"][0] > 0.7
    assert "all videos are of one group" in capsys.readouterr().out


def test_not_one_readable_video_is_an_error(grouped_run, grouped_root, tmp_path):
    root = shutil.copytree(grouped_root, tmp_path / "root")
    for row in split_rows(grouped_run):
        (root / row["path"]).write_bytes(f"no video but {row['path']}".encode())
    with pytest.raises(DatasetError, match="not one of the 4 videos of the test part can be read"):
        evaluate(grouped_run, root, out=tmp_path / "figures.json")
    assert not (tmp_path / "figures.json").exists()


def test_an_empty_test_part_is_an_error(quick_arguments, grouped_root, tmp_path):
    from dataclasses import replace

    from actionfusion.training.train import train

    data = replace(quick_arguments["recipe"].data, split="all")
    run = train(**quick_arguments | {"data": data, "out": tmp_path / "run"})
    with pytest.raises(DatasetError, match="has no test part"):
        evaluate(run, grouped_root)


def test_another_label_list_than_the_runs_is_refused(grouped_run, grouped_root, tmp_path):
    run = shutil.copytree(grouped_run, tmp_path / "run")
    (run / "labels.txt").write_text("motion_down\nmotion_sideways\n")
    with pytest.raises(DatasetError, match=r"split\.csv: names class 'motion_up', which is not among the run's labels"):
        evaluate(run, grouped_root)
    (run / "labels.txt").write_text("motion_up\nmotion_down\n")
    with pytest.raises(DatasetError, match=r"labels\.txt: .*another order"):
        evaluate(run, grouped_root)


def test_answers_that_are_no_numbers_are_an_error(grouped_run, grouped_root, tmp_path, monkeypatch):
    def broken(self, rgb, flow):
        return torch.full((len(rgb), 2), float("nan"))

    monkeypatch.setattr(FusionNetwork, "forward", broken)
    with pytest.raises(WeightsError, match="are not finite"):
        evaluate(grouped_run, grouped_root, out=tmp_path / "figures.json")


def test_a_run_that_does_not_say_what_it_was_trained_on(grouped_run, grouped_root, tmp_path):
    run = shutil.copytree(grouped_run, tmp_path / "run")
    rows = split_rows(run)
    write_rows(run, [row | {"part": "test"} for row in rows])
    with pytest.raises(RunFolderError, match="was changed"):
        evaluate(run, grouped_root)


def test_probabilities_are_those_of_single_precision(grouped_run, grouped_root, tmp_path):
    evaluation = evaluate(grouped_run, grouped_root, out=tmp_path / "figures.json")
    assert evaluation.probabilities.dtype == np.float64
    np.testing.assert_array_equal(evaluation.probabilities, evaluation.probabilities.astype(np.float32))
