import io
import os
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actionfusion.curves import Curves, save_curves
from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.reporting.figures import curves_svg


def _polyline(svg: str, colour: str) -> np.ndarray:
    """Vertices [N, 2] of the longest line of a colour."""
    lines = re.findall(r'<path d="([^"]+)"[^>]*style="[^"]*stroke: var\(' + colour + r"\)", svg)
    longest = max(lines, key=len)
    assert longest.count("M") == 1, "one line without a gap"
    return np.array([[float(number) for number in pair] for pair in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", longest)])


def _accuracies(svg: str, colour: str) -> np.ndarray:
    """Accuracies read off the drawing with the grid lines of 0 and 100 % as the ruler."""
    grid = [float(y) for y in re.findall(r'<path d="M [\d.-]+ ([\d.-]+) \nL[^"]*"[^>]*stroke: var\(--line\)', svg)]
    assert len(grid) == 5
    zero, whole = max(grid), min(grid)
    return (zero - _polyline(svg, colour)[:, 1]) / (zero - whole)


def test_the_drawn_lines_read_back_as_the_numbers(make_epochs):
    rows = make_epochs(8, 5)
    svg = curves_svg(Curves.from_rows(rows), "accuracy", "accuracy")
    np.testing.assert_allclose(_accuracies(svg, "--train"), [row["train_accuracy"] for row in rows], atol=1e-4)
    np.testing.assert_allclose(_accuracies(svg, "--accent"), [row["val_accuracy"] for row in rows], atol=1e-4)


def test_losses_are_drawn_to_one_scale_from_zero(make_epochs):
    rows = make_epochs(8, 5)
    svg = curves_svg(Curves.from_rows(rows), "loss", "loss")
    train, validation = _polyline(svg, "--train")[:, 1], _polyline(svg, "--accent")[:, 1]
    zero = max(float(y) for y in re.findall(r'<path d="M [\d.-]+ ([\d.-]+) \nL[^"]*"[^>]*stroke: var\(--line\)', svg))
    np.testing.assert_allclose((zero - validation) / (zero - train), 1.1, rtol=1e-3)


def test_the_boundary_lies_between_the_last_and_the_first_epoch_of_the_sessions(make_epochs):
    svg = curves_svg(Curves.from_rows(make_epochs(8, 5)), "loss", "loss")
    epochs = _polyline(svg, "--train")[:, 0]
    (boundary,) = {
        float(x)
        for x in re.findall(r'<path d="M ([\d.-]+) [\d.-]+ \nL \1 [^"]*"[^>]*stroke-dasharray[^>]*var\(--muted\)', svg)
    }
    assert boundary == pytest.approx((epochs[7] + epochs[8]) / 2, abs=1e-3)
    assert ">stage 2<" in svg
    assert "stage" not in curves_svg(Curves.from_rows(make_epochs(8, 0)), "loss", "training")


def test_validation_every_few_epochs_is_still_a_line(make_epochs):
    rows = make_epochs(15, 0)
    for row in rows:
        if row["epoch"] % 5:
            row["val_loss"] = row["val_accuracy"] = ""
    curves = Curves.from_rows(rows)
    drawn = _accuracies(curves_svg(curves, "accuracy", "accuracy"), "--accent")
    np.testing.assert_allclose(drawn, [rows[index]["val_accuracy"] for index in (4, 9, 14)], atol=1e-4)
    assert curves.best == 14


def test_without_validation_there_is_one_line_and_no_best_epoch(make_epochs):
    curves = Curves.from_rows(make_epochs(validated=False))
    assert not curves.has_validation
    assert curves.best is None
    for quantity in ("loss", "accuracy"):
        assert "var(--accent)" not in curves_svg(curves, quantity, "training alone")


def test_the_first_of_equally_good_epochs_is_the_best(make_epochs):
    rows = make_epochs(4, 0)
    for row, accuracy in zip(rows, (0.5, 0.9, 0.9, 0.7), strict=True):
        row["val_accuracy"] = accuracy
    assert Curves.from_rows(rows).best == 1


def test_sessions_carry_their_epochs_and_rates(make_epochs):
    rows = make_epochs(6, 3)
    rows[5]["learning_rate"] = 5e-4
    first, second = Curves.from_rows(rows).stage_list()
    assert (first.number, first.first, first.last, first.rates) == (1, 1, 6, (1e-3, 5e-4))
    assert (second.number, second.first, second.last, second.rates) == (2, 7, 9, (1e-4, 1e-4))


def test_a_chart_takes_every_colour_from_the_page(make_epochs):
    svg = curves_svg(Curves.from_rows(make_epochs()), "accuracy", "accuracy")
    assert not re.findall(r"#[0-9a-f]{6}\b", svg.replace("url(#", ""))
    assert "font-family" not in svg
    assert "<style" not in svg
    variables = set(re.findall(r"var\((--\w+)\)", svg))
    assert {"--muted", "--line", "--train", "--accent", "--paper"} <= variables


def test_a_description_cannot_leave_its_attribute(make_epochs):
    svg = curves_svg(Curves.from_rows(make_epochs()), "loss", '"><script>alert(1)</script> \\1')
    assert "<script" not in svg
    assert "\\1" in svg


@pytest.mark.parametrize("ending", ["png", "svg", "PNG"])
def test_saved_curves_are_the_same_bytes_from_numbers_and_from_text(tmp_path, make_epochs, ending):
    rows = make_epochs()
    save_curves(rows, tmp_path / "deep" / f"curves.{ending}")
    text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    save_curves(text, str(tmp_path / f"again.{ending}"))
    content = (tmp_path / "deep" / f"curves.{ending}").read_bytes()
    assert content == (tmp_path / f"again.{ending}").read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [f"curves.{ending}"]
    if ending == "svg":
        assert b"<dc:date>" not in content
        assert b"validation" in content
        return
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
    assert (picture == 255).all(1).mean() > 0.8, "the paper is white"
    assert (picture == (0x0F, 0x6A, 0x84)).all(1).any(), "the validation line is there"


def test_neither_a_persons_style_nor_ours_reaches_the_other(tmp_path, make_epochs):
    rows = make_epochs()
    save_curves(rows, tmp_path / "plain.svg")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "mine", "lines.marker": "s"}):
        before = dict(mpl.rcParams)
        save_curves(rows, tmp_path / "styled.svg")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "styled.svg").read_bytes()


