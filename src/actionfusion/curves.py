"""Loss and accuracy against epochs, as in Figures 9 to 11 of Ou and Sun 2019, for a run's folder and for a page.

One drawing serves both: the run's picture has fixed colours on white, a page takes other colours in their place.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.files import write_atomically

Quantity = Literal["loss", "accuracy"]
EpochRow = Mapping[str, Any]
Numbers = npt.NDArray[np.float64]

FEW_EPOCHS = 12
MOST_STAGES_NAMED = 4


@dataclass(frozen=True)
class Palette:
    """Colours of a chart, as matplotlib takes them."""

    ink: str
    muted: str
    grid: str
    train: str
    validation: str
    paper: str


PRINTED = Palette("#1d2125", "#5b636b", "#e3e6e9", "#8a939b", "#0f6a84", "#ffffff")


@dataclass(frozen=True)
class Stage:
    """One training stage within the curves.

    Attributes:
        number: from 1.
        first: its first epoch.
        last: its last epoch.
        rates: learning rates of its first and of its last epoch; NaN where the record has none.
    """

    number: int
    first: int
    last: int
    rates: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Curves:
    """The columns of a run's ``metrics.csv``, each ``[epochs]``; NaN where a row leaves a number out.

    Attributes:
        epochs: 1 and up, running over the stages.
        stages: 1 and up; the column ``session``.
    """

    epochs: npt.NDArray[np.int64]
    stages: npt.NDArray[np.int64]
    learning_rate: Numbers
    train_loss: Numbers
    train_accuracy: Numbers
    val_loss: Numbers
    val_accuracy: Numbers
    seconds: Numbers

    @classmethod
    def from_rows(cls, rows: Sequence[EpochRow]) -> Curves:
        """Take rows with text or numbers, as a CSV reader or a training loop gives them.

        Raises:
            RunFolderError: no row at all, or a cell that is no number where one is needed.
        """
        if not rows:
            raise RunFolderError("metrics.csv", "it holds no epoch", "train for one epoch or more")

        def whole(name: str) -> npt.NDArray[np.int64]:
            column = numbers(name)
            if not np.isfinite(column).all() or (column != np.rint(column)).any():
                raise RunFolderError("metrics.csv", f"not every {name} is a whole number", "train again")
            return column.astype(np.int64)

        def numbers(name: str) -> Numbers:
            return np.array([_number(row.get(name), name) for row in rows], np.float64)

        return cls(
            whole("epoch"),
            whole("session"),
            *(
                numbers(name)
                for name in ("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
            ),
        )

    @property
    def has_validation(self) -> bool:
        """Whether any epoch was validated."""
        return bool(np.isfinite(self.val_loss).any() or np.isfinite(self.val_accuracy).any())

    @property
    def best(self) -> int | None:
        """The row of the highest validation accuracy, the first of equals; None where nothing was validated."""
        return int(np.nanargmax(self.val_accuracy)) if np.isfinite(self.val_accuracy).any() else None

    def of(self, quantity: Quantity) -> tuple[Numbers, Numbers]:
        """Return the training and validation column of a quantity."""
        if quantity == "loss":
            return self.train_loss, self.val_loss
        return self.train_accuracy, self.val_accuracy

    def stage_list(self) -> list[Stage]:
        """List the stages in their order."""
        starts = [0, *(np.flatnonzero(np.diff(self.stages)) + 1).tolist(), len(self.stages)]
        return [
            Stage(
                int(self.stages[start]),
                int(self.epochs[start]),
                int(self.epochs[end - 1]),
                (float(self.learning_rate[start]), float(self.learning_rate[end - 1])),
            )
            for start, end in pairwise(starts)
        ]


def save_curves(rows: Sequence[EpochRow], path: str | os.PathLike[str]) -> None:
    """Write loss and accuracy side by side, as PNG or SVG by the path's ending, whole or not at all.

    The same rows give the same bytes under one version of matplotlib.

    Args:
        rows: the rows of ``metrics.csv``, text or numbers.
        path: ends in ``.png`` or ``.svg``; missing folders are made.

    Raises:
        RunFolderError: no row, or one that cannot be read.
        SettingsError: another ending.
        OSError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".png", ".svg"}:
        raise SettingsError(path, f"{suffix or 'no ending'!r} is no picture that can be written", "take .png or .svg")
    curves = Curves.from_rows(rows)
    content = io.BytesIO()
    with own_style():
        figure = Figure(figsize=(9.2, 3.2), facecolor=PRINTED.paper, layout="constrained")
        left, right = figure.subplots(1, 2)
        panels: list[tuple[Axes, Quantity]] = [(left, "loss"), (right, "accuracy")]
        for axes, quantity in panels:
            draw_curves(axes, curves, quantity, PRINTED)
            axes.set_title(quantity.capitalize(), loc="left", fontweight="bold", color=PRINTED.ink, pad=14)
            axes.set_xlabel("epoch", color=PRINTED.muted)
            if curves.has_validation:
                axes.legend(frameon=False, labelcolor=PRINTED.ink, loc="best")
        undated = {"Date": None} if suffix == ".svg" else {"Software": None}
        figure.savefig(content, format=suffix[1:], dpi=160, metadata=undated)
    write_atomically(path, content.getvalue())


