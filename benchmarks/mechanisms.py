"""Which parts of the network do what the paper says of them: each ability on the clips that ask for it.

    python benchmarks/mechanisms.py [--seeds 0 1 2] [--work DIR] [--train_only]

The four groups of generated clips ask for appearance, motion, binding (which shape does which motion) and order.  The
recipe ``tiny`` is trained on all of them together, whole and with a part taken out or put in another's place, under one
budget.  Runs that are there are not made again.  Writes the results, with what follows from them, and a chart beside
them; ``python docs/make_tables.py`` puts both into docs/experiments.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from actionfusion.curves import own_style
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.files import replacing, write_atomically
from actionfusion.inference.recognizer import Recognizer
from actionfusion.video.clip import Clip, cut_clip
from generated import GROUPS, Generated, group_of, header, pair_interval, variant_row
from trained import Answers

RESULTS = Path(__file__).parent / "results" / "mechanisms.json"
CHART = RESULTS.with_suffix(".svg")
EPOCHS = 6
WHOLE, AVERAGE, SHUFFLED = "3-D convolution (the paper)", "score average", "frames shuffled at test"
RGB, FLOW = "RGB alone", "flow alone"
FLAT, FLAT_NO_LSTM = "2-D convolution", "2-D convolution, without LSTMs"
NO_FC, NO_CONV, NO_LSTM = "without the fc6 branch", "without the conv branch", "without LSTMs (mean over time)"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    RGB: {"streams": "rgb"},
    FLOW: {"streams": "flow"},
    "sum": {"fusion": "sum"},
    "max": {"fusion": "max"},
    "concatenation": {"fusion": "concat"},
    FLAT: {"fusion": "conv2d"},
    WHOLE: {},
    NO_FC: {"branches": "conv"},
    NO_CONV: {"branches": "fc"},
    NO_LSTM: {"temporal_head": "mean"},
    FLAT_NO_LSTM: {"fusion": "conv2d", "temporal_head": "mean"},
}
# What the paper claims, and the two rows and the group whose difference would show it.
CLAIMS = (
    ("it fuses local space and motion", WHOLE, AVERAGE, "binding"),
    ("the third dimension of the fusion helps", WHOLE, FLAT, "all"),
    ("convolution fuses better than a sum", WHOLE, "sum", "binding"),
    ("it holds global space-time: the LSTMs", WHOLE, NO_LSTM, "order"),
    ("it holds global space-time: the LSTMs, where the fusion sees one frame at a time", FLAT, FLAT_NO_LSTM, "order"),
    ("what it holds is the order of frames", WHOLE, SHUFFLED, "order"),
    ("meaning beside space helps: the fc6 branch", WHOLE, NO_FC, "all"),
    ("meaning beside space helps: the conv branch", WHOLE, NO_CONV, "all"),
)


def main() -> None:
    """Run what is missing, then write all down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/generated"))
    parser.add_argument("--train_only", action="store_true", help="write nothing down, for several calls side by side")
    arguments = parser.parse_args()
    clips, seeds = Generated(arguments.work, EPOCHS), arguments.seeds
    clips.prepare()
    answers = {name: [clips.train(changes, seed) for seed in seeds] for name, changes in VARIANTS.items()}
    answers[AVERAGE] = [rgb.averaged(flow) for rgb, flow in zip(answers[RGB], answers[FLOW], strict=True)]
    if arguments.train_only:
        return
    answers[SHUFFLED] = [_shuffled(clips, seed, run) for seed, run in zip(seeds, answers[WHOLE], strict=True)]
    rows = [variant_row(name, seeds, runs) for name, runs in answers.items()]
    result = header("python benchmarks/mechanisms.py", EPOCHS) | {"rows": rows, "claims": _claims(answers)}
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")
    _draw(result)


def _shuffled(clips: Generated, seed: int, straight: Answers) -> Answers:
    """The whole network on the same samples in another order, drawn for each clip."""
    recognizer, generator = Recognizer.load(clips.run({}, seed)), np.random.default_rng(seed)
    rows = []
    for video in straight.videos:
        clip = cut_clip(StoredVideo(entry_path(clips.work / "store", video)), recognizer.clip_settings)
        rows.append(recognizer.probabilities([_permuted(clip, generator.permutation(len(clip.rgb)))])[0])
    return replace(straight, probabilities=np.array(rows, np.float64))


def _permuted(clip: Clip, order: npt.NDArray[np.int64]) -> Clip:
    return replace(clip, rgb=clip.rgb[order], flow=clip.flow[order])


def _claims(answers: Mapping[str, Sequence[Answers]]) -> list[dict[str, Any]]:
    rows = []
    for text, one, other, group in CLAIMS:
        videos = answers[one][0].videos
        inside = np.array([group in ("all", group_of(video)) for video in videos])
        right = [np.mean([run.right for run in answers[name]], 0)[inside] for name in (one, other)]
        difference = right[0] - right[1]
        low, high = pair_interval(difference, [video for video, own in zip(videos, inside, strict=True) if own])
        verdict = "holds here" if low > 0 else "the opposite holds here" if high < 0 else "is not shown here"
        rows.append(
            {
                "claim": text, "compared": [one, other], "group": group, "difference": float(difference.mean()),
                "interval_95": [low, high], "verdict": verdict,
            }
        )  # fmt: skip
    return rows


def _draw(result: Mapping[str, Any]) -> None:
    """A panel a group, a dot a variant, with its interval and the chance of a guess within the group."""
    names = [row["variant"] for row in result["rows"]]
    with own_style():
        figure = Figure(figsize=(11.0, 4.2), layout="constrained")
        panels = figure.subplots(1, len(GROUPS), sharey=True)
        for panel, group in zip(panels, GROUPS, strict=True):
            for place, row in enumerate(result["rows"]):
                cell, colour = row[group], "#0f6a84" if row["variant"] == WHOLE else "#5b636b"
                panel.plot([100 * end for end in cell["interval_95"]], [place, place], color=colour, linewidth=1.6)
                panel.plot(100 * cell["accuracy"], place, "o", color=colour, markersize=5)
            if group != "all":
                panel.axvline(50, color="#c9ced3", linewidth=1.0, zorder=0)
            panel.set_title(group, fontsize=10)
            panel.set_xlim(-4, 104)
            panel.set_xlabel("accuracy, %", fontsize=8)
            panel.tick_params(labelsize=8)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        with replacing(CHART) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
