"""Several models on the same folds: rows, differences, what fails, and that what is done is never done again."""

import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import yaml

from actionfusion.__main__ import main
from actionfusion.data.dataset import DataSettings, open_listing
from actionfusion.data.layouts.table import read_rows
from actionfusion.errors import SettingsError, TrainingError
from actionfusion.evaluation import protocol as protocol_module
from actionfusion.evaluation.compared import measure_cost, training_seconds
from actionfusion.evaluation.pairs import compare_pairs
from actionfusion.evaluation.versus import read_answers
from actionfusion.intervals import holm
from actionfusion.models import MODELS, model_class
from actionfusion.models.systems.c3d import C3DSettings
from actionfusion.reporting.compare import compare
from actionfusion.reporting.compare_page import render_compared
from actionfusion.training import comparison as comparison_module
from actionfusion.training.comparison import comparison_recipe, estimate
from actionfusion.training.features import FeatureSettings

pytestmark = pytest.mark.usefixtures("drawn_once")

BASE = {
    "clip": {"frames": 2, "flow_frames": 2, "flow": {"engine": "dis", "bound": 8.0, "size": 32}},
    "network": {"backbone": [4, "M", 8], "batch_norm": True, "fc6_width": 8, "hidden": 6, "head": "linear"},
    "features": {"cache": True, "views": 1},
    "training": {
        "batch_size": 4, "workers": 0, "stages": [{"learning_rate": 0.01, "max_epochs": 2, "patience": None}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


@pytest.fixture(scope="module")
def words(base, grouped_root) -> list[str]:
    return ["compare", "folder", str(grouped_root), "--group_pattern", r"(?P<group>p\d)_", "--config", str(base)]


@pytest.fixture(scope="module")
def compared(words, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    assert main([*words, "--models", "lrcn", "--seeds", "[0,1]", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_each_model_answers_each_fold(compared):
    table = json.loads((compared / "comparison.json").read_text())
    assert [row["model"] for row in table["models"]] == ["fusion", "lrcn", "probe"]
    assert (table["protocol"], table["reference"]) == ("leave-one-group-out", "fusion")
    for row in table["models"]:
        assert (row["folds"], row["planned"], row["failure"]) == (6, 6, None)
        assert row["accuracy"]["count"] == 24
        assert row["accuracy"]["group_interval"]
        assert row["cost"]["parameters"] > 0
        assert "[4, 'M', 8]" in row["recipe"] or "(4, 'M', 8)" in row["recipe"]
    assert [row["less_reference"] is None for row in table["models"]] == [True, False, False]


def test_differences_are_those_of_versus_and_p_sees_each_video_once(compared):
    row = json.loads((compared / "comparison.json").read_text())["models"][1]
    pair = compare_pairs(read_answers(compared / "lrcn"), read_answers(compared / "fusion"))
    assert row["less_reference"] == json.loads(json.dumps(pair.as_json()))
    assert pair.count == 24
    right = [
        {
            line["video"]
            for line in read_answers(compared / name)["videos"]
            if line["label"] == line["predicted"] and "-seed-0\0" in line["key"]
        }
        for name in ("lrcn", "fusion")
    ]
    only = [len(right[0] - right[1]), len(right[1] - right[0])]
    from scipy.stats import binomtest

    p = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert p <= row["p_value_corrected"] <= min(1.0, 2 * p)


def test_the_page_has_all_and_the_network_of_nobody_else(compared):
    page = (compared / "comparison.html").read_text()
    for text in ("fusion", "lrcn", "probe", "Donahue", "82.34", "Holm"):
        assert text in page
    assert "http" not in page.split("</style>")[1]


def test_the_page_shows_each_class_of_each_model(compared):
    page = (compared / "comparison.html").read_text()
    for row in json.loads((compared / "comparison.json").read_text())["models"]:
        by_class = row["accuracy"]["by_class"]
        assert sum(of["correct"] for of in by_class.values()) == row["accuracy"]["correct"]
        for label, of in by_class.items():
            assert f"{row['model']}: {of['correct']} of {of['count']} {label}" in page


def test_what_is_done_is_not_done_again(compared, words, monkeypatch, capsys):
    monkeypatch.setattr(protocol_module, "train", lambda *_, **__: pytest.fail("trained again"))
    before = json.loads((compared / "comparison.json").read_text())
    assert main([*words, "--models", "lrcn", "--seeds", "[0,1]", "--out", str(compared)]) == 0
    assert json.loads((compared / "comparison.json").read_text()) == before
    assert "6 of 6 folds are done already" in capsys.readouterr().err


def test_the_time_and_the_disk_are_estimated_of_every_model(base, grouped_root, compared, monkeypatch):
    clock = count()  # each look at it is a second later
    monkeypatch.setattr(comparison_module.time, "perf_counter", lambda: next(clock))
    listing = open_listing(DataSettings(root=grouped_root))
    data = DataSettings(root=grouped_root, validation="none")
    recipes = [comparison_recipe(name, str(base)).changed(data=data) for name in ("fusion", "probe", "lrcn")]
    found = estimate([(recipe, 2) for recipe in recipes], listing)
    assert found.unknown == ()
    assert found.features == len(listing.entries)  # of the probe; no features are kept, so the others' are training
    assert found.training > 0
    more = estimate([(recipe, 20) for recipe in recipes], listing)
    assert more.training == 10 * found.training
    assert more.disk == 10 * found.disk
    assert "run folders of 2.0 GB, 1.0 GB are free" in replace(found, disk=2_000_000_000).line(1_000_000_000)

    folds = len(list((compared / "lrcn").glob("fold-*")))
    left = sum(path.stat().st_size for path in (compared / "lrcn").glob("fold-*/[cm]*.safetensors"))
    assert estimate([(recipes[2], folds)], listing).disk == pytest.approx(left, rel=0.2)


def test_only_what_is_missing_is_estimated(compared, words, monkeypatch, capsys):
    assert main([*words, "--models", "lrcn", "--seeds", "[0,1]", "--out", str(compared)]) == 0
    assert "estimated" not in capsys.readouterr().err


def test_the_estimate_counts_what_keeps_no_features(base, grouped_root):
    listing = open_listing(DataSettings(root=grouped_root))
    data = DataSettings(root=grouped_root, validation="none")
    whole = comparison_recipe("c3d", str(base)).changed(data=data, network=C3DSettings.tiny(2))
    trained = comparison_recipe("lrcn", str(base)).changed(data=data, features=FeatureSettings())
    found = estimate([(whole, 1), (trained, 1)], listing)
    assert found.unknown == ()
    assert found.features == 0
    assert found.training > 0


def test_other_settings_in_a_used_folder_leave_its_table_alone(compared, words, base, tmp_path):
    out = shutil.copytree(compared, tmp_path / "out")
    before = (out / "comparison.json").read_bytes()
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(BASE | {"clip": BASE["clip"] | {"frames": 3}}))
    changed = [*words, "--models", "lrcn", "--seeds", "[0,1]", "--out", str(out)]
    changed[changed.index(str(base))] = str(other)
    assert main(changed) == 1
    assert (out / "comparison.json").read_bytes() == before


def test_a_table_loses_no_row_that_is_not_reached(compared, words, tmp_path, monkeypatch):
    out, train = shutil.copytree(compared, tmp_path / "out"), protocol_module.train
    before = (out / "comparison.json").read_bytes()

    def stopped(recipe, **options):
        if recipe.model == "lrcn":
            raise KeyboardInterrupt
        return train(recipe, **options)

    monkeypatch.setattr(protocol_module, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare("folder", words[2], models="lrcn", seeds=(0, 2), config=words[-1], group_pattern=words[4], out=out)
    assert (out / "comparison.json").read_bytes() == before


def test_an_unreadable_test_video_costs_no_row(compared, grouped_root, tmp_path):
    root, protocol = (
        shutil.copytree(grouped_root, tmp_path / "root"),
        shutil.copytree(compared / "lrcn", tmp_path / "of"),
    )
    figures = json.loads((protocol / "protocol.json").read_text())
    (protocol / "cost.json").unlink()
    rows = read_rows(protocol / figures["folds"][0]["run"] / "split.csv", ("path", "part"))
    tested = [row.cells["path"] for row in rows if row.cells["part"] == "test"]
    (root / tested[0]).write_bytes(b"no video")
    data = DataSettings(root=root)
    assert measure_cost(protocol, figures, data, "cpu").milliseconds > 0
    (protocol / "cost.json").unlink()
    for path in tested:
        (root / path).write_bytes(b"no video")
    assert measure_cost(protocol, figures, data, "cpu") is None


def test_what_is_solved_has_no_seconds_of_epochs(compared):
    def seconds(row):
        return training_seconds(compared / row, json.loads((compared / row / "protocol.json").read_text()))

    assert seconds("lrcn") > 0
    assert seconds("probe") is None


def test_the_page_names_each_device_and_any_class(compared, words, grouped_root):
    dataset = ["folder", grouped_root]
    rows = compare(*dataset, models="lrcn", seeds=(0, 1), config=words[-1], group_pattern=words[4], out=compared).models
    listing = open_listing(DataSettings(root=grouped_root))
    page = render_compared(rows, replace(listing, labels=(*listing.labels, "copy", "pop")), "column", "fusion")
    assert "on cpu with" in page
    elsewhere = [rows[0], replace(rows[1], cost=replace(rows[1].cost, device="cuda:0"))]
    page = render_compared(elsewhere, listing, "column", "fusion")
    assert " on cuda:0 with " in page
    assert "on the device that is named" in page


def test_a_model_that_fails_is_a_row_and_the_others_go_on(words, tmp_path, monkeypatch, capsys):
    train = protocol_module.train

    def failing(recipe, **options):
        if recipe.model == "lrcn":
            raise TrainingError("loss", "is no number", "lower the learning rate")
        return train(recipe, **options)

    monkeypatch.setattr(protocol_module, "train", failing)
    out = tmp_path / "out"
    assert main([*words, "--models", "lrcn", "--protocol", "random-7:3", "--out", str(out)]) == 1
    rows = {row["model"]: row for row in json.loads((out / "comparison.json").read_text())["models"]}
    assert "1 of 1 folds failed: loss: is no number" in rows["lrcn"]["failure"]
    assert rows["lrcn"]["accuracy"] is None
    assert rows["probe"]["accuracy"]["count"] == rows["fusion"]["accuracy"]["count"] > 0
    assert "is no number" in (out / "comparison.html").read_text()
    assert capsys.readouterr().out.count("lrcn") == 2


def test_a_misspelt_model_is_refused_before_the_work_with_the_nearest_name(words, tmp_path, capsys):
    assert main([*words, "--models", "lrnc", "--out", str(tmp_path / "out")]) == 1
    assert "did you mean lrcn?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_variant_is_a_row_of_its_own(words, tmp_path, capsys):
    out = tmp_path / "out"
    line = [*words, "--protocol", "random-7:3", "--out", str(out), "--reference", "lrcn:flow"]
    assert main([*line, "--models", "lrcn:rgb"]) == 0
    rows = json.loads((out / "comparison.json").read_text())["models"]
    assert [row["model"] for row in rows] == ["lrcn:flow", "lrcn:rgb", "probe"]
    runs = [
        yaml.safe_load(next(out.glob(f"{name}/fold-*/config.yaml")).read_text()) for name in ("lrcn-flow", "lrcn-rgb")
    ]
    assert [run["network"]["streams"] for run in runs] == ["flow", "rgb"]
    assert main([*line, "--models", "two_stream_fusion"]) == 0
    rows = json.loads((out / "comparison.json").read_text())["models"]
    assert [", fusion sum" in row["recipe"] for row in rows] == [False, True, False]
    assert main([*line, "--models", "lrcn:depth"]) == 1
    assert "lrcn has no variant 'depth'; choose one of lrcn:rgb, lrcn:flow" in capsys.readouterr().err


def test_every_variant_of_every_model_has_settings_that_build():
    for name in MODELS:
        for variant in model_class(name).variants:
            recipe = comparison_recipe(f"{name}:{variant}" if variant else name)
            assert recipe.fitted(8).network.num_classes == 8


def test_what_cannot_be_is_refused_before_the_work(base, grouped_root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="cannot be written"):
        compare("folder", grouped_root, models="probe", config=str(base), out=tmp_path / "file" / "out")
    with pytest.raises(SettingsError, match="is no recipe"):
        compare("folder", grouped_root, models="probe", config="smal", out=tmp_path / "out")


@pytest.mark.parametrize("name", ["comparison.json", "comparison.html"])
def test_files_of_something_else_are_not_written_over(name, base, grouped_root, tmp_path):
    (tmp_path / name).write_text('{"rows": []}')
    with pytest.raises(SettingsError, match="this command did not write it"):
        compare("folder", grouped_root, models="probe", reference="probe", config=str(base), out=tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, '{"rows": []}')]


def test_holm_corrects_as_published():
    # Of Holm 1979's procedure: the smallest p counts for all, the next for one less, and none falls below an earlier.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
