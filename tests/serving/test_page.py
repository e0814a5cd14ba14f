"""The page of ``serve`` in a real browser, before the real server."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actionfusion.errors import NotAVideo
from actionfusion.inference.intervals import usual_interval
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.timelines.files import as_webvtt
from actionfusion.inference.timelines.untrimmed import VideoTimeline, WindowSettings, find_segments
from actionfusion.run_folder import open_run
from actionfusion.video.reading import iterate_frames, probe

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed").Axe
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
TOKEN = "the-token-of-the-tests"
PATIENCE = 20_000  # milliseconds
WIDTHS = (320, 390, 1280)
# Every text of every state line, how far the page moved by itself, and the most uploads at once.
WATCH = """
window.states = [];
window.shift = 0;
new MutationObserver((changes) => {
  for (const { target, addedNodes } of changes) {
    if (target.matches?.(".state")) {
      const bar = target.nextElementSibling;
      for (const text of addedNodes) states.push([text.data, bar.hasAttribute("value") ? bar.value / bar.max : null]);
    }
  }
}).observe(document, { subtree: true, childList: true });
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
window.atOnce = 0;
let open = 0;
const { send } = XMLHttpRequest.prototype;
XMLHttpRequest.prototype.send = function (...given) {
  open += 1;
  atOnce = Math.max(atOnce, open);
  this.addEventListener("readystatechange", () => { open -= this.readyState === 4; });
  return send.apply(this, given);
};
"""
OUTSIDE = """() => [...document.body.querySelectorAll("*")]
  .filter((e) => !e.closest(".scroll, .unseen, option") && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 100))"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(running, tiny_run, tmp_path_factory) -> Iterator[str]:
    """Of a server that wants the token."""
    with running(tiny_run, tmp_path_factory.mktemp("uploads"), token=TOKEN) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture
def open_page(browser, address) -> Iterator[Callable]:
    """Opens the page; at the end nothing may have been logged but ``expected``, nor anything loaded from elsewhere."""
    opened = []

    def open_(*, expected: str = "", token: bool = False, before: Callable | None = None, **settings):
        headers = {} if token else {"Authorization": f"Bearer {TOKEN}"}
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
        context.set_extra_http_headers(headers)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        logged: list[str] = []
        loaded: list[str] = []
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: loaded.append(request.url))
        page.add_init_script(WATCH)
        if before:
            before(page)
        page.goto(address)
        opened.append((context, logged, loaded, expected))
        if not token:
            expect(page.locator("#pick")).to_be_enabled()
        return page

    expect.set_options(timeout=PATIENCE)
    yield open_
    for context, logged, loaded, expected in opened:
        context.close()
        assert [line for line in logged if not expected or expected not in line] == []
        assert [url for url in loaded if not url.startswith((address, "blob:", "data:"))] == []


@pytest.fixture(scope="module")
def clip(three) -> Path:
    return next((three / "test" / "motion_up").glob("*.mp4"))


@pytest.fixture(scope="module")
def large(clip, tmp_path_factory) -> Path:
    """The clip with a box of 2 MB that says nothing, so that the upload takes a while."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    empty = 2_000_000
    path.write_bytes(clip.read_bytes() + empty.to_bytes(4, "big") + b"free" + bytes(empty - 8))
    return path


@pytest.fixture(scope="module")
def film(three, write_video, tmp_path_factory) -> Path:
    """Three actions one after the other, in a file that browsers play."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    clips = [next((three / "test" / label).glob("*.mp4")) for label in ("motion_up", "order_left_right", "motion_down")]
    return write_video(path, [frame.image for clip in clips for frame in iterate_frames(clip)], codec="libx264")


@pytest.fixture(scope="module")
def recognizer(tiny_run) -> Recognizer:
    return Recognizer.load(tiny_run)


@pytest.fixture(scope="module")
def found(tiny_run, recognizer, film) -> VideoTimeline:
    """What happens when in the film, by the same code without a server."""
    timeline = find_segments(recognizer, film, WindowSettings(usual_interval(open_run(tiny_run))))
    assert len(timeline.segments) > 2
    return timeline


