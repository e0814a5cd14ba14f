"""Every split against what its name promises, on generated listings."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneGroupOut

from actionfusion.data.listing import Listing, Split, VideoEntry, sorted_entries
from actionfusion.data.splits import (
    default_split,
    folds_of,
    grouped_7_3,
    hold_out_validation,
    leave_groups_out,
    leave_one_group_out,
    leave_one_out,
    make_split,
    make_splits,
    random_7_3,
    split_names,
)
from actionfusion.errors import DatasetError, SettingsError

T = TypeVar("T")
quick = settings(max_examples=60, deadline=None)


def made(entries: list[VideoEntry], **extra: object) -> Listing:
    labels = tuple(sorted({entry.label for entry in entries}))
    return Listing("folder", Path("clips"), sorted_entries(entries), labels, **extra)  # type: ignore[arg-type]


def like_ucf101(classes: int = 4, groups: int = 25, clips: int = 4) -> Listing:
    return made(
        [
            VideoEntry(f"c{c}/v_c{c}_g{g:02d}_c{k:02d}.avi", f"c{c}", f"c{c}/g{g:02d}")
            for c in range(classes)
            for g in range(1, groups + 1)
            for k in range(1, clips + 1)
        ]
    )


def like_weizmann(classes: int = 4, persons: int = 9) -> Listing:
    return made([VideoEntry(f"c{c}/p{p}_c{c}.avi", f"c{c}", f"p{p}") for c in range(classes) for p in range(persons)])


def ungrouped(*counts: int) -> Listing:
    return made([VideoEntry(f"c{c}/{k}.mp4", f"c{c}") for c, count in enumerate(counts) for k in range(count)])


def labels_of(listing: Listing, part: tuple[int, ...]) -> Counter[str]:
    return Counter(listing.entries[index].label for index in part)


def groups_of(listing: Listing, part: tuple[int, ...]) -> set[str]:
    return {listing.entries[index].group or listing.entries[index].path for index in part}


def or_error(make: Callable[[], T]) -> T | DatasetError:
    try:
        return make()
    except DatasetError as error:
        return error


def assert_partition(listing: Listing, split: Split) -> None:
    assert sorted((*split.train, *split.val, *split.test)) == list(range(len(listing.entries)))


# Classes of two or more groups of one to six videos each, groups inside their class as in UCF101.
own_groups = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=8), min_size=1, max_size=5).map(
    lambda classes: made(
        [
            VideoEntry(f"c{c}/g{g}_{k}.avi", f"c{c}", f"c{c}/g{g}")
            for c, groups in enumerate(classes)
            for g, size in enumerate(groups)
            for k in range(size)
        ]
    )
)
# Each group has any number of videos of any class, as persons do; some videos have no group.
shared_groups = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 6))), min_size=4, max_size=60
).map(
    lambda rows: made(
        [VideoEntry(f"c{c}/{n}.avi", f"c{c}", None if g is None else f"p{g}") for n, (c, g) in enumerate(rows)]
    )
)
any_listing = st.one_of(own_groups, shared_groups)


@quick
@given(any_listing, st.integers(0, 5), st.booleans())
def test_random_splits_are_partitions_seven_to_three(listing: Listing, seed: int, stratified: bool) -> None:
    everything = tuple(range(len(listing.entries)))
    splits = or_error(lambda: random_7_3(listing, seed, 2, stratified=stratified))
    if min(labels_of(listing, everything).values()) == 1:
        assert isinstance(splits, DatasetError)
        assert "has one video" in splits.reason
        return
    if isinstance(splits, DatasetError):
        assert not stratified
        assert "only in the test part" in splits.reason
        return
    assert [split.name.split(", ")[1:] for split in splits] == [
        [f"seed {seed}", "repeat 1"],
        [f"seed {seed}", "repeat 2"],
    ]
    for split in splits:
        assert_partition(listing, split)
        if stratified:
            for label, total in labels_of(listing, everything).items():
                tested = labels_of(listing, split.test)[label]
                assert 1 <= tested < total
                assert abs(tested - 0.3 * total) <= 0.7
        else:
            assert abs(10 * len(split.train) - 7 * len(everything)) <= 5
        assert split.notes[0] == f"leakage: {split.leaks(listing).describe()}"


@quick
@given(own_groups, st.integers(0, 5))
def test_grouped_split_keeps_groups_whole_and_classes_on_both_sides(listing: Listing, seed: int) -> None:
    split = grouped_7_3(listing, seed)
    assert_partition(listing, split)
    assert not groups_of(listing, split.train) & groups_of(listing, split.test)
    assert not split.leaks(listing).groups
    largest = Counter(entry.group for entry in listing.entries)
    for label, total in labels_of(listing, tuple(range(len(listing.entries)))).items():
        tested = labels_of(listing, split.test)[label]
        bound = max(largest[entry.group] for entry in listing.entries if entry.label == label) / 2
        assert 1 <= tested < total
        assert abs(tested - 0.3 * total) <= bound + 1e-9


def can_be_grouped(listing: Listing) -> bool:
    """Whether any choice of groups has every class on both sides, by trying them all."""
    units: dict[str, set[str]] = {}
    for entry in listing.entries:
        units.setdefault(entry.group or f"{entry.label} alone {entry.path}", set()).add(entry.label)
    # Of videos alone, two of a class do as well as more.
    alone: Counter[str] = Counter()
    shared = []
    for name, labels in units.items():
        label = next(iter(labels))
        alone[label] += " alone " in name
        if " alone " not in name or alone[label] <= 2:
            shared.append(labels)
    return any(
        set().union(*chosen) == set(listing.labels) == set().union(*rest)
        for size in range(1, len(shared))
        for picked in combinations(range(len(shared)), size)
        for chosen, rest in [
            ([shared[n] for n in picked], [shared[n] for n in range(len(shared)) if n not in picked]),
        ]
    )


@quick
@given(shared_groups, st.integers(0, 5))
def test_grouped_split_of_shared_groups_never_leaks(listing: Listing, seed: int) -> None:
    split = or_error(lambda: grouped_7_3(listing, seed))
    if isinstance(split, DatasetError):
        assert not listing.groups or not can_be_grouped(listing)
        return
    assert_partition(listing, split)
    assert not split.leaks(listing).groups
    assert set(labels_of(listing, split.test)) == set(labels_of(listing, split.train)) == set(listing.labels)


@quick
@given(any_listing, st.floats(0.05, 0.6), st.integers(0, 3))
def test_validation_comes_out_of_training_by_whole_groups(listing: Listing, fraction: float, seed: int) -> None:
    everything = tuple(range(len(listing.entries)))
    before = Split("s", everything[: 2 * len(everything) // 3 + 1], everything[2 * len(everything) // 3 + 1 :])
    split = or_error(lambda: hold_out_validation(listing, before, fraction, seed))
    if isinstance(split, DatasetError):
        assert "two groups or videos" in split.reason
        return
    assert split.test == before.test
    assert split.name == before.name
    assert sorted((*split.train, *split.val)) == list(before.train)
    assert not groups_of(listing, split.train) & groups_of(listing, split.val)
    had, has = labels_of(listing, before.train), labels_of(listing, split.train)
    for label, count in had.items():
        assert has[label] >= count * min(1 - fraction, 0.5) - 1e-9
        assert has[label] > 0


@quick
@given(any_listing, st.randoms(use_true_random=False), st.integers(0, 3))
def test_a_split_depends_on_paths_and_seed_alone(listing: Listing, random: object, seed: int) -> None:
    shuffled = list(listing.entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = Listing("other", Path("elsewhere"), sorted_entries(shuffled), listing.labels)
    for name in ("random-7:3", "stratified-7:3", "grouped-7:3"):
        here = or_error(lambda name=name: make_split(listing, name, seed))
        there = or_error(lambda name=name: make_split(again, name, seed))
        if isinstance(here, DatasetError):
            assert isinstance(there, DatasetError)
            continue
        assert there == here
        held = [or_error(lambda data=data, split=here: hold_out_validation(data, split)) for data in (listing, again)]
        assert held[0] == held[1] or all(isinstance(one, DatasetError) for one in held)


def test_the_same_seed_gives_the_same_split_for_ever() -> None:
    # Results are named by seed: a change here makes every published split another one.
    listing = like_ucf101(classes=2, groups=6, clips=2)
    grouped = grouped_7_3(listing, 0)
    assert grouped.test == (6, 7, 10, 11, 14, 15, 16, 17)
    assert hold_out_validation(listing, grouped).val == (8, 9, 12, 13)
    drawn = sorted(range(24), key=lambda n: hashlib.sha256(f"0/1\n{listing.entries[n].path}".encode()).digest())
    assert random_7_3(listing, 0)[0].test == tuple(sorted(drawn[17:])) == (0, 7, 9, 11, 12, 17, 23)


def test_seeds_and_repeats_are_other_draws() -> None:
    listing = like_ucf101()
    tests = {split.test for seed in range(3) for split in random_7_3(listing, seed, 3)}
    assert len(tests) == 9
    assert len({grouped_7_3(listing, seed).test for seed in range(5)}) == 5
    assert make_split(listing, "random-7:3", seed=1, repeat=3) == random_7_3(listing, 1, 3)[2]


def test_every_group_comes_to_be_tested() -> None:
    listing = like_weizmann()
    tested = Counter(group for seed in range(60) for group in groups_of(listing, grouped_7_3(listing, seed).test))
    assert set(tested) == set(listing.groups)
    assert max(tested.values()) < 3 * min(tested.values())


def test_a_video_more_does_not_shuffle_the_others() -> None:
    small, large = ungrouped(30, 30), ungrouped(31, 30)
    sides = [{data.entries[index].path for index in random_7_3(data, 0)[0].test} for data in (small, large)]
    assert len(sides[0] ^ sides[1]) <= 2


def test_grouped_split_of_ucf101s_shape_is_close_to_seven_to_three_in_each_class() -> None:
    listing = like_ucf101(classes=10)
    split = grouped_7_3(listing)
    # 25 groups of 4 clips: 7.5 groups cannot be, so 7 or 8.
    assert set(labels_of(listing, split.test).values()) <= {28, 32}


def test_the_papers_numbers_of_videos() -> None:
    # Ou and Sun 2019 divide 13,320, 1,600 and 150 videos 7:3.
    for total, train in ((13_320, 9_324), (1_600, 1_120), (150, 105)):
        listing = made([VideoEntry(f"c{n % 10}/{n}.avi", f"c{n % 10}") for n in range(total)])
        assert len(random_7_3(listing)[0].train) == train


def test_random_split_says_what_it_gives_away() -> None:
    listing = like_ucf101(classes=8, groups=18, clips=2)
    split = random_7_3(listing, 0)[0]
    train = {listing.entries[index].group for index in split.train}
    expected = sum(listing.entries[index].group in train for index in split.test)
    assert split.leaks(listing).test_videos == expected > 40
    assert f"{expected} of 86 test videos have a group-mate in training" in split.notes[0]


def test_a_class_without_test_videos_is_named() -> None:
    listing = ungrouped(40, 2, 2, 2)
    draws = [or_error(lambda seed=seed: random_7_3(listing, seed)[0]) for seed in range(12)]
    splits = [split for split in draws if isinstance(split, Split)]
    assert any("have no test video" in note for split in splits for note in split.notes)
    for split in splits:
        missing = set(listing.labels) - set(labels_of(listing, split.test))
        assert any("have no test video" in note for note in split.notes) == bool(missing)


def test_leave_one_group_out_agrees_with_scikit_learn() -> None:
    for listing in (like_weizmann(), like_ucf101(classes=3, groups=5)):
        folds = [entry.fold for entry in listing.entries]
        expected = list(LeaveOneGroupOut().split(folds, groups=folds))
        splits = leave_one_group_out(listing)
        assert [split.name for split in splits] == [f"leave one group out: {fold}" for fold in folds_of(listing)]
        for split, (train, test) in zip(splits, expected, strict=True):
            assert (split.train, split.test) == (tuple(train), tuple(test))
            assert not split.leaks(listing).groups


def test_leave_groups_out_leaves_out_these() -> None:
    listing = like_weizmann()
    split = make_split(listing, "leave-groups-out:p2, p5,p8")
    assert split.name == "leave groups out: p2, p5, p8"
    assert groups_of(listing, split.test) == {"p2", "p5", "p8"}
    assert len(split.test) == 12
    assert split == leave_groups_out(listing, ["p8", "p2", "p5"])
    with pytest.raises(DatasetError, match="no group 'p9'"):
        leave_groups_out(listing, ["p1", "p9"])
    with pytest.raises(DatasetError, match="only in the test part"):
        leave_groups_out(listing, listing.groups)


def test_leave_one_out_tests_each_video_once() -> None:
    listing = ungrouped(3, 2)
    splits = list(leave_one_out(listing))
    assert [split.test for split in splits] == [(index,) for index in range(5)]
    for split in splits:
        assert_partition(listing, split)
    assert splits[3].name == "leave one out: c1/0.mp4"
    assert make_split(listing, "leave-one-out:c1/0.mp4") == splits[3]
    with pytest.raises(DatasetError, match=r"no video 'c1/9.mp4'"):
        make_split(listing, "leave-one-out:c1/9.mp4")


def with_own_splits() -> Listing:
    listing = ungrouped(4, 4)
    split = Split("folder official 1", (0, 1, 4, 5), (2, 3, 6, 7))
    lopsided = Split("folder official 2", (0, 1, 2, 3, 4), (5, 6, 7))
    beginners = Split("column: split", (0, 1, 2), (3, 4))
    return Listing(
        "folder", listing.root, listing.entries, listing.labels,
        {"official-1": split, "official-2": lopsided, "column": beginners},
    )  # fmt: skip


def test_own_splits_are_given_by_name() -> None:
    listing = with_own_splits()
    assert make_split(listing, "official-1") == listing.official["official-1"] == make_split(listing)
    with pytest.raises(DatasetError, match="class 'c0' is only in the training part"):
        make_split(listing, "official-2")
    with pytest.raises(DatasetError, match="class 'c1' is only in the test part"):
        make_split(listing, "column")
    with pytest.raises(DatasetError, match="has no split 'folders'; choose one of official-1"):
        make_split(listing, "folders")
    with pytest.raises(DatasetError, match="has no split 'official-3'"):
        make_split(listing, "official-3")


def test_defaults() -> None:
    assert default_split(with_own_splits()) == "official-1"
    assert default_split(like_weizmann()) == "grouped-7:3"
    assert default_split(ungrouped(4, 4)) == "stratified-7:3"
    own = ungrouped(2, 2)
    own = Listing("folder", own.root, own.entries, own.labels, {"folders": Split("f", (0, 2), (1, 3))})
    assert default_split(own) == "folders"


def test_every_offered_name_works() -> None:
    listing = like_weizmann()
    for name in split_names(listing):
        filled = name.replace("GROUP,GROUP", "p1,p2").replace("GROUP", "p1").replace("PATH", listing.entries[0].path)
        split = make_split(listing, filled)
        assert_partition(listing, split)
        assert "\n" not in split.describe()
    assert make_split(listing, "all").test == () == make_split(listing, "all-test").train
    with pytest.raises(SettingsError, match="'halves' is no split of folder; choose one of grouped-7:3"):
        make_split(listing, "halves")


def test_make_splits_gives_the_whole_protocol() -> None:
    listing = like_weizmann()
    assert len(list(make_splits(listing, "leave-one-group-out"))) == 9
    assert len(list(make_splits(listing, "leave-one-out"))) == 36
    assert list(make_splits(listing, "random-7:3", seed=2, repeats=3)) == list(random_7_3(listing, 2, 3))
    assert list(make_splits(listing, "grouped-7:3", seed=1)) == [grouped_7_3(listing, 1)]


@pytest.mark.parametrize("name", ["random-7:3", "stratified-7:3", "leave-one-out"])
def test_a_class_with_one_video_is_refused(name: str) -> None:
    with pytest.raises(DatasetError, match=r"class 'c1' has one video, 'c1/0.mp4'"):
        list(make_splits(ungrouped(5, 1), name))


def test_a_class_with_one_group_is_refused_by_groups() -> None:
    listing = made(
        [VideoEntry(f"a/{n}.avi", "a", f"a/g{n % 4}") for n in range(8)]
        + [VideoEntry(f"b/{n}.avi", "b", "b/g1") for n in range(8)]
    )
    with pytest.raises(DatasetError, match="class 'b' has one group, which cannot be on both sides"):
        grouped_7_3(listing)
    with pytest.raises(DatasetError, match="class 'b' is only in the test part"):
        leave_one_group_out(listing)


@pytest.mark.parametrize("name", ["grouped-7:3", "leave-one-group-out", "leave-one-group-out:g1"])
def test_groups_that_are_not_known_cannot_be_split_by(name: str) -> None:
    with pytest.raises(DatasetError, match="not known; give a group_pattern"):
        list(make_splits(ungrouped(4, 4), name))


def test_validation_keeps_what_a_split_has_and_refuses_nonsense() -> None:
    listing = ungrouped(4, 4)
    own = Split("own", (0, 4), (1, 5), (2, 6))
    assert hold_out_validation(listing, own) == own
    for fraction in (0.0, 1.0, -0.2):
        with pytest.raises(SettingsError, match="validation_fraction"):
            hold_out_validation(listing, own, fraction)
    with pytest.raises(DatasetError, match="no class with two groups or videos"):
        hold_out_validation(listing, Split("s", (0, 4), (1, 5)))
    with pytest.raises(SettingsError, match="0 repeats are none"):
        random_7_3(listing, repeats=0)


def test_validation_of_the_official_shape_takes_the_share_of_each_class() -> None:
    listing = like_ucf101(classes=8, groups=18, clips=2)
    train = tuple(index for index, entry in enumerate(listing.entries) if str(entry.fold) > "g06")
    split = hold_out_validation(listing, Split("official", train, ()), 0.2)
    # 12 groups of 2 clips in each class; a fifth of 24 is 4.8, so 2 groups.
    assert set(labels_of(listing, split.val).values()) == {4}
    assert split.notes == ("validation: 32 of 192 training videos, whole groups, fraction 0.2, seed 0",)


def test_validation_names_classes_that_give_none() -> None:
    listing = made(
        [VideoEntry(f"a/{n}.avi", "a", f"a/g{n}") for n in range(6)]
        + [VideoEntry(f"b/{n}.avi", "b", "b/g1") for n in range(4)]
    )
    split = hold_out_validation(listing, Split("s", tuple(range(10)), ()))
    assert split.notes[-1] == "validation has no video of 1 classes: 'b'"
    assert labels_of(listing, split.train)["b"] == 4


def test_videos_without_a_group_stand_alone_and_are_counted() -> None:
    listing = made(
        [VideoEntry(f"a/{n}.avi", "a", f"p{n % 3}") for n in range(9)]
        + [VideoEntry(f"a/odd{n}.avi", "a") for n in range(5)]
    )
    assert grouped_7_3(listing).notes == ("5 videos have no known group and count as one each",)
    assert make_split(listing, "leave-one-group-out:p1").notes == (
        "5 videos have no known group and count as one each",
    )
