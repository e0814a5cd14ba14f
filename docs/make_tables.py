"""Writes the tables of README.md and docs/*.md from the files in benchmarks/results, between marks that name them.

python docs/make_tables.py          # rewrites the pages
python docs/make_tables.py --check  # exits 1 if one would change, and says which
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

import data_tables

from actionfusion.evaluation.metrics import Accuracy

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "data.md")
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


TABLES = {"real_clips": real_clips, **data_tables.TABLES}


def filled(text: str) -> str:
    """The text with every marked table made anew.

    Raises:
        KeyError: a mark names no table.
    """

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- table: {name} -->\n{TABLES[name]()}\n<!-- end: {name} -->"

    return re.sub(r"<!-- table: (?P<name>\w+) -->.*?<!-- end: (?P=name) -->", made, text, flags=re.DOTALL)


def main() -> int:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    changed = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = filled(old)
        if new != old:
            changed.append(page.relative_to(ROOT))
            if not check:
                page.write_text(new, encoding="utf-8")
    if check and changed:
        print(f"run docs/make_tables.py: {', '.join(map(str, changed))} would change")  # noqa: T201
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
