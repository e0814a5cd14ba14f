"""The page in a real browser, at the width of a phone and of a desk."""

import pytest

from actionfusion.reporting.filmstrip import FilmStrip
from actionfusion.reporting.findings import accuracy_headline
from actionfusion.reporting.page import GroupAccuracy, Report, render_report
from actionfusion.reporting.several_runs_page import ComparedRun, render_comparison

# The page sits in a frame, since its own policy lets no script look at it.  What is cut off by a box that scrolls, or
# hidden on purpose, is not too wide.
PROBE = """<!doctype html><meta charset="utf-8">
<meta name="color-scheme" content="light dark"><pre id="found"></pre><script>
const report = {};
const names = (table) => [...table.tBodies[0].rows].filter((row) => !row.matches(".axis"))
  .map((row) => row.cells[0].textContent.trim());
const counts = (table) => [...table.tBodies[0].rows]
  .map((row) => [...row.cells].slice(1).map((c) => c.textContent.trim()));
// What each order that is offered does to its table, the first order last.
const sorted = (page) => Object.fromEntries([...page.querySelectorAll(".order")].map((bar) => {
  const table = page.getElementById(bar.dataset.for);
  const buttons = [...bar.querySelectorAll("button")];
  const seen = [...buttons, buttons[0]].map((button) => {
    button.click();
    return { order: button.textContent, pressed: bar.querySelectorAll("[aria-pressed=true]").length, rows: names(table),
      columns: [...table.tHead.rows[0].cells].slice(1).map((c) => c.textContent.trim()),
      counts: table.matches(".confusion") && table.rows.length < 10 ? counts(table) : null };
  });
  return [bar.dataset.for, { shown: bar.getBoundingClientRect().height > 0, seen }];
}));
// What the status line says: at rest, under the pointer on the cell (1, 2), one cell further by key, and after leaving.
const said = (view, page) => {
  const table = page.querySelector(".confusion");
  if (!table) return null;
  const status = page.getElementById(table.dataset.status);
  const lines = [status.textContent];
  table.rows[1].cells[2].dispatchEvent(new view.PointerEvent("pointerover", { bubbles: true }));
  lines.push(status.textContent);
  const lit = [...page.querySelectorAll(".band")].filter((band) => band.getBoundingClientRect().height > 0).length;
  table.dispatchEvent(new view.KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
  lines.push(status.textContent);
  table.dispatchEvent(new view.PointerEvent("pointerleave"));
  lines.push(status.textContent);
  return { lines, lit };
};
const look = (frame) => {
  const page = frame.contentDocument;
  const width = frame.clientWidth;
  report[frame.id] = {
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    broken: [...page.images].filter((image) => !image.naturalWidth).length,
    images: page.images.length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").map((e) => e.name)
      .filter((name) => !name.startsWith("data:")),
    charts: [...page.querySelectorAll(".charts svg")].filter((e) => e.getBoundingClientRect().height > 100).length,
    outside: [...page.body.querySelectorAll("*")]
      .filter((e) => !e.closest(".scroll, pre, .unseen") && e.getBoundingClientRect().right > width + 1)
      .map((e) => e.outerHTML.slice(0, 100)),
    dark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
    paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    sorted: sorted(page),
    said: said(frame.contentWindow, page),
  };
  found.textContent = JSON.stringify(report);
};
</script>"""


