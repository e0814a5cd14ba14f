"""The command ``versus``: whether one of two evaluated runs is better, on the videos that both predict."""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Any

from actionfusion.data.listing import Part
from actionfusion.errors import RunFolderError, SettingsError, printable
from actionfusion.evaluation.pairs import PairedComparison, compare_pairs
from actionfusion.evaluation.pooling import PROTOCOL
from actionfusion.evaluation.result import read_evaluation
from actionfusion.files import cannot_write, refuse_foreign, refuse_unwritable, write_atomically
from actionfusion.run_folder import evaluation_path
from actionfusion.settings import EVALUATION_BYTES, read_json
from actionfusion.terminal import Console, Text


def versus(first: Path, second: Path, *, part: Part = "test", out: Path | None = None) -> PairedComparison:
    """Compare two evaluated runs video by video: McNemar's test, and the difference of their accuracies.

    Of two protocols the predictions are compared fold by fold.  The difference is over all of them, its interval with
    the variance between groups, or between videos where groups are not known; the test sees each video once.

    Args:
        first: a run folder that ``evaluate`` has measured, the JSON file that it wrote, or the folder of a protocol.
        second: another.
        part: which of a run folder's evaluations: test, val or train.
        out: a JSON file for the result; none writes none.

    Returns:
        What was printed.

    Raises:
        RunFolderError: not evaluated yet, or a file that is no evaluation.
        DatasetError: no video in common, or one that has another label in each.
        OutputError: the file cannot be written.

    Sources: McNemar 1947, exact after Fagerland, Lydersen and Laake 2013; the interval as in ``clustered_difference``.
    """
    if out is not None:
        refuse_foreign(out, lambda path: {"first", "second", "difference"} <= read_json(path).keys())
        refuse_unwritable(out)
    comparison = compare_pairs(read_answers(first, part), read_answers(second, part))
    _print(comparison, str(first), str(second))
    if out is not None:
        try:
            write_atomically(out, dumps(comparison.as_json(), indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise cannot_write(out, error, "free some space, or choose another --out") from error
        Console(stderr=True).print(Text(f"written to {out}"), soft_wrap=True)
    return comparison


def read_answers(path: Path, part: Part = "test") -> dict[str, Any]:
    """Read an evaluation, or all those of a protocol as one, whose videos have the fold in their ``key``.

    Args:
        path: a run folder, a JSON file of ``evaluate``, or the folder of a protocol.
        part: which of a run folder's evaluations.

    Raises:
        RunFolderError: not evaluated yet, or a file that is no evaluation.
        SettingsError: another part than test of a protocol.
    """
    if not path.is_dir():
        return read_evaluation(path)
    if not (path / PROTOCOL).is_file():
        return read_evaluation(evaluation_path(path, part))
    if part != "test":
        raise SettingsError("part", f"a protocol has no predictions on the {part} part", "leave --part out")
    try:
        figures = read_json(path / PROTOCOL, largest=EVALUATION_BYTES, finite=False)
        runs = {fold: path / run for fold, run in map(_fold, figures["folds"])}
        name = f"{figures['dataset']}, {figures['protocol']}"
    except (SettingsError, KeyError, TypeError) as error:
        reason = error.reason if isinstance(error, SettingsError) else f"it misses {error}"
        raise RunFolderError(path / PROTOCOL, f"cannot be read ({reason})", "run protocol again") from error
    folds = {fold: read_evaluation(evaluation_path(run, part)) for fold, run in runs.items()}
    return {
        "split": name,
        "videos": [row | {"key": f"{fold}\0{row['video']}"} for fold, one in folds.items() for row in one["videos"]],
        "trained_on": any(one.get("trained_on") for one in folds.values()),
        "selected_on_part": any(one.get("selected_on_part") for one in folds.values()),
    }


def _fold(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return a fold's name and its folder, which is beside ``protocol.json``."""
    name, run = str(values["fold"]), str(values["run"])
    if Path(run).name != run:
        raise SettingsError(name, f"its run is elsewhere, in {run!r}", "run protocol again")
    return name, run


def _print(comparison: PairedComparison, first: str, second: str) -> None:
    console = Console()
    counts = (
        f"{comparison.both_right} both correct, {comparison.only_first} the first alone, "
        f"{comparison.only_second} the second alone, {comparison.both_wrong} neither"
    )
    one, other, predicted = str(comparison.first), str(comparison.second), f"{comparison.count} videos"
    repeated = comparison.count > comparison.videos
    if repeated:  # Wilson's interval would take each video several times
        one, other = (
            f"{100 * of.share:.1f} % ({of.correct}/{of.count})" for of in (comparison.first, comparison.second)
        )
        predicted = f"{comparison.count} predictions of {comparison.videos} videos"
    lines = [
        f"first:  {first}: top-1 {one}",
        f"second: {second}: top-1 {other}",
        f"on {predicted} that both predict: {counts}",
    ]
    difference = f"difference {100 * comparison.difference:+.1f} points"
    if comparison.interval is None:
        lines.append(f"{difference}; one {'group' if comparison.groups else 'video'} alone gives no interval")
    else:
        low, high = (100 * bound for bound in comparison.interval)
        between = f"{comparison.groups} groups" if comparison.groups else f"{comparison.videos} videos"
        lines.append(f"{difference}; 95 % interval {low:+.1f} to {high:+.1f}, by the variance between {between}")
    lines.append(f"McNemar's exact test: p = {comparison.p_value:.3g}")
    if repeated:
        lines.append("note: McNemar's test sees one prediction of each video, in the first fold that tests it")
    if comparison.groups:
        lines.append("note: McNemar's test takes each video as drawn by itself; the interval keeps groups together")
    for name, count in comparison.unmatched.items():
        if count:
            lines.append(f"{count} videos that the {name} run alone predicts are left out")
    for line in (*lines, *(f"note: {note}" for note in comparison.notes)):
        console.print(Text(printable(line)), soft_wrap=True)
