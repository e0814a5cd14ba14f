"""Make the tables of data.md from benchmarks/results/data.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent.parent / "benchmarks" / "results" / "data.json"
ENGINES = {"dis": "DIS", "farneback": "Farneback", "tvl1": "TV-L1"}
PARTS = {
    "decoding": "decoding",
    "conversion": "scaling and colour",
    "flow": "flow",
    "JPEG": "JPEG",
    "augmentation": "augmentation",
    "rest": "other",
}


@cache
def _result() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return result


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write Markdown; columns after the first are right-aligned where their first row has a number."""
    body = [list(row) for row in rows]
    numeric = [index > 0 and cell[:1].isdigit() for index, cell in enumerate(body[0])]
    rule = ["---:" if right else "---" for right in numeric]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(rule) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def _number(value: float) -> str:
    """Write three digits without an exponent."""
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


def _spread(figure: Mapping[str, float], unit: str = "") -> str:
    middle, low, high = (_number(figure[key]) for key in ("median", "low", "high"))
    return f"{middle}{unit} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * max(share, 0):.0f} %"


def _shares(shares: Mapping[str, float], parts: Iterable[str]) -> list[str]:
    return [_percent(shares[part]) for part in parts]


def decoding() -> str:
    """Compare every reader with ours."""
    measured = _result()["decoding"]
    alone = {row["reader"]: row for row in measured["rows_on_one_core"] or ()}
    rows = []
    for row in measured["rows"]:
        on_one = alone.get(row["reader"]) if row["size"] is None else None
        rows.append(
            (
                f"{row['size']} px" if row["size"] else "as stored",
                row["reader"],
                _number(row["microseconds_a_frame"]["median"]),
                _spread(row["seconds_over_ours"]),
                _spread(row["core_seconds_over_ours"]),
                _spread(on_one["seconds_over_ours"]) if on_one else "",
            )
        )
    head = ("frames", "reader", "µs per frame", "time / ours", "core time / ours", "time / ours, one core alone")
    return _table(head, rows)


def reading() -> str:
    """Show where our reader spends its time."""
    parts = ("decoding", "conversion", "rest")
    rows = [
        (f"{size} px" if size != "None" else "as stored", *_shares(shares, parts))
        for size, shares in _result()["decoding"]["shares"].items()
    ]
    return _table(("frames", *(PARTS[part] for part in parts)), rows)


def flow() -> str:
    """Compare the flow engines, alone and inside ``prepare``."""
    rows = [
        (
            f"{row['size']} px",
            ENGINES[row["engine"]],
            _spread(row["bare_core_milliseconds_a_field"]),
            _spread(row["over_dis"]),
            _spread(row["inside_prepare_over_bare"]),
        )
        for row in _result()["flow"]["rows"]
    ]
    return _table(("size", "engine", "ms per flow frame in OpenCV", "time / DIS", "inside `prepare` / OpenCV"), rows)


def prepare() -> str:
    """Show the cost and parts of ``prepare``, and the speed-up by a second process."""
    parts = ("decoding", "conversion", "flow", "JPEG", "rest")
    rows = [
        (
            f"{row['size']} px",
            _number(row["core_milliseconds_a_frame"]),
            *_shares(row["shares"], parts),
            _number(row["bytes_a_frame"] / 1000),
            _spread(processes["one_over_two"]),
        )
        for row, processes in zip(_result()["prepare"], _result()["processes"], strict=True)
    ]
    head = ("size, DIS", "ms per frame", *(PARTS[part] for part in parts), "kB per frame", "time with 1 process / 2")
    return _table(head, rows)


def batches() -> str:
    """Show batches per second, and their parts."""
    parts = ("decoding", "conversion", "flow", "JPEG", "augmentation", "rest")
    rows = [
        (
            measured["setup"],
            source,
            _spread(row["batches_a_second"]),
            _number(row["core_milliseconds_a_clip"]),
            *_shares(row["shares"], parts),
        )
        for measured in _result()["batches"]
        for source, row in measured["sources"].items()
    ]
    workers = _result()["batches"][0]["workers"]
    head = ("recipe", "from", f"batches per second, {workers} workers", "ms per clip", *(PARTS[part] for part in parts))
    return _table(head, rows)


def break_even() -> str:
    """Show after how many epochs ``prepare`` pays."""
    rows = [
        (
            f"{row['size']} px",
            ENGINES[row["engine"]],
            _number(row["prepare_core_milliseconds_a_clip"]),
            _number(row["video_core_milliseconds_a_clip"]),
            _number(row["store_core_milliseconds_a_clip"]),
            _number(row["epochs"]),
        )
        for row in _result()["break_even"]
    ]
    head = ("size", "engine", "`prepare`, ms per clip", "from video, ms", "from the store, ms", "epochs to break even")
    return _table(head, rows)


def loss() -> str:
    """Show the loss by JPEG."""
    rows = [
        (
            f"{row['size']} px, ±{row['bound']:g} px",
            f"{row['psnr_mean']:.1f} dB",
            f"{row['psnr_lowest']:.1f} dB",
            f"{_number(row['flow_error_mean'])} px",
            f"{_number(row['flow_error_99.9_percent_below'])} px",
            f"{_number(row['flow_error_largest'])} px",
            f"{_number(row['flow_step'])} px",
        )
        for row in _result()["loss"]
    ]
    head = ("size, flow", "frames: PSNR", "worst frame", "flow: mean error", "99.9 % below", "largest", "one code")
    return _table(head, rows)


def memory() -> str:
    """Show a worker's memory over epochs."""
    first = _result()["memory"][0]["epochs"]
    epochs = sorted({1, 2, first // 2, first})
    rows = [
        (
            measured["setup"],
            source,
            *(_number(row["own_megabytes"][epoch - 1]) for epoch in epochs),
            *(_number(row["peak_megabytes"][epoch - 1]) for epoch in (1, first)),
        )
        for measured in _result()["memory"]
        for source, row in measured["sources"].items()
    ]
    head = ("recipe", "from", *(f"after epoch {epoch}" for epoch in epochs), "peak, epoch 1", f"peak, epoch {first}")
    return _table(head, rows)


def conditions() -> str:
    """Say how it was measured."""
    result = _result()
    busy = result["taken_by_other_processes"]["all"]
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("python", "av", "opencv", "torch"))
    return (
        f"{result['machine']}, {result['date']}, {versions}; other processes took {_percent(busy)} of the machine "
        f"meanwhile: `{result['command']}`"
    )


TABLES: Mapping[str, Callable[[], str]] = {
    f"data_{make.__name__}": make
    for make in (decoding, reading, flow, prepare, batches, break_even, loss, memory, conditions)
}