def _give_token(page, token: str) -> None:
    page.get_by_label("Token of this server").fill(token)
    page.keyboard.press("Enter")


def _card(page, name: str):
    return page.locator(".card", has=page.get_by_role("heading", name=name, exact=True))


def _slow(network, bytes_a_second: int) -> None:
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_a_second}
    network.send("Network.emulateNetworkConditions", limits)


def _answers(card) -> list[tuple[str, str]]:
    rows = card.locator(".head .answers li:visible")
    return [tuple(row.inner_text().split("\n")) for row in rows.all()]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def test_an_upload_is_answered_as_predict_answers(open_page, recognizer, clip):
    page = open_page()
    page.set_input_files("#files", clip)
    card = _card(page, clip.name)
    expect(card).to_have_attribute("data-state", "done")
    best = recognizer.best(recognizer.probabilities([recognizer.clip(clip)])[0], 5)
    assert _answers(card) == [(item.label, _percent(item.probability)) for item in best]
    shares = card.locator(".track").evaluate_all(
        "(tracks) => tracks.map((t) => t.firstChild.getBoundingClientRect().width / t.getBoundingClientRect().width)"
    )
    assert shares == pytest.approx([item.probability for item in best], abs=0.01)
    texts = [text for text, _ in page.evaluate("states")]
    for stage in ("In the queue", f"Uploaded {clip.stat().st_size / 1000:.0f}\u00a0kB", "The network is at work"):
        assert stage in texts
    assert re.fullmatch(r"Ready after \d+\.\d s", texts[-1])
    expect(page.locator("#said")).to_contain_text(f"{clip.name}: {best[0].label}, {_percent(best[0].probability)}")


def test_bytes_are_counted_and_a_cancelled_upload_can_be_tried_again(open_page, large):
    page = open_page(reduced_motion="reduce")
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    _slow(network, 150_000)
    page.set_input_files("#files", large)
    card = _card(page, large.name)
    expect(card.get_by_role("progressbar", name=f"Progress of {large.name}")).to_be_visible()
    whole = f"{large.stat().st_size / 1e6:.1f}\u00a0MB"
    expect(card.locator(".head .state")).to_have_text(re.compile(rf"^Uploading: [\d.]+\s(kB|MB) of {whole}$"))
    page.wait_for_timeout(600)
    card.get_by_role("button", name=f"Cancel: {large.name}").click()
    expect(card).to_have_attribute("data-state", "cancelled")
    expect(card.locator(".head progress")).to_be_hidden()
    expect(card.get_by_role("button", name="Try again")).to_be_focused()
    sent = [share for text, share in page.evaluate("states") if text.startswith("Uploading")]
    assert sent == sorted(sent)
    assert 0 < sent[-1] < 1
    _slow(network, -1)
    card.get_by_role("button", name="Try again").press("Enter")
    expect(card).to_have_attribute("data-state", "done")
    assert len(_answers(card)) == 5


def test_broken_and_oddly_named_files_do_not_hold_up_the_others(open_page, clip, tmp_path):
    page = open_page(viewport={"width": 390, "height": 800})
    odd = tmp_path / "<img src=x onerror=alert(1)> & co.mp4"
    shutil.copy(clip, odd)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video " * 1000)
    page.set_input_files("#files", [broken, odd, clip, shutil.copy(clip, tmp_path / "last.mp4")])
    for path in (odd, clip):
        expect(_card(page, path.name)).to_have_attribute("data-state", "done")
        assert len(_answers(_card(page, path.name))) == 5
    expect(page.locator("#count")).to_have_text("3 of 4 done")
    assert page.evaluate("atOnce") == 2
    assert page.locator("img").count() == 0
    message, remedy = _card(page, "broken.mp4").locator(".trouble p").all_inner_texts()
    with pytest.raises(NotAVideo) as found:
        probe(broken)
    assert found.value.reason.casefold() in message.casefold()
    assert found.value.remedy.casefold() in remedy.casefold()
    expect(page.locator("#said")).to_contain_text("broken.mp4")
    assert page.evaluate("shift") < 0.02
    page.get_by_role("button", name=f"Remove {odd.name}").click()
    expect(page.get_by_role("heading", name=clip.name)).to_be_focused()
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#videos")).to_be_hidden()


