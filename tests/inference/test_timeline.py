"""Windows become segments that tile the video, and segments become files that others read."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from actionfusion.errors import SettingsError, VideoDamaged, VideoMissing
from actionfusion.inference.intervals import usual_interval
from actionfusion.inference.recognizer import Prediction
from actionfusion.inference.timelines.files import as_csv, as_json, as_webvtt, file_names
from actionfusion.inference.timelines.picture import draw_timeline
from actionfusion.inference.timelines.timeline import (
    TimelineRules,
    Window,
    find_spans,
    moment_edges,
    moment_probabilities,
)
from actionfusion.inference.timelines.untrimmed import Segment, VideoTimeline
from actionfusion.models import ModelSettings
from actionfusion.run_folder import RunFolder
from actionfusion.video.clip import ClipSettings


@st.composite
def moments(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Edges and probabilities of some moments of up to four classes."""
    count, classes = draw(st.integers(1, 25)), draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    values = draw(st.lists(st.integers(1, 9), min_size=count * classes, max_size=count * classes))
    rows = np.array(values, float).reshape(count, classes)
    return np.concatenate(([0.0], np.cumsum(lengths) / 25)), rows / rows.sum(1, keepdims=True)


def _labels(probabilities: np.ndarray, threshold: float) -> list[int | None]:
    return [None if max(row) < threshold else list(row).index(max(row)) for row in probabilities]


@given(moments(), st.floats(0, 1), st.floats(0, 2))
def test_segments_tile_the_video(given_moments, threshold, shortest):
    edges, probabilities = given_moments
    spans = find_spans(edges, probabilities, TimelineRules(threshold, shortest))
    assert (spans[0].start, spans[-1].end) == (0, edges[-1])
    assert all(one.end == two.start and one.label != two.label for one, two in pairwise(spans))
    assert all(span.start < span.end for span in spans)
    for span in spans:
        inside = (edges[:-1] >= span.start) & (edges[1:] <= span.end)
        np.testing.assert_allclose(span.probabilities, probabilities[inside].mean(0))
    # None is too short, unless it is all; and one that was long enough keeps its label throughout.
    assert len(spans) == 1 or all(span.end - span.start > shortest - 1e-5 for span in spans)
    for whole in find_spans(edges, probabilities, TimelineRules(threshold)):
        if whole.end - whole.start >= shortest:
            assert any(s.start <= whole.start and whole.end <= s.end and s.label == whole.label for s in spans)


@given(moments(), st.floats(0, 1))
def test_each_moment_has_its_own_label_where_no_length_is_asked_for(given_moments, threshold):
    edges, probabilities = given_moments
    spans = find_spans(edges, probabilities, TimelineRules(threshold))
    middles = (edges[:-1] + edges[1:]) / 2
    found = [next(span.label for span in spans if span.start < middle < span.end) for middle in middles]
    assert found == _labels(probabilities, threshold)


def _rows(text: str) -> np.ndarray:
    """A moment a letter: 0.8 for its class of a, b, c, or nothing sure."""
    rows = {"a": (0.8, 0.15, 0.05), "b": (0.15, 0.8, 0.05), "c": (0.05, 0.15, 0.8), "-": (0.34, 0.33, 0.33)}
    return np.array([rows[letter] for letter in text])


