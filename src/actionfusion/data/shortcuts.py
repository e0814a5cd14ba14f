"""Find shortcuts: facts of the files, such as letterbox bars, that tell the label without showing the action.

A network learns them where they are easier than the action, and a test part that has them too does not notice.  For
each cue a decision tree guesses the labels from it alone, cross-validated by group.  A tree, since cues are few
numbers that differ in steps, such as one frame size a class: a forest found the same on three data sets, in over ten
times the time.  A cue is reported if its interval is above chance, or, since that takes many groups, if trees seldom
guess as many labels that are dealt out anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from actionfusion.data.listing import Listing, some
from actionfusion.data.manifest import ManifestRow
from actionfusion.data.source_videos import PICTURES_A_SECOND
from actionfusion.data.splits import units_of
from actionfusion.intervals import Interval, clustered_wilson, percent_range
from actionfusion.video.borders import Borders

FloatArray = npt.NDArray[np.float64]
Fold = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

_FOLDS = 5
# Guesses of trees that share training videos vary together, and several cues are tried: of cues that tell nothing, the
# usual interval of 95 % reports 3 to 7 in 100, this one up to 2.
_CONFIDENCE = 0.99
_DEALS, _LARGEST_P, _DOUBTFUL_P = 399, 0.005, 0.05
# Fewer videos than that in a leaf are learnt by heart; the most leaves bound memory with hundreds of classes.
_FEWEST_IN_LEAF, _MOST_LEAVES = 3, 1000
_ALL = "all together"
_REMEDIES = {
    "borders": "crop them off",
    "frame size": "crop or scale all videos alike",
    "frame rate": "re-encode all videos at one rate",
    "codec": "re-encode all videos alike",
    "length": "cut all videos to one length, unless the actions themselves differ in it",
    _ALL: "make them alike in all classes",
}


@dataclass(frozen=True)
class CueResult:
    """How well one cue alone tells the label.

    Attributes:
        cue: ``borders``, ``frame size`` (width, height and aspect), ``frame rate``, ``codec``, ``length`` in seconds,
            or ``all together``, which is there if two cues or more differ among the videos.
        videos: that were guessed.
        classes: theirs.
        groups: theirs; videos that show the same, and videos of unknown group, count as one group.
        chance: share of the largest class, the most that can be guessed without a cue.
        accuracy: share of labels guessed, cross-validated by group; none where the cue is the same in all videos.
        interval: of it, by group, 99 %; likewise.
        p: share of deals in which trees guess as many labels, where more than chance are guessed and the interval
            does not tell; over 0.05 it is rough.
    """

    cue: str
    videos: int
    classes: int
    groups: int
    chance: float
    accuracy: float | None = None
    interval: Interval | None = None
    p: float | None = None

    @property
    def found(self) -> bool:
        """Whether the cue is a shortcut: the whole interval is above chance, or p is small."""
        above = self.interval is not None and self.interval[0] > self.chance
        return above or (self.p is not None and self.p <= _LARGEST_P)

    def __str__(self) -> str:
        if self.accuracy is None or self.interval is None:
            return f"{self.cue}: the same in all videos"
        told = f"{100 * self.accuracy:.1f} % of the labels"
        bounds = f"{100 * _CONFIDENCE:.0f} % interval {percent_range(self.interval)}, chance {100 * self.chance:.1f} %"
        bounds += "" if self.p is None else f", p {self.p:.2g}"
        how = "tell" if self.cue == _ALL else "alone tell" if self.cue == "borders" else "alone tells"
        return f"{self.cue} {how} {told} ({bounds}): {_REMEDIES[self.cue]}"


@dataclass(frozen=True)
class Shortcuts:
    """What the search for shortcuts found.

    Attributes:
        cues: a result a cue; one for which there are too few groups is left out.
        notes: what was left out and why, one line each.
    """

    cues: tuple[CueResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> tuple[CueResult, ...]:
        """The cues that are shortcuts."""
        return tuple(result for result in self.cues if result.found)

    def lines(self) -> list[str]:
        """Write the findings for people."""
        if not self.cues:
            return list(self.notes)
        if found := self.found:
            advice = "a network may learn a shortcut instead of the action: see Shortcuts in docs/data.md"
            return [*self.notes, *(f"shortcut: {result}" for result in found), advice]
        most = max(self.cues, key=lambda result: result.videos)
        sizes = f"{most.videos} videos, {most.classes} classes, {most.groups} groups"
        names = ", ".join(result.cue for result in self.cues)
        lines = [*self.notes, f"no shortcut found among {names} ({sizes})"]
        unsure = [result for result in self.cues if result.p is not None and result.p <= _DOUBTFUL_P]
        if unsure:
            best = min(unsure, key=lambda result: result.p or 0.0)
            lines.append(f"but there are too few groups to be sure: {best}")
        return lines


def find_shortcuts(listing: Listing, rows: Sequence[ManifestRow], borders: Sequence[Borders | None]) -> Shortcuts:
    """Measure for each cue how many labels it tells by itself; the same input gives the same result.

    Args:
        listing: the videos that are ok, with groups and duplicates.
        rows: theirs.
        borders: theirs; None where they are not known.
    """
    labels = np.array([entry.label for entry in listing.entries], object).astype(str)
    units = np.empty(len(labels), np.int64)
    for number, unit in enumerate(units_of(listing, range(len(labels)))):
        units[list(unit.videos)] = number
    results, left_out = [], set[str]()
    for cue, values in _cues(rows, borders).items():
        known = ~np.isnan(values).any(1)
        pairs = set(zip(labels[known].tolist(), units[known].tolist(), strict=True))
        groups = Counter(label for label, _ in pairs)
        enough = [label for label, count in groups.items() if count >= _FOLDS]
        left_out |= set(listing.labels) - set(enough) if known.all() else set()
        if len(enough) > 1:
            chosen = known & np.isin(labels, enough)
            results.append(_result(cue, values[chosen], labels[chosen], units[chosen]))
    return Shortcuts(tuple(results), tuple(_notes(listing, borders, sorted(left_out), searched=bool(results))))


def _cues(rows: Sequence[ManifestRow], borders: Sequence[Borders | None]) -> dict[str, FloatArray]:
    """Make the numbers of each cue, ``[N, n]``; nan where a video's are not known."""
    widths = [[np.nan] * 4 if each is None else (each.top, each.bottom, each.left, each.right) for each in borders]
    codec_names = sorted({row.codec for row in rows})
    cues = {
        "borders": np.array(widths, np.float64),
        "frame size": np.array([(row.width, row.height, row.width / max(row.height, 1)) for row in rows], np.float64),
        # That a file states no rate may tell the label too.
        "frame rate": np.array([(row.fps or 0.0,) for row in rows], np.float64),
        "codec": np.array([[row.codec == name for name in codec_names] for row in rows], np.float64),
        "length": np.array([(row.frames / (row.fps or PICTURES_A_SECOND),) for row in rows], np.float64),
    }
    # What is not known of some may go with their label, so it counts only if it is known of all.
    varying = [values for values in cues.values() if not np.isnan(values).any() and (values != values[0]).any()]
    return {**cues, _ALL: np.hstack(varying)} if len(varying) > 1 else cues


