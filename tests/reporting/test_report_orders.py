import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionfusion.reporting.orders import by_name, by_similarity, by_value, orders

_VALUES = st.lists(st.none() | st.floats(-1, 1) | st.just(float("nan")), max_size=12)


@settings(max_examples=60, deadline=None)
@given(_VALUES, st.booleans())
def test_an_order_by_value_is_a_permutation_sorted_with_the_unknown_last(values, falling):
    places = by_value(values, falling=falling)
    assert sorted(places) == list(range(len(values)))
    numbers = [values[place] for place in places if values[place] is not None and values[place] == values[place]]
    assert numbers == sorted(numbers, reverse=falling)
    known = [values[place] is not None and values[place] == values[place] for place in places]
    assert known == sorted(known, reverse=True)


def test_names_sort_as_people_read_them():
    assert by_name(["walk", "Archery", "bowling", "Walk"]) == [1, 2, 3, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 9), st.randoms(use_true_random=False))
def test_classes_that_are_taken_for_each_other_stand_side_by_side(pairs, random):
    """Classes 2k and 2k + 1 are confused with each other alone, and dealt out at random."""
    dealt = list(range(2 * pairs))
    random.shuffle(dealt)
    confusion = np.zeros((2 * pairs, 2 * pairs), int)
    for number, place in enumerate(dealt):
        confusion[place, place] = 6
        confusion[place, dealt[number ^ 1]] = 3
    order = by_similarity(confusion.tolist())
    assert order is not None
    assert sorted(order) == list(range(2 * pairs))
    where = {place: position for position, place in enumerate(order)}
    assert all(abs(where[dealt[2 * k]] - where[dealt[2 * k + 1]]) == 1 for k in range(pairs))


@pytest.mark.parametrize("confusion", [[], [[3]], [[3, 1], [1, 3]], [[3, 0, 0], [0, 2, 0], [0, 0, 0]]])
def test_where_nothing_is_alike_there_is_no_such_order(confusion):
    assert by_similarity(confusion) is None


def test_what_is_offered_can_be_done_and_has_a_name_of_its_own():
    found = orders("worst first", 3, ("by name", [2, 0, 1]), ("worst first", [0, 1, 2]), ("alike", None))
    assert [(order.name, list(order.rows)) for order in found] == [("worst first", [0, 1, 2]), ("by name", [2, 0, 1])]
    assert [order.name for order in orders("as listed", 1, ("by name", [0]))] == ["as listed"]
