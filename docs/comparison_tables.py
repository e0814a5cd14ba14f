"""Make the tables of comparison.md: every system on every set of clips, and the paper's claims beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiment_tables import DATA_SETS, SET_NAMES, made_by, read_result

from actionfusion.data.shapes import SHAPE_GROUPS
from actionfusion.models import model_class

GENERATED = {"generated": "Generated clips"}
PROTOCOLS = {"official": "official list 1", "leave-one-group-out": "leave one group out", "folders": "folders"}
# What section 4.3 of the paper says that a system lacks, in our words, and the row that comes nearest to it.
CLAIMS: Mapping[str, str] = {
    "lrcn:rgb": "reads no change of spatial information over time",
    "composite_lstm": "reads frames without convolutions of its own",
    "two_stream": "sees little of the time",
    "deep_lstm": "joins the streams at the last layer, not pixel by pixel",
    "conv_pooling": "joins the streams at the last layer, not pixel by pixel",
    "snippets": "has key frames in place of time",
    "two_stream_fusion": "fuses pixel by pixel, but does not let meaning and place interact",
    "soft_attention": "attends, but without fc and convolution at work together",
    "two_stream_lstm": "attends, but reads motion poorly",
    "dense_trajectories:improved": "is designed by hand",
    "cho": "is limited by its dictionary",
    "learning_to_track": "does not join space and time",
    "sgsh": "is designed by hand, the best of these",
}


def comparison() -> str:
    """Show each set of clips in a table of its own."""
    result = read_result("comparison")
    parts = []
    for name, figures in result["sets"].items():
        parts += [f"### {(SET_NAMES | GENERATED)[name]}", "", f"Protocol: {PROTOCOLS[figures['protocol']]}.", ""]
        parts += [*_table(figures), ""]
    return "\n".join([*parts, made_by(result)])


def _table(figures: Mapping[str, Any]) -> list[str]:
    less_than = f"less `{figures['reference']}`"
    lines = [
        f"| model | correct, by seed | top-1 | 95 % interval | {less_than} | p | parameters | GFLOP | ms |",
        "|---|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for row in sorted(figures["models"], key=lambda row: -((row["accuracy"] or {}).get("top1") or 0)):
        accuracy, cost, pair = row["accuracy"], row["cost"], row["less_reference"]
        if accuracy is None:
            lines.append(f"| `{row['model']}` | {row['failure']} | | | | | | | |")
            continue
        _, low, high, seeds = _measured(row)
        less = "" if pair is None else points(pair["difference"], pair["interval"])
        p = "" if row["p_value_corrected"] is None else f"{row['p_value_corrected']:.2g}"
        counted = cost["flops"] is not None
        parameters, flops = (f"{cost['parameters']:,}", f"{cost['flops'] / 1e9:.1f}") if counted else ("", "")
        lines.append(
            f"| `{row['model']}` | {seeds} | {100 * accuracy['top1']:.1f} % | {100 * low:.0f} to {100 * high:.0f} % "
            f"| {less} | {p} | {parameters} | {flops} | {cost['milliseconds']:.0f} |"
        )
    return lines


def groups() -> str:
    """Show what each system got right of each group of generated clips."""
    figures = read_result("comparison")["sets"]["generated"]
    lines = [f"| model | {' | '.join(SHAPE_GROUPS)} |", "|---|" + "---:|" * len(SHAPE_GROUPS)]
    for row in sorted(figures["models"], key=lambda row: -((row["accuracy"] or {}).get("top1") or 0)):
        if row["accuracy"] is None:
            continue
        by_class = row["accuracy"]["by_class"]
        cells = []
        for classes in SHAPE_GROUPS.values():
            correct, count = (sum(by_class[label][part] for label in classes) for part in ("correct", "count"))
            cells.append(f"{100 * correct / count:.0f} % ({correct} of {count})")
        lines.append(f"| `{row['model']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], float, float, str]:
    """Give a row's accuracy, its interval, and how many clips were correct by seed."""
    accuracy = row["accuracy"]
    low, high = accuracy["group_interval"] or accuracy["interval"]
    counts = [_counts(seed, accuracy["count"] // len(row["by_seed"])) for seed in row["by_seed"]]
    if sum(correct for correct, _ in counts) != accuracy["correct"]:
        raise ValueError(f"{row['model']}: {counts} are not {accuracy['correct']} in all")
    seeds = ", ".join(str(correct) for correct, _ in counts) + f" of {counts[0][1]}"
    return accuracy, low, high, seeds


def _counts(seed: Mapping[str, Any], videos: int) -> tuple[int, int]:
    """Give how many predictions of a seed were correct, and of how many; older results have those of one fold alone."""
    if "correct" in seed:
        return seed["correct"], seed["predictions"]
    return round(seed["mean"] * videos), videos


def points(difference: float, interval: tuple[float, float] | None) -> str:
    """Write a difference of accuracies with its interval."""
    written = f"{100 * difference:+.1f}"
    return written if interval is None else f"{written} ({100 * interval[0]:+.0f} to {100 * interval[1]:+.0f})"


def claims() -> str:
    """Show what the paper says of each system beside the paired difference of the paper's network to it."""
    sets = read_result("comparison")["sets"]
    titles = [(SET_NAMES | GENERATED)[name].partition(",")[0] for name in sets]
    lines = [
        f"| system | the paper: it … | {' | '.join(titles)} | so the claim |",
        "|---|---|" + "---|" * (len(sets) + 1),
    ]
    for name, claim in CLAIMS.items():
        cells, intervals = [], []
        for figures in sets.values():
            pair = next((row["less_reference"] for row in figures["models"] if row["model"] == name), None)
            cells.append("" if pair is None else points(pair["difference"], pair["interval"]))
            if pair is not None and pair["interval"] is not None:
                intervals.append(pair["interval"])
        lines.append(f"| `{name}` | {claim} | {' | '.join(cells)} | {verdict(intervals)} |")
    return "\n".join(lines)


def verdict(intervals: list[tuple[float, float]]) -> str:
    """Say whether systems are behind the paper's network: on some set for certain, and on none for certain ahead."""
    behind, ahead = any(high < 0 for _, high in intervals), any(low > 0 for low, _ in intervals)
    if behind and ahead:
        return "depends on the set"
    return "holds" if behind else "does not hold" if ahead else "cannot be told"


def published() -> str:
    """Show what is published of each system, with its protocol."""
    lines = ["| model | data | published |", "|---|---|---|"]
    names = dict.fromkeys(
        row["model"].partition(":")[0]
        for figures in read_result("comparison")["sets"].values()
        for row in figures["models"]
    )
    for name in names:
        for data, figure in model_class(name).source.published.items():
            lines.append(f"| `{name}` | {DATA_SETS.get(data, data)} | {figure} |")
    return "\n".join(lines)


# What a user chooses between first, as rows of the comparison.
CHOICES = {
    "fusion": "recipe `small`: frames and flow fused",
    "fusion:rgb": "frames alone",
    "fusion:flow": "flow alone",
    "two_stream": "the average of both streams' scores",
    "fusion:paper": "fused, with the paper's LSTMs",
    "probe": "linear probe",
}


def choices() -> str:
    """Show what the recipe small reaches on each set, beside one stream, the average of both, LSTMs and the probe."""
    result = read_result("comparison")
    lines = ["| clips | protocol | network | correct, by seed | mean | 95 % interval |", "|---|---|---|---|---:|---|"]
    for name in [name for name in SET_NAMES if name in result["sets"]]:
        figures = result["sets"][name]
        rows = {row["model"]: row for row in figures["models"]}
        for model, words in CHOICES.items():
            accuracy, low, high, seeds = _measured(rows[model])
            lines.append(
                f"| {SET_NAMES[name]} | {PROTOCOLS[figures['protocol']]} | {words} | {seeds} "
                f"| {100 * accuracy['top1']:.1f} % | {100 * low:.0f} to {100 * high:.0f} % |"
            )
    return "\n".join([*lines, "", made_by(result)])


TABLES = {
    "comparison_choices": choices,
    "comparison": comparison,
    "comparison_groups": groups,
    "comparison_claims": claims,
    "comparison_published": published,
}