def test_files_can_be_dropped_anywhere(open_page, clip):
    page = open_page()
    encoded = base64.b64encode(clip.read_bytes()).decode()
    drop = page.evaluate_handle(
        """(text) => {
          const drop = new DataTransfer();
          drop.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "dropped.mp4"));
          return drop;
        }""",
        encoded,
    )
    page.dispatch_event("h1", "dragover", {"dataTransfer": drop})
    expect(page.locator("body")).to_have_class("over")
    page.dispatch_event("h1", "drop", {"dataTransfer": drop})
    expect(page.locator("body")).not_to_have_class("over")
    expect(_card(page, "dropped.mp4")).to_have_attribute("data-state", "done")


def test_a_busy_server_is_asked_again_when_it_says(open_page, clip):
    page = open_page(expected="status of 503")
    answers = iter([{"Retry-After": "2"}])

    def busy(route):
        headers = next(answers, None)
        if headers is None:
            route.continue_()
            return
        error = {"error": {"kind": "busy", "message": "the queue is full", "remedy": "try again"}}
        route.fulfill(status=503, headers=headers, json=error)

    page.route("**/api/predict*", busy)
    page.set_input_files("#files", clip)
    card = _card(page, clip.name)
    expect(card).to_have_attribute("data-state", "done")
    waits = [text for text, _ in page.evaluate("states") if "busy" in text]
    assert waits == [f"The server is busy: next try in {text}" for text in ("2\u00a0seconds", "1\u00a0second")]


def test_a_file_over_the_limit_is_not_sent_and_nothing_is_offered_that_an_export_lacks(open_page, clip):
    def lower(route):
        answer = route.fetch()
        changed = {"limits": {"bytes": 1000}, "streaming": None, "explains": False}
        route.fulfill(response=answer, json=answer.json() | changed)

    page = open_page(before=lambda page: page.route("**/api/model", lower))
    page.route("**/api/predict*", lambda route: pytest.fail("it was sent"))
    page.set_input_files("#files", clip)
    expect(_card(page, clip.name).locator(".trouble")).to_contain_text("this server takes 1.0\u00a0kB")
    names = page.get_by_role("button").evaluate_all("(all) => all.map((button) => button.textContent)")
    assert names == ["Choose videos", "Remove all", "Try again", "Remove"]


def test_the_film_strip_comes_on_demand(open_page, clip):
    page = open_page()
    page.set_input_files("#files", clip)
    button = page.get_by_role("button", name=f"Film strip of {clip.name}")
    button.click()
    picture = page.locator(".explain img")
    expect(picture).to_be_visible()
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth / image.naturalHeight)") > 1
    assert clip.name in picture.get_attribute("alt")
    expect(button).to_have_attribute("aria-expanded", "true")
    button.click()
    expect(picture).to_be_hidden()
    expect(button).to_have_attribute("aria-expanded", "false")


