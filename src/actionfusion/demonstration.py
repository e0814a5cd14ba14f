"""The command ``demo``: the whole chain on generated clips, from making them to a report to look at."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.shapes import SHAPE_GROUPS
from actionfusion.data.shapes_files import SETTINGS_FILE, make_shapes
from actionfusion.errors import RunFolderError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.metrics import Accuracy
from actionfusion.evaluation.result import Evaluation
from actionfusion.inference.predict import predict
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.prepared import PREPARED
from actionfusion.reporting.filmstrip import FilmStrip
from actionfusion.reporting.findings import accuracy_headline
from actionfusion.reporting.page import GroupAccuracy, Report, render_report
from actionfusion.reporting.rendering import refuse_other_page, write_page
from actionfusion.run_folder import (
    CONFIG,
    RunFolder,
    at_work,
    evaluation_path,
    is_there,
    names_in,
    open_run,
    refuse_taken,
    report_path,
)
from actionfusion.terminal import Console, Text
from actionfusion.training.recipe import load_recipe
from actionfusion.training.resume import OF_A_TRAINING, is_begun
from actionfusion.training.train import train

GROUP_DESCRIPTIONS = {
    "appearance": "differ by the shape alone; the motion is the same",
    "motion": "differ by the motion alone; a single frame is the same",
    "binding": "both shapes and both motions are in every clip; differ by which shape does which",
    "order": "both motions are in every clip; differ by which comes first",
}


def demo(
    *,
    out: Path = Path("demo"),
    train_per_class: int = 100,
    test_per_class: int = 25,
    recipe: str = "tiny",
    seed: int = 0,
) -> Path:
    """Make generated clips, train a small network on them, evaluate it, predict a clip, and write a report.

    Args:
        out: folder for clips, run and report; clips that are there already are used again, the run is made anew.
        train_per_class: clips to learn from in each of the eight classes.
        test_per_class: clips to test on in each class.
        recipe: the training; tiny takes a few minutes on two cores.
        seed: of clips and training.

    Returns:
        The report, an HTML file.

    Raises:
        ActionFusionError: the folder holds something else, or cannot be written.
    """
    with at_work(out):
        return _demo(out, train_per_class, test_per_class, recipe, seed)


def _demo(out: Path, train_per_class: int, test_per_class: int, recipe: str, seed: int) -> Path:
    console = Console(stderr=True)
    started = time.perf_counter()
    run_path, report = out / "run", out / "report.html"
    refuse_other_page(report)
    _refuse_other_run(run_path, out / "clips")
    clips = _make_clips(console, out / "clips", train_per_class, test_per_class, seed)
    settings = load_recipe(recipe)
    shutil.rmtree(run_path, ignore_errors=True)
    data = replace(settings.data, dataset="folder", root=clips, split="folders", validation="none")
    _say(console, "training")
    train(settings, data=data, out=run_path, seed=seed)
    _say(console, "evaluating on clips that it never saw")
    evaluation = evaluate(run_path, clips)
    run = open_run(run_path)
    strips = _film_strips(run, clips, evaluation)
    _say(console, "predicting one of them")
    predict(run_path, [clips / evaluation.videos[0]], top_k=3)
    minutes = (time.perf_counter() - started) / 60
    write_page(report, render_report(_report(run, evaluation, strips, minutes, seed)))
    top1 = evaluation.figures.top1
    _say(console, f"top-1 accuracy on unseen clips: {top1}; {minutes:.1f} minutes in all")
    _say(console, f"now open {report} in a browser")
    return report


def _refuse_other_run(path: Path, clips: Path) -> None:
    """Raise a RunFolderError if the run is not one of the clips beside it, or holds something else."""
    if (clips / SETTINGS_FILE).is_file():
        if not is_there(path / CONFIG, RunFolderError):
            own = is_begun(path)
        else:
            settings = DataSettings(root=clips, dataset="folder", split="folders", validation="none")
            recorded = open_run(path).config.get("data") or {}
            # What the commands that it shows add is made again by them.
            known = OF_A_TRAINING | {evaluation_path(path, "test").name, report_path(path, "test").name, PREPARED}
            own = names_in(path) <= known and recorded.get("digest") == open_data(settings).digest()
        if own:
            return
    refuse_taken(path)


def group_accuracies(evaluation: Evaluation) -> list[GroupAccuracy]:
    """Compute the accuracy of each group of the generated clips, all eight classes being open to the network.

    Chance is the accuracy of knowing the group and nothing more.
    """
    per_class = dict(zip(evaluation.figures.labels, evaluation.figures.per_class, strict=True))
    groups = []
    for name, labels in SHAPE_GROUPS.items():
        parts = [per_class[label] for label in labels]
        total = Accuracy(sum(part.correct for part in parts), sum(part.count for part in parts))
        groups.append(
            GroupAccuracy(
                name, GROUP_DESCRIPTIONS[name], total.count, total.correct, total.interval, chance=1 / len(labels)
            )
        )
    return groups


def _make_clips(console: Console, root: Path, train_per_class: int, test_per_class: int, seed: int) -> Path:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("generating clips", total=None)
        return make_shapes(
            root,
            train_per_class=train_per_class,
            val_per_class=0,
            test_per_class=test_per_class,
            seed=seed,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _film_strips(run: RunFolder, clips: Path, evaluation: Evaluation) -> list[FilmStrip]:
    """Show a clip of each group, and up to four mistakes, the surest first."""
    recognizer = Recognizer.load(run)
    labels = evaluation.figures.labels
    correct = evaluation.probabilities.argmax(1) == evaluation.targets
    chosen: list[int] = []
    for pair in SHAPE_GROUPS.values():
        of_group = [row for row, target in enumerate(evaluation.targets) if labels[target] in pair]
        chosen += sorted(of_group, key=lambda row: not correct[row])[:1]
    wrong = [row for row in range(len(correct)) if not correct[row] and row not in chosen]
    chosen += sorted(wrong, key=lambda row: -float(evaluation.probabilities[row].max()))[:4]
    return [
        FilmStrip(
            title=Path(evaluation.videos[row]).name,
            truth=labels[evaluation.targets[row]],
            clip=recognizer.clip(clips / evaluation.videos[row]),
            predictions=[
                (label, float(share)) for label, share in zip(labels, evaluation.probabilities[row], strict=True)
            ],
        )
        for row in chosen
    ]


def _report(run: RunFolder, evaluation: Evaluation, strips: Sequence[FilmStrip], minutes: float, seed: int) -> Report:
    counts = run.config["data"]["counts"]
    plain = evaluation.as_json()
    versions = {name: str(version) for name, version in run.config["versions"].items()}
    return Report(
        title="actionfusion demo",
        summary=(
            "A small network of the paper's structure, trained from scratch on generated clips: moving shapes on "
            "drifting backgrounds, in four groups that each ask for another ability."
        ),
        headline=[
            accuracy_headline(plain),
            ("Trained on", f"{counts['train']} clips", f"tested on {counts['test']} others; seed {seed}"),
            ("Time", f"{minutes:.1f} min", "from nothing to this page"),
        ],
        evaluation=plain,
        epochs=run.read_metrics(),
        groups=group_accuracies(evaluation),
        strips=strips,
        commands=["make demo", "actionfusion demo --out demo"],
        versions=versions,
    )


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
