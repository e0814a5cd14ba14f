"""The generated clips as a data set by name."""

from collections import Counter

import pytest

from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts import shapes as layout
from actionfusion.data.splits import default_split, grouped_7_3, make_split
from actionfusion.errors import DatasetError


def test_clips_that_are_there_come_with_their_twins_as_groups(shapes_root):
    listing = open_dataset("shapes", shapes_root)
    assert (listing.dataset, len(listing.labels), len(listing.entries)) == ("shapes", 8, 48)
    assert set(Counter(entry.group for entry in listing.entries).values()) == {2}
    assert default_split(listing) == "folders"
    assert not make_split(listing).leaks(listing).found
    assert not grouped_7_3(listing).leaks(listing).found


def test_a_folder_that_is_not_there_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(layout, "TEST_PER_CLASS", 1)
    first = open_dataset("shapes", tmp_path / "made here")
    assert len(first.entries) == 24
    assert open_dataset("shapes", tmp_path / "made here") == first


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"no shapes\.json"):
        open_dataset("shapes", tmp_path)
    for place in ("mine.txt", "x" * 300, "a\0b"):
        with pytest.raises(DatasetError, match=r"is a file|cannot be written there"):
            open_dataset("shapes", tmp_path / place)
