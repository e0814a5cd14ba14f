"""Writes the tables of README.md from the files in benchmarks/results, between marks that name them.

python docs/make_tables.py          # rewrites README.md
python docs/make_tables.py --check  # exits 1 if it would change
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from actionfusion.evaluation.metrics import Accuracy

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
SET_NAMES = {"ucf101": "UCF101, 8 classes", "weizmann": "Weizmann, 4 classes"}


def real_clips() -> str:
    """Accuracy of each network on real clips, seeds together."""
    result = json.loads((RESULTS / "real_clips.json").read_text(encoding="utf-8"))
    rows: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        rows[row["set"], row["network"], row["epochs"]].append(row)
    lines = [
        "| clips, from scratch | split | network | epochs | top-1 | seed: right of all | 95 % interval of the first |",
        "|---|---|---|---:|---:|---|---|",
    ]
    for (name, network, epochs), runs in sorted(rows.items(), key=_order):
        runs.sort(key=lambda row: row["seed"])
        shares = [100 * row["accuracy"] for row in runs]
        spread = f" ± {stdev(shares):.1f}" if len(shares) > 1 else ""
        low, high = Accuracy(runs[0]["correct"], runs[0]["count"]).interval
        counts = ", ".join(f"{row['seed']}: {row['correct']}/{row['count']}" for row in runs)
        lines.append(
            f"| {SET_NAMES[name]} | {runs[0]['split']} | {network} | {epochs} | {mean(shares):.1f} %{spread} "
            f"| {counts} | {100 * low:.1f} to {100 * high:.1f} % |"
        )
    lines.append("")
    lines.append(f"{result['machine']}, {result['date']}: `{result['command']}`")
    return "\n".join(lines)


def _order(item: tuple[tuple[str, str, int], list[dict[str, Any]]]) -> tuple[str, int, int]:
    name, network, epochs = item[0]
    return name, epochs, ("fused", "rgb alone", "flow alone", "score average").index(network)


TABLES = {"real_clips": real_clips}


def filled(text: str) -> str:
    """The text with every marked table made anew."""
    for name, make in TABLES.items():
        start, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        text = pattern.sub(f"{start}\n{make()}\n{end}".replace("\\", r"\\"), text)
    return text


def main() -> int:
    """Rewrite or check README.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    old = README.read_text(encoding="utf-8")
    new = filled(old)
    if parser.parse_args().check:
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
