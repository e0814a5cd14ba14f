"""The command table: a command a line, each a typed function of the same name in its own room.

The command line runs these functions, and the package offers them for import.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """Where a command's function lives, what it does, and its parameters that are words without a flag.

    ``files`` takes one or more, ``optional`` one or none.
    """

    module: str
    summary: str
    files: str | None = None
    optional: str | None = None


COMMANDS = {
    "demo": Command("actionfusion.demonstration", "the whole chain on generated clips, with a report to look at"),
    "check": Command("actionfusion.data.check", "what is broken, too short or doubled in a data set, as a manifest"),
    "prepare": Command("actionfusion.data.prepare_dataset", "frames and flow into a store that training reads"),
    "train": Command(
        "actionfusion.training.train", "a folder of labelled videos becomes a run folder", optional="root"
    ),
    "evaluate": Command("actionfusion.evaluation.evaluate", "how good a run is on the videos kept from it"),
    "versus": Command("actionfusion.evaluation.versus", "whether one of two evaluated runs is better than the other"),
    "average": Command(
        "actionfusion.evaluation.average",
        "a run that answers with the mean of several runs' probabilities",
        files="runs",
    ),
    "protocol": Command("actionfusion.evaluation.protocol", "train and evaluate every split of a protocol"),
    "compare": Command("actionfusion.reporting.compare", "several models under one protocol: one table, one page"),
    "report": Command("actionfusion.reporting.run_report", "all that is known of a run, as one HTML file"),
    "report_comparison": Command(
        "actionfusion.reporting.several_runs_page", "several evaluated runs on one HTML page", files="runs"
    ),
    "predict": Command("actionfusion.inference.predict", "labels for videos never seen", files="videos"),
    "stream": Command(
        "actionfusion.inference.streams.stream", "labels while a video runs: a file, a pipe, a camera, a server"
    ),
    "serve": Command("actionfusion.serving.serve", "a web page and an HTTP API that name the action in videos"),
    "export": Command("actionfusion.inference.exports.export", "a run as a model for other programs: ONNX or OpenVINO"),
    "benchmark": Command(
        "actionfusion.inference.speed.benchmark",
        "how fast a run answers on this machine, in every runtime that is here",
        optional="video",
    ),
    "push": Command("actionfusion.reporting.push", "a run on the Hugging Face hub, with a card of what is known of it"),
    "explain": Command("actionfusion.reporting.explain", "what a run saw in a video: where, when and in which stream"),
}

# Their --config is read into their other arguments before they are called.
RECIPE_COMMANDS = {"train", "protocol"}
