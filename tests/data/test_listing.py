"""What a listing refuses, counts and hands on; no file is opened."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from actionfusion.data.listing import Listing, Split, VideoEntry, shown, some, sorted_entries
from actionfusion.errors import DatasetError, SettingsError

ROOT = Path("clips")


def listing(*entries: VideoEntry, **extra: object) -> Listing:
    labels = tuple(sorted({entry.label for entry in entries}))
    return Listing("folder", ROOT, entries, labels, **extra)  # type: ignore[arg-type]


def clip(path: str, group: str | None = None) -> VideoEntry:
    return VideoEntry(path, path.partition("/")[0], group)


FOUR = (clip("a/1.mp4", "x"), clip("a/2.mp4", "y"), clip("b/1.mp4", "x"), clip("b/2.mp4"))


def test_describe_is_one_line_with_classes_videos_groups_and_place() -> None:
    assert listing(*FOUR).describe() == "folder: 2 classes, 4 videos, 2 groups, found in clips"
    bare = listing(clip("a/1.mp4"), VideoEntry("a/2", "a", kind="frames"))
    assert bare.describe() == "folder: 1 classes, 2 videos (1 as folders of pictures), groups not known, found in clips"
    odd = Listing("folder", Path("two\nlines"), FOUR, ("a", "b"))
    assert "\n" not in odd.describe()


def test_path_joins_the_root() -> None:
    assert listing(*FOUR).path(2) == ROOT / "b" / "1.mp4"


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ((), "holds no video"),
        ((clip("a/1.mp4"), clip("a/1.mp4")), "'a/1.mp4' is listed twice"),
        ((VideoEntry("/a/1.mp4", "a"),), "is outside it"),
        ((VideoEntry("a/../../1.mp4", "a"),), "is outside it"),
    ],
)
def test_a_listing_refuses_what_would_go_wrong_later(entries: tuple[VideoEntry, ...], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        listing(*entries)


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(DatasetError, match="label 'a' is no class"):
        Listing("folder", ROOT, (clip("a/1.mp4"),), ("b",))


def test_a_video_in_two_parts_is_refused() -> None:
    with pytest.raises(DatasetError, match="video 1 is named twice"):
        Split("mine", (0, 1), (1, 2))


def test_leaks_counts_group_mates_in_training_and_validation() -> None:
    # x: on both sides, once with the same label in training and once without; y: seen by validation alone.
    data = listing(
        clip("a/1.mp4", "x"), clip("a/2.mp4", "x"), clip("a/3.mp4", "y"), clip("b/1.mp4", "x"),
        clip("b/2.mp4", "y"), clip("b/3.mp4", "z"), clip("b/4.mp4"),
    )  # fmt: skip
    leaks = Split("s", train=(0,), val=(2,), test=(1, 3, 4, 5, 6)).leaks(data)
    assert leaks.groups == ("x", "y")
    assert (leaks.test_videos, leaks.same_label, leaks.tested, leaks.ungrouped) == (3, 1, 5, 1)
    assert leaks.describe() == (
        "3 of 5 test videos have a group-mate in training (1 of their own class; 2 groups on both sides); "
        "1 have no known group"
    )


def test_leaks_says_when_groups_are_not_known() -> None:
    data = listing(clip("a/1.mp4"), clip("a/2.mp4"))
    assert Split("s", (0,), (1,)).leaks(data).describe().startswith("groups are not known")


def test_a_group_inside_one_class_is_left_out_by_its_own_name() -> None:
    assert VideoEntry("a/1.avi", "a", "a/g03").fold == "g03"
    assert VideoEntry("a/1.avi", "a", "anna/g03").fold == "anna/g03"
    assert VideoEntry("a/1.avi", "a").fold is None


def test_grouped_by_takes_the_group_from_the_file_name() -> None:
    data = listing(clip("wave_1/17_3_0.avi"), clip("wave_1/21_4_0.avi"), clip("wave_1/odd.avi"))
    grouped = data.grouped_by(r"\d+_(?P<group>\d+)_")
    assert [entry.group for entry in grouped.entries] == ["3", "4", None]
    assert grouped.notes == ("1 file names do not match the group pattern, 'wave_1/odd.avi' first",)


@pytest.mark.parametrize("pattern", ["(", "[a-z]+_", "(?P<person>[a-z]+)_"])
def test_a_pattern_that_cannot_name_a_group_is_refused(pattern: str) -> None:
    with pytest.raises(SettingsError, match="group_pattern"):
        listing(*FOUR).grouped_by(pattern)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(DatasetError, match="matches no file name"):
        listing(*FOUR).grouped_by(r"(?P<group>person\d)")


def test_select_keeps_splits_in_step_and_drops_empty_classes() -> None:
    data = listing(*FOUR, official={"folders": Split("f", (0, 2), (1, 3)), "column": Split("c", (0, 1), (2, 3))})
    kept = data.select([3, 1, 0], "1 video is broken")
    assert [entry.path for entry in kept.entries] == ["a/1.mp4", "a/2.mp4", "b/2.mp4"]
    assert kept.official["folders"] == Split("f", (0,), (1, 2))
    assert kept.notes == ("1 video is broken",)
    one_class = data.select([0, 1])
    assert one_class.labels == ("a",)
    assert "column" not in one_class.official
    assert one_class.notes == ("split column is not offered any more: one of its parts is empty",)


def test_entries_are_sorted_by_path_however_letters_are_stored() -> None:
    composed, decomposed = "a/\u00e4.mp4", "a/a\u0308.mp4"
    paths = [entry.path for entry in sorted_entries([clip("a/z.mp4"), clip(decomposed), clip("a/b.mp4")])]
    assert paths == ["a/b.mp4", "a/z.mp4", decomposed]
    assert [entry.path for entry in sorted_entries([clip("a/z.mp4"), clip(composed), clip("a/b.mp4")])][-1] == composed


def test_names_print_on_one_line() -> None:
    assert some(["a", "b\nc", "d", "e", "f"]) == r"'a', 'b\nc', 'd' and 2 more"
    assert shown("plain name ä") == "plain name ä"
    assert shown("two\nlines") == r"'two\nlines'"


def test_a_listing_travels_to_worker_processes() -> None:
    data = listing(*FOUR, official={"folders": Split("f", (0, 2), (1, 3))})
    assert pickle.loads(pickle.dumps(data)) == data
