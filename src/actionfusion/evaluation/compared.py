"""Several models under one protocol: what each reached, what it costs, and what it differs from the first by."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from json import dumps
from pathlib import Path
from statistics import median
from typing import Any

import torch

from actionfusion.data.dataset import DataSettings
from actionfusion.data.recorded_split import reopen_data
from actionfusion.errors import ActionFusionError, RunFolderError, VideoError
from actionfusion.evaluation.pairs import PairedComparison, compare_pairs
from actionfusion.evaluation.versus import read_answers
from actionfusion.files import write_atomically
from actionfusion.inference.recognizer import Recognizer
from actionfusion.intervals import Interval, holm
from actionfusion.models import model_class
from actionfusion.models.model_settings import Source
from actionfusion.run_folder import METRICS, RunFolder, open_run
from actionfusion.settings import build_each, read_json
from actionfusion.storage import PathLike
from actionfusion.training.cost import step_cost
from actionfusion.video.clip import cut_clip

COST = "cost.json"
_TIMES = 5
_AGAIN = "remove that file, and it is measured again"


@dataclass(frozen=True)
class Cost:
    """What a model costs, measured on its first fold.

    Attributes:
        parameters: numbers in the network.  None of a system that keeps words and training clips instead.
        flops: floating point operations of a clip, forward; a multiply-add is two.  None of work outside PyTorch.
        milliseconds: of a clip that is cut already, alone, by PyTorch, the median of some.
        device: that they were measured on.
        threads: of PyTorch, then.
    """

    parameters: int | None
    flops: float | None
    milliseconds: float
    device: str
    threads: int


@dataclass(frozen=True)
class ComparedModel:
    """A row of the comparison.

    Attributes:
        name: of the model.
        source: where it comes from.
        recipe: that it was trained by, in words.
        figures: what its ``protocol.json`` holds; None where nothing came of it.
        failure: why it, or some of its folds, came to nothing; None where all went well.
        cost: None where no fold is done.
        seconds: of all its epochs; None of a model that is solved, and where no fold is done.
        pair: this model (as first) against the reference on the same videos; None of the reference.
        p_value: McNemar's p of the first seed's folds, corrected by Holm for all models; None of the reference.
    """

    name: str
    source: Source
    recipe: str
    figures: Mapping[str, Any] | None = None
    failure: str | None = None
    cost: Cost | None = None
    seconds: float | None = None
    pair: PairedComparison | None = None
    p_value: float | None = None

    @property
    def pooled(self) -> Mapping[str, Any]:
        """All predictions in one count; empty where there is none."""
        return self.figures["pooled"] if self.figures and self.figures["pooled"]["count"] else {}

    @property
    def start_doubts(self) -> tuple[str, ...]:
        """Why test videos may not be new to what the trainings started from."""
        folds = self.figures["folds"] if self.figures else ()
        return tuple(dict.fromkeys(doubt for fold in folds for doubt in fold["start_doubts"]))

    @property
    def interval(self) -> Interval:
        """Of the accuracy, 95 %: with whole groups drawn where they are known.  There is one where there is a count."""
        low, high = self.pooled["group_interval"] or self.pooled["interval"]
        return low, high

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        figures = self.figures or {}
        return {
            "model": self.name,
            "recipe": self.recipe,
            "failure": self.failure,
            "folds": len(figures.get("folds", ())),
            "planned": figures.get("planned"),
            "accuracy": dict(self.pooled) or None,
            "by_seed": figures.get("by_seed"),
            "cost": None if self.cost is None else asdict(self.cost),
            "training_seconds": self.seconds,
            "less_reference": None if self.pair is None else self.pair.as_json(),
            "p_value_corrected": self.p_value,
            "published": dict(self.source.published),
            "citation": self.source.citation,
        }


def with_pairs(models: Sequence[ComparedModel], folders: Mapping[str, Path], reference: str) -> list[ComparedModel]:
    """Compare each model with the reference, video by video and fold by fold.

    The interval is over all seeds.  McNemar's p, of the first, is corrected for the number of models.

    Args:
        models: the rows.
        folders: of the models' protocols, by name.
        reference: the model that the others are compared with.
    """
    answers = {model.name: read_answers(folders[model.name]) for model in models if model.pooled}
    if reference not in answers:
        return list(models)
    pairs = dict[str, PairedComparison]()
    for name in answers.keys() - {reference}:
        try:
            pairs[name] = compare_pairs(answers[name], answers[reference])
        except ActionFusionError:  # no fold in common is done
            continue
    corrected = dict(zip(pairs, holm([pair.p_value for pair in pairs.values()]), strict=True))
    return [replace(model, pair=pairs.get(model.name), p_value=corrected.get(model.name)) for model in models]


def training_seconds(folder: Path, figures: Mapping[str, Any]) -> float | None:
    """Sum the seconds of all epochs of a protocol's folds, each as its fold's median; None where there are none.

    With the median, a machine that slept or did something else for a while does not count.
    """
    total, epochs = 0.0, 0
    for fold in figures["folds"]:
        path = folder / fold["run"] / METRICS
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row["learning_rate"]]  # none of what is solved
            seconds = [float(row["seconds"]) for row in rows]
            total, epochs = total + len(rows) * (median(seconds) if rows else 0.0), epochs + len(rows)
    return total if epochs else None


def measure_cost(folder: Path, figures: Mapping[str, Any], data: DataSettings, device: str | None) -> Cost | None:
    """Measure what a model costs on its first finished fold, once; None where none is done, or no test video opens.

    Raises:
        RunFolderError: what was measured before cannot be read.
    """
    if not figures["folds"]:
        return None
    path = folder / COST
    if path.is_file():
        kinds = {"parameters": int | None, "flops": float | None, "milliseconds": float, "device": str, "threads": int}
        return Cost(**build_each(kinds, read_json(path, RunFolderError, _AGAIN), path, RunFolderError, _AGAIN))
    run = open_run(folder / figures["folds"][0]["run"])
    cost = _measure(run, data.root, data.store, device)
    if cost is None:
        return None
    write_atomically(path, dumps(asdict(cost), indent=1) + "\n")
    return cost


def _measure(run: RunFolder, root: PathLike | None, store: PathLike | None, device: str | None) -> Cost | None:
    recognizer = Recognizer.load(run, runtime="torch", device=device)
    videos = reopen_data(run, root, store)
    clip = None
    for source in videos.sources(videos.part("test"), run.clip):
        with suppress(VideoError):  # which the evaluation counts
            clip = cut_clip(source.open(), run.clip)
            break
    if clip is None:
        return None
    seconds = []
    for _ in range(_TIMES + 1):
        began = time.perf_counter()
        recognizer.probabilities([clip])
        seconds.append(time.perf_counter() - began)
    kind = model_class(run.model)
    # Of work outside PyTorch, as of trajectories, nothing is counted.
    counted = not kind.solved or bool(recognizer.network.backbones)
    cost = step_cost(kind, run.network) if counted else None  # type: ignore[arg-type]  # a class can be hashed
    return Cost(
        parameters=sum(parameter.numel() for parameter in recognizer.network.parameters()) if counted else None,
        flops=None if cost is None else cost.forward_flops,
        milliseconds=1000 * median(seconds[1:]),
        device=str(recognizer.runtime.device),
        threads=torch.get_num_threads(),
    )