def _number(value: object, name: str) -> float:
    if value is None or value == "":
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise RunFolderError("metrics.csv", f"{name} holds {value!r}, which is no number", "train again") from None


@contextmanager
def own_style() -> Iterator[None]:
    """Set Matplotlib's own defaults and ours, whatever your matplotlibrc says, until the block ends."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rc("svg", hashsalt="actionfusion", fonttype="none")
        mpl.rc("font", size=8.0)
        yield


def draw_curves(axes: Axes, curves: Curves, quantity: Quantity, palette: Palette) -> None:
    """Draw training and validation over the epochs, with the stages' boundaries and the best accuracy marked."""
    train, validation = curves.of(quantity)
    _line(axes, curves.epochs, train, label="train", color=palette.train, dashes=(0, (4, 2)))
    if np.isfinite(validation).any():
        _line(axes, curves.epochs, validation, label="validation", color=palette.validation, dashes="-")
    if quantity == "accuracy" and curves.best is not None:
        best = curves.best
        axes.plot(
            curves.epochs[best],
            validation[best],
            "o",
            markersize=6,
            markerfacecolor=palette.paper,
            markeredgecolor=palette.validation,
            markeredgewidth=1.4,
            clip_on=False,  # the best accuracy is often on the upper edge
            zorder=4,
        )
    _scale(axes, curves, quantity)
    _mark_stages(axes, curves, palette)
    quieten(axes, palette)


def quieten(axes: Axes, palette: Palette) -> None:
    """Leave the axes a base line and a faint grid."""
    axes.patch.set_visible(False)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(palette.muted)
    axes.spines["bottom"].set_linewidth(0.8)
    axes.grid(axis="y", color=palette.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=4, labelcolor=palette.muted)


def _line(
    axes: Axes,
    epochs: npt.NDArray[np.int64],
    column: Numbers,
    *,
    label: str,
    color: str,
    dashes: str | tuple[int, tuple[int, int]],
) -> None:
    # An epoch without a number is passed over, so that validation every few epochs still makes a line.
    known = np.isfinite(column)
    marker = "o" if known.sum() <= FEW_EPOCHS else ""
    axes.plot(
        epochs[known],
        column[known],
        label=label,
        color=color,
        linestyle=dashes,
        linewidth=1.6,
        marker=marker,
        markersize=3,
    )


def _scale(axes: Axes, curves: Curves, quantity: Quantity) -> None:
    first, last = int(curves.epochs[0]), int(curves.epochs[-1])
    margin = max((last - first) * 0.02, 0.5)
    axes.set_xlim(first - min(margin, 0.75), last + margin)  # no epoch 0 on the axis
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if quantity == "accuracy":
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        return
    finite = [float(value) for column in curves.of(quantity) for value in column[np.isfinite(column)]]
    axes.set_ylim(min(0.0, *finite) if finite else 0.0, max(finite, default=1.0) * 1.06 or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _mark_stages(axes: Axes, curves: Curves, palette: Palette) -> None:
    stages = curves.stage_list()
    left, right = axes.get_xlim()
    for stage in stages[1:]:
        boundary = stage.first - 0.5
        late = (boundary - left) / (right - left) > 0.75
        axes.axvline(boundary, color=palette.muted, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            f"stage {stage.number}" if len(stages) <= MOST_STAGES_NAMED else str(stage.number),
            (boundary, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, 3),
            textcoords="offset points",
            ha="right" if late else "left",
            va="bottom",
            fontsize=7.5,
            color=palette.muted,
        )
