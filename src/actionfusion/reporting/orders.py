"""Orders that the rows of a table can be read in; the page's script sorts the rows by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import average, leaves_list, optimal_leaf_ordering
from scipy.spatial.distance import squareform

FEWEST_TO_CLUSTER = 3


@dataclass(frozen=True)
class Order:
    """An order of rows.

    Attributes:
        name: as the page calls it.
        rows: numbers of the rows as the page first shows them, first row first.
    """

    name: str
    rows: Sequence[int]


def orders(first: str, count: int, *others: tuple[str, Sequence[int] | None]) -> list[Order]:
    """Collect the orders that a table is offered in.

    Args:
        first: name of the order that the page begins with.
        count: of the rows.
        others: names with orders, None where there is none; one called as the first is left out.

    Returns:
        A list of one where there is nothing to sort.
    """
    found = [Order(first, range(count))]
    if count < 2:
        return found
    return found + [Order(name, tuple(rows)) for name, rows in others if rows is not None and name != first]


def by_name(names: Sequence[str]) -> list[int]:
    """Order by the alphabet, capitals beside small letters."""
    return sorted(range(len(names)), key=lambda row: (names[row].casefold(), names[row]))


def by_value(values: Sequence[float | None], *, falling: bool = False) -> list[int]:
    """Order by value, the smallest first; rows without a number come last either way, and equals keep their order."""

    def key(row: int) -> tuple[bool, float]:
        value = values[row]
        if value is None or not math.isfinite(value):
            return True, 0.0
        return False, -value if falling else value

    return sorted(range(len(values)), key=key)


def by_similarity(confusion: Sequence[Sequence[int]]) -> list[int] | None:
    """Put classes that are confused with each other side by side: the leaves of an average-linkage tree.

    Two classes are as similar as the larger share of one that is predicted as the other; the leaves come in the optimal
    order of Bar-Joseph et al. 2001.

    Args:
        confusion: ``[K, K]`` counts, rows the truth.

    Returns:
        None where there are too few classes, or none is confused with another.
    """
    counts = np.asarray(confusion, np.float64)
    if len(counts) < FEWEST_TO_CLUSTER:
        return None
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    alike = np.maximum(shares, shares.T)
    np.fill_diagonal(alike, 0)
    if not alike.any():
        return None
    apart = 1 - alike
    np.fill_diagonal(apart, 0)
    distances = squareform(apart, checks=False)
    rows: list[int] = leaves_list(optimal_leaf_ordering(average(distances), distances)).tolist()
    return rows
