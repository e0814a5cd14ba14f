"""Videos that show the same are found, whatever was done to them, and stay on one side of the splits that we draw."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion import check
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.duplicates import Duplicate, clusters, exact_duplicates, near_duplicates, with_equal_files
from actionfusion.data.layouts import open_dataset
from actionfusion.data.listing import Listing, Split, VideoEntry
from actionfusion.data.splits import grouped_7_3, hold_out_validation, make_split
from actionfusion.video.fingerprint import (
    DUPLICATE_DISTANCE,
    MOST_THUMBNAILS,
    PICTURE_SIZE,
    Fingerprint,
    distance,
    fingerprint_positions,
)
from actionfusion.video.reading import iterate_frames, probe


def print_of(path: Path) -> Fingerprint:
    count = probe(path).frame_count
    found = Fingerprint.of(iterate_frames(path, wanted=fingerprint_positions(count), size=PICTURE_SIZE), count)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory, make_frames, make_video):
    frames = make_frames(seed=1, motion=1, count=80)
    path = make_video(tmp_path_factory.mktemp("original") / "v.mp4", frames, crf="18")
    return frames, print_of(path)


def halved(frames):
    return [cv2.resize(frame, (64, 48), interpolation=cv2.INTER_AREA) for frame in frames]


def lighter(frames):
    return [np.clip(frame * 1.1 + 12, 0, 255).astype(np.uint8) for frame in frames]


@pytest.mark.parametrize(
    ("change", "codec", "options"),
    [
        (list, "mpeg4", {"b": "150k"}),
        (list, "libx264", {"crf": "38"}),
        (halved, "libx264", {"crf": "23"}),
        (lighter, "libx264", {"crf": "23"}),
        (lambda frames: frames[3:-4], "libx264", {"crf": "23"}),
        (lambda frames: frames[20:], "libx264", {"crf": "23"}),
        (lambda frames: frames[::2], "libx264", {"crf": "23"}),
    ],
    ids=["mpeg4", "coarse", "half size", "lighter", "trimmed", "first quarter gone", "half the frames"],
)
def test_a_copy_is_a_duplicate_whatever_was_done_to_it(original, change, codec, options, make_video, tmp_path):
    frames, print_of_original = original
    copy = print_of(make_video(tmp_path / "copy.mp4", change(frames), codec, **options))
    assert distance(print_of_original, copy) <= DUPLICATE_DISTANCE
    assert distance(copy, print_of_original) == pytest.approx(distance(print_of_original, copy), abs=0.05)
    assert len(near_duplicates({"original": print_of_original, "copy": copy})) == 1


@pytest.mark.parametrize(("seed", "motion"), [(1, 2), (1, 3), (2, 1), (2, 2)])
def test_another_motion_or_scene_is_none(original, seed, motion, make_frames, make_video, tmp_path):
    _, print_of_original = original
    other = print_of(make_video(tmp_path / "other.mp4", make_frames(seed=seed, motion=motion, count=80)))
    # The same wall with another motion is what a set filmed in one room is full of.
    assert distance(print_of_original, other) > DUPLICATE_DISTANCE or seed != 1
    assert near_duplicates({"original": print_of_original, "other": other}) == []


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 500])
def test_fingerprints_are_small_and_come_back_from_text(count):
    positions = np.array(fingerprint_positions(count))
    assert 1 <= len(positions) <= MOST_THUMBNAILS
    thumbnails = np.random.default_rng(count).uniform(0, 255, (len(positions), 64)).astype(np.float32)
    original = Fingerprint(count, positions, thumbnails)
    again = Fingerprint.decode(original.encode())
    assert again.num_frames == count
    np.testing.assert_array_equal(again.positions, positions)
    np.testing.assert_allclose(again.thumbnails, thumbnails, atol=1 / 16 + 1e-4)
    assert distance(original, again) < 0.01


@pytest.mark.parametrize("text", ["", "nothing", "5 0 1:", "5 0 1:AAAA", "5 0:eJwDAAAAAAE="])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  Any of them: callers only ask whether it is one.
        Fingerprint.decode(text)


def test_videos_without_motion_do_not_divide_by_zero():
    still = Fingerprint(10, np.arange(10), np.full((10, 64), 16.0, np.float32))
    assert distance(still, still) == 0
    assert np.isfinite(distance(still, Fingerprint(1, np.arange(1), np.zeros((1, 64), np.float32))))


def test_equal_files_come_in_pairs_with_the_first():
    hashes = {"a": "1", "b": "2", "c": "1", "d": "", "e": "", "f": "1"}
    assert exact_duplicates(hashes) == [Duplicate("a", "c", "equal", 0.0), Duplicate("a", "f", "equal", 0.0)]


PATHS = [f"{number:02d}.avi" for number in range(8)]


@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(PATHS)), max_size=8))
def test_clusters_are_the_connected_parts(pairs):
    duplicates = [Duplicate(min(pair), max(pair), "near", 0.1) for pair in pairs if pair[0] != pair[1]]
    found = clusters(duplicates, PATHS)
    assert set(found) == {path for duplicate in duplicates for path in (duplicate.first, duplicate.second)}
    for path, first in found.items():
        reached = {path}
        for _ in PATHS:
            reached |= {p for d in duplicates for p in (d.first, d.second) if {d.first, d.second} & reached}
        assert first == min(reached)


def made_listing(duplicates: dict[str, str], groups: bool) -> Listing:
    entries = tuple(
        VideoEntry(f"{label}/{number:02d}.avi", label, f"{label}/g{number // 2}" if groups else None)
        for label in "ab"
        for number in range(12)
    )
    return Listing("folder", Path("/data"), entries, ("a", "b")).with_duplicates(duplicates)


@pytest.mark.parametrize("groups", [True, False])
@given(seed=st.integers(0, 50), pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=4))
def test_duplicates_stay_on_one_side_of_what_we_draw(groups, seed, pairs):
    names = [f"{label}/{number:02d}.avi" for label in "ab" for number in range(12)]
    ties = [Duplicate(f"a/{min(p):02d}.avi", f"a/{max(p):02d}.avi", "near", 0.0) for p in pairs if p[0] != p[1]]
    listing = made_listing(clusters(ties, names), groups)
    split = make_split(listing, "random-7:3", seed=seed)
    checked = hold_out_validation(listing, split, seed=seed)
    validation = Split("validation", checked.train, checked.val)
    assert not set(validation.leaks(listing).duplicates)
    if groups and len(pairs) < 3:
        drawn = grouped_7_3(listing, seed)
        assert not drawn.leaks(listing).found


def test_a_split_says_how_many_duplicates_leak():
    listing = made_listing({"a/00.avi": "a/00.avi", "a/05.avi": "a/00.avi"}, groups=True)
    split = Split("mine", tuple(index for index in range(24) if index not in (5, 20)), (5, 20))
    leaks = split.leaks(listing)
    assert leaks.duplicates == ("a/05.avi",)
    assert leaks.found
    assert "1 of 2 test videos have a duplicate in training: 'a/05.avi'" in leaks.describe()


def test_equal_files_are_found_without_a_manifest(tmp_path, make_frames, make_video):
    for label, motion in (("run", 1), ("jump", 2)):
        for number in range(2):
            make_video(tmp_path / label / f"{number}.mp4", make_frames(number, motion, 6))
    shutil.copy(tmp_path / "run/0.mp4", tmp_path / "jump/copy.mp4")
    listing = with_equal_files(open_dataset("folder", tmp_path))
    assert {entry.path: entry.double_of for entry in listing.entries if entry.double_of} == {
        "jump/copy.mp4": "jump/copy.mp4",
        "run/0.mp4": "jump/copy.mp4",
    }


@pytest.mark.parametrize("manifest", [False, True])
def test_the_same_bytes_under_two_labels_are_a_conflict(manifest, tmp_path, make_frames, make_video, capsys):
    """One of the labels is wrong; as a mere duplicate it would be learned as both."""
    root = tmp_path / "clips"
    for label, start in (("jump", 0), ("run", 10)):
        for number in range(4):
            make_video(root / label / f"{number}.mp4", make_frames(start + number, start + number, 12))
    shutil.copy(root / "jump/0.mp4", root / "run/9.mp4")
    shutil.copy(root / "jump/1.mp4", root / "jump/9.mp4")
    pair = "'jump/0.mp4' ('jump') and 'run/9.mp4' ('run')"
    report = check("folder", root, out=tmp_path / "m.csv", split="all", workers=0, strict=True)
    assert report.conflicts == (pair,)
    assert report.failed
    assert f"label conflict, the same bytes: {pair}" in capsys.readouterr().err
    videos = open_data(DataSettings(root=root, manifest=tmp_path / "m.csv" if manifest else None))
    assert [note for note in videos.listing.notes if "conflict" in note] == [
        f"label conflict: the same bytes have two labels: {pair}"
    ]
    (root / "run/9.mp4").unlink()
    report = check("folder", root, out=tmp_path / "m.csv", split="all", workers=0, strict=True)
    assert (report.conflicts, report.failed) == ((), False)
    assert not [note for note in open_data(DataSettings(root=root)).listing.notes if "conflict" in note]
