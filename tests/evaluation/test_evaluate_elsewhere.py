"""``evaluate`` where the run's videos moved or are partly gone, and on videos that it was not split on."""

import csv
import json
import shutil

import pytest
import yaml

from actionfusion.__main__ import main
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.evaluation.evaluate import evaluate


def figures(evaluation):
    """What does not depend on where the videos are."""
    return {key: value for key, value in evaluation.as_json().items() if key != "notes"}


def by_name(evaluation):
    return {row["video"].split("/")[-1]: row["probabilities"] for row in evaluation.as_json()["videos"]}


def rows_of(run):
    with (run / "split.csv").open() as file:
        return list(csv.DictReader(file))


def test_training_videos_that_are_gone_do_not_matter(grouped_run, grouped_root, tmp_path):
    root = shutil.copytree(grouped_root, tmp_path / "root")
    for row in rows_of(grouped_run):
        if row["part"] != "test":
            (root / row["path"]).unlink()
    before = evaluate(grouped_run, grouped_root, out=tmp_path / "before.json")
    assert figures(evaluate(grouped_run, root, out=tmp_path / "after.json")) == figures(before)
    # A temperature wants the validation part, which is gone.
    with pytest.raises(DatasetError, match=r"val videos of the run's split are not there.*all-test"):
        evaluate(grouped_run, root, temperature="val", out=tmp_path / "after.json")


def test_a_folder_of_parts_whose_train_is_gone(tiny_run, shapes_root, tmp_path):
    shutil.copytree(shapes_root / "test", tmp_path / "root" / "test")
    before = evaluate(tiny_run, shapes_root, out=tmp_path / "before.json")
    assert figures(evaluate(tiny_run, tmp_path / "root", out=tmp_path / "after.json")) == figures(before)


def test_a_store_of_the_test_videos_alone(grouped_run, grouped_root, tmp_path):
    from actionfusion.data.prepare_dataset import prepare
    from actionfusion.run_folder import open_run

    flow = open_run(grouped_run).clip.flow
    tested = [row["path"] for row in rows_of(grouped_run) if row["part"] == "test"]
    for path in tested:
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(grouped_root / path, tmp_path / "root" / path)
    prepare("folder", tmp_path / "root", store=tmp_path / "store", flow=flow, workers=0)
    evaluation = evaluate(grouped_run, grouped_root, store=tmp_path / "store", out=tmp_path / "after.json")
    assert {row["video"] for row in evaluation.as_json()["videos"]} == set(tested)


@pytest.fixture(scope="module")
def table_run(tmp_path_factory, quick_arguments, grouped_root):
    """A run on a table whose videos lie on a disk beside it."""
    from dataclasses import replace

    from actionfusion.training.train import train

    base = tmp_path_factory.mktemp("table")
    shutil.copytree(grouped_root, base / "disk1" / "clips")
    recipe = quick_arguments["recipe"]
    data = replace(recipe.data, root=write_table(base, "disk1/clips"), dataset="csv", group_pattern=None)
    return train(recipe.changed(data=data), out=base / "run")


def write_table(base, below):
    table = base / "lists" / "clips.csv"
    table.parent.mkdir(exist_ok=True)
    videos = sorted((base / below).glob("*/*.mp4"))
    lines = [f"{video},{video.parent.name}" for video in videos]
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    return table


def test_a_disk_that_moved(table_run, grouped_root, tmp_path):
    before = evaluate(table_run, table_run.parent / "lists" / "clips.csv", out=tmp_path / "before.json")
    shutil.copytree(grouped_root, tmp_path / "mnt" / "new disk" / "clips")
    moved = evaluate(table_run, write_table(tmp_path, "mnt/new disk/clips"), out=tmp_path / "after.json")
    assert figures(moved) == figures(before)


def test_names_in_another_unicode_form(quick_arguments, grouped_root, tmp_path):
    import unicodedata
    from dataclasses import replace

    from actionfusion.training.train import train

    def copied(form):
        root = tmp_path / form
        for video in grouped_root.glob("*/*.mp4"):
            target = root / unicodedata.normalize(form, video.parent.name.replace("motion", "möve")) / video.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, target)
        return root

    recipe = quick_arguments["recipe"]
    run = train(recipe.changed(data=replace(recipe.data, root=copied("NFD"))), out=tmp_path / "run")
    before = evaluate(run, tmp_path / "NFD", out=tmp_path / "before.json")
    assert by_name(evaluate(run, copied("NFC"), out=tmp_path / "after.json")) == by_name(before)
    all_of_them = evaluate(run, tmp_path / "NFC", split="all-test", out=tmp_path / "all.json")
    assert all_of_them.figures.top1.count == 12


