"""Make the tables of experiments.md: what was trained, how well it learned, and at what cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
SET_NAMES = {
    "ucf101": "UCF101, 8 classes",
    "ut-interaction": "UT-Interaction set 1, 6 classes",
    "weizmann": "Weizmann, 4 classes",
}
DATA_SETS = {
    "ucf101": "UCF101", "ucf11": "UCF11", "ucfsports": "UCF Sports", "hmdb51": "HMDB51", "sports-1m": "Sports-1M"
}  # fmt: skip
GROUPS = ("appearance", "motion", "binding", "order", "all")


def real_clips() -> str:
    """Show the accuracy of each network on real clips, over all seeds."""
    result = read_result("real_clips")
    lines = [
        "| clips, from scratch | protocol | network | correct, by seed | mean | 95 % interval | fused minus this |",
        "|---|---|---|---|---:|---|---|",
    ]
    for name in [name for name in SET_NAMES if name in result["sets"]]:
        for row in result["sets"][name]:
            counts = _by_seed(row["seeds"])
            protocol = f"{row['protocol']}, {row['epochs']} epochs"
            difference = ""
            if "fused_less_this" in row:
                difference = _difference(row["fused_less_this"], row["difference_interval_95_by_group"])
            lines.append(
                f"| {SET_NAMES[name]} | {protocol} | {row['network']} | {counts} | {_percent(row['accuracy'])} "
                f"| {_range(row['interval_95_by_group'])} | {difference} |"
            )
    return "\n".join([*lines, "", f"Recipe {result['recipe']}. {made_by(result)}"])


def paper_start() -> str:
    """Show the paper's networks and the linear probe on splits that keep groups together, and on the paper's."""
    result = read_result("paper_start")
    splits = {
        "official-1": "official list 1",
        "grouped-7:3": "random 7:3 of groups",
        "random-7:3": "random 7:3 of clips, as the paper",
    }
    lines = [f"| model | {' | '.join(splits.values())} |", "|---|" + "---:|" * len(splits)]
    for name, rows in result["networks"].items():
        of_split = {row["split"]: row for row in rows}
        cells = [_of_split(of_split.get(split)) for split in splits]
        title = "linear probe, VGG-16" if name == "linear probe" else name
        lines.append(f"| {title} | {' | '.join(cells)} |")
    note = f"{result['clips']}: {result['backbones']}. Intervals are bootstraps over groups."
    return "\n".join([*lines, "", f"{note} {made_by(result)}"])


def few_clips() -> str:
    """Show the recipe small and the probe by how many clips they learn from, and by the start of the flow."""
    result = read_result("few_clips")
    lines = [
        "| clips to learn from | small, by seed | mean | 95 % interval | probe | 95 % interval | small minus probe |",
        "|---|---|---:|---|---:|---|---|",
    ]
    for title, row in result["rows"].items():
        small, probe = row["small"], row["probe"]
        difference = _difference(row["small_less_probe"], row["difference_interval_95_by_group"])
        lines.append(
            f"| {title} | {_by_seed(small['seeds'])} "
            f"| {_percent(small['accuracy'])} | {_range(small['interval_95_by_group'])} "
            f"| {_percent(probe['accuracy'])} | {_range(probe['interval_95_by_group'])} | {difference} |"
        )
    return "\n".join([*lines, "", f"{result['clips']}. Intervals are bootstraps over groups. {made_by(result)}"])


def light_heads() -> str:
    """Show what was tried for the recipe small, on folds within the training part."""
    result = read_result("light_heads")
    lines = ["| trial | correct, by seed | mean | less small | log loss |", "|---|---|---:|---|---:|"]
    # The recipe and its probes first.
    for row in sorted(result["trials"], key=lambda row: row["trial"].split(", ")[-1] != "small"):
        is_small = row["trial"] == "small"
        less = "" if is_small else _difference(row["less_small"], row["difference_interval_95_by_group"])
        loss = f"{row['log_loss']:.3f}" if "log_loss" in row else ""
        lines.append(f"| {row['trial']} | {_by_seed(row['seeds'])} | {_percent(row['accuracy'])} | {less} | {loss} |")
    return "\n".join([*lines, "", f"{result['clips']}. Intervals are bootstraps over groups. {made_by(result)}"])


def _of_split(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not run"
    if len(row.get("draws", ())) > 1:
        return f"{_percent(row['accuracy'])}, {len(row['draws'])} draws"
    count = row.get("draws", (row,))[0]
    interval = _range(row["interval_95_by_group"])
    return f"{count['correct']} of {count['count']}, {_percent(row['accuracy'])} ({interval})"


def overfit() -> str:
    """Show how soon the full-size network has learned eight clips by heart."""
    result = read_result("overfit")
    count = len(result["clips"])
    lines = [
        f"| learning rate of Adam | steps to {count} of {count} correct | at the end | loss | largest probability |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        last, reached = row["history"][-1], row["reached_at_step"]
        steps = str(reached) if reached is not None else f"not in {row['steps']}"
        lines.append(
            f"| {row['learning_rate']:g} | {steps} | {last['correct']} of {count} | {last['loss']:.3f} "
            f"| {last['largest_probability']:.3f} |"
        )
    network = result["network"]
    note = (
        f"{network['parameters']:,} parameters, {network['learning']:,} of them trained; backbones frozen at random "
        f"weights, their features cached; {network['head']} head with {network['classes']} outputs, lowest possible "
        f"loss {network['head_loss_floor']:.3f}."
    )
    return "\n".join([*lines, "", f"{note} {made_by(result)}"])


def training() -> str:
    """Show what each choice of training gains; ratios are to the first row."""
    result = read_result("training")
    lines = [
        "| one change to default | s per clip | speed | by core time | peak memory | activations | of matrix peak |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        description = row["description"].replace("towers", "backbones")
        if "error" in row:
            lines.append(f"| {description} | did not run: {row['error']} | | | | | |")
            continue
        lines.append(
            f"| {description} | {row['seconds'] / row['batch']:.2f} | {row['speed_ratio']:.2f} × "
            f"| {row['core_ratio']:.2f} × "
            f"| {row['peak_bytes'] / 2**30:.2f} GiB, {row['memory_ratio']:.2f} × "
            f"| {row['activation_bytes'] / 2**30:.2f} GiB, {row['activation_ratio']:.2f} × "
            f"| {row['share_of_peak']:.0%} |"
        )
    peak = result["peak_flop_s"]
    note = (
        f"One step (forward, backward, Adam) of the {result['network']} network at T = {result['frames']}, the best "
        f"of {result['rounds']} rounds. The matrix peak is the speed of large matrix products in the same run: "
        f"{peak['float32'] / 1e9:.0f} GFLOP/s in fp32, and {peak['bfloat16'] / 1e9:.0f} in bf16 for the bf16 rows. "
        f"{result['threads']} threads."
    )
    return "\n".join([*lines, "", f"{note} {made_by(result)}"])


def heads() -> str:
    """Compare the paper's head and normalisation with others, group by group."""
    return _variants(read_result("heads"))