def test_a_timeline_is_drawn_under_the_player_and_leads_to_its_segments(open_page, film, found):
    page = open_page()
    page.set_input_files("#files", film)
    page.get_by_role("button", name=f"Timeline of {film.name}").click()
    buttons = page.get_by_role("toolbar").get_by_role("button")
    expect(buttons).to_have_count(len(found.segments))
    for row, item in zip(buttons.all_inner_texts(), found.segments, strict=True):
        assert row.split("\n")[1:] == [item.label, _percent(item.probability)]
    time = "document.querySelector('.played video').currentTime"
    video = page.locator(".played video")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as captions").click()
    assert download.value.suggested_filename == f"{film.stem}.vtt"
    assert Path(download.value.path()).read_text(encoding="utf-8") == as_webvtt(found)
    cues = video.evaluate("(video) => [...video.textTracks[0].cues].map((cue) => [cue.startTime, cue.text])")
    assert [text for _, text in cues] == [f"{item.label} ({item.probability:.0%})" for item in found.segments]
    buttons.nth(1).click()
    expect(buttons.nth(1)).to_have_attribute("aria-current", "true")
    assert page.evaluate(time) == pytest.approx(found.segments[1].start, abs=0.01)
    buttons.nth(1).press("ArrowDown")
    expect(buttons.nth(2)).to_be_focused()
    buttons.nth(2).press("Enter")
    expect(buttons.nth(2)).to_have_attribute("aria-current", "true")
    assert page.evaluate(time) == pytest.approx(found.segments[2].start, abs=0.01)
    page.locator(".block").first.click()
    expect(buttons.nth(0)).to_have_attribute("aria-current", "true")
    assert page.evaluate(time) == pytest.approx(0, abs=0.01)
    video.evaluate("(video) => { video.playbackRate = 8; return video.play(); }")
    expect(buttons.last).to_have_attribute("aria-current", "true")
    expect(page.locator(".block.now")).to_have_count(1)


def test_a_file_that_no_browser_plays_has_its_timeline_all_the_same(open_page, write_video, tmp_path):
    path = write_video(tmp_path / "old.avi", count=30)
    page = open_page()
    page.set_input_files("#files", path)
    page.get_by_role("button", name="Timeline of old.avi").click()
    expect(page.get_by_text("This browser cannot play this kind of file")).to_be_visible()
    expect(page.get_by_role("toolbar").get_by_role("button").first).to_be_visible()


def test_stages_are_told_and_labels_are_text(open_page, clip):
    label = '<img src=x onerror="alert(1)">&amp;'
    stages = [{"stage": "waiting", "ahead": 2}, {"stage": "decoding", "done": 3, "of": 9}, {"stage": "network"}]
    results = {
        "predict": [{"label": label, "score": 0.75}],
        "timeline": {"seconds": 1.0, "segments": [{"start": 0.0, "end": 1.0, "label": label, "score": 0.75}]},
    }

    def answer(route):
        result = results[route.request.url.split("/")[-1].split("?")[0]]
        body = "".join(json.dumps(line) + "\n" for line in [*stages, {"result": result}])
        route.fulfill(content_type="application/x-ndjson", body=body)

    page = open_page()
    page.route(re.compile("/api/(predict|timeline)"), answer)
    page.set_input_files("#files", clip)
    expect(_card(page, clip.name)).to_have_attribute("data-state", "done")
    assert _answers(_card(page, clip.name)) == [(label, "75.0\u00a0%")]
    texts = [text for text, _ in page.evaluate("states")]
    assert texts[-4:-1] == ["Waiting: 2\u00a0videos ahead", "Decoding: frame 3 of 9", "The network is at work"]
    page.get_by_role("button", name=f"Timeline of {clip.name}").click()
    expect(page.get_by_role("toolbar")).to_contain_text(label)
    cue = "document.querySelector('.played video').textTracks[0].cues?.[0]?.getCueAsHTML().textContent"
    text = None
    for _ in range(200):
        text = text or page.evaluate(cue)
        page.wait_for_timeout(0 if text else 20)
    assert text == f"{label} (75%)"
    assert page.locator("img").count() == 0


def test_the_webcam_is_answered_live_until_it_is_stopped(open_page, recognizer):
    page = open_page(token=True, expected="status of 401")
    _give_token(page, TOKEN)
    page.get_by_role("button", name="Use the webcam").click()
    answers = page.locator("#webcam-answer li")
    expect(answers.first).to_contain_text("%")
    labels = page.locator("#webcam-answer .name").all_inner_texts()
    assert len(set(labels) & set(recognizer.labels)) == 5
    expect(page.locator("#webcam-facts")).to_have_text(
        re.compile(r"Delay\d+\sms.*Dropped\d+ of \d+\sframes.*(exact state|window again)")
    )
    stream = page.evaluate_handle("document.querySelector('#camera').srcObject")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#webcam-state")).to_have_text("Stopped")
    assert stream.evaluate("(stream) => stream.getTracks().map((track) => track.readyState)") == ["ended"]
    page.get_by_role("button", name="Start again").click()
    expect(page.locator("#webcam-state")).to_have_text("Live")


