"""The layouts on real clips, where they are at hand (see tests of the generated trees for the rest)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from actionfusion.data.layouts import open_dataset
from actionfusion.data.splits import leave_one_group_out, make_split

_SHARED = Path(os.environ.get("ACTIONFUSION_SHARED") or Path(__file__).parents[3] / "shared") / "data"
pytestmark = pytest.mark.skipif(not _SHARED.is_dir(), reason=f"needs the real clips, which are not at {_SHARED}")


@pytest.mark.parametrize("pointed", ["UCF-101", ".", "UCF-101/PushUps"])
def test_the_part_of_ucf101_with_its_lists(pointed: str) -> None:
    listing = open_dataset("ucf101", _SHARED / pointed)
    assert (len(listing.entries), len(listing.labels), len(listing.groups)) == (288, 8, 144)
    split = make_split(listing, "official-1")
    assert (len(split.train), len(split.test)) == (192, 96)
    assert {listing.entries[index].fold for index in split.test} == {f"g{number:02d}" for number in range(8, 14)}
    assert not split.leaks(listing).groups
    assert all(listing.path(index).is_file() for index in range(288))


def test_random_7_3_on_ucf101_gives_away_more_than_half() -> None:
    listing = open_dataset("ucf101", _SHARED / "UCF-101")
    leaks = make_split(listing, "random-7:3").leaks(listing)
    assert leaks.tested == 86
    # Two clips a group: the other one is in training with probability 7/10.
    assert 45 <= leaks.test_videos <= 75


def test_weizmann_by_person() -> None:
    listing = open_dataset("folder", _SHARED / "weizmann", group_pattern=r"(?P<group>[a-z]+)_")
    assert (len(listing.entries), len(listing.labels), len(listing.groups)) == (36, 4, 9)
    split = make_split(listing, "leave-groups-out:lyova,moshe,shahar")
    assert (len(split.train), len(split.test)) == (24, 12)
    assert len(leave_one_group_out(listing)) == 9


def test_ut_interaction_by_sequence() -> None:
    listing = open_dataset("folder", _SHARED / "ut-interaction", group_pattern=r"\d+_(?P<group>\d+)_")
    assert (len(listing.entries), len(listing.labels), len(listing.groups)) == (60, 6, 10)
    assert Counter(entry.label for entry in listing.entries) == dict.fromkeys(listing.labels, 10)
    assert len(leave_one_group_out(listing)) == 10