@pytest.mark.parametrize(
    ("text", "shortest", "expected"),
    [
        ("aaabbbb", 0, "aaabbbb"),
        ("aaabaaa", 2, "aaaaaaa"),
        ("aaacbbb", 2, "aaabbbb"),  # the c holds b more probable than a
        ("abaaabb", 2, "bbaaabb"),  # the earliest of several alike
        ("--a----", 2, "-------"),
        ("aa-bbbb", 2, "aaabbbb"),  # a has 0.34 in it, b 0.33
        ("--cbbbb", 2, "--bbbbb"),  # a label comes before none
        ("ab", 5, "bb"),  # of two alike the first is given away
        ("aabb", 2, "aabb"),  # just long enough
    ],
)
def test_a_short_segment_goes_to_its_stronger_neighbour(text, shortest, expected):
    spans = find_spans(np.arange(len(text) + 1) / 1.0, _rows(text), TimelineRules(0.5, shortest))
    letters = "".join(("-" if s.label is None else "abc"[s.label]) * round(s.end - s.start) for s in spans)
    assert letters == expected


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32))
def test_a_moment_is_the_mean_of_the_windows_that_saw_it(count, length, stride, seed):
    length, stride = min(length, count), min(stride, length, count)
    starts = sorted({*range(0, count - length + 1, stride), count - length})
    rows = np.random.default_rng(seed).dirichlet(np.ones(3), len(starts)).astype(np.float32)
    windows = [Window(start, start + length - 1, row) for start, row in zip(starts, rows, strict=True)]
    found = moment_probabilities(windows, count)
    for sample in range(count):
        heard = [w.probabilities for w in windows if sample in range(w.first, w.last + 1)]
        np.testing.assert_allclose(found[sample], np.mean(heard, 0), atol=1e-6)


def test_a_moment_that_nothing_speaks_of_is_an_error():
    with pytest.raises(ValueError, match="sample 2 of 4"):
        moment_probabilities([Window(0, 1, np.ones(1)), Window(3, 3, np.ones(1))], 4)


def test_moments_meet_half_way():
    np.testing.assert_allclose(moment_edges([0.2, 0.4, 1.0], 1.5), [0, 0.3, 0.7, 1.5])
    np.testing.assert_allclose(moment_edges([0.2], 0.25), [0, 0.25])


@pytest.mark.parametrize("rules", [(-0.1, 0), (1.1, 0), (float("nan"), 0), (0, -1), (0, float("inf"))])
def test_rules_that_make_no_sense(rules):
    with pytest.raises(SettingsError):
        TimelineRules(*rules)


@pytest.mark.parametrize(
    ("augmentation", "every"),
    [
        ({"intervals": [2, 10]}, 6),
        ({"intervals": [8, 8]}, 8),
        ({"intervals": (1, 2)}, 1),
        ({}, 6),
        (None, 6),
        ({"intervals": [0, 1]}, 6),
        ({"intervals": ["2", "10"]}, 6),
        ({"intervals": 4}, 6),
    ],
)
def test_the_usual_interval_is_the_middle_of_those_trained_with(augmentation, every):
    run = RunFolder(Path(), "fusion", ClipSettings(), ModelSettings(), (), {"augmentation": augmentation})
    assert usual_interval(run) == every
    assert usual_interval(replace(run, config={})) == 6
    assert usual_interval(replace(run, clip=ClipSettings(sampling="dense", stride=3))) == 3


# No line ends: a label is a line of labels.txt.
LABELS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).filter(str.strip)


@st.composite
def timelines(draw: st.DrawFn) -> VideoTimeline:
    """Segments of whole milliseconds with any labels, some with none."""
    lengths = draw(st.lists(st.integers(1, 5_000_000), max_size=6))
    ends = np.cumsum([0, *lengths])
    segments = []
    for start, end in pairwise(ends):
        label = draw(st.none() | LABELS | st.sampled_from(['say "hi", then -->', "<b>&amp;</b>", "a,b", "WEBVTT"]))
        share = None if label is None else draw(st.floats(0, 1))
        best = () if label is None else (Prediction(label, share),)
        segments.append(Segment(start / 1000, end / 1000, label, share, best))
    error = draw(st.sampled_from([None, VideoDamaged("a --> b.mp4", "torn", "fetch it")]))
    return VideoTimeline("a.mp4", tuple(segments), error)