def mechanisms() -> str:
    """Show the network with one part removed or replaced, group by group."""
    return _variants(read_result("mechanisms"))


def claims() -> str:
    """List which of the paper's claims hold on the generated clips."""
    lines = []
    for row in read_result("mechanisms")["claims"]:
        one, other = row["compared"]
        lines.append(
            f"- {row['claim']}: **{row['verdict']}**. {one} minus {other}, {row['group']}: "
            f"{100 * row['difference']:+.1f} points (95 % interval {_points(row['interval_95'])})."
        )
    return "\n".join(lines)


def pointing() -> str:
    """Show how often each method's map points at an actor, and how far the methods agree."""
    result = read_result("pointing")
    rows = {row["group"]: row for row in result["groups"]}
    whole, ways = rows["all"], {"grad_cam": "Grad-CAM", "occlusion_input": "occlusion of the input"}
    ways["occlusion_map"] = "occlusion of the fused map"
    lines = ["| method | points into the box | 95 % interval | into another clip's box | agrees with Grad-CAM |"]
    lines.append("|---|---:|---|---:|---|")
    for way, words in ways.items():
        hits = whole["ways"][way]
        agreement = ""
        if way != "grad_cam":
            pair = f"grad_cam and {way}"
            same, ranks = whole["same_place"][pair], whole["rank_agreement"][pair]["mean"]
            agreement = (
                f"{_percent(same['frames']['mean'])} of frames ({_percent(same['with_another_clip'])} with another"
            )
            agreement += f" clip's map); ranks {ranks:.2f}"
        lines.append(
            f"| {words} | {_percent(hits['hits']['mean'])} | {_range(hits['hits']['interval'])} "
            f"| {_percent(hits['hits_on_another_clip'])} | {agreement} |"
        )
    note = (
        f"{result['clips']} unseen clips of {result['frames_per_clip']} frames, seed {result['seed']}; chance is "
        f"{_percent(whole['chance'])}, the share of the picture in the boxes with {result['tolerance_px']} px around "
        f"them. Two maps agree on a frame if their largest values are under {result['same_place_px']} px apart. "
        f"{made_by(result)}"
    )
    return "\n".join([*lines, "", note])


def _variants(result: Mapping[str, Any]) -> str:
    seeds = len(result["rows"][0]["seeds"])
    lines = [f"| network, mean of {seeds} seeds | {' | '.join(GROUPS)} |", "|---|" + "---:|" * len(GROUPS)]
    for row in result["rows"]:
        cells = [f"{100 * row[group]['accuracy']:.0f} % ({_range(row[group]['interval_95'])})" for group in GROUPS]
        lines.append(f"| {row['variant']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Recipe {result['recipe']}, {result['test_clips']} test clips. {made_by(result)}"])


def _by_seed(seeds: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(seed["correct"]) for seed in seeds) + f" of {seeds[0]['count']}"


def _difference(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:+.1f} points ({_points(interval)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"


def _points(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def read_result(name: str) -> dict[str, Any]:
    """Read a file of benchmarks/results."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def made_by(result: Mapping[str, Any]) -> str:
    """Write the line under a table: machine, date and command."""
    return f"{result['machine']}, {result['date']}: `{result['command']}`"


TABLES: Mapping[str, Callable[[], str]] = {
    "real_clips": real_clips,
    "few_clips": few_clips,
    "light_heads": light_heads,
    "paper_start": paper_start,
    "overfit": overfit,
    "training": training,
    "heads": heads,
    "mechanisms": mechanisms,
    "claims": claims,
    "pointing": pointing,
}
