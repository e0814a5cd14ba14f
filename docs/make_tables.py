"""Writes the tables of README.md and docs/*.md from the files in benchmarks/results, between marks that name them.

python docs/make_tables.py          # rewrites the pages
python docs/make_tables.py --check  # exits 1 if one would change, and says which
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import data_tables
import experiment_tables
import inference_tables

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("data", "experiments", "inference")))


def flow_engines() -> str:
    """TV-L1 beside DIS, all seeds together."""
    result = experiment_tables.read_result("flow_engines")
    lines = [
        "| clips | protocol, epochs | seed: DIS, TV-L1, right of all | DIS | TV-L1 | TV-L1 less DIS | 95 % interval |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        pairs = zip(row["seeds"], row["correct"]["dis"], row["correct"]["tvl1"], strict=True)
        counts = "; ".join(f"{seed}: {dis}, {tvl1} of {row['clips']}" for seed, dis, tvl1 in pairs)
        low, high = row["interval_95_by_group"]
        lines.append(
            f"| {experiment_tables.SET_NAMES[row['set']]} | {row['protocol']}, {row['epochs']} | {counts} "
            f"| {100 * row['accuracy']['dis']:.1f} % | {100 * row['accuracy']['tvl1']:.1f} % "
            f"| {100 * row['difference_tvl1_minus_dis']:+.1f} points | {100 * low:+.1f} to {100 * high:+.1f} |"
        )
    return "\n".join([*lines, "", experiment_tables.made_by(result)])


def doubles() -> str:
    """Copies that are found, and unlike videos that are not taken for copies."""
    result = experiment_tables.read_result("doubles")
    lines = ["| copies of real clips | found | median distance |", "|---|---:|---:|"]
    lines += [
        f"| {row['change']} | {row['found']} of {row['count']} | {row['median_distance']:.2f} |"
        for row in result["copies"]
    ]
    others = result["others"]
    taken = sum(row["taken_for_doubles_across_groups"] for row in others)
    nearest = min(row["nearest_of_them"] for row in others if row["nearest_of_them"] is not None)
    videos = sum(row["videos"] for row in others)
    within = sum(row["doubles_within_a_group"] for row in others)
    lines.append("")
    lines.append(
        f"Among the {videos} clips themselves {taken} pairs of different groups are taken for doubles (the nearest are "
        f"{nearest:.2f} apart, the threshold is {result['threshold']}), and {within} pairs within a group are."
    )
    return "\n".join([*lines, "", experiment_tables.made_by(result)])


TABLES = {
    "flow_engines": flow_engines,
    "doubles": doubles,
    **data_tables.TABLES,
    **experiment_tables.TABLES,
    **inference_tables.TABLES,
}


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