def test_drawing_leaves_pyplot_alone():
    # A fresh interpreter, since another test may have imported it.
    program = (
        "import sys; from actionfusion.curves import Curves; from actionfusion.reporting.figures import curves_svg;"
        "rows = [dict(epoch=1, session=1, train_loss=1, train_accuracy=.5)];"
        "curves_svg(Curves.from_rows(rows), 'loss', 'x');"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_loss": "low"}, "train_loss"),
        ({"epoch": "1.5"}, "epoch"),
        ({"session": ""}, "session"),
        ({"seconds": [1]}, "seconds"),
    ],
)
def test_a_cell_that_is_no_number_is_named(make_epochs, change, named):
    rows = make_epochs()
    rows[3] |= change
    with pytest.raises(RunFolderError, match=named):
        Curves.from_rows(rows)


def test_no_epoch_and_an_unknown_ending_are_refused(tmp_path, make_epochs):
    with pytest.raises(RunFolderError, match="no epoch"):
        save_curves([], tmp_path / "curves.png")
    for name in ("curves.pdf", "curves"):
        with pytest.raises(SettingsError, match=r"\.png or \.svg"):
            save_curves(make_epochs(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


_CELL = st.one_of(st.none(), st.just(float("nan")), st.just(float("inf")), st.floats(-1e6, 1e6))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(_CELL, _CELL, _CELL, _CELL, st.integers(1, 3)), min_size=1, max_size=6))
def test_any_record_can_be_drawn(record):
    rows = [
        {"epoch": epoch, "session": session, "train_loss": a, "train_accuracy": b, "val_loss": c, "val_accuracy": d}
        for epoch, (a, b, c, d, session) in enumerate(record, 1)
    ]
    for quantity in ("loss", "accuracy"):
        svg = curves_svg(Curves.from_rows(rows), quantity, quantity)
        assert svg.startswith("<svg viewBox=")
        assert svg.rstrip().endswith("</svg>")
