import json
import math

import pytest

from actionfusion.errors import RunFolderError
from actionfusion.evaluation.result import read_evaluation


def _written(tmp_path, content):
    path = tmp_path / "evaluation_test.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_what_evaluate_writes_is_read(tmp_path, make_evaluation):
    evaluation = make_evaluation([[3, 1], [2, 4]], ['<script>"', "two\nlines"])
    assert read_evaluation(_written(tmp_path, evaluation)) == evaluation
    odd = make_evaluation([[3, 1], [2, 4]]) | {"top1": math.nan}
    assert math.isnan(read_evaluation(_written(tmp_path, odd))["top1"])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '"text"'])
def test_what_is_no_evaluation_is_refused(tmp_path, content):
    with pytest.raises(RunFolderError, match=r"evaluation_test\.json.*evaluate the run again"):
        read_evaluation(_written(tmp_path, content))
    with pytest.raises(RunFolderError, match="is no file"):
        read_evaluation(tmp_path)


def _row(evaluation, name, **change):
    return {name: [evaluation[name][0] | change, *evaluation[name][1:]]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda _: {"count": "ten"}, "count is 'ten'"),
        (lambda _: {"labels": [1, 2]}, "not every label is a text"),
        (lambda _: {"confusion": [[3, 1], [2, 4.5]]}, "something else than counts"),
        (lambda _: {"confusion": [1, 2]}, "something else than counts"),
        (lambda _: {"interval": None}, "interval is None"),
        (lambda _: {"videos": [{"video": "a.mp4"}]}, "has no label in entry 1 of videos"),
        (lambda e: _row(e, "videos", label="unheard"), "a label that is not listed"),
        (lambda e: _row(e, "videos", probabilities=[1.0]), "not one number a label"),
        (lambda e: _row(e, "videos", probabilities=["a", "b"]), "not one number a label"),
        (lambda e: _row(e, "per_class", count=None), "count in entry 1 of per_class is None"),
        (lambda e: _row(e, "per_class", label="other"), "classes one by one are not its labels"),
        (lambda _: {"correct": 9}, "says 9 of 10"),
        (lambda e: {"videos": e["videos"][1:]}, "says 10, but it names 9 videos"),
        (lambda _: {"leaks": 3}, "leaks is 3"),
        (lambda e: _row(e, "videos", group=7), "group in entry 1 of videos is 7"),
        (lambda _: {"failed": ["a.mp4"]}, "holds 'a.mp4' in entry 1 of failed"),
    ],
)
def test_what_another_version_wrote_is_refused_by_name(tmp_path, make_evaluation, change, named):
    evaluation = make_evaluation([[3, 1], [2, 4]])
    with pytest.raises(RunFolderError, match=named):
        read_evaluation(_written(tmp_path, evaluation | change(evaluation)))


def test_each_needed_part_is_missed_by_name(tmp_path, make_evaluation):
    evaluation = make_evaluation([[3, 1], [2, 4]])
    for name in evaluation:
        kept = {key: value for key, value in evaluation.items() if key != name}
        with pytest.raises(RunFolderError, match=f"has no {name}"):
            read_evaluation(_written(tmp_path, kept))
