"""The figures of a protocol as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from actionfusion.errors import printable
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.evaluation.pooling import PROTOCOL
from actionfusion.evaluation.printing import NOTHING
from actionfusion.intervals import percent_range
from actionfusion.terminal import Console, Text

_MOST_DOUBTS = 3


def print_protocol(figures: Mapping[str, Any]) -> None:
    """Print a line a fold, then all of them together.

    Args:
        figures: what ``protocol.json`` holds.
    """
    console = Console()
    console.print(_table(figures))
    for line in _lines(figures):
        console.print(Text(printable(line)), soft_wrap=True)
    for item in figures["failed_folds"]:
        line = f"fold {item['fold']} failed and is not counted: {item['message']}"
        console.print(Text(printable(line), style="red"), soft_wrap=True)


def _table(figures: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("fold", "correct", "top-1", "95 % interval", "class mean", "unreadable"):
        table.add_column(column, justify="left" if column == "fold" else "right", overflow="fold")
    for fold in figures["folds"]:
        measured = [f"{fold['top1']:.1%}", percent_range(fold["interval"]), f"{fold['mean_class_accuracy']:.1%}"]
        row = measured if fold["count"] else [NOTHING] * 3
        table.add_row(
            Text(printable(fold["fold"])), f"{fold['correct']}/{fold['count']}", *row, str(fold["failed"] or "")
        )
    return table


def _lines(figures: Mapping[str, Any]) -> list[str]:
    pooled, splits, seeds = figures["pooled"], figures["over_splits"], figures["over_seeds"]
    lines = [f"{figures['dataset']}, {figures['protocol']}: {len(figures['folds'])} of {figures['planned']} folds done"]
    if splits["count"]:
        lines.append(f"mean top-1 over {splits['count']} splits {_with_deviation(splits)}")
    if seeds["count"] > 1:
        lines.append(f"mean top-1 over {seeds['count']} seeds {_with_deviation(seeds)}")
    if pooled["count"]:
        repeated = "" if pooled["videos"] == pooled["count"] else f" to {pooled['videos']} videos"
        lines.append(f"all predictions{repeated} together: top-1 {Accuracy(pooled['correct'], pooled['count'])}")
    if pooled["group_interval"]:
        drawn = f"{pooled['groups']} groups" if pooled["groups"] else "each video with all its predictions"
        lines.append(f"with {drawn} taken as drawn: 95 % interval {percent_range(pooled['group_interval'])}")
    if pooled["failed"]:
        lines.append(f"{pooled['failed']} test videos could not be read and are not counted")
    if any(figures["leaks"].values()):
        mates, duplicates, count = figures["leaks"]["group"], figures["leaks"]["double"], pooled["count"]
        lines.append(
            f"leakage: of {count} tests, {mates} are of videos with a group-mate in training, {duplicates} of videos "
            "with a duplicate there"
        )
    if any(fold["selected_on_part"] for fold in figures["folds"]):
        lines.append("note: the test part ended the training stages and chose the weights, so these figures flatter")
    doubted = [(fold["fold"], doubt) for fold in figures["folds"] for doubt in fold["start_doubts"]]
    lines += [f"note: fold {fold}: {doubt}" for fold, doubt in doubted[:_MOST_DOUBTS]]
    if len(doubted) > _MOST_DOUBTS:
        lines.append(f"note: and {len(doubted) - _MOST_DOUBTS} more of that kind, in {PROTOCOL}")
    return lines


def _with_deviation(spread: Mapping[str, Any]) -> str:
    mean = f"{100 * spread['mean']:.1f} %"
    if spread["deviation"] is None:
        return mean
    return f"{mean}, standard deviation {100 * spread['deviation']:.1f} points"
