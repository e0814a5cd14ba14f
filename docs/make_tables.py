"""Write the tables of README.md and docs/ from benchmarks/results and the code, between marks that name them.

python docs/make_tables.py          # rewrites the pages
python docs/make_tables.py --check  # exits 1 if one would change, and says which
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import comparison_tables
import data_tables
import experiment_tables
import fault_tables
import inference_tables
import reference_tables

from actionfusion.models import MODELS, model_class

ROOT = Path(__file__).parent.parent
# The tables of the model card are draw_model_card.py's.
PAGES = (ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "model_card.md"}))


def flow_engines() -> str:
    """Compare TV-L1 with DIS over all seeds."""
    result = experiment_tables.read_result("flow_engines")
    lines = [
        "| clips | protocol, epochs | seed: DIS, TV-L1, correct | DIS | TV-L1 | TV-L1 minus DIS | 95 % interval |",
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


def duplicates() -> str:
    """Show how many copies are found, and how many other videos are taken for copies."""
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
        f"Among the {videos} original clips, {taken} pairs of different groups are taken for near-duplicates (the "
        f"nearest pair is {nearest:.2f} apart, the threshold is {result['threshold']}), and {within} pairs "
        "within a group."
    )
    return "\n".join([*lines, "", experiment_tables.made_by(result)])


def models() -> str:
    """Show what each model of the table is, by the facts of its class."""
    sections = []
    for name in MODELS:
        kind = model_class(name)
        source, settings = kind.source, kind.Settings()
        streams = " and ".join({"rgb": "RGB", "flow": "flow"}[stream] for stream in kind.streams(settings))
        frames = f"{'fixed' if kind.fixed_frames else 'any number'}, {settings.frames} by default"
        exact = kind.stream_shape(settings) is not None
        rows = {
            "paper": source.citation,
            "reads by default": streams,
            "frames per clip": frames,
            "answers in a stream": "exact state" if exact else "window again",
            "kept": source.kept,
            "differs": source.differs or "nothing",
            **{
                f"published, {experiment_tables.DATA_SETS.get(data, data)}": figure
                for data, figure in source.published.items()
            },
        }
        lines = [f"### {name}", "", "| | |", "|---|---|"]
        sections.append("\n".join([*lines, *(f"| {title} | {text} |" for title, text in rows.items())]))
    return "\n\n".join(sections)


def classical() -> str:
    """Show how fast the classical systems describe clips, and what takes the time."""
    result = experiment_tables.read_result("classical")
    lines = ["| system | frames a second | most of the time |", "|---|---:|---|"]
    for row in result["rows"]:
        parts = [f"{_short(name)} {100 * share:.0f} %" for name, share in list(row["profile"].items())[:3]]
        rate = f"{row['frames_a_second']:.0f} ({row['least']:.0f} to {row['most']:.0f})"
        lines.append(f"| {row['system']} | {rate} | {', '.join(parts)} |")
    return "\n".join([*lines, "", experiment_tables.made_by(result)])


def _short(name: str) -> str:
    """Name a function of a profile as `calcOpticalFlowFarneback`."""
    found = re.search(r"'(\w+)'|(\w+)\W*$", name)
    assert found is not None
    return f"`{found[1] or found[2]}`"


TABLES = {
    "classical": classical,
    "flow_engines": flow_engines,
    "duplicates": duplicates,
    "models": models,
    **comparison_tables.TABLES,
    **data_tables.TABLES,
    **experiment_tables.TABLES,
    **fault_tables.TABLES,
    **inference_tables.TABLES,
    **reference_tables.TABLES,
}


def filled(text: str) -> str:
    """Make every marked table anew.

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