def _result(cue: str, values: FloatArray, labels: npt.NDArray[np.str_], units: npt.NDArray[np.int64]) -> CueResult:
    names, counts = np.unique(labels, return_counts=True)
    result = CueResult(cue, len(labels), len(names), len(np.unique(units)), float(counts.max() / len(labels)))
    if (values == values[0]).all():
        return result
    folds = list(StratifiedGroupKFold(_FOLDS).split(values, labels, units))
    hits = _guessed(values, labels, folds)
    accuracy, interval = float(hits.mean()), clustered_wilson(hits, units.astype(str).tolist(), _CONFIDENCE)
    result = replace(result, accuracy=accuracy, interval=interval)
    if result.found or accuracy <= result.chance:
        return result
    return replace(result, p=_chance_of(accuracy, values, labels, units, folds))


def _guessed(values: FloatArray, labels: npt.NDArray[np.str_], folds: Sequence[Fold]) -> npt.NDArray[np.bool_]:
    """Tell which labels trees guess that have learned from the other folds."""
    hits = np.zeros(len(labels), bool)
    for train, test in folds:
        tree = DecisionTreeClassifier(
            min_samples_leaf=_FEWEST_IN_LEAF, max_leaf_nodes=_MOST_LEAVES, random_state=0
        ).fit(values[train], labels[train])
        hits[test] = tree.predict(values[test]) == labels[test]
    return hits


def _chance_of(
    accuracy: float,
    values: FloatArray,
    labels: npt.NDArray[np.str_],
    units: npt.NDArray[np.int64],
    folds: Sequence[Fold],
) -> float:
    """Estimate how often trees guess so many labels that go with the groups alone; stops once that is often enough.

    A deal gives each group the labels of another one, in any order.
    """
    generator = np.random.default_rng(0)
    places = [np.flatnonzero(units == unit) for unit in np.unique(units)]
    dealt, reached, deals = labels.copy(), 0, 0
    while deals < _DEALS and reached + 1 <= _DOUBTFUL_P * (_DEALS + 1):
        for own, other in zip(places, generator.permutation(len(places)), strict=True):
            dealt[own] = np.resize(generator.permutation(labels[places[other]]), len(own))
        deals += 1
        reached += bool(_guessed(values, dealt, folds).mean() >= accuracy)
    return (1 + reached) / (1 + deals)


def _notes(
    listing: Listing, borders: Sequence[Borders | None], left_out: Sequence[str], *, searched: bool
) -> list[str]:
    if not searched:
        needed = f"{_FOLDS} groups (videos, where groups are not known) in each of 2 classes"
        return [f"shortcuts were not looked for: that takes {needed} or more"]
    notes = []
    if unknown := sum(each is None for each in borders):
        remedy = "remove the journal beside the manifest and check again to measure them"
        notes.append(
            f"shortcuts: the borders of {unknown} videos, checked by an earlier version, are unknown; {remedy}"
        )
    if ungrouped := sum(entry.group is None for entry in listing.entries):
        notes.append(f"shortcuts: {ungrouped} videos have no known group and count as one each")
    if left_out:
        notes.append(f"shortcuts: classes with fewer than {_FOLDS} groups are left out: {some(left_out)}")
    return notes
