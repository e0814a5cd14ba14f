"""Timelines as files: CSV for a table, JSON for a program, WebVTT for a player."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from actionfusion.cells import as_cell
from actionfusion.inference.timelines.untrimmed import Segment, VideoTimeline

_LONGEST_NAME = 120


def as_csv(segments: Sequence[Segment]) -> str:
    """Write a row a segment: ``start, end, label, probability``; the last two are empty where there is no label.

    A label that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("start", "end", "label", "probability"))
    for item in segments:
        probability = "" if item.probability is None else f"{item.probability:.6f}"
        writer.writerow((f"{item.start:.3f}", f"{item.end:.3f}", as_cell(item.label), probability))
    return text.getvalue()


def as_json(timeline: VideoTimeline) -> str:
    """Write the video's entry of ``predict --segments --json``."""
    return json.dumps(timeline.as_json(), indent=2) + "\n"


def as_webvtt(timeline: VideoTimeline) -> str:
    """Write a cue for each segment that has a label, in WebVTT (https://www.w3.org/TR/webvtt1/).

    An error is a note at the top.  A cue lasts 1 ms at least, since a cue must end after it starts.
    """
    blocks = ["WEBVTT"]
    if timeline.error is not None:
        blocks.append(f"NOTE {_cue_text(str(timeline.error))}")
    for item in timeline.segments:
        if item.label is not None:
            start = round(item.start * 1000)
            end = max(round(item.end * 1000), start + 1)
            text = _cue_text(f"{item.label} ({item.probability:.0%})")
            blocks.append(f"{_timestamp(start)} --> {_timestamp(end)}\n{text}")
    return "\n\n".join(blocks) + "\n"


def _timestamp(milliseconds: int) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{thousandths:03}"


def _cue_text(text: str) -> str:
    """Put text on one line and escape markup; without ``>`` there can be no ``-->`` either."""
    for sign, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\0", "\N{REPLACEMENT CHARACTER}")):
        text = text.replace(sign, escape)
    return " ".join(text.splitlines())


def file_names(videos: Iterable[str]) -> list[str]:
    """Name each video's files, without ending: its own name, made safe, with a number where it is taken.

    Letters, digits, ``.``, ``_`` and ``-`` stay; names that differ only in case count as the same, as on many disks.
    """
    taken: set[str] = set()
    names = []
    for video in videos:
        stem = re.sub(r"[^\w.-]+", "_", Path(video).stem).lstrip(".")
        stem = stem.encode()[:_LONGEST_NAME].decode(errors="ignore") or "video"
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names