def _big_confusion(classes: int = 101) -> list[list[int]]:
    return [
        [20 * (row == column) + (row * 7 + column) % 50 // 49 for column in range(classes)] for row in range(classes)
    ]


@pytest.mark.slow
def test_pages_open_whole_at_every_width(open_in_browser, make_clip, make_evaluation, make_epochs):
    long_name = "a_label_that_goes_on_and_on_without_any_blank_to_break_at"
    small = make_evaluation([[9, 1], [2, 8]], [long_name, "run"])
    demo = Report(
        "A run",
        headline=[accuracy_headline(small), ("Clips", "20", "10 a class")],
        evaluation=small,
        epochs=make_epochs(),
        groups=[GroupAccuracy(long_name, "Flow differs.", 20, 11, (0.35, 0.74), 0.5)],
        strips=[FilmStrip(f"{long_name}.mp4", long_name, make_clip(17), [(long_name, 0.7), ("run", 0.3)])],
        commands=[f"actionfusion predict run {long_name * 3}.mp4"],
        versions={"torch": "2.13.0"},
    )
    big = Report("UCF101", evaluation=make_evaluation(_big_confusion()), epochs=make_epochs(140, 46))
    runs = [ComparedRun(name, small, make_epochs()) for name in (long_name, "b", "c", "d")]
    frames = {
        f"{name}_{width}": (width, page)
        for name, page in (
            ("demo", render_report(demo)),
            ("big", render_report(big)),
            ("runs", render_comparison(runs)),
        )
        for width in (320, 390, 1280)
    }
    found, messages = open_in_browser(PROBE, frames)
    assert messages == []
    assert set(found) == set(frames)
    for name, seen in found.items():
        assert seen["outside"] == [], name
        assert seen["overflow"] <= 0, name
        assert seen["broken"] == 0, name
        assert seen["images"] == (35 if name.startswith("demo") else 0), name
        assert seen["charts"] == 2, name
        assert seen["loaded"] == [], name


ORDERED = {
    "as listed": ["walk", "Run", "jump"],
    "by name": ["jump", "Run", "walk"],
    "worst first": ["Run", "walk", "jump"],
    "best first": ["jump", "walk", "Run"],
    "least precise first": ["jump", "walk", "Run"],
    "alike side by side": None,
}
COUNTS = {("walk", "walk"): "9", ("walk", "Run"): "1", ("Run", "walk"): "3", ("Run", "Run"): "6", ("Run", "jump"): "9"}
COUNTS[("jump", "jump")] = "10"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_clicks_sort_and_the_pointer_reads_cells(open_in_browser, make_evaluation, dark):
    evaluation = make_evaluation([[9, 1, 0], [3, 6, 9], [0, 0, 10]], ["walk", "Run", "jump"])
    page = render_report(Report("A run", evaluation=evaluation))
    other = make_evaluation([[5, 5, 0], [0, 10, 0], [0, 0, 10]], ["walk", "Run", "jump"])
    runs = render_comparison([ComparedRun("a", evaluation), ComparedRun("b", other)])
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    frames = {"run": (390, page), "runs": (390, runs), "big": (1280, _big_page(make_evaluation))}
    found, messages = open_in_browser(PROBE, frames, scheme)
    assert messages == []
    assert found["run"]["dark"] is dark
    assert found["run"]["paper"] == ("rgb(21, 24, 27)" if dark else "rgb(255, 255, 255)")
    for name, offered in (("confusion-matrix", 4), ("class-bars", 5)):
        table = found["run"]["sorted"][name]
        assert table["shown"]
        assert len(table["seen"]) == offered + 1
        for seen in table["seen"]:
            assert seen["pressed"] == 1
            assert seen["rows"] == (ORDERED[seen["order"]] or seen["rows"]), seen["order"]
            if name == "confusion-matrix":
                assert seen["columns"] == seen["rows"]
                assert seen["counts"] == [[COUNTS.get((t, p), "") for p in seen["rows"]] for t in seen["rows"]]
    (gains,) = (s for s in found["runs"]["sorted"]["class-differences"]["seen"] if s["order"] == "gains of b first")
    assert gains["rows"] == ["Run", "jump", "walk"]
    rest, pointed, below, left = found["run"]["said"]["lines"]
    assert rest == left
    assert pointed == "1 of 10 walk predicted as Run (10.0 %); 14.3 % of the 7 predictions of Run"
    assert below == "6 of 18 Run correctly predicted (33.3 %); 85.7 % of the 7 predictions of Run"
    assert found["run"]["said"]["lit"] == 2
    big = found["big"]["sorted"]["confusion-matrix"]["seen"]
    assert all(sorted(seen["rows"]) == sorted(big[0]["rows"]) and seen["columns"] == seen["rows"] for seen in big)
    assert big[0]["rows"] == big[-1]["rows"] != big[1]["rows"]


def _big_page(make_evaluation) -> str:
    return render_report(Report("UCF101", evaluation=make_evaluation(_big_confusion())))
