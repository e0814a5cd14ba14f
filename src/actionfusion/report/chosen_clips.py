"""Which clips of an evaluation a page shows as film strips, and the way back to their pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from actionfusion.data.dataset import DataSettings, LabelledVideos
from actionfusion.data.layouts import open_dataset
from actionfusion.data.listing import Split
from actionfusion.errors import ActionFusionError, RunFolderError
from actionfusion.explain.localization import grad_cam
from actionfusion.explain.question import FloatArray, Question
from actionfusion.inference.recognizer import Recognizer
from actionfusion.report.filmstrip import FilmStrip
from actionfusion.report.rendering import known, percent, plural, points
from actionfusion.report.tables import Evaluation
from actionfusion.run_folder import CONFIG, RunFolder, typed
from actionfusion.storage import PathLike
from actionfusion.video.clip import Clip, cut_clip

MOST_WORST, MOST_NEAR, MOST_RIGHT = 4, 2, 2


@dataclass(frozen=True)
class ChosenClip:
    """A clip that is worth a look.

    Attributes:
        video: path within the data set.
        truth: its label.
        predictions: labels with their probabilities.
        note: why it was chosen.
    """

    video: str
    truth: str
    predictions: Sequence[tuple[str, float]]
    note: str


@dataclass(frozen=True)
class _Answer:
    video: str
    truth: str
    predictions: Sequence[tuple[str, float]]
    right: bool
    probability: float
    behind: float  # of the true label behind the answer, 0 where it is right


def choose_clips(evaluation: Evaluation) -> list[ChosenClip]:
    """The surest mistakes, the mistakes in which the true label came nearest, and the surest right answers.

    An answer with a probability that is no number is passed over.
    """
    answers = list(_answers(evaluation))
    wrong = sorted((answer for answer in answers if not answer.right), key=lambda answer: -answer.probability)
    worst = wrong[:MOST_WORST]
    near = sorted(wrong[MOST_WORST:], key=lambda answer: answer.behind)[:MOST_NEAR]
    right: list[_Answer] = []
    for answer in sorted((answer for answer in answers if answer.right), key=lambda answer: -answer.probability):
        if len(right) < MOST_RIGHT and answer.truth not in {other.truth for other in right}:
            right.append(answer)
    return [
        *(_chosen(answer, f"Among the worst mistakes: {percent(answer.probability)} sure of it.") for answer in worst),
        *(
            _chosen(answer, f"Among the best mistakes: the true label is {points(answer.behind)[1:]} points behind.")
            for answer in near
        ),
        *(_chosen(answer, "Among the surest right answers.") for answer in right),
    ]


def film_strips(
    folder: RunFolder,
    clips: Sequence[ChosenClip],
    root: PathLike | None,
    store: PathLike | None,
    recognizer: Recognizer | None = None,
) -> tuple[list[FilmStrip], str]:
    """Cut the clips as the run's network got them.

    Args:
        folder: the run.
        clips: of its evaluation.
        root: folder of the data set, or its address.
        store: folder of prepared clips, or its address; none reads the videos themselves.
        recognizer: the run's, which is asked where it saw what speaks for its answer; None leaves the heat maps out.

    Returns:
        The strips of the clips that could be cut, and a sentence about those that could not, empty where there is none.
    """
    if not clips:
        return [], ""
    if root is None:
        return [], "There are no film strips here: the page was made without --root, the folder of the videos."
    try:
        videos = _videos(folder, root, store)
    except ActionFusionError as error:
        return [], f"There are no film strips here: {error}"
    places = {entry.path: index for index, entry in enumerate(videos.listing.entries)}
    strips, reasons = [], []
    for clip in clips:
        index = places.get(clip.video)
        if index is None or videos.listing.entries[index].label != clip.truth:
            reasons.append(f"{clip.video} is not there as {clip.truth}")
            continue
        try:
            (source,) = videos.sources([index], folder.clip.flow)
            cut = cut_clip(source.open(), folder.clip)
        except ActionFusionError as error:
            reasons.append(str(error).rstrip("."))
            continue
        heat = _heat(recognizer, cut) if recognizer else None
        strips.append(FilmStrip(clip.video, clip.truth, cut, clip.predictions, clip.note, heat))
    if not reasons:
        return strips, ""
    return strips, f"{plural(len(reasons), 'film strip')} of {len(clips)} could not be made, first: {reasons[0]}."


def _heat(recognizer: Recognizer, clip: Clip) -> FloatArray | None:
    """Grad-CAM of the answer over its largest value; None where nothing on the map speaks for it."""
    maps = grad_cam(Question.of(recognizer, clip))
    largest = float(maps.max())
    return maps / np.float32(largest) if largest > 0 else None


def _answers(evaluation: Evaluation) -> Iterable[_Answer]:
    labels: Sequence[str] = evaluation["labels"]
    for entry in evaluation["videos"]:
        row = [float(value) for value in entry["probabilities"]]
        if not all(known(value) and 0 <= value <= 1 for value in row):
            continue
        of_label = dict(zip(labels, row, strict=True))
        answer, truth = of_label[entry["predicted"]], of_label[entry["label"]]
        right = entry["predicted"] == entry["label"]
        yield _Answer(entry["video"], entry["label"], tuple(of_label.items()), right, answer, answer - truth)


def _chosen(answer: _Answer, note: str) -> ChosenClip:
    return ChosenClip(answer.video, answer.truth, answer.predictions, note)


def _videos(folder: RunFolder, root: PathLike, store: PathLike | None) -> LabelledVideos:
    # Only the few videos that are shown are looked for, so that a folder with others missing serves as well.
    recorded = folder.config.get("data")
    names = {part.name for part in fields(DataSettings)}
    if not isinstance(recorded, dict) or "dataset" not in recorded:
        raise RunFolderError(folder.path / CONFIG, "does not say what it was trained on", "train it with this version")
    given = {name: value for name, value in recorded.items() if name in names - {"root", "store"}}
    settings = replace(typed(DataSettings, given, folder.path / CONFIG, "data"), root=root, store=store)
    listing = open_dataset(settings.dataset, root, group_pattern=settings.group_pattern)
    return LabelledVideos(listing, Split("", (), ()), settings)
