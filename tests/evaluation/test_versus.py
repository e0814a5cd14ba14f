"""Two runs on the same videos, against counts by hand, an independent test, and simulated runs of equal worth."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp

from actionfusion.__main__ import main
from actionfusion.errors import DatasetError, RunFolderError, SettingsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.pairs import compare_pairs
from actionfusion.evaluation.versus import versus


def plain(right, groups=None, names=None, **more):
    """An evaluation on videos of class a, as `evaluate` writes it."""
    names = names or [f"v{number:03d}" for number in range(len(right))]
    groups = groups or [None] * len(right)
    videos = [
        {
            "video": name,
            "label": "a",
            "predicted": "a" if good else "b",
            "group": group,
            "probabilities": [good, 1 - good],
        }
        for name, good, group in zip(names, map(int, right), groups, strict=True)
    ]
    count, correct = len(videos), int(sum(right))
    per_class = [
        {"label": label, "count": of, "correct": hits, "interval": [0.0, 1.0]}
        for label, of, hits in (("a", count, correct), ("b", 0, 0))
    ]
    return {
        "dataset": "folder", "split": "one", "part": "test", "seed": 0, "labels": ["a", "b"], "confidence": 0.95,
        "count": count, "correct": correct, "top1": correct / max(count, 1), "interval": [0.0, 1.0],
        "per_class": per_class, "confusion": [[correct, count - correct], [0, 0]], "failed": [], "videos": videos,
    } | more  # fmt: skip


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_counts_and_p_value_by_hand(answers):
    first, second = [one for one, _ in answers], [other for _, other in answers]
    found = compare_pairs(plain(first), plain(second))
    assert found.only_first == answers.count((True, False))
    assert found.only_second == answers.count((False, True))
    assert found.both_right == answers.count((True, True))
    assert found.count == len(answers)
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
    discordant = found.only_first + found.only_second
    tail = binom.cdf(min(found.only_first, found.only_second), discordant, 0.5)
    assert found.p_value == pytest.approx(min(2 * tail, 1), abs=1e-12)
    other = compare_pairs(plain(second), plain(first))
    assert other.p_value == pytest.approx(found.p_value)
    assert other.difference == -found.difference
    if len(answers) > 1:
        low, high = found.interval
        assert low - 1e-12 <= found.difference <= high + 1e-12


def test_groups_that_answer_alike_widen_the_interval():
    generator = np.random.default_rng(0)
    first, second = np.repeat(generator.random((2, 12)) < [[0.8], [0.5]], 10, axis=1)
    groups = np.repeat([f"g{number}" for number in range(12)], 10).tolist()
    apart, together = compare_pairs(plain(first), plain(second)), compare_pairs(plain(first, groups), plain(second))
    assert (apart.groups, together.groups) == (None, 12)
    assert together.difference == apart.difference
    width = together.interval[1] - together.interval[0]
    assert 2 < width / (apart.interval[1] - apart.interval[0]) < 4.5, "about the square root of ten"


def test_runs_of_equal_worth_are_told_apart_no_oftener_than_announced():
    generator = np.random.default_rng(1)
    missed = surprised = 0
    for _ in range(200):
        found = compare_pairs(plain(generator.random(80) < 0.7), plain(generator.random(80) < 0.7))
        missed += not found.interval[0] <= 0 <= found.interval[1]
        surprised += found.p_value < 0.05
    assert missed / 200 < 0.1
    assert surprised / 200 <= 0.06


def test_more_draws_of_the_same_videos_are_no_more_evidence():
    def repeated(right, times):
        one = plain(right)
        return one | {
            "videos": [row | {"key": f"{draw}\0{row['video']}"} for draw in range(times) for row in one["videos"]]
        }

    first, second = [1] * 20 + [0] * 10, [1] * 12 + [0] * 14 + [1] * 4
    once, often = (compare_pairs(repeated(first, times), repeated(second, times)) for times in (1, 10))
    assert (often.count, often.videos) == (300, 30)
    assert often.p_value == once.p_value
    assert often.interval == pytest.approx(once.interval)


def test_only_common_videos_are_compared_and_the_rest_is_counted():
    found = compare_pairs(plain([1, 1, 0], names=["a", "b", "c"]), plain([0, 1], names=["b", "d"]))
    assert (found.count, found.only_first, found.unmatched) == (1, 1, {"first": 2, "second": 1})
    assert found.interval is None
    with pytest.raises(DatasetError, match="of 1 and 1 videos they have none in common"):
        compare_pairs(plain([1], names=["a"]), plain([1], names=["b"]))
    other = plain([1])
    other["videos"][0]["label"] = "b"
    with pytest.raises(DatasetError, match="another label"):
        compare_pairs(plain([1]), other)


def test_evaluations_of_earlier_versions_are_taken():
    old = plain([1, 0])
    for row in old["videos"]:
        del row["group"]
    assert compare_pairs(old, plain([0, 0], ["g", "h"])).groups == 2


def test_what_weakens_it_is_said():
    found = compare_pairs(plain([1, 0], trained_on=True), plain([1, 0], split="two", selected_on_part=True))
    assert "first run was trained on" in found.notes[0]
    assert "second run's training stages were ended" in found.notes[1]
    assert "one, and two" in found.notes[2]


def test_from_runs_and_from_files(grouped_run, grouped_root, tmp_path, capsys):
    several = tmp_path / "several.json"
    evaluate(grouped_run, grouped_root, views=3, out=several)
    evaluate(grouped_run, grouped_root)
    capsys.readouterr()
    words = ["versus", str(grouped_run), str(several), "--out", str(tmp_path / "found.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["count"] == 4
    assert found == versus(grouped_run, several).as_json()
    assert "McNemar's exact test: p = " in capsys.readouterr().out


def test_protocols_are_compared_fold_by_fold(tmp_path, capsys):
    """Two seeds over two folds: the same video twice is two predictions and one unit."""
    answered = {"one": [[1, 1, 0], [1, 1, 1]], "other": [[1, 0, 0], [1, 0, 1]]}
    for name, folds in answered.items():
        entries = [{"fold": f"seed-{number}", "run": f"fold-{number}"} for number in range(len(folds))]
        for entry, right in zip(entries, folds, strict=True):
            (tmp_path / name / entry["run"]).mkdir(parents=True)
            (tmp_path / name / entry["run"] / "evaluation_test.json").write_text(json.dumps(plain(right)))
        figures = {"dataset": "folder", "protocol": "column", "folds": entries}
        (tmp_path / name / "protocol.json").write_text(json.dumps(figures))
    found = versus(tmp_path / "one", tmp_path / "other")
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (3, 2, 0, 1)
    # The second video makes the whole difference, in both folds: means of three videos, 0, 1, 0.
    expected = ttest_1samp([0, 1, 0], 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((max(expected.low, -1), min(expected.high, 1)))
    # The first fold alone counts for the test: one of two that differ.
    assert (found.count, found.videos, found.p_value) == (6, 3, 1)
    said = capsys.readouterr().out
    assert "first:  " in said
    assert "83.3 % (5/6)\n" in said
    assert "on 6 predictions of 3 videos that both predict" in said
    assert "one prediction of each video" in said
    with pytest.raises(SettingsError, match="no predictions on the val part"):
        versus(tmp_path / "one", tmp_path / "other", part="val")
    (tmp_path / "one" / "protocol.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"protocol\.json: cannot be read"):
        versus(tmp_path / "one", tmp_path / "other")


def test_what_was_not_evaluated_is_said(tiny_run, tmp_path):
    with pytest.raises(RunFolderError, match="evaluate the run first"):
        versus(tmp_path, tmp_path)
    broken = tmp_path / "evaluation.json"
    contents = {
        "{": "is damaged",
        "[]": "is damaged",
        '{"videos": [{}]}': "has no dataset",
        json.dumps(plain([1]) | {"count": 7}): "says 1 of 7, but its confusion matrix 1 of 1",
    }
    for content, fault in contents.items():
        broken.write_text(content)
        with pytest.raises(RunFolderError, match=f"evaluation.json: {fault}.*; evaluate the run again"):
            versus(broken, broken)
