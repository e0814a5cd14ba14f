"""``check`` reports what tells the label without the action, and nothing where all videos are alike."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actionfusion.data.check import check
from actionfusion.data.listing import Listing, VideoEntry
from actionfusion.data.manifest import ManifestRow
from actionfusion.data.shortcuts import find_shortcuts
from actionfusion.video.borders import Borders

LABELS, GROUPS = ("jump", "run", "wave"), 8


def data_set(change=lambda label, group: {}, borders=lambda label, group: Borders(), groups=GROUPS, named=True):
    """A video of each class by each person; ``change`` gives cells, by the numbers of class and person."""
    entries, rows, bars = [], [], []
    for label, name in enumerate(LABELS):
        for group in range(groups):
            path = f"{name}/{group:02}.mp4"
            entries.append(VideoEntry(path, name, f"p{group:02}" if named else None))
            cells = {"frames": 50, "fps": 25.0, "width": 64, "height": 48, "codec": "h264"} | change(label, group)
            rows.append(ManifestRow(path, name, **cells))
            bars.append(borders(label, group))
    return Listing("folder", Path("/data"), tuple(entries), LABELS), rows, bars


def found(*arguments):
    return {result.cue for result in find_shortcuts(*arguments).found}


@pytest.mark.parametrize(
    ("cue", "change"),
    [
        ("frame size", lambda label, group: {"width": 64 + 2 * label}),
        ("frame rate", lambda label, group: {"fps": (25.0, None, 30.0)[label], "frames": (50, 50, 60)[label]}),
        ("codec", lambda label, group: {"codec": ("h264", "mpeg4", "vp9")[label]}),
        ("length", lambda label, group: {"frames": 30 + 20 * label + group}),
    ],
)
def test_each_cue_is_found_by_itself(cue, change):
    shortcuts = find_shortcuts(*data_set(change))
    assert [result.cue for result in shortcuts.found] == [cue]
    (told,) = shortcuts.found
    assert (told.accuracy, told.chance, told.videos, told.classes, told.groups) == (1.0, 1 / 3, 24, 3, 8)
    # By hand, at 99 %: 8 groups wholly alike inside, and Student's t of 7 degrees of freedom.
    effective = 8 * (2.5758293035489 / 3.4994832973505) ** 2
    assert told.interval == pytest.approx((effective / (effective + 2.5758293035489**2), 1.0))
    assert f"{cue} alone tells 100.0 % of the labels (99 % interval 39.5 to 100.0 %, chance 33.3 %)" in str(told)


def test_two_halves_of_the_labels_are_told_together():
    """Two of three classes differ in size, another two in codec: each tells two thirds at most, both tell all."""
    listing, rows, borders = data_set(
        lambda label, group: {"width": 64 + 2 * (label == 0), "codec": "vp9" if label == 1 else "h264"}
    )
    told = {result.cue: result for result in find_shortcuts(listing, rows, borders).cues}
    assert told["frame size"].accuracy <= 2 / 3 + 1e-9
    assert told["codec"].accuracy <= 2 / 3 + 1e-9
    assert told["all together"].accuracy == 1
    assert told["length"].accuracy is None


def test_all_alike_is_said_in_one_line():
    shortcuts = find_shortcuts(*data_set())
    assert not shortcuts.found
    (line,) = shortcuts.lines()
    assert line.startswith("no shortcut found among borders, frame size, ")
    assert "24 videos, 3 classes, 8 groups" in line


def test_what_goes_with_the_group_and_not_with_the_label_is_none():
    assert not found(*data_set(lambda label, group: {"width": 64 + 2 * group, "frames": 30 + 7 * group}))


def test_chance_alone_is_seldom_reported():
    generator = np.random.default_rng(0)
    reported = 0
    for _ in range(40):
        reported += bool(found(*data_set(lambda label, group: {"frames": int(generator.integers(30, 90))}, groups=12)))
    assert reported <= 2


@pytest.mark.parametrize("kind", ["few groups", "one class of many", "a small class"])
def test_a_perfect_cue_is_found_where_groups_are_few_or_classes_uneven(kind):
    """Each was told to be none, since the interval of so few groups holds chance too."""
    counts = {"few groups": [9, 9], "one class of many": [8] * 10, "a small class": [60, 6]}[kind]
    entries, rows, bars = [], [], []
    for label, count in enumerate(counts):
        for number in range(count):
            path = f"{label}/{number}.mp4"
            group = f"p{number}" if kind == "few groups" else None
            entries.append(VideoEntry(path, str(label), group))
            rows.append(ManifestRow(path, str(label), None, 50, 25.0, 64, 48, "h264"))
            bars.append(Borders(top=0.1 * (label == 1)))
    listing = Listing("folder", Path("/data"), tuple(entries), tuple(map(str, range(len(counts)))))
    assert found(listing, rows, bars) == {"borders"}


def test_where_groups_are_too_few_to_tell_it_says_so_and_shows_the_nearest_cue():
    """Two classes of five groups each: of 252 ways to deal them out, two tell all."""
    entries = [VideoEntry(f"{number}.mp4", LABELS[number % 2], f"p{number}") for number in range(10)]
    rows = [
        ManifestRow(each.path, each.label, None, 50, 25.0, 64 + 2 * (each.label == "run"), 48, "h264")
        for each in entries
    ]
    shortcuts = find_shortcuts(Listing("folder", Path("/data"), tuple(entries), LABELS[:2]), rows, [Borders()] * 10)
    assert not shortcuts.found
    assert shortcuts.lines()[-1].startswith("but there are too few groups to be sure: frame size alone tells 100.0 %")


def test_whoever_knows_the_group_does_not_know_the_label():
    """Each group has a length of its own and is of one class; so have videos that show the same."""
    generator = np.random.default_rng(1)
    reported = {"groups": 0, "twins": 0, "alone": 0}
    for _ in range(10):
        lengths = generator.permutation(60)
        entries = [VideoEntry(f"{number:03}.mp4", LABELS[number // 4 % 3]) for number in range(240)]
        rows = [
            ManifestRow(entry.path, entry.label, None, 30 + int(lengths[number // 4]), 25.0, 64, 48, "h264")
            for number, entry in enumerate(entries)
        ]
        changes = {
            "groups": lambda number: {"group": f"g{number // 4}"},
            "twins": lambda number: {"double_of": f"{number // 4 * 4:03}.mp4"},
            "alone": lambda number: {},
        }
        for name, change in changes.items():
            known = tuple(replace(entry, **change(number)) for number, entry in enumerate(entries))
            listing = Listing("folder", Path("/data"), known, LABELS)
            reported[name] += bool(found(listing, rows, [Borders()] * len(rows)))
    assert reported["alone"] == 10
    assert max(reported["groups"], reported["twins"]) <= 1


def test_videos_whose_borders_are_unknown_are_left_out_of_that_cue():
    arguments = data_set(borders=lambda label, group: None if group == 0 else Borders(top=label / 10))
    shortcuts = find_shortcuts(*arguments)
    told = {result.cue: result for result in shortcuts.cues}
    assert (told["borders"].videos, told["codec"].videos, told["borders"].accuracy) == (21, 24, 1.0)
    assert "the borders of 3 videos, checked by an earlier version, are unknown" in shortcuts.lines()[0]


def test_too_few_groups_and_unknown_groups_are_said():
    shortcuts = find_shortcuts(*data_set(groups=4))
    assert shortcuts.cues == ()
    (line,) = shortcuts.lines()
    assert line.startswith("shortcuts were not looked for: that takes 5 groups")
    lines = find_shortcuts(*data_set(named=False)).lines()
    assert lines[0] == "shortcuts: 24 videos have no known group and count as one each"
    listing, rows, borders = data_set()
    few = find_shortcuts(listing.select(range(20)), rows[:20], borders[:20])
    assert "classes with fewer than 5 groups are left out: 'wave'" in few.lines()[0]
    assert {(result.videos, result.classes) for result in few.cues} == {(16, 2)}


@pytest.fixture(scope="module")
def barred(tmp_path_factory, make_frames, make_video):
    """Two classes of one motion each; the second has letterbox bars."""
    root = tmp_path_factory.mktemp("barred")
    for number in range(12):
        for label, bar in (("jump", 0), ("run", 12)):
            frames = make_frames(20 + number, number, 8)
            for frame in frames if bar else []:
                frame[:bar] = frame[-bar:] = 0
            make_video(root / label / f"p{number:02}.mp4", frames)
    return root


PERSONS = r"(?P<group>p\d+)"


def test_letterbox_bars_of_one_class_are_found(barred, tmp_path, capsys):
    report = check("folder", barred, out=tmp_path / "m.csv", group_pattern=PERSONS, workers=0, strict=True)
    assert [(result.cue, result.accuracy) for result in report.shortcuts.found] == [("borders", 1.0)]
    told = capsys.readouterr().err
    assert "shortcut: borders alone tell 100.0 % of the labels" in told
    with report.shortcut_table.open(newline="") as file:
        table = {row["cue"]: row for row in csv.DictReader(file)}
    assert {cue for cue, row in table.items() if row["shortcut"] == "yes"} == {"borders"}
    assert float(table["borders"]["low"]) > float(table["borders"]["chance"]) == 0.5
    assert table["codec"]["accuracy"] == ""
    # Bars are no leak of a split, and the videos are whole.
    assert not [row for row in report.rows if row.status != "ok"]


def test_a_journal_of_an_earlier_version_is_read_and_its_borders_are_unknown(barred, tmp_path, monkeypatch, capsys):
    out = tmp_path / "m.csv"
    first = check("folder", barred, out=out, group_pattern=PERSONS, workers=0)
    journal = tmp_path / "m.csv.journal"
    head, *lines = journal.read_text().splitlines()
    earlier = [{key: value for key, value in json.loads(line).items() if key != "borders"} for line in lines]
    journal.write_text("\n".join([head, *map(json.dumps, earlier)]) + "\n")
    monkeypatch.setattr("actionfusion.data.check_videos.check_video", None)
    again = check("folder", barred, out=out, group_pattern=PERSONS, workers=0)
    assert again.rows == first.rows
    assert not again.shortcuts.found
    assert "the borders of 24 videos, checked by an earlier version, are unknown" in capsys.readouterr().err


def test_all_alike_in_real_files(barred, tmp_path, capsys):
    report = check("folder", barred, out=tmp_path / "a.csv", group_pattern=PERSONS, workers=0)
    assert report.shortcut_table.exists()
    for path in sorted((barred / "jump").iterdir()):
        target = tmp_path / "alike" / ("jump" if int(path.stem[1:]) % 2 else "run") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    capsys.readouterr()
    report = check("folder", tmp_path / "alike", out=tmp_path / "m.csv", workers=0)
    assert not report.shortcuts.found
    assert "no shortcut found" in capsys.readouterr().err


def test_frame_size_tells_the_real_classes_apart(shared_data, tmp_path):
    arguments = {"group_pattern": r"\d+_(?P<group>\d+)_", "workers": 0}
    report = check("folder", shared_data / "ut-interaction/set1", out=tmp_path / "m.csv", **arguments)
    assert "frame size" in {result.cue for result in report.shortcuts.found}
