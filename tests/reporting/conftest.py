"""Invented clips, evaluations and epochs, a parser that holds a page to being well formed, and a real browser."""

import html
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser

import numpy as np
import pytest

from actionfusion.video.clip import Clip
from actionfusion.video.flow import FlowRecipe

BROWSER_FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
    "--dump-dom",
]
FRAME = (
    '<iframe id="{name}" style="width:{width}px;height:900px;border:0" onload="look(this)" srcdoc="{page}"></iframe>'
)

VOID = {"meta", "link", "img", "br", "hr", "input", "col"}


class Element:
    """An element with its attributes, children and text."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: "Element | None") -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element | str] = []

    def walk(self) -> "Iterator[Element]":
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def find(self, tag: str, **attributes: str) -> "list[Element]":
        """All elements below of that tag whose attributes hold these words (``class_`` for class)."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            element
            for element in self.walk()
            if element.tag == tag
            and all(value in element.attributes.get(name, "").split() for name, value in wanted.items())
        ]

    @property
    def text(self) -> str:
        """All text below, with runs of white space as one blank."""
        whole = "".join(child if isinstance(child, str) else f" {child.text} " for child in self.children)
        return " ".join(whole.split())


class Page(HTMLParser):
    """Builds the tree, and fails where a tag is left open or closed twice."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {}, None)
        self._at = self.root
        self.feed(html)
        self.close()
        assert self._at is self.root, f"<{self._at.tag}> is never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self._at)
        self._at.children.append(element)
        if tag not in VOID:
            self._at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at.children.append(Element(tag, {name: value or "" for name, value in attrs}, self._at))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._at.tag, f"</{tag}> closes <{self._at.tag}>"
        assert self._at.parent is not None
        self._at = self._at.parent

    def handle_data(self, data: str) -> None:
        self._at.children.append(data)


@pytest.fixture
def parse() -> Callable[[str], Element]:
    return lambda html: Page(html).root


@pytest.fixture
def make_clip() -> Callable[..., Clip]:
    """A clip of plain colours; ``motion`` [T, 2] is the displacement of the middle field, others are at rest."""

    def make(
        frames: int = 4, size: int = 32, fields: int = 4, motion: Sequence[tuple[float, float]] | None = None
    ) -> Clip:
        recipe = FlowRecipe("dis", bound=20.0, size=size)
        rgb = np.zeros((frames, 3, size, size), np.uint8)
        rgb[:, 0] = np.linspace(40, 220, frames).astype(np.uint8)[:, None, None]
        rgb[:, 2, : size // 2] = 180
        flow = np.full((frames, fields, 2, size, size), 128, np.uint8)
        for moment in range(frames):
            vector = np.array(motion[moment] if motion else (3.0, -1.0), np.float32)
            flow[moment, fields // 2] = recipe.encode(vector)[:, None, None]
        return Clip(
            rgb,
            flow.reshape(frames, 2 * fields, size, size),
            np.arange(frames) * 0.2,
            np.arange(frames, dtype=np.int64) * 5,
            recipe,
        )

    return make


def _wilson(correct: int, count: int) -> list[float]:
    if not count:
        return [0.0, 1.0]
    z, share = 1.959963984540054, correct / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [max(middle - half, 0.0), min(middle + half, 1.0)]


@pytest.fixture
def wilson() -> Callable[[int, int], list[float]]:
    return _wilson


@pytest.fixture
def make_evaluation() -> Callable[..., dict]:
    """The mapping of ``evaluation.json`` for a confusion matrix."""

    def make(confusion: Sequence[Sequence[int]], labels: Sequence[str] | None = None, **other: object) -> dict:
        labels = list(labels) if labels else [f"class_{index}" for index in range(len(confusion))]
        count, correct = sum(map(sum, confusion)), sum(row[index] for index, row in enumerate(confusion))
        videos = []
        for truth, row in enumerate(confusion):
            for predicted, clips in enumerate(row):
                for number in range(clips):
                    probabilities = [0.0] * len(labels)
                    probabilities[predicted] = 0.5 + 0.4 / (1 + number + truth)
                    probabilities[predicted - 1] += 1 - probabilities[predicted]
                    videos.append(
                        {
                            "video": f"{labels[truth]}/{predicted}_{number}.mp4",
                            "label": labels[truth],
                            "predicted": labels[predicted],
                            "probabilities": probabilities,
                        }
                    )
        per_class = [
            {
                "label": label,
                "count": sum(row),
                "correct": row[index],
                "accuracy": row[index] / sum(row) if sum(row) else 0.0,
                "interval": _wilson(row[index], sum(row)),
            }
            for index, (label, row) in enumerate(zip(labels, confusion, strict=True))
        ]
        return {
            "dataset": "shapes",
            "split": "by_seed",
            "part": "test",
            "seed": 7,
            "count": count,
            "correct": correct,
            "top1": correct / count if count else 0.0,
            "interval": _wilson(correct, count),
            "confidence": 0.95,
            "labels": labels,
            "per_class": per_class,
            "confusion": [list(row) for row in confusion],
            "failed": [],
            "videos": videos,
        } | other

    return make


@pytest.fixture
def make_epochs() -> Callable[..., list[dict]]:
    """Rows of ``metrics.csv`` as numbers: loss falls, accuracy rises, two training stages."""

    def make(first: int = 6, second: int = 3, *, validated: bool = True) -> list[dict]:
        return [
            {
                "epoch": epoch,
                "session": 1 if epoch <= first else 2,
                "learning_rate": 1e-3 if epoch <= first else 1e-4,
                "train_loss": 2 / epoch,
                "train_accuracy": 1 - 0.8 / epoch,
                "val_loss": 2.2 / epoch if validated else None,
                "val_accuracy": 0.95 - 0.75 / epoch if validated else None,
                "seconds": 2.5,
            }
            for epoch in range(1, first + second + 1)
        ]

    return make


@pytest.fixture(scope="session")
def open_in_browser(tmp_path_factory) -> Callable[..., tuple[dict, list[str]]]:
    """Opens pages in frames of a width, each handed to the script's ``look``; gives its report and the console."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium to open the page in (Debian: apt-get install chromium)")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [browser, *BROWSER_FLAGS, *sandbox]

    def open_(script: str, frames: dict[str, tuple[int, str]], *flags: str) -> tuple[dict, list[str]]:
        made = [FRAME.format(name=name, width=w, page=html.escape(page)) for name, (w, page) in frames.items()]
        folder = tmp_path_factory.mktemp("browser")
        probe = folder / "probe.html"
        probe.write_text(script + "".join(made), encoding="utf-8")
        words = [*command, *flags, f"--user-data-dir={folder / 'profile'}", probe.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=True)
        found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return json.loads(html.unescape(found[1])), messages

    return open_