def _parse_webvtt(text: str) -> tuple[list[tuple[float, float, str]], list[str]]:
    """Cues and notes, by the W3C's grammar as far as these files use it."""
    head, *blocks = re.split(r"\n{2,}", text.removesuffix("\n"))
    assert head == "WEBVTT"
    stamp = r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})"
    cues, notes = [], []
    for block in blocks:
        timing, _, payload = block.partition("\n")
        if timing.startswith("NOTE"):
            assert "-->" not in block
            notes.append(html.unescape(timing.removeprefix("NOTE ")))
            continue
        match = re.fullmatch(f"{stamp} --> {stamp}", timing)
        assert match, timing
        numbers = [int(part) for part in match.groups()]
        start, end = (((h * 60 + m) * 60_000 + s * 1000 + ms) / 1000 for h, m, s, ms in (numbers[:4], numbers[4:]))
        assert start < end
        assert payload
        assert "\n" not in payload
        assert not re.search(r"<|>|&(?!amp;|lt;|gt;)", payload)
        cues.append((start, end, html.unescape(payload)))
    return cues, notes


@given(timelines())
@example(VideoTimeline("a.mp4"))
def test_files_say_what_the_timeline_says(timeline):
    rows = list(csv.DictReader(io.StringIO(as_csv(timeline.segments), newline="")))
    read = [(float(r["start"]), float(r["end"]), r["label"] or None, float(r["probability"] or "nan")) for r in rows]
    assert [row[:3] for row in read] == [(s.start, s.end, s.label) for s in timeline.segments]
    shares = [np.nan if s.probability is None else s.probability for s in timeline.segments]
    np.testing.assert_allclose([row[3] for row in read], shares, atol=1e-6)

    entry = json.loads(as_json(timeline))
    assert entry["video"] == "a.mp4"
    assert [(s["start"], s["end"], s["label"], s["probability"]) for s in entry["segments"]] == [
        (s.start, s.end, s.label, s.probability) for s in timeline.segments
    ]
    assert [s["predictions"] for s in entry["segments"]] == [
        [{"label": p.label, "probability": p.probability} for p in s.predictions] for s in timeline.segments
    ]
    assert (entry["error"] or {}).get("kind") == (timeline.error.kind if timeline.error else None)

    cues, notes = _parse_webvtt(as_webvtt(timeline))
    labelled = [s for s in timeline.segments if s.label is not None]
    assert cues == [(s.start, s.end, f"{s.label} ({s.probability:.0%})") for s in labelled]
    assert notes == ([str(timeline.error)] if timeline.error else [])


def test_a_cue_of_no_length_still_ends_after_it_starts():
    timeline = VideoTimeline("a.mp4", (Segment(1.0, 1.0001, "a", 0.5),))
    assert _parse_webvtt(as_webvtt(timeline))[0] == [(1.0, 1.001, "a (50%)")]


@given(st.lists(st.sampled_from(["a.mp4", "x/a.avi", "A.mov", "a-2.mp4", "x/a", "..mp4", "/"]) | st.text(), max_size=8))
def test_names_are_safe_and_differ(videos):
    names = file_names(videos)
    assert len({name.casefold() for name in names}) == len(videos)
    assert all(re.fullmatch(r"[\w.-]+", name) and not name.startswith(".") for name in names)
    assert all(len(name.encode()) < 200 for name in names)


def test_names_are_the_videos_own():
    assert file_names(["x/one two.mp4", "y/one two.avi", "Zürich.mp4"]) == ["one_two", "one_two-2", "Zürich"]
    assert file_names(["a-2.mp4", "a.mp4", "a.avi"]) == ["a-2", "a", "a-3"]


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (Segment(0, 0.04, "a", 1.0),),
        (Segment(0, 50, "$x_2$ & <b>", 0.3), Segment(50, 80, None, None), Segment(80, 9000, "跳 ü" * 40, 0.9)),
    ],
)
@pytest.mark.parametrize("error", [None, VideoMissing("a.mp4", "gone", "look for it")])
def test_the_picture_is_one_and_always_the_same(segments, error):
    timeline = VideoTimeline("a$b_c$.mp4", segments, error)
    content = draw_timeline(timeline)
    assert content == draw_timeline(timeline)
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert picture.shape[1] > 1000
    red = (picture[..., 0] > 150) & (picture[..., 1] < 80)
    assert red.any() == (error is not None)
    teal = (picture[..., 2] - picture[..., 0] > 60) & (picture[..., 1] - picture[..., 0] > 40)
    assert teal.any() == bool(segments)
