import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionfusion.curves import Curves
from actionfusion.errors import OutputError, RunFolderError, SettingsError
from actionfusion.reporting.figures import SERIES, overlay_svg
from actionfusion.reporting.several_runs import class_rows, paired, short_names, unlike
from actionfusion.reporting.several_runs_page import ComparedRun, render_comparison, report_comparison

NASTY = '<script>alert("1")</script>"\n\'& {{ 7 * 7 }}'


def _videos(answers):
    videos = [{"video": f"{n}.mp4", "label": t, "predicted": p} for n, (t, p) in answers.items()]
    return {"split": "one", "videos": videos}


_ANSWERS = st.dictionaries(st.integers(0, 12), st.tuples(st.just("a"), st.sampled_from("ab")))


def test_runs_are_unlike_by_what_was_asked_for_not_by_what_was_found(make_evaluation):
    def viewed(**views):
        return make_evaluation([[3, 1], [0, 5]]) | {"views": {"temporal": 3, "flip": False} | views}

    assert unlike([viewed(clips=30, single={"correct": 20}), viewed(clips=29, single={"correct": 21})]) == []
    assert unlike([viewed(), viewed(flip=True)]) == [
        "The runs were measured on different views at test time: 3, 3 and their mirror images."
    ]


@settings(max_examples=60, deadline=None)
@given(_ANSWERS, _ANSWERS)
def test_pairs_are_counted_on_the_videos_that_both_answered(first, other):
    pair = paired(_videos(first), _videos(other), "other")
    common = [n for n in first if n in other]
    assert pair.left_out == len(first) + len(other) - 2 * len(common)
    assert (pair.counts is None) == (not common)
    if pair.counts is None:
        return
    table = {
        (x, y): sum((first[n][1] == "a", other[n][1] == "a") == (x, y) for n in common)
        for x, y in itertools.product((True, False), repeat=2)
    }
    counts = pair.counts
    assert (counts.both_right, counts.only_second) == (table[True, True], table[True, False])
    assert (counts.only_first, counts.both_wrong) == (table[False, True], table[False, False])
    accuracies = [sum(answers[n][1] == "a" for n in common) / len(common) for answers in (first, other)]
    assert counts.difference == pytest.approx(accuracies[1] - accuracies[0])


def test_videos_with_another_true_label_are_counted_apart():
    pair = paired(_videos({1: ("a", "a"), 2: ("a", "b")}), _videos({1: ("b", "b"), 2: ("a", "a")}), "other")
    assert (pair.counts.count, pair.contradicted, pair.counts.only_first) == (1, 1, 1)
    with pytest.raises(SettingsError, match="twice"):
        paired({"split": "one", "videos": _videos({1: ("a", "a")})["videos"] * 2}, _videos({}), "other")


def test_classes_that_a_run_lacks_have_no_difference(make_evaluation):
    rows = class_rows(
        [make_evaluation([[3, 1], [0, 0]], ["walk", "run"]), make_evaluation([[1, 3], [0, 2]], ["walk", "jump"])]
    )
    assert [(row.label, row.accuracies, row.differences) for row in rows] == [
        ("walk", [0.75, 0.25], [-0.5]),
        ("run", [None, None], [None]),
        ("jump", [None, 1.0], [None]),
    ]


def test_runs_have_the_shortest_names_that_tell_them_apart(tmp_path):
    paths = [tmp_path / "x" / "one", tmp_path / "y" / "one", tmp_path / "y" / "two"]
    assert short_names(paths) == ["x/one", "y/one", "two"]
    with pytest.raises(SettingsError, match="is given twice"):
        short_names([paths[0], tmp_path / "y" / ".." / "x" / "one"])


