"""What a run records of its videos and classes is held against what is there when the training goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from actionfusion import evaluate, predict, train
from actionfusion.data.dataset import DataSettings, LabelledVideos, open_data
from actionfusion.data.recorded_split import refuse_other_data
from actionfusion.errors import DatasetError, RunFolderError
from actionfusion.evaluation.result import read_evaluation
from actionfusion.inference.exports.exported import open_export
from actionfusion.run_folder import fault_of_labels, open_run

KEPT = Path(__file__).parents[1] / "earlier_versions" / "v0_1"


@pytest.fixture
def unfinished(tmp_path):
    return Path(shutil.copytree(KEPT / "run_unfinished", tmp_path / "unfinished"))


def test_a_training_without_its_split_does_not_go_on(unfinished, three):
    (unfinished / "split.csv").unlink()
    with pytest.raises(RunFolderError, match=r"split\.csv: does not say which video was on which side"):
        train(resume=True, out=unfinished, root=three, device="cpu")


@pytest.mark.parametrize(
    ("file", "before", "after", "reason"),
    [
        ("split.csv", ",train\n", ",test\n", r"split\.csv: says another part of 'train/.*' .*, which is train"),
        ("split.csv", ",motion_down,", ",motion_up,", "is 'motion_down' here, and was 'motion_up' in the run's split"),
        ("labels.txt", "motion_down\nmotion_up", "motion_up\nmotion_down", "was begun with 'motion_up', 'motion_down'"),
    ],
)  # fmt: skip
def test_a_training_goes_on_with_its_own_videos_and_classes_alone(unfinished, three, file, before, after, reason):
    """In another order every score would be given another class's name from then on."""
    text = (unfinished / file).read_text()
    assert before in text
    (unfinished / file).write_text(text.replace(before, after, 1))
    with pytest.raises((RunFolderError, DatasetError), match=reason):
        train(resume=True, out=unfinished, root=three, device="cpu")


def test_classes_that_changed_places_in_a_table_are_noticed(three, train_arguments, tmp_path):
    """The paths are the same, so that no hash of the split tells."""
    rows = [(path, path.parent.name) for path in sorted(three.rglob("*.mp4"))]
    table = tmp_path / "l.csv"

    def opened(names: Mapping[str, str]) -> LabelledVideos:
        table.write_text("path,label\n" + "".join(f"{path},{names.get(label, label)}\n" for path, label in rows))
        return open_data(DataSettings(root=table, validation="none"))

    data = opened({}).settings
    run = open_run(train(train_arguments["recipe"].changed(data=data), out=tmp_path / "run"))
    refuse_other_data(run, opened({}))
    other = opened({"motion_up": "motion_down", "motion_down": "motion_up"})
    assert other.digest() == run.config["data"]["digest"]
    with pytest.raises(DatasetError, match="is 'motion_up' here, and was 'motion_down' in the run's split"):
        refuse_other_data(run, other)
    with pytest.raises(DatasetError, match=r"has the classes .*'hop', .* and the run was begun with .*'motion_up'"):
        refuse_other_data(run, opened({"motion_up": "hop"}))


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (("a", "b", "a"), "class 'a' is there twice"),
        (("a", "", "b"), "the name of class 2 is empty"),
        (("a", "b", "\u2003"), "the name of class 3 is empty"),
        (("a\nb", "c"), r"the name of class 1 spans lines, 'a\\nb'"),
        (("a\rb", "c"), r"the name of class 1 spans lines, 'a\\rb'"),
        (("a\u2028b", "a\x85b", "a\x1cb", " a", "a"), None),
    ],
)
def test_what_a_class_may_be_called(labels, fault):
    found = fault_of_labels(labels)
    assert found is None if fault is None else found == fault.replace("\\\\", "\\")


@pytest.mark.parametrize("name", ["motion_up", "", " ", "motion_up\r"])
def test_doubled_and_empty_classes_are_refused_wherever_they_are_read(name, tiny_run, make_evaluation_of, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    labels = (run / "labels.txt").read_text().splitlines()
    labels[labels.index("motion_down")] = name
    (run / "labels.txt").write_bytes("".join(f"{label}\n" for label in labels).encode())
    with pytest.raises(RunFolderError, match=r"is there twice|is empty|spans lines"):
        open_run(run)
    export = Path(shutil.copytree(KEPT / "export_both", tmp_path / "export"))
    about = json.loads((export / "model.json").read_text())
    about["labels"][:2] = ["motion_up", name]
    (export / "model.json").write_text(json.dumps(about))
    with pytest.raises(Exception, match=r"is there twice|is empty|spans lines"):
        open_export(export)
    path = make_evaluation_of(tmp_path, name.strip())
    with pytest.raises(RunFolderError, match="a label is empty or is there twice"):
        read_evaluation(path)


@pytest.fixture
def make_evaluation_of(tiny_run, shapes_root):
    def make(folder: Path, name: str) -> Path:
        out = folder / "evaluation.json"
        evaluate(tiny_run, shapes_root, out=out)
        out.write_text(out.read_text().replace('"motion_down"', json.dumps(name)))
        return out

    return make


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x1c"])
def test_a_class_may_hold_signs_at_which_python_splits_lines(sign, tmp_path, write_video, train_arguments):
    names = (f"high{sign}jump", "run")
    for height, name in enumerate(names):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(4):
            write_video(tmp_path / "clips" / name / f"{number}.mp4", count=8 + number, height=48 + 16 * height)
    data = DataSettings(root=tmp_path / "clips", validation="none")
    run = train(train_arguments["recipe"].changed(data=data), out=tmp_path / "run")
    assert open_run(run).labels == names
    assert evaluate(run, tmp_path / "clips").figures.labels == names
    assert {found.label for found in predict(run, [tmp_path / "clips" / "run" / "0.mp4"])[0].predictions} == {*names}


def test_a_class_that_spans_lines_is_refused_before_training(tmp_path, write_video, train_arguments):
    for name in ("high\njump", "run"):
        (tmp_path / name).mkdir()
        for number in range(4):
            write_video(tmp_path / name / f"{number}.mp4", count=8 + number)
    with pytest.raises(RunFolderError, match="the name of class 1 spans lines"):
        train(train_arguments["recipe"].changed(data=DataSettings(root=tmp_path)), out=tmp_path / "run", dry_run=True)
