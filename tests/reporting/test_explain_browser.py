"""The page of ``explain`` in a real browser, at the width of a phone and of a desk."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from actionfusion.reporting.explain import explain

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
    "--dump-dom",
]
# The page sits in a frame, since its own policy lets no script look at it.
LOOK = """<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>
const report = {};
const look = (frame) => {
  const page = frame.contentDocument;
  report[frame.id] = {
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    broken: [...page.images].filter((image) => !image.naturalWidth).length,
    images: page.images.length,
    failed: [...page.querySelectorAll("video")].map((player) => player.error && player.error.message),
    outside: [...page.body.querySelectorAll("*")]
      .filter((e) => !e.closest(".scroll, .unseen") && e.getBoundingClientRect().right > frame.clientWidth + 1)
      .map((e) => e.outerHTML.slice(0, 100)),
    charts: [...page.querySelectorAll(".gates svg")].filter((e) => e.getBoundingClientRect().height > 80).length,
  };
  found.textContent = JSON.stringify(report);
};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page in (Debian: apt-get install chromium)")
def test_the_page_opens_whole_at_every_width(tiny_run, shapes_root, tmp_path):
    video = next((shapes_root / "test" / "order_left_right").glob("*.mp4"))
    page = html.escape(explain(tiny_run, video, out=tmp_path / "out").read_text(encoding="utf-8"))
    frames = "".join(
        f'<iframe id="at_{width}" style="width:{width}px;height:900px;border:0" onload="look(this)" srcdoc="{page}">'
        "</iframe>"
        for width in (320, 390, 1280)
    )
    (tmp_path / "probe.html").write_text(LOOK + frames, encoding="utf-8")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [BROWSER, *OPTIONS, *sandbox, f"--user-data-dir={tmp_path / 'profile'}"]
    command.append((tmp_path / "probe.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    seen = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    whole = {"overflow": 0, "broken": 0, "images": 27, "failed": [None], "outside": [], "charts": 3}
    assert seen == dict.fromkeys(["at_320", "at_390", "at_1280"], whole)
