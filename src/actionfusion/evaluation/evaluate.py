"""The command ``evaluate``: how good a run is on the videos that its split kept from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from actionfusion.data.dataset import DataSettings, LabelledVideos, Part
from actionfusion.data.loading import LabelledSource
from actionfusion.data.recorded_split import reopen_split
from actionfusion.errors import DatasetError, RunFolderError, VideoError
from actionfusion.evaluation.metrics import CONFIDENCE, ClassificationFigures, classification_figures
from actionfusion.files import write_atomically
from actionfusion.inference.recognizer import Recognizer
from actionfusion.places import AnyPlace
from actionfusion.run_folder import CONFIG, SPLIT, RunFolder, open_run
from actionfusion.video.clip import Clip, cut_clip

BATCH_SIZE = 8


@dataclass(frozen=True)
class FailedVideo:
    """A video that gave no clip, and so no answer."""

    video: str
    kind: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """Figures of one run on one side of its split.

    Attributes:
        dataset: layout.
        split: the split's full name.
        part: train, val or test.
        seed: of the run.
        notes: what there is to know about the split, such as what it gives away.
        selected_on_part: whether the run's sessions were ended by the accuracy on this same part, which flatters it.
        figures: over the videos that could be read.
        videos: paths of these videos.
        targets: ``[N]`` their class numbers.
        probabilities: ``[N, K]``.
        failed: the videos that could not be read; they count neither as right nor as wrong.
    """

    dataset: str
    split: str
    part: str
    seed: int
    notes: tuple[str, ...]
    selected_on_part: bool
    figures: ClassificationFigures
    videos: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    failed: tuple[FailedVideo, ...]

    def as_json(self) -> dict[str, Any]:
        """What ``evaluation.json`` holds."""
        labels = self.figures.labels
        rows = zip(self.videos, self.targets, self.probabilities, strict=True)
        return {
            "dataset": self.dataset,
            "split": self.split,
            "part": self.part,
            "seed": self.seed,
            "notes": list(self.notes),
            "selected_on_part": self.selected_on_part,
            "count": self.figures.top1.count,
            "correct": self.figures.top1.correct,
            "top1": self.figures.top1.share,
            "interval": list(self.figures.top1.interval),
            "confidence": CONFIDENCE,
            "labels": list(labels),
            "per_class": [
                {"label": label} | accuracy.as_json()
                for label, accuracy in zip(labels, self.figures.per_class, strict=True)
            ],
            "confusion": self.figures.confusion.tolist(),
            "failed": [asdict(item) for item in self.failed],
            "videos": [
                {
                    "video": video,
                    "label": labels[target],
                    "predicted": labels[int(row.argmax())],
                    "probabilities": [round(float(value), 6) for value in row],
                }
                for video, target, row in rows
            ],
        }


def evaluate(
    run: Path,
    root: AnyPlace | None = None,
    *,
    part: Part = "test",
    store: AnyPlace | None = None,
    out: Path | None = None,
    device: str | None = None,
) -> Evaluation:
    """Measure a run on the videos that its split kept from it; print the figures and write them as JSON.

    Args:
        run: the run folder that ``train`` wrote.
        root: folder of the data set that the run was trained on, or its address.
        part: side of the split: test, val or train.
        store: folder of prepared clips, or its address; none reads the videos themselves.
        out: the JSON file; none writes ``evaluation_<part>.json`` into the run folder.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

    Returns:
        What was printed and written.

    Raises:
        RunFolderError: not a run folder, or one that was not trained on a data set.
        DatasetError: the folder is not the one that the run was split on, or the part holds no video.
        WeightsError: weights missing, damaged, or of another network.
    """
    folder = open_run(run)
    videos = reopen_data(folder, root, store)
    videos.check_store(folder.clip.flow)
    indices = videos.part(part)
    if not indices:
        reason = f"split {videos.split.name!r} has no {part} part"
        raise DatasetError(videos.listing.root, reason, "choose another --part")
    recognizer = Recognizer.load(folder, device=device)
    evaluation = _measure(recognizer, videos.sources(indices, folder.clip.flow), folder, videos, part)
    target = out or folder.path / f"evaluation_{part}.json"
    write_atomically(target, dumps(evaluation.as_json(), indent=1, ensure_ascii=False) + "\n")
    _print(evaluation)
    Console(stderr=True).print(Text(f"written to {target}"), soft_wrap=True)
    return evaluation


def reopen_data(folder: RunFolder, root: AnyPlace | None, store: AnyPlace | None) -> LabelledVideos:
    """The videos that a run was split on, split as they were then.

    Raises:
        SettingsError: no root was given, or an address that cannot be opened here.
        RunFolderError: the run does not say what it was trained on.
        DatasetError: a video of the run's split is not there, or has another label.
    """
    recorded = folder.config.get("data")
    names = {part.name for part in fields(DataSettings)} - {"root", "store", "manifest"}
    if not isinstance(recorded, dict) or not names <= recorded.keys() or not (folder.path / SPLIT).is_file():
        raise RunFolderError(folder.path, "does not say what it was trained on", "train it with this version")
    settings = DataSettings(root=root, store=store, **{name: recorded[name] for name in names})
    name, notes = str(recorded.get("split_name")), recorded.get("split_notes", ())
    videos = reopen_split(folder.path / SPLIT, settings, folder.labels, name, notes)
    if videos.digest() != recorded.get("digest"):
        reason = f"is not the split of {CONFIG}: one of them was changed"
        raise RunFolderError(folder.path / SPLIT, reason, "copy the whole run folder again")
    return videos


def _measure(
    recognizer: Recognizer,
    sources: Sequence[LabelledSource],
    folder: RunFolder,
    videos: LabelledVideos,
    part: Part,
) -> Evaluation:
    clips: list[tuple[LabelledSource, Clip]] = []
    answered: list[LabelledSource] = []
    rows: list[npt.NDArray[np.float32]] = [np.zeros((0, len(folder.labels)), np.float32)]
    failed: list[FailedVideo] = []

    def answer() -> None:
        if clips:
            rows.append(recognizer.probabilities([clip for _, clip in clips]))
            answered.extend(source for source, _ in clips)
            clips.clear()

    console = Console(stderr=True)
    for source in track(sources, part, console=console, transient=True, disable=not console.is_terminal):
        try:
            clips.append((source, cut_clip(source.open(), folder.clip)))
        except VideoError as error:
            failed.append(FailedVideo(source.name, error.kind, str(error)))
        if len(clips) == BATCH_SIZE:
            answer()
    answer()
    targets = np.array([source.target for source in answered], np.int64)
    probabilities = np.concatenate(rows)
    return Evaluation(
        dataset=videos.listing.dataset,
        split=videos.split.name,
        part=part,
        seed=int(folder.config.get("seed", 0)),
        notes=videos.split.notes,
        selected_on_part=part == {"hold_out": "val", "test": "test"}.get(videos.settings.validation),
        figures=classification_figures(folder.labels, targets, probabilities),
        videos=tuple(source.name for source in answered),
        targets=targets,
        probabilities=probabilities,
        failed=tuple(failed),
    )


def _print(evaluation: Evaluation) -> None:
    console = Console()
    figures = evaluation.figures
    note = "; its sessions were ended by this same part, which flatters it" if evaluation.selected_on_part else ""
    console.print(Text(f"top-1 {figures.top1}"), style="bold")
    console.print(
        Text(f"{evaluation.dataset}, {evaluation.split}, {evaluation.part} part, seed {evaluation.seed}{note}")
    )
    for line in evaluation.notes:
        console.print(Text(f"note: {line}"), soft_wrap=True)
    if evaluation.failed:
        console.print(Text(f"{len(evaluation.failed)} videos could not be read and are not counted:"), style="red")
        for item in evaluation.failed:
            console.print(Text(f"  {item.message}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("class", "right", "accuracy", "95 % interval"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for label, accuracy in zip(figures.labels, figures.per_class, strict=True):
        low, high = accuracy.interval
        right = f"{accuracy.correct}/{accuracy.count}"
        table.add_row(Text(label), right, f"{accuracy.share:.1%}", f"{low:.1%} to {high:.1%}")
    console.print(table)
    console.print("confusion: rows the truth, columns the answer")
    console.print(_confusion_table(figures))


def _confusion_table(figures: ClassificationFigures) -> Table:
    # Class names do not fit above narrow columns, so columns carry the numbers that the rows name.
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for number in range(1, len(figures.labels) + 1):
        table.add_column(str(number), justify="right")
    for number, (label, row) in enumerate(zip(figures.labels, figures.confusion, strict=True), 1):
        cells = [Text(str(count) if count else "·", style="bold" if count else "dim") for count in row]
        table.add_row(Text(f"{number} {label}"), *cells)
    return table