def test_each_run_is_drawn_in_its_own_colour_to_its_own_numbers(make_epochs):
    runs = [make_epochs(8, 0), make_epochs(4, 0)]
    for row in runs[1]:
        row["val_accuracy"] /= 2
    svg = overlay_svg([Curves.from_rows(rows) for rows in runs], "accuracy", "d")
    grid = [float(y) for y in re.findall(r'<path d="M [\d.-]+ ([\d.-]+) \nL[^"]*"[^>]*stroke: var\(--line\)', svg)]
    for number, rows in enumerate(runs, 1):
        lines = re.findall(rf'<path d="([^"]+)"[^>]*style="([^"]*stroke: var\(--s{number}\)[^"]*)"', svg)
        assert len(lines) == 2
        (solid,) = (path for path, style in lines if "dasharray" not in style)
        heights = np.array([float(y) for y in re.findall(r"[ML] [\d.-]+ ([\d.-]+)", solid)])
        shares = (max(grid) - heights) / (max(grid) - min(grid))
        np.testing.assert_allclose(shares, [row["val_accuracy"] for row in rows], atol=1e-4)
    assert "#08" not in overlay_svg([Curves.from_rows(runs[0])] * (SERIES + 2), "loss", "d")


def test_the_page_shows_the_numbers_and_keeps_text_text(parse, make_evaluation, make_epochs):
    first = make_evaluation([[9, 1], [2, 8]], [NASTY, "run"], selected_on_part=True)
    other = make_evaluation([[8, 2], [0, 10]], [NASTY, "run"])
    runs = [
        ComparedRun(NASTY, first, make_epochs()),
        ComparedRun("b", other),
        ComparedRun("c", first, make_epochs(3, 0)),
    ]
    html = render_comparison(runs)
    root = parse(html)
    assert len(root.find("script")) == 1
    assert "alert" not in root.find("script")[0].text
    ids = [element.attributes["id"] for element in root.walk() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert [article.find("p")[0].text[:6] for article in root.find("article")] == ["85.0 %", "90.0 %", "85.0 %"]
    assert len(root.find("p", class_="caveat")) == 2
    rows = [[cell.text for cell in row.find("td")] for row in root.find("section", id="pairs")[0].find("tr")][1:]
    same = {v["video"] for v in first["videos"]} & {v["video"] for v in other["videos"]}
    assert int(rows[0][7]) == len(same)
    assert rows[1] == ["±0.0", "−18.0 to +18.0", "1", "0", "0", "17", "3", "20"]
    assert "predicted by only one of both" in root.find("section", id="pairs")[0].text
    classes = [
        [cell.text for cell in row.find("td")][1:] for row in root.find("table", id="class-differences")[0].find("tr")
    ]
    assert classes[1:] == [["90.0 %", "80.0 % −10.0", "90.0 % ±0.0"], ["80.0 %", "100.0 % +20.0", "80.0 % ±0.0"]]
    assert "Without a record of epochs: b." in root.find("section", id="training")[0].text


def test_what_the_runs_do_not_share_is_said(parse, make_evaluation):
    one = make_evaluation([[1, 0], [0, 1]], ["walk", "run"])
    two = make_evaluation([[1, 0], [0, 1]], ["walk", "jump"], split="7:3 by groups")
    html = render_comparison([ComparedRun("a", one), ComparedRun("b", two)])
    shown = [item.text for item in parse(html).find("li", class_="caveat")]
    assert shown == [
        "The runs were measured on different splits: by_seed, 7:3 by groups.",
        "The runs do not know the same classes.",
    ]
    same = render_comparison([ComparedRun("a", one), ComparedRun("b", one)])
    assert not parse(same).find("li", class_="caveat")


def test_an_empty_test_can_be_compared(parse, make_evaluation):
    empty = make_evaluation([[0, 0], [0, 0]])
    root = parse(render_comparison([ComparedRun("a", empty), ComparedRun("b", empty)]))
    assert "no video in common" in root.text
    assert "nan" not in root.find("main")[0].text.lower()


def test_the_command_reads_run_folders(tiny_run, tmp_path, make_evaluation):
    runs = [Path(shutil.copytree(tiny_run, tmp_path / name)) for name in ("one", "two")]
    labels = (tiny_run / "labels.txt").read_text().splitlines()
    confusion = [[2 * (row == column) for column in range(8)] for row in range(8)]
    with pytest.raises(RunFolderError, match="evaluate the run first"):
        report_comparison(runs, out=tmp_path / "page.html")
    for run in runs:
        (run / "evaluation_test.json").write_text(json.dumps(make_evaluation(confusion, labels)))
    assert "two" in report_comparison(runs, out=tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(SettingsError, match="1 run cannot be compared"):
        report_comparison(runs[:1])
    with pytest.raises(OutputError, match="is a folder"):
        report_comparison(runs, out=tmp_path)
