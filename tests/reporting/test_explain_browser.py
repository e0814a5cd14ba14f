"""The page of ``explain`` in a real browser, at the width of a phone and of a desk."""

import pytest

from actionfusion.reporting.explain import explain

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
def test_the_page_opens_whole_at_every_width(open_in_browser, tiny_run, shapes_root, tmp_path):
    video = next((shapes_root / "test" / "order_left_right").glob("*.mp4"))
    page = explain(tiny_run, video, out=tmp_path / "out").read_text(encoding="utf-8")
    seen, messages = open_in_browser(LOOK, {f"at_{width}": (width, page) for width in (320, 390, 1280)})
    assert messages == []
    whole = {"overflow": 0, "broken": 0, "images": 27, "failed": [None], "outside": [], "charts": 3}
    assert seen == dict.fromkeys(["at_320", "at_390", "at_1280"], whole)
