"""The page in a real browser, at the width of a phone and of a desk."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from actionfusion.report.filmstrip import FilmStrip
from actionfusion.report.page import GroupAccuracy, Report, accuracy_headline, render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
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
]
# The page sits in a frame, since its own policy lets no script look at it.  What is cut off by a box that scrolls, or
# hidden on purpose, is not too wide.
PROBE = """<!doctype html><pre id="found"></pre>%s<script>
const report = {};
const look = (frame) => {
  const page = frame.contentDocument;
  const width = frame.clientWidth;
  report[frame.id] = {
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    broken: [...page.images].filter((image) => !image.naturalWidth).length,
    images: page.images.length,
    charts: [...page.querySelectorAll(".charts svg")].filter((e) => e.getBoundingClientRect().height > 100).length,
    outside: [...page.body.querySelectorAll("*")]
      .filter((e) => !e.closest(".scroll, pre, .unseen") && e.getBoundingClientRect().right > width + 1)
      .map((e) => e.outerHTML.slice(0, 100)),
  };
  found.textContent = JSON.stringify(report);
};
</script>"""
FRAME = (
    '<iframe id="{name}" style="width:{width}px;height:900px;border:0" onload="look(this)" srcdoc="{page}"></iframe>'
)


def _open_in_browser(tmp_path, frames: dict[str, tuple[int, str]]) -> tuple[dict, list[str]]:
    script, after = PROBE.split("%s")
    made = [FRAME.format(name=n, width=w, page=html.escape(page)) for n, (w, page) in frames.items()]
    (tmp_path / "probe.html").write_text(script + after + "".join(made), encoding="utf-8")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [BROWSER, *QUIET, *sandbox, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "probe.html").as_uri()], capture_output=True, text=True, timeout=90, check=True
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), messages


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page in (Debian: apt-get install chromium)")
def test_pages_open_whole_at_every_width(tmp_path, make_clip, make_evaluation, make_epochs):
    long_name = "a_label_that_goes_on_and_on_without_any_blank_to_break_at"
    small = make_evaluation([[9, 1], [2, 8]], [long_name, "run"])
    demo = Report(
        "A run",
        headline=[accuracy_headline(small), ("Clips", "20", "10 a class")],
        evaluation=small,
        epochs=make_epochs(),
        groups=[GroupAccuracy(long_name, "Flow tells.", 20, 11, (0.35, 0.74), 0.5)],
        strips=[FilmStrip(f"{long_name}.mp4", long_name, make_clip(17), [(long_name, 0.7), ("run", 0.3)])],
        commands=[f"actionfusion predict run {long_name * 3}.mp4"],
        versions={"torch": "2.13.0"},
    )
    classes = 101
    confusion = [
        [20 * (row == column) + (row * 7 + column) % 50 // 49 for column in range(classes)] for row in range(classes)
    ]
    big = Report("UCF101", evaluation=make_evaluation(confusion), epochs=make_epochs(140, 46))
    frames = {
        f"{name}_{width}": (width, page)
        for name, page in (("demo", render_report(demo)), ("big", render_report(big)))
        for width in (320, 390, 1280)
    }
    found, messages = _open_in_browser(tmp_path, frames)
    assert messages == []
    assert set(found) == set(frames)
    for name, seen in found.items():
        assert seen["outside"] == [], name
        assert seen["overflow"] <= 0, name
        assert seen["broken"] == 0, name
        assert seen["images"] == (35 if name.startswith("demo") else 0), name
        assert seen["charts"] == 2, name
