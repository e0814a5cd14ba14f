"""Make the tables of what-happens.md: writes that were failed, and changed files that were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from experiment_tables import made_by, read_result


def faults() -> str:
    """Show how many writes of each command were failed, and how that ended."""
    result = read_result("faults")
    lines = ["| command | writes | faults | ended otherwise |", "|---|---:|---:|---:|"]
    rows = result["commands"]
    lines += [
        f"| {name} | {row['writes']} | {row['faults']} | {row['ended_badly']} |" for name, row in sorted(rows.items())
    ]
    counts = [sum(row[kind] for row in rows.values()) for kind in ("writes", "faults", "ended_badly")]
    lines.append(f"| all | {' | '.join(f'{count:,}' for count in counts)} |")
    kinds = ", ".join(f"`{kind}`" for kind in result["kinds"])
    return "\n".join([*lines, "", f"Each write fails by {kinds} in turn. {made_by(result)}"])


def fuzz() -> str:
    """Show how many changed files of each kind were read."""
    result = read_result("fuzz")
    outcomes = sorted({outcome for of_kind in result["outcomes"].values() for outcome in of_kind})
    lines = [f"| changed | {' | '.join(outcomes)} |", "|---|" + "---:|" * len(outcomes)]
    for kind, of_kind in sorted(result["outcomes"].items()):
        lines.append(f"| {kind} | {' | '.join(f'{of_kind.get(outcome, 0):,}' for outcome in outcomes)} |")
    totals = [sum(of_kind.get(outcome, 0) for of_kind in result["outcomes"].values()) for outcome in outcomes]
    lines.append(f"| all {result['done']:,} | {' | '.join(f'{total:,}' for total in totals)} |")
    note = f"Finds: {len(result['finds'])}. A file has {result['limits']['seconds']:.0f} s and 1 GiB. {made_by(result)}"
    return "\n".join([*lines, "", note])


TABLES: Mapping[str, Callable[[], str]] = {"faults": faults, "fuzz": fuzz}
