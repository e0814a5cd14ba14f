"""All commands with their outputs, and all conditions with what is promised: what the tests run and the page says.

python tests/conditions/table.py writes both tables into docs/what-happens.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "what-happens.md"


class Case(NamedTuple):
    """A command line.

    ``words`` hold {run}, {other}, {clips}, {video}, {recipe} and {out}; ``name`` is of the output in a free folder,
    ``folder`` whether that is a folder; ``after`` are the words that go on after a stop, where they are others.
    """

    command: str
    words: str
    output: str
    after: str
    name: str = ""
    folder: bool = False
    resume: str = ""
    whole: str = ""  # a file below the output that is there once the work is done


CASES = {
    case.command + ("" if case.command != "predict" or not case.name else " --segments"): case
    for case in (
        Case(
            "check",
            "folder {clips} --workers 0 --out {out}",
            "the manifest, and a journal beside it",
            "the same command reads what is not in the journal",
            "manifest.csv",
        ),
        Case(
            "prepare",
            "folder {clips} --flow.engine dis --flow.size 32 --workers 0 --store {out}",
            "the store, an entry a video",
            "the same command makes the entries that are missing",
            "store",
            folder=True,
        ),
        Case(
            "train",
            "--config {recipe} --out {out}",
            "the run folder",
            "`--resume --out RUN` goes on from the last checkpoint, or begins again before the first one",
            "run",
            folder=True,
            resume="--resume --out {out}",
            whole="curves.png",
        ),
        Case(
            "evaluate",
            "{run} --root {clips} --out {out}",
            "a JSON file",
            "the same command measures again",
            "figures.json",
        ),
        Case("versus", "{run} {other} --out {out}", "a JSON file", "the same command compares again", "versus.json"),
        Case(
            "average",
            "{run} {run} --out {out}",
            "a run folder, which appears when it is complete",
            "the same command writes it",
            "average",
            folder=True,
            whole="model.safetensors",
        ),
        Case(
            "protocol",
            "folders --config {recipe} --out {out}",
            "a folder, with a run folder for each fold",
            "the same command goes on: finished folds stay",
            "protocol",
            folder=True,
            whole="protocol.json",
        ),
        Case(
            "compare",
            "folder {clips} --config {recipe} --models probe --reference probe --protocol folders --out {out}",
            "a folder, with a protocol for each model, a table and a page",
            "the same command goes on: finished folds stay",
            "compared",
            folder=True,
            whole="comparison.html",
        ),
        Case(
            "report", "{run} --root {clips} --no_heat --out {out}", "a page", "the same command writes it", "page.html"
        ),
        Case(
            "report_comparison", "{run} {other} --out {out}", "a page", "the same command writes it", "comparison.html"
        ),
        Case("predict", "{run} {video}", "nothing but standard output", "the same command answers again"),
        Case(
            "predict",
            "{run} {video} --segments --out {out}",
            "a folder, with four files a video",
            "the same command writes them again",
            "segments",
            folder=True,
            whole="clip.vtt",
        ),
        Case("stream", "{run} {video}", "nothing but standard output", "the same command answers again"),
        Case(
            "export",
            "{run} --out {out}",
            "a folder, which appears when it is complete",
            "the same command writes it",
            "export",
            folder=True,
            whole="model.json",
        ),
        Case(
            "explain",
            "{run} {video} --hide map --out {out}",
            "a folder, which appears when it is complete",
            "the same command writes it",
            "explanation",
            folder=True,
            whole="index.html",
        ),
        Case(
            "benchmark",
            "{run} {video} --runtime torch --repetitions 2 --most_seconds 1 --out {out}",
            "a JSON file, and runtimes prepared beside the run",
            "the same command measures again",
            "benchmark.json",
        ),
        Case(
            "push",
            "{run} somebody/run --dry_run --out {out}",
            "with `--dry_run` the card, else one commit on the hub",
            "the same command pushes again; a commit is whole or not there",
            "card.md",
        ),
        Case(
            "demo",
            "--train_per_class 1 --test_per_class 1 --out {out}",
            "a folder with clips, a run and a page",
            "the same command uses the clips again, and trains anew",
            "demo",
            folder=True,
            whole="report.html",
        ),
    )
}

# It ends when it is told to; tests/serving runs it under what a server meets.
ENDLESS = {
    "serve": Case(
        "serve",
        "{run} --port 0",
        "nothing that stays: what is sent is deleted with its answer",
        "it finishes what runs, and ends with 0; the same command serves again",
    )
}

CONDITIONS = {
    "an output below a file": "an error before the work; the file is as it was",
    "an output that is a folder, or for a folder a file": "an error before the work; what is there is as it was",
    "a folder that cannot be written": "an error before the work",
    "a full disk, or any failing write": "an error that names the file; the earlier file is whole; figures that were "
    "measured are printed; with room again the work goes on",
    "standard output closed": "the work is done, as if the output had gone to the null device",
    "standard output full": "an error once it is found; files are written as far as they come before the output",
    "standard output whose reader has gone": "it ends without a word, with 1",
    "standard output or a terminal that is not UTF-8": "what it lacks is shown as an escape such as `\\u2028`",
    "a narrow terminal": "lines are folded",
    "standard error full or closed": "the work is done without its notes",
    "Ctrl-C, SIGTERM or SIGHUP, to the process or its group": "`stopped`; what is written is whole, and the work can "
    "be gone on with; under `nohup` SIGHUP is ignored",
    "/dev/shm of 64 MB, as in a container": "batches come through pipes, which is said; without any room, videos "
    "are read in one process",
    "64 file descriptors": "batches come through pipes, which is said",
    "no HOME, and a user without a name": "libraries get an empty home, which goes with the process",
    "a package that cannot be written": "nothing is written there",
    "LC_ALL=C, `python -O` or `-OO`": "as always; under `-OO` `--help` has no texts",
    "worker processes that are spawned": "as always, more slowly at the start",
    "twice at once": "one works, the other does the same or is told who does; the result is whole",
    "killed": "what is written is whole; temporary files and folders go at the next start; the work can be gone "
    "on with",
}


def tables() -> dict[str, str]:
    """Render both tables in Markdown, by name."""
    conditions = [f"| {name} | {promise} |" for name, promise in CONDITIONS.items()]
    commands = [f"| `{name}` | {case.output} | {case.after} |" for name, case in (CASES | ENDLESS).items()]
    return {
        "conditions": "\n".join(["| condition | what happens |", "|---|---|", *conditions]),
        "commands": "\n".join(["| command | what it writes | after a stop |", "|---|---|---|", *commands]),
    }


def filled(page: str) -> str:
    """Put the tables between their marks."""
    for name, table in tables().items():
        marks = rf"(<!-- of tests/conditions: {name} -->\n).*?(<!-- end -->)"
        page = re.sub(marks, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
