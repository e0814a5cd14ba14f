"""Which clips of an evaluation a page shows as film strips, and the way back to their pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from actionfusion.data.dataset import DataSettings, LabelledVideos
from actionfusion.data.layouts import open_dataset
from actionfusion.data.listing import Split, canonical, match_names
from actionfusion.errors import ActionFusionError, RunFolderError
from actionfusion.explanation.localization import grad_cam
from actionfusion.explanation.target import AttributionTarget, FloatArray
from actionfusion.inference.recognizer import Recognizer
from actionfusion.reporting.filmstrip import FilmStrip
from actionfusion.reporting.rendering import known, percent, plural, points
from actionfusion.reporting.tables import Evaluation
from actionfusion.run_folder import CONFIG, RunFolder, typed
from actionfusion.storage import PathLike
from actionfusion.video.clip import Clip, cut_clip

MOST_WORST, MOST_NEAR, MOST_CORRECT = 4, 2, 2


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
class _Predicted:
    video: str
    truth: str
    predictions: Sequence[tuple[str, float]]
    correct: bool
    probability: float
    behind: float  # of the true label behind the predicted one, 0 where it is correct

    def chosen(self, note: str) -> ChosenClip:
        return ChosenClip(self.video, self.truth, self.predictions, note)


def choose_clips(evaluation: Evaluation) -> list[ChosenClip]:
    """Choose the most confident mistakes, those in which the true label came nearest, and the surest correct clips.

    A clip with a probability that is no number is passed over.
    """
    clips = sorted(_predicted(evaluation), key=lambda clip: -clip.probability)
    wrong = [clip for clip in clips if not clip.correct]
    worst = wrong[:MOST_WORST]
    near = sorted(wrong[MOST_WORST:], key=lambda clip: clip.behind)[:MOST_NEAR]
    of_class: dict[str, _Predicted] = {}
    for clip in clips:
        if clip.correct:
            of_class.setdefault(clip.truth, clip)
    return [
        *(clip.chosen(f"Among the most confident mistakes: {percent(clip.probability)} sure of it.") for clip in worst),
        *(clip.chosen(f"A close mistake: the true label is {points(clip.behind)[1:]} points behind.") for clip in near),
        *(
            clip.chosen("Among the most confident correct predictions.")
            for clip in list(of_class.values())[:MOST_CORRECT]
        ),
    ]


def film_strips(
    folder: RunFolder,
    clips: Sequence[ChosenClip],
    root: PathLike | None,
    store: PathLike | None,
    recognizer: Recognizer | None = None,
) -> tuple[list[FilmStrip], str]:
    """Cut the clips as the run's model saw them.

    Args:
        folder: the run.
        clips: of its evaluation.
        root: folder of the data set, or its address.
        store: folder of prepared clips, or its address; none reads the videos themselves.
        recognizer: the run's, for heat maps of what speaks for its predictions; None leaves them out.

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
    index_of = {entry.path: index for index, entry in enumerate(videos.listing.entries)}
    here = match_names((clip.video for clip in clips), index_of)
    strips, reasons = [], []
    for clip in clips:
        index = index_of.get(here.get(clip.video, ""))
        if index is None or canonical(videos.listing.entries[index].label) != canonical(clip.truth):
            reasons.append(f"{clip.video} is not there as {clip.truth}")
            continue
        try:
            (source,) = videos.sources([index], folder.clip, folder.rates)
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
    """Compute Grad-CAM of the predicted class over its largest value; None where no map has anything for it."""
    if recognizer.network.explained_layer is None:
        return None
    maps = grad_cam(AttributionTarget.of(recognizer, clip))
    largest = float(maps.max())
    return maps / np.float32(largest) if largest > 0 else None


def _predicted(evaluation: Evaluation) -> Iterable[_Predicted]:
    labels: Sequence[str] = evaluation["labels"]
    for entry in evaluation["videos"]:
        row = [float(value) for value in entry["probabilities"]]
        if not all(known(value) and 0 <= value <= 1 for value in row):
            continue
        of_label = dict(zip(labels, row, strict=True))
        probability, truth = of_label[entry["predicted"]], of_label[entry["label"]]
        correct = entry["predicted"] == entry["label"]
        behind = probability - truth
        yield _Predicted(entry["video"], entry["label"], tuple(of_label.items()), correct, probability, behind)


def _videos(folder: RunFolder, root: PathLike, store: PathLike | None) -> LabelledVideos:
    # Only the few videos that are shown are looked for, so that a folder with others missing serves as well.
    recorded = folder.config.get("data")
    names = {part.name for part in fields(DataSettings)}
    if not isinstance(recorded, dict) or "dataset" not in recorded:
        raise RunFolderError(folder.path / CONFIG, "does not say what it was trained on", "train it with this version")
    given = {name: value for name, value in recorded.items() if name in names - {"root", "store"}}
    settings = replace(typed(DataSettings, given, folder.path / CONFIG, "data"), root=root, store=store)
    listing = open_dataset(settings.dataset, root, group_pattern=settings.group_pattern).present()
    return LabelledVideos(listing, Split("", (), ()), settings)