@pytest.mark.parametrize(
    ("name", "message"),
    [("NotAllowedError", "does not let this page use the camera"), ("NotFoundError", "There is no camera")],
)
def test_what_is_wrong_with_a_camera_is_said(open_page, name, message):
    page = open_page()
    refuse = "(name) => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name)); }"
    page.evaluate(refuse, name)
    page.get_by_role("button", name="Use the webcam").click()
    expect(page.locator("#webcam").get_by_role("alert")).to_contain_text(message)
    expect(page.get_by_role("button", name="Start again")).to_be_enabled()


def test_the_token_is_asked_for_and_kept_in_memory_only(open_page, clip, address):
    page = open_page(token=True, expected="status of 401")
    _give_token(page, "another")
    expect(page.get_by_role("alert").filter(has_text="does not take this token")).to_be_visible()
    expect(page.get_by_label("Token of this server")).to_be_focused()
    assert Axe().run(page).violations_count == 0
    _give_token(page, TOKEN)
    expect(page.locator("#pick")).to_be_enabled()
    page.set_input_files("#files", clip)
    expect(_card(page, clip.name)).to_have_attribute("data-state", "done")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]") == [
        *(0, 0, ""),
        f"{address}/",
    ]
    page.reload()
    expect(page.get_by_label("Token of this server")).to_have_value("")


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_those_who_want_no_motion(open_page, motion, moves):
    page = open_page(reduced_motion=motion)
    page.evaluate("document.querySelector('#choose').append(document.createElement('progress'))")
    bar = page.locator("#choose progress")
    first = bar.screenshot()
    page.wait_for_timeout(300)
    assert (bar.screenshot() != first) is moves


def test_the_keyboard_alone_is_enough(open_page, clip):
    page = open_page()
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # noqa: PLW0108  It marks what it is given.
    focused = """[document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent,
      getComputedStyle(document.activeElement).outlineStyle, document.activeElement.tagName]"""
    seen = []

    def tab_to(name: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(focused))
            if name in seen[-1][0]:
                return
        pytest.fail(f"{name} is not reached: {seen}")

    tab_to("Choose videos")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    choosers[0].set_files(clip)
    expect(_card(page, clip.name)).to_have_attribute("data-state", "done")
    tab_to(f"Timeline of {clip.name}")
    page.keyboard.press("Space")
    expect(page.get_by_role("toolbar")).to_be_visible()
    first = page.get_by_role("toolbar").get_by_role("button").first
    tab_to(first.text_content())
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-current", "true")
    tab_to("About the model")
    page.keyboard.press("Enter")
    expect(page.locator("#model-facts")).to_be_visible()
    # The browser draws the focus within its own player.
    assert {outline for _, outline, tag in seen if tag != "VIDEO"} == {"solid"}, seen


def test_every_width_and_scheme_is_whole_and_open_to_all(open_page, film, clip, tmp_path):
    page = open_page(viewport={"width": 320, "height": 800})
    broken = tmp_path / "broken_with_a_long_name_without_any_blank_to_break_at.mp4"
    broken.write_bytes(b"no video")
    page.set_input_files("#files", [film, broken])
    page.get_by_role("button", name=f"Timeline of {film.name}").click()
    page.get_by_role("button", name=f"Film strip of {film.name}").click()
    page.get_by_role("button", name="Use the webcam").click()
    expect(page.locator(".explain img")).to_be_visible()
    expect(page.get_by_role("toolbar")).to_be_visible()
    expect(_card(page, broken.name).locator(".trouble")).to_be_visible()
    page.locator("summary").click()
    papers = set()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(OUTSIDE) == [], (width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, scheme)
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == {"rgb(255, 255, 255)", "rgb(21, 24, 27)"}
