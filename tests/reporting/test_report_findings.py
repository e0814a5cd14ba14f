import math
import re

import numpy as np
import pytest

from actionfusion.reporting.figures import reliability_bins, reliability_svg
from actionfusion.reporting.findings import headlines, remarks
from actionfusion.reporting.page import Report, render_report

CALIBRATION = {
    "ece": 0.0812,
    "nll": 0.9,
    "brier": 0.31,
    "bins": [
        {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 0.75, "count": 12, "confidence": 0.61, "accuracy": 0.5},
        {"low": 0.75, "high": 1.0, "count": 18, "confidence": 0.9, "accuracy": 0.95},
    ],
    "temperature": 1.7,
    "ece_calibrated": 0.0301,
}


@pytest.fixture
def whole(make_evaluation):
    """With every figure that an evaluation may have."""
    return make_evaluation(
        [[9, 1, 0], [2, 8, 0], [0, 0, 10]],
        ["walk", "run", "jump"],
        top5={"count": 30, "correct": 29, "accuracy": 29 / 30, "interval": [0.83, 0.99]},
        group_interval=[0.7, 0.97],
        groups=6,
        calibration=CALIBRATION,
        leaks={"group": 4, "double": 1},
        notes=["groups unknown"],
        trained_on=True,
        views={"temporal": 3, "flip": True},
    )


def test_figures_stand_at_the_top_with_their_intervals(whole):
    found = {item.name: item for item in headlines(whole)}
    assert found["Top-1 accuracy"].value == "90.0\xa0%"
    assert found["Top-1 accuracy"].note.endswith("with whole groups drawn (6) 70.0 to 97.0\xa0%")
    assert found["Top-5 accuracy"].value == "96.7\xa0%"
    assert found["Mean class accuracy"].value == "90.0\xa0%"
    assert found["Calibration error"].value == "8.1\xa0%"
    assert "3.0\xa0% at a temperature of 1.700" in found["Calibration error"].note


def test_mean_class_accuracy_weighs_classes_and_not_clips(make_evaluation):
    evaluation = make_evaluation([[90, 10], [1, 1]])
    (mean,) = (item for item in headlines(evaluation) if item.name == "Mean class accuracy")
    assert mean.value == "70.0\xa0%"
    assert evaluation["top1"] == pytest.approx(91 / 102)


def test_an_evaluation_of_today_has_fewer_figures_and_no_remark(make_evaluation):
    evaluation = make_evaluation([[9, 1], [2, 8]])
    assert [item.name for item in headlines(evaluation)] == ["Top-1 accuracy", "Mean class accuracy"]
    assert remarks(evaluation) == []


def test_a_reader_sees_what_flatters(whole, parse):
    grave = [remark.text for remark in remarks(whole) if remark.grave]
    assert "trained on these clips" in grave[0]
    assert "of 30 clips, 4 have a clip of their group in training, and 1 have a near-duplicate there" in grave[1]
    others = [remark.text for remark in remarks(whole) if not remark.grave]
    assert others == [
        "About the split: groups unknown.",
        "Each prediction is the mean over 3 temporal samples, each mirrored too.",
    ]
    listed = [item.text for item in parse(render_report(Report("Run", evaluation=whole))).find("li", class_="caveat")]
    assert listed == grave


def test_a_clean_split_and_classes_without_a_clip_are_said(make_evaluation):
    evaluation = make_evaluation([[9, 1], [0, 0]], ["walk", "run"], leaks={"group": 0, "double": 0})
    assert [(remark.text, remark.grave) for remark in remarks(evaluation)] == [
        ("No tested clip has a clip of its group or a near-duplicate in training.", False),
        ("Tested without a clip of: run.", False),
    ]
    mean = headlines(evaluation)[1]
    assert (mean.value, mean.note) == ("90.0\xa0%", "over the 1 of 2 with a clip")


@pytest.mark.parametrize(
    "odd",
    [
        {"top5": None, "calibration": None, "leaks": None, "group_interval": None, "views": None},
        {"calibration": {"ece": math.nan, "bins": []}, "group_interval": [math.nan, 0.5]},
        {"calibration": {"bins": [{"low": 0, "high": 1, "count": 3, "confidence": None, "accuracy": math.nan}]}},
        {"top5": {"count": 0}, "views": {"temporal": None}, "calibration": {"bins": [3, {"low": "a"}]}},
        {"calibration": {"bins": "none"}, "leaks": [], "notes": "no list", "interval": [math.nan, math.nan]},
    ],
)
def test_figures_that_are_not_there_leave_the_page_whole(make_evaluation, parse, odd):
    root = parse(render_report(Report("Run", evaluation=make_evaluation([[3, 1], [1, 3]], **odd))))
    assert not root.find("section", id="calibration")
    assert "nan" not in root.find("main")[0].text.lower()


def test_the_reliability_bars_are_as_high_as_the_share_of_correct_predictions(whole, parse):
    bins = reliability_bins(CALIBRATION["bins"])
    svg = reliability_svg(bins, "d")
    bars = [
        np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path)])
        for path in re.findall(r'<path d="([^"]+)"[^>]*style="[^"]*fill: var\(--good\)', svg)
    ]
    heights = [float(np.ptp(bar[:, 1])) for bar in bars]
    widths = [float(np.ptp(bar[:, 0])) for bar in bars]
    assert len(bars) == 2
    assert heights[0] / heights[1] == pytest.approx(0.5 / 0.95, rel=1e-3)
    assert widths[0] == pytest.approx(widths[1], rel=1e-3)
    assert "#07" not in svg
    section = parse(render_report(Report("Run", evaluation=whole))).find("section", id="calibration")[0]
    rows = [[cell.text for cell in row.find("td")] for row in section.find("table")[0].find("tr")][1:]
    assert rows == [["0", "–", "–"], ["12", "61.0 %", "50.0 %"], ["18", "90.0 %", "95.0 %"]]
    assert "1.700" in section.text


def test_a_calibration_of_bins_alone_is_shown_without_the_other_figures(make_evaluation, parse):
    evaluation = make_evaluation([[3, 1], [1, 3]], calibration={"bins": CALIBRATION["bins"], "temperature": None})
    section = parse(render_report(Report("Run", evaluation=evaluation))).find("section", id="calibration")[0]
    assert not section.find("dt")
    assert len(section.find("tr")) == 1 + 3


def test_a_linear_probe_stands_beside_the_accuracy(make_evaluation):
    probe = {
        "correct": 18,
        "count": 20,
        "accuracy": 0.9,
        "network_minus_probe": {"difference": -0.05, "interval": [-0.2, 0.1]},
    }
    evaluation = make_evaluation([[9, 1], [2, 8]], probe=probe)
    names = [item.name for item in headlines(evaluation)]
    assert names[:2] == ["Top-1 accuracy", "Linear probe"]
    found = headlines(evaluation)[1]
    assert found.value == "90.0\xa0%"
    assert found.note == "on the same features; 18 of 20; network minus probe -5.0 points (-20.0 to +10.0)"
    assert any("linear probe on the same frozen features is more accurate" in item.text for item in remarks(evaluation))
    worse = make_evaluation([[9, 1], [2, 8]], probe=probe | {"correct": 17})
    assert not any("linear probe" in item.text for item in remarks(worse))
    for odd in (None, "x", {"count": "many"}, {"count": 20, "correct": None}):
        names = [item.name for item in headlines(make_evaluation([[9, 1], [2, 8]], probe=odd))]
        assert "Linear probe" not in names
