import base64
import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import actionfusion.reporting.page as page_module
from actionfusion.errors import SettingsError
from actionfusion.models.model_settings import Source
from actionfusion.reporting.filmstrip import FilmStrip
from actionfusion.reporting.findings import Headline, accuracy_headline
from actionfusion.reporting.model_facts import ModelFacts, PublishedFigure
from actionfusion.reporting.page import GroupAccuracy, Report, render_report
from actionfusion.reporting.rendering import write_page

NASTY = '<script>alert("1")</script>"\'><img src=x onerror=alert(1)> & {{ 7 * 7 }}'
STYLE = Path(page_module.__file__).parent / "templates" / "style.css"


@pytest.fixture
def report(make_clip, make_evaluation, make_epochs, wilson) -> Report:
    evaluation = make_evaluation(
        [[9, 1, 0], [2, 8, 0], [0, 0, 10]],
        ["walk", "run", "jump"],
        failed=[{"video": "run/broken.mp4", "kind": "damaged", "message": "run/broken.mp4: is cut short; copy it."}],
    )
    return Report(
        "A run",
        "Trained on invented clips.",
        [accuracy_headline(evaluation), ("Clips", "30", "10 a class")],
        evaluation,
        make_epochs(),
        [
            GroupAccuracy("motion", "Flow differs.", 20, 17, tuple(wilson(17, 20)), 0.5),
            GroupAccuracy("order", "Memory differs.", 20, 11, tuple(wilson(11, 20)), 0.5),
        ],
        [
            FilmStrip("walk_1.mp4", "walk", make_clip(5), [("walk", 0.815), ("run", 0.185)], "A slow one."),
            FilmStrip("run_3.mp4", "run", make_clip(3), [("run", 0.25), ("walk", 0.75)]),
        ],
        ["make demo", "actionfusion evaluate demo/run"],
        {"actionfusion": "0.1.0", "torch": "2.13.0"},
    )


def _row_texts(table):
    return [[cell.text for cell in row.find("th") + row.find("td")] for row in table.find("tr")]


