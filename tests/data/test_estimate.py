"""What ``prepare`` says before and during long work."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from actionfusion.__main__ import main
from actionfusion.data.estimate import Estimate
from actionfusion.data.prepare import prepare
from actionfusion.data.store import Contents
from actionfusion.plain_progress import PlainProgress, duration
from actionfusion.video.flow import FlowRecipe

HOUR, DAY = 3600, 86_400
WEEKS = Estimate(13_320, 2_400_000, 120 * 10**9, {"tvl1": 30 * DAY, "dis": 9 * HOUR, "dis-fast": 4 * HOUR}, 1)


@pytest.fixture
def items(tmp_path, write_video):
    """Six videos of eleven frames."""
    generator = np.random.default_rng(5)
    made = []
    for number in range(6):
        pictures = list(generator.integers(0, 256, (11, 48, 64, 3), np.uint8))
        made.append((write_video(tmp_path / "videos" / f"{number}.avi", pictures), f"{number}.avi"))
    return made


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "videos").mkdir()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"), (59, "59 s"), (60, "1 min"), (95, "1 min 35 s"), (600, "10 min"), (3599, "60 min"),
        (2 * HOUR + 1830, "2 h 30 min"), (23 * HOUR, "23 h"), (DAY + HOUR, "1 day 1 h"), (5 * DAY, "5 days"),
        (30 * DAY, "4 weeks 2 days"), (100 * DAY, "14 weeks"),
    ],
)  # fmt: skip
def test_lengths_of_time_in_two_units(seconds, text):
    assert duration(seconds) == text


def test_weeks_are_said_with_the_quicker_engines():
    first, second = WEEKS.lines()
    assert first == "estimated: about 2,400,000 frames of 13320 videos, 120.0 GB, and 4 weeks 2 days of 1 process"
    assert "it would be 9 h with dis and 4 h with dis-fast: --flow.engine dis-fast" in second
    halved = replace(WEEKS, processes=2).lines()[0]
    assert halved.endswith("and 2 weeks 1 day of 2 processes")


def test_short_or_quick_work_has_no_advice():
    assert len(replace(WEEKS, seconds={"dis": 9 * HOUR, "dis-fast": 8 * HOUR}).lines()) == 1
    assert len(replace(WEEKS, seconds={"tvl1": 30.0, "dis": 1.0, "dis-fast": 0.5}).lines()) == 1
    assert replace(WEEKS, processes=None).lines() == ["estimated: about 2,400,000 frames of 13320 videos, 120.0 GB"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_estimate_comes_before_the_work_and_times_the_engines(items, tmp_path, workers):
    said = []

    def begins(found):
        said.append(found)
        assert list((tmp_path / "store").rglob("*.zip")) == []

    report = prepare(items, tmp_path / "store", FlowRecipe("tvl1", size=32), workers=workers, begins=begins)
    (found,) = said
    assert (found.videos, found.frames) == (6, 66)
    assert found.size == report.estimated_size == pytest.approx(report.size, rel=0.2)
    assert list(found.seconds) == ["tvl1", "dis", "dis-fast"]
    assert found.seconds["tvl1"] > found.seconds["dis"] > 0
    assert found.processes == max(workers, 1)
    assert prepare(items, tmp_path / "store", FlowRecipe("tvl1", size=32), workers=0, begins=begins).kept == 6
    assert len(said) == 1, "with nothing to do there is nothing to say"


def test_without_flow_there_is_no_engine_to_choose(items, tmp_path):
    said = []
    contents = Contents(FlowRecipe("tvl1", size=32), 32, has_flow=False)
    prepare(items, tmp_path / "store", contents, workers=0, begins=said.append)
    assert list(said[0].seconds) == ["no flow"]
    assert len(replace(said[0], seconds={"no flow": 9 * HOUR}).lines()) == 1


def test_the_command_says_it(items, tmp_path, capsys):
    clips = tmp_path / "clips"
    for path, name in items:
        (clips / "ab"[int(name[0]) % 2]).mkdir(parents=True, exist_ok=True)
        path.rename(clips / "ab"[int(name[0]) % 2] / name)
    words = ["prepare", "folder", str(clips), "--store", str(tmp_path / "store"), "--workers", "0"]
    assert main([*words, "--flow.engine", "dis", "--flow.size", "32"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith("estimated: about 66 frames of 6 videos")
    assert lines[1].endswith("of 1 process")


def test_plain_lines_come_from_time_to_time_with_the_time_left():
    now = [0.0]
    text = io.StringIO()
    lines = PlainProgress(Console(file=text, width=200), "preparing", clock=lambda: now[0])
    lines(40, 100)  # these were there already
    lines.restart()
    for done in range(41, 101):
        now[0] += 20.0
        lines(done, 100)
    said = text.getvalue().splitlines()
    assert said[0] == "preparing: 42 of 100 after 40 s, about 19 min 20 s left" or said[0].endswith("about 19 min left")
    assert 5 < len(said) < 35
    assert not said[-1].startswith("preparing: 100")
    terminal = io.StringIO()
    shown = PlainProgress(Console(file=terminal, force_terminal=True), "preparing", clock=lambda: now[0])
    now[0] += 10 * HOUR
    shown(3, 10)
    assert terminal.getvalue() == ""
