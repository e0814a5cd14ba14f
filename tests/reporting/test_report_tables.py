import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from actionfusion.errors import SettingsError
from actionfusion.evaluation.result import check_evaluation
from actionfusion.reporting.tables import Bar, class_bars, confusion_table, mistakes


@st.composite
def _confusions(draw: DrawFn):
    classes = draw(st.integers(1, 5))
    return [[draw(st.integers(0, 4)) for _ in range(classes)] for _ in range(classes)]


@settings(max_examples=40, deadline=None)
@given(_confusions())
def test_every_count_has_its_cell_and_every_confused_pair_its_line(confusion):
    labels = [f"label {index}" for index in range(len(confusion))]
    table = confusion_table({"labels": labels, "confusion": confusion})
    assert [[cell.count if cell else 0 for cell in row] for row in table.rows] == confusion
    for truth, row in enumerate(table.rows):
        cells = [cell for cell in row if cell]
        assert sum(cell.share for cell in cells) == pytest.approx(1 if cells else 0)
        assert [cell.correct for cell in row if cell] == [index == truth for index, cell in enumerate(row) if cell]
    wrong = {
        (labels[i], labels[j], n)
        for i, row in enumerate(confusion)
        for j, n in enumerate(row)
        if n and i != j
    }  # fmt: skip
    shown = [(truth, predicted, cell.count) for truth, predicted, cell in table.pairs]
    assert set(shown) <= wrong
    assert len(shown) + table.other_pairs == len(wrong)
    assert [count for *_, count in shown] == sorted((count for *_, count in wrong), reverse=True)[:10]


def test_a_single_clip_is_never_painted_out_of_sight():
    table = confusion_table({"labels": ["a", "b"], "confusion": [[999, 1], [0, 7]]})
    assert table.rows[0][1].strength > 0.2
    assert table.rows[0][0].strength < table.rows[1][1].strength == 1.0


@pytest.mark.parametrize(("classes", "density"), [(1, "roomy"), (16, "roomy"), (17, "close"), (41, "dense")])
def test_cells_shrink_with_the_number_of_classes(classes, density):
    confusion = [[0] * classes for _ in range(classes)]
    assert confusion_table({"labels": ["x"] * classes, "confusion": confusion}).density == density


def test_few_classes_keep_their_order_and_many_begin_with_the_worst(make_evaluation):
    few = class_bars(make_evaluation([[3, 1], [0, 5]]))
    assert not few.worst_first
    assert [(bar.name, bar.accuracy) for bar in few.bars] == [("class_0", 0.75), ("class_1", 1.0)]
    assert {bar.chance for bar in few.bars} == {0.5}
    confusion = [[0] * 30 for _ in range(30)]
    for index in range(29):
        confusion[index][index] = index
        confusion[index][29] = 28 - index
    assert [bar.f1 for bar in class_bars(make_evaluation([[4, 0], [5, 0]])).bars][1] == 0  # as evaluate says
    many = class_bars(make_evaluation(confusion))
    assert many.worst_first
    assert [bar.name for bar in many.bars] == [f"class_{index}" for index in range(30)]
    assert many.bars[-1].verdict == "no clips"
    assert many.bars[0].accuracy == 0


def test_mistakes_are_all_there_with_the_most_confident_first(make_evaluation):
    evaluation = make_evaluation([[2, 3], [1, 4]])
    listed = mistakes(evaluation)
    assert len(listed) == 4
    assert all(mistake.truth != mistake.predicted for mistake in listed)
    assert [mistake.probability for mistake in listed] == sorted((m.probability for m in listed), reverse=True)
    best = max((v for v in evaluation["videos"] if v["label"] != v["predicted"]), key=lambda v: max(v["probabilities"]))
    assert (listed[0].video, listed[0].probability) == (best["video"], max(best["probabilities"]))


@pytest.mark.parametrize(
    ("count", "interval", "verdict"),
    [
        (2, (0.6, 0.9), ""),
        (2, (0.4, 0.6), "not distinguishable from chance"),
        (2, (0.1, 0.4), "below chance"),
        (0, None, "no clips"),
        (2, None, "no interval"),
    ],
)
def test_a_bar_says_how_it_lies_to_chance(count, interval, verdict):
    assert Bar("group", min(count, 1), count, interval, 0.5).verdict == verdict


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"correct": 8}, "confusion matrix 7 of 10"),
        ({"count": 11}, "confusion matrix 7 of 10"),
        ({"labels": ["a"]}, "does not fit 1 label"),
        ({"confusion": [[1, 2], [3]]}, "does not fit"),
    ],
)
def test_an_evaluation_that_contradicts_itself_is_refused(make_evaluation, change, named):
    evaluation = make_evaluation([[3, 1], [2, 4]])
    check_evaluation(evaluation)
    with pytest.raises(SettingsError, match=named):
        check_evaluation(evaluation | change)


def test_a_missing_part_is_named(make_evaluation):
    whole = make_evaluation([[3, 1], [2, 4]])
    for name in whole:
        with pytest.raises(SettingsError, match=f"has no {name}"):
            check_evaluation({key: value for key, value in whole.items() if key != name})