def test_the_page_is_well_formed_and_every_reference_has_its_target(parse, report):
    root = parse(render_report(report))
    ids = [element.attributes["id"] for element in root.walk() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    links = [e.attributes["href"] for e in root.walk() if e.attributes.get("href", "").startswith("#")]
    used = [e.attributes["xlink:href"] for e in root.walk() if "xlink:href" in e.attributes]
    clips = re.findall(r"url\((#[^)]+)\)", " ".join(e.attributes.get("clip-path", "") for e in root.walk()))
    assert len(links) >= 7
    assert {reference[1:] for reference in [*links, *used, *clips]} <= set(ids)
    assert len(root.find("h1")) == len(root.find("main")) == len(root.find("title")) == 1


def test_the_page_needs_nothing_but_itself(parse, report):
    html = render_report(report)
    root = parse(html)
    addresses = [
        element.attributes[name]
        for element in root.walk()
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
        if name in element.attributes
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not root.find("iframe") + root.find("object") + root.find("base")
    assert not re.search(r"@import|@font-face|https?://|//[a-z]+\.", html)
    assert not re.findall(r"url\((?!#)", html)
    (policy,) = [m for m in root.find("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_one_script_may_run_and_the_policy_names_it_by_its_hash(parse, report):
    root = parse(render_report(report))
    (script,) = root.find("script")
    assert not script.attributes
    (content,) = script.children
    (policy,) = [m for m in root.find("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    (allowed,) = re.findall(r"script-src ([^;]*)", policy.attributes["content"])
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert allowed == f"'sha256-{digest}'"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval|document\.write|fetch|http", content)


def test_every_picture_decodes_and_is_described(parse, report):
    images = parse(render_report(report)).find("img")
    assert len(images) == 1 + 2 * (5 + 3)
    for image in images:
        content = base64.b64decode(image.attributes["src"].split("base64,")[1], validate=True)
        assert Image.open(io.BytesIO(content)).size == (160, 160)
        assert len(image.attributes["alt"]) > 10
    for chart in parse(render_report(report)).find("svg", role="img"):
        assert "from" in chart.attributes["aria-label"]


def test_the_numbers_shown_are_the_numbers_given(parse, report, wilson):
    root = parse(render_report(report))
    sections = {section.attributes["id"]: section for section in root.find("section")}
    headline = [element.text for element in root.find("dd")]
    low, high = wilson(27, 30)
    assert headline[:2] == ["90.0 %", f"27 of 30 test clips; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"]
    assert "30" in headline

    matrix = sections["confusion"].find("table", class_="confusion")[0]
    rows = matrix.find("tbody")[0].find("tr")
    assert [[cell.text for cell in row.find("td")] for row in rows] == [["9", "1", ""], ["2", "8", ""], ["", "", "10"]]
    assert [row.find("th")[0].text for row in rows] == ["walk", "run", "jump"]
    assert [cell.attributes["title"] for cell in rows[1].find("td") if "title" in cell.attributes] == [
        "2 of 10 run predicted as walk",
        "8 of 10 run correctly predicted",
    ]
    pairs = sections["confusion"].find("table", class_="listing")[0]
    assert _row_texts(pairs)[1:] == [["run", "walk", "2", "20.0 %"], ["walk", "run", "1", "10.0 %"]]

    low, high = wilson(8, 10)
    run = _row_texts(sections["classes"].find("table")[0])[2]
    assert run[0] == "run"
    assert run[2].startswith("80.0 % 8 of 10")
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in run[2]

    motion, order = _row_texts(sections["groups"].find("table")[0])[1:3]
    assert motion[0] == "motion Flow differs."
    assert motion[2].startswith("85.0 % 17 of 20")
    assert "chance" not in motion[2]
    assert order[2].endswith("not distinguishable from chance")

    epochs = _row_texts(sections["training"].find("table")[0])
    assert len(epochs) == 1 + 9
    assert epochs[4] == ["4", "1", "0.500", "80.0 %", "0.550", "76.2 %"]
    assert "86.7 % , came in epoch 9" in sections["training"].text.replace("%,", "% ,")
    assert "Stage 2: epochs 7 to 9, learning rate 0.0001." in sections["training"].text
    assert "22 s" in sections["training"].text

    answers = [_row_texts(table)[1:] for table in sections["clips"].find("table", class_="answers")]
    assert answers[0] == [["walk", "", "81.5 %"], ["run", "", "18.5 %"]]
    assert [figure.find("span", class_="mark")[0].text for figure in sections["clips"].find("figure")] == [
        "✓ correct",
        "✗ wrong",
    ]
    assert len(_row_texts(sections["mistakes"].find("table")[0])) == 1 + 3
    assert "run/broken.mp4: is cut short; copy it." in sections["failed"].text
    assert sections["repeat"].find("code")[0].text == "make demo actionfusion evaluate demo/run"


def test_bars_are_as_long_as_their_numbers(parse, report, wilson):
    groups = parse(render_report(report)).find("section", id="groups")[0]
    motion = groups.find("div", class_="track")[0]
    styles = [mark.attributes["style"] for mark in motion.find("i")]
    low, high = wilson(17, 20)
    assert styles == ["--v:85.00%", f"--lo:{100 * low:.2f}%;--hi:{100 * high:.2f}%", "--c:50.00%"]


def test_tables_have_headers_and_wide_things_scroll_in_boxes_that_keys_reach(parse, report):
    root = parse(render_report(report))
    for table in root.find("table"):
        heads = table.find("th")
        assert heads
        assert all(head.attributes.get("scope") in {"row", "col"} for head in heads)
    boxes = root.find("div", class_="scroll")
    assert len(boxes) >= 5
    assert all(box.attributes.get("tabindex") == "0" and box.attributes.get("aria-label") for box in boxes)
    for wide in root.find("table", class_="confusion") + root.find("div", class_="film"):
        assert wide.parent.attributes["class"] == "scroll"


def test_text_from_outside_stays_text(parse, make_clip, make_evaluation):
    evaluation = make_evaluation(
        [[3, 1], [1, 3]],
        [NASTY, "plain"],
        dataset=NASTY,
        split=NASTY,
        failed=[{"video": NASTY, "kind": NASTY, "message": NASTY}],
    )
    html = render_report(
        Report(
            NASTY,
            NASTY,
            [Headline(NASTY, NASTY, NASTY)],
            evaluation,
            groups=[GroupAccuracy(NASTY, NASTY, 2, 1, (0.1, 0.9), 0.5)],
            strips=[FilmStrip(NASTY, NASTY, make_clip(2), [(NASTY, 0.6), ("plain", 0.4)], NASTY)],
            commands=[NASTY],
            versions={NASTY: NASTY},
        )
    )
    root = parse(html)
    assert len(root.find("script")) == 1
    assert "alert" not in root.find("script")[0].text
    assert not [element for element in root.walk() for name in element.attributes if name.startswith("on")]
    assert all(image.attributes["src"].startswith("data:image/webp;") for image in root.find("img"))
    expected = " ".join(NASTY.split())
    for tag in ("title", "h1", "h3", "dt", "code", "small", "figcaption"):
        assert any(expected in element.text for element in root.find(tag)), tag
    assert root.text.count("alert(1)") >= 20
    titles = [element.attributes["title"] for element in root.find("td") if "title" in element.attributes]
    assert any(NASTY in title for title in titles)


def test_what_is_left_out_leaves_no_section(parse, report, make_epochs):
    root = parse(render_report(Report("Bare")))
    assert root.find("section") == root.find("nav") == root.find("img") == root.find("dl") == []
    assert root.find("h1")[0].text == "Bare"
    training = parse(render_report(Report("Only training", epochs=make_epochs(validated=False))))
    (section,) = training.find("section")
    assert section.attributes["id"] == "training"
    assert "No clips were set aside for validation." in section.text
    assert "ring" not in section.text
    assert _row_texts(section.find("table")[0])[1][4:] == ["–", "–"]


def test_groups_and_classes_without_clips_are_said_to_have_none(parse, make_evaluation):
    evaluation = make_evaluation([[0, 0], [0, 0]])
    report = Report(
        "Empty",
        headline=[accuracy_headline(evaluation)],
        evaluation=evaluation,
        groups=[GroupAccuracy("motion", "Flow differs.", 0, 0, (0.0, 1.0), 0.5)],
    )
    root = parse(render_report(report))
    assert root.find("dd", class_="value")[0].text == "–"
    assert "There is no clip to confuse." in root.text
    for row in _row_texts(root.find("section", id="groups")[0].find("table")[0])[1:2]:
        assert row[2] == "– 0 of 0 no clips"
    assert not root.find("i", class_="whisker")
    assert "nan" not in root.text.lower()


def test_a_run_without_a_mistake_says_so(parse, make_evaluation):
    root = parse(render_report(Report("Perfect", evaluation=make_evaluation([[5, 0], [0, 5]]))))
    assert "No clip was predicted as another class." in root.text
    assert not root.find("section", id="mistakes")


def test_figures_on_clips_that_chose_the_weights_are_marked(parse, make_evaluation):
    for selected in (True, False):
        evaluation = make_evaluation([[3, 1], [1, 3]], selected_on_part=selected)
        caveats = parse(render_report(Report("Run", evaluation=evaluation))).find("li", class_="caveat")
        assert bool(caveats) == selected


def test_a_hundred_and_one_classes_stay_usable_and_small(parse, make_evaluation, make_epochs):
    classes = 101
    confusion = [[0] * classes for _ in range(classes)]
    for truth in range(classes):
        confusion[truth][truth] = 30
        for step in range(1, 8):
            confusion[truth][(truth * 3 + step * 11) % classes] += 1
    confusion[4][90] = 12
    html = render_report(Report("UCF101", evaluation=make_evaluation(confusion), epochs=make_epochs(140, 46)))
    assert len(html) < 600_000
    root = parse(html)
    matrix = root.find("table", class_="dense")[0]
    assert [len(row.find("td")) for row in matrix.find("tbody")[0].find("tr")] == [classes] * classes
    assert all("unseen" in head.children[0].attributes["class"] for head in matrix.find("th"))
    pairs = _row_texts(root.find("section", id="confusion")[0].find("table", class_="listing")[0])
    assert pairs[1][:3] == ["class_4", "class_90", "12"]
    assert len(pairs) == 1 + 10
    assert len(root.find("section", id="classes")[0].find("table")[0].find("tbody")[0].find("tr")) == classes
    assert len(_row_texts(root.find("section", id="mistakes")[0].find("table")[0])) == 1 + 20
    assert "others not listed" in root.find("section", id="mistakes")[0].text


def test_the_same_report_gives_the_same_bytes_in_one_file(tmp_path, report):
    write_page(tmp_path / "new" / "report.html", render_report(report))
    write_page(tmp_path / "again.html", render_report(report))
    content = (tmp_path / "new" / "report.html").read_bytes()
    assert content == (tmp_path / "again.html").read_bytes()
    assert content.decode("utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_a_report_that_fails_leaves_the_old_page(tmp_path, report, make_evaluation):
    target = tmp_path / "report.html"
    write_page(target, render_report(report))
    before = target.read_bytes()
    with pytest.raises(SettingsError):
        write_page(target, render_report(Report("Bad", evaluation=make_evaluation([[3, 1], [1, 3]]) | {"correct": 7})))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("count", "correct", "chance"), [(3, 4, 0.5), (3, -1, 0.5), (3, 2, 1.5)])
def test_an_impossible_group_is_refused(count, correct, chance):
    with pytest.raises(SettingsError, match="motion"):
        GroupAccuracy("motion", "", count, correct, (0.0, 1.0), chance)


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_the_accessibility_guidelines_ask_for(scheme):
    colours = dict(
        re.findall(r"--(\w+): (#[0-9a-f]{6})", STYLE.read_text().split("* { box-sizing")[0].split("@media")[scheme])
    )
    for text in ("ink", "muted", "accent", "wrong"):
        assert _contrast(colours[text], colours["paper"]) >= 4.5, text
    for ground in ("panel", "good", "bad"):
        assert _contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for mark in ("train", "accent"):
        assert _contrast(colours[mark], colours["paper"]) >= 3, mark


def test_strips_without_flow_have_no_key_to_its_colours(make_clip, parse):
    clip = replace(make_clip(3), flow=None)
    page = parse(render_report(Report("RGB", strips=[FilmStrip("a.mp4", "walk", clip, [("walk", 1.0)])])))
    assert len(page.find("img")) == 3
    assert page.find("div", class_="wheel") == []
    assert "optical flow" not in page.find("section", id="clips")[0].text


def test_the_model_stands_with_its_published_figures(make_evaluation, parse):
    source = Source(
        "Doe, Some network, 2020", kept="its <layers>", published={"ucf101": "95.3 % (7:3)", "shapes": "1 % (x)"}
    )
    figures = [PublishedFigure("ucf101", "95.3 % (7:3)", ""), PublishedFigure("shapes", "1 % (x)", "50.0 % (1 of 2)")]
    facts = ModelFacts("some", source, tuple(figures))
    (section,) = parse(render_report(Report("run", model=facts))).find("section", id="model")
    rows = [[cell.text for cell in row.find("td")] for row in section.find("tr")[1:]]
    assert rows == [["95.3 % (7:3)", "–"], ["1 % (x)", "50.0 % (1 of 2)"]]
    assert "Doe, Some network, 2020" in section.text
    assert "its <layers>" in section.text
    assert facts.on_this_data == figures[1]