def test_other_videos_of_the_same_classes(grouped_run, grouped_root, tmp_path, capsys):
    root = tmp_path / "elsewhere" / "motion_up"
    root.mkdir(parents=True)
    videos = sorted((grouped_root / "motion_up").glob("*.mp4"))
    for number, video in enumerate(videos):
        shutil.copy(video, root / f"other{number}.mp4")
    out = tmp_path / "figures.json"
    words = ["evaluate", str(grouped_run), "--dataset", "folder", "--root", str(root.parent), "--split", "all-test"]
    assert main([*words, "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert (written["count"], written["labels"]) == (6, ["motion_down", "motion_up"])
    assert written["missing_classes"] == ["motion_down"]
    assert written["counts"] == {"train": 0, "val": 0, "test": 6}
    assert written["selected_on_part"] is written["trained_on"] is False
    assert {row["label"] for row in written["videos"]} == {"motion_up"}
    printed = capsys.readouterr()
    assert "note: measured on other videos than those that the run was split on" in printed.out
    assert "1 classes have no video here, and nothing is said of them: 'motion_down'" in printed.out
    assert "none of these 6 videos have the name and class" in printed.out
    # The network answers as it does for the same pictures under their own names.
    own = {video.name: number for number, video in enumerate(videos)}
    for part in ("train", "test"):
        known = evaluate(grouped_run, grouped_root, part=part, force=True, out=tmp_path / "own.json")
        for row in known.as_json()["videos"]:
            name = row["video"].split("/")[-1]
            if name in own:
                other = next(item for item in written["videos"] if item["video"].endswith(f"other{own[name]}.mp4"))
                assert other["probabilities"] == pytest.approx(
                    row["probabilities"], abs=2e-6
                )  # written with six digits


def test_what_the_start_has_seen_is_no_matter_of_other_videos(grouped_run, grouped_root, tmp_path):
    run = shutil.copytree(grouped_run, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"start_doubts": ["it has seen them"]}, sort_keys=False))
    other = tmp_path / "other" / "motion_up" / "renamed.mp4"
    other.parent.mkdir(parents=True)
    shutil.copy(next((grouped_root / "motion_up").glob("*.mp4")), other)
    assert "it has seen them" in evaluate(run, grouped_root).notes
    assert "it has seen them" not in evaluate(run, tmp_path / "other", split="all-test").notes


def test_other_videos_leave_the_runs_own_figures_alone(grouped_run, grouped_root, tmp_path):
    run = shutil.copytree(grouped_run, tmp_path / "run")
    evaluate(run, grouped_root)
    before = (run / "evaluation_test.json").read_bytes()
    other = evaluate(run, grouped_root, split="all-test")
    assert (run / "evaluation_test.json").read_bytes() == before
    found = run / f"evaluation_on_{grouped_root.name}.json"
    assert json.loads(found.read_text()) == other.as_json()


def test_two_folders_of_one_name_do_not_share_a_file(grouped_run, grouped_root, tmp_path):
    run = shutil.copytree(grouped_run, tmp_path / "run")
    one, two = (shutil.copytree(grouped_root, tmp_path / place / "clips") for place in ("one", "two"))
    evaluate(run, one, split="all-test")
    found = run / "evaluation_on_clips.json"
    before = found.read_bytes()
    with pytest.raises(
        SettingsError, match=r"_on_clips\.json: holds the figures of another folder of this name.*--out"
    ):
        evaluate(run, two, split="all-test")
    assert found.read_bytes() == before
    evaluate(run, one, split="all-test", part="test")
    evaluate(run, two, split="all-test", out=tmp_path / "two.json")
    assert str(tmp_path) not in found.read_text()
    # A file of an earlier version does not say of which folder it is.
    found.write_text(json.dumps({**json.loads(before), "root_digest": None}))
    evaluate(run, two, split="all-test")


def test_videos_with_the_names_of_training_videos_are_counted(grouped_run, grouped_root, tmp_path, capsys):
    trained = [row["path"] for row in rows_of(grouped_run) if row["part"] == "train"]
    evaluation = evaluate(grouped_run, grouped_root, split="all-test", out=tmp_path / "all.json")
    assert evaluation.seen_in_training == len(trained)
    assert not evaluation.trained_on
    assert f"{len(trained)} of these 12 videos have the name and class" in capsys.readouterr().out
    table = tmp_path / "trained.csv"
    table.write_text("path,label\n" + "".join(f"{grouped_root / path},{path.split('/')[0]}\n" for path in trained))
    with pytest.raises(SettingsError, match=f"trained on videos with the names of these {len(trained)} videos"):
        evaluate(grouped_run, table, dataset="csv", out=tmp_path / "all.json")
    assert evaluate(grouped_run, table, dataset="csv", force=True, out=tmp_path / "all.json").trained_on


def test_one_part_of_another_split(tiny_run, shapes_root, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    own = evaluate(run, shapes_root, out=tmp_path / "own.json")
    tested = evaluate(run, shapes_root, split="folders", out=tmp_path / "test.json")
    assert by_name(tested) == by_name(own)
    trained = evaluate(run, shapes_root, split="folders", part="train", force=True, out=tmp_path / "train.json")
    assert trained.figures.top1.count == trained.seen_in_training == 32
    below = evaluate(run, shapes_root / "test", dataset="folder", out=tmp_path / "below.json")
    assert by_name(below) == by_name(own)


def test_classes_that_the_run_does_not_know_are_named(grouped_run, grouped_root, tmp_path):
    root = shutil.copytree(grouped_root, tmp_path / "root")
    (root / "motion_up").rename(root / "jumping")
    with pytest.raises(DatasetError, match=r"1 classes that the run does not know: 'jumping'; its own are 'motion_do"):
        evaluate(grouped_run, root, split="all-test")
    (root / "jumping").rename(root / "Motion_Up")
    with pytest.raises(DatasetError, match="'Motion_Up'; its own is written 'motion_up'"):
        evaluate(grouped_run, root, split="all-test")


def test_other_videos_need_a_root_and_fit_no_temperature(grouped_run, grouped_root):
    with pytest.raises(SettingsError, match="--root DIR"):
        evaluate(grouped_run, split="all-test")
    with pytest.raises(SettingsError, match="no validation part"):
        evaluate(grouped_run, grouped_root, split="all-test", temperature="val")
    with pytest.raises(SettingsError, match="is no split of folder"):
        evaluate(grouped_run, grouped_root, split="half")
