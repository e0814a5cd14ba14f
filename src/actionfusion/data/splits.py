"""Split a data set by the name of a protocol, the same on every machine.

A split is a function of the listing and the seed alone.  Where chance decides, videos (or groups) are put in the order
of a hash of seed and path, so that neither the file system nor the version of a library matters, and a video that
is added or removed does not shuffle the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.cluster.hierarchy import DisjointSet

from actionfusion.data.listing import PARTS, Listing, Split, canonical, match_names, shown, some
from actionfusion.errors import DatasetError, SettingsError

TEST_SHARE = 0.3
_ATTEMPTS = 40
_DRAWN = {"random-7:3": False, "stratified-7:3": True}


@dataclass(frozen=True)
class Unit:
    """Videos that stay together: a group, videos that show the same, or one video alone."""

    key: str
    videos: tuple[int, ...]
    labels: Counter[str]


def random_7_3(listing: Listing, seed: int = 0, repeats: int = 1, *, stratified: bool = False) -> tuple[Split, ...]:
    """Draw random splits 7:3 over videos; the first is the paper's protocol.

    Clips of one group fall on both sides, which inflates accuracy: each split's notes say by how many.  A class may be
    in training alone by chance, which a note says too.

    Args:
        listing: the videos.
        seed: of the random order.
        repeats: how many splits.
        stratified: draw 7:3 within each class, so that every class is on both sides.  The paper shuffles the whole set.

    Raises:
        SettingsError: no repeats.
        DatasetError: a class with one video, or one that fell into the test part whole.

    Source: Ou and Sun 2019, section 4.2.
    """
    if repeats < 1:
        raise SettingsError("repeats", f"{repeats} repeats are none", "take 1 or more")
    _refuse_single_videos(listing)
    kind = "stratified random" if stratified else "random"
    splits = []
    for repeat in range(1, repeats + 1):
        name, salt = f"{kind} 7:3, seed {seed}, repeat {repeat}", f"{seed}/{repeat}"
        files = _files(listing)
        if stratified:
            test = _draw(files, TEST_SHARE, salt)
        else:
            order = _shuffled([(file.key, number) for number, file in enumerate(files)], salt)
            test = {index for number in order[(7 * len(order) + 5) // 10 :] for index in files[number].videos}
        split = _complement(listing, name, test)
        _refuse_untrained(listing, split)
        splits.append(replace(split, notes=(f"leakage: {split.leaks(listing).describe()}", *_untested(listing, split))))
    return tuple(splits)


def grouped_7_3(listing: Listing, seed: int = 0) -> Split:
    """Draw a random split 7:3 with no group on both sides, balanced within each class as far as groups allow.

    Raises:
        DatasetError: no groups are known, a class has one alone, or no draw brings every class to both sides.
    """
    _need_groups(listing)
    units = units_of(listing, range(len(listing.entries)))
    counts = Counter(label for unit in units for label in unit.labels)
    if lonely := [label for label in listing.labels if counts[label] == 1]:
        reason = f"class {lonely[0]!r} has one group, which cannot be on both sides"
        raise DatasetError(listing.root, reason, "take stratified-7:3, or add videos of other groups")
    name = f"grouped 7:3, seed {seed}"
    for attempt in range(_ATTEMPTS):
        # Groups that span classes may need another draw, and in the end larger steps, to reach every class.
        salt, most = (f"{seed}/{attempt}", 0.5 if attempt < _ATTEMPTS // 2 else 1.0)
        split = _complement(listing, name, _draw(units, TEST_SHARE, salt, most))
        if all(set(side) == set(listing.labels) for side in _sides(listing, split)):
            return replace(split, notes=_ungrouped(listing))
    raise DatasetError(name, f"no draw of {_ATTEMPTS} has every class on both sides", "take leave-one-group-out")


def leave_groups_out(listing: Listing, folds: Collection[str]) -> Split:
    """Test on these groups, of all classes at once, and train on the others.

    Args:
        listing: the videos.
        folds: groups without their class (``VideoEntry.fold``), such as ``g03`` or the name of a person.

    Raises:
        DatasetError: a group that is not there, or a class that would not be trained at all.
    """
    _need_groups(listing)
    known = folds_of(listing)
    same = match_names(folds, known)
    if strange := sorted(set(folds) - same.keys()):
        raise DatasetError(
            listing.dataset, f"there is no group {strange[0]!r}", f"the groups are {some(known, most=12)}"
        )
    left_out = set(same.values())
    test = {index for index, entry in enumerate(listing.entries) if entry.fold in left_out}
    names = ", ".join(shown(fold) for fold in sorted(folds))
    split = _complement(listing, f"leave {'one group' if len(folds) == 1 else 'groups'} out: {names}", test)
    _refuse_untrained(listing, split)
    if not split.train or not split.test:
        raise DatasetError(split.name, "leaves one part empty", "leave some groups out, and not all")
    return replace(split, notes=_ungrouped(listing))


def leave_one_group_out(listing: Listing) -> tuple[Split, ...]:
    """Make one split for each group: UCF11's usual protocol; leave-one-person-out if groups are persons.

    Groups of the same number in different classes are left out together, so UCF11 makes 25 splits.

    Raises:
        DatasetError: no groups are known, there is only one, or a class has one alone.
    """
    _need_groups(listing)
    return tuple(leave_groups_out(listing, [fold]) for fold in folds_of(listing))


def leave_one_out(listing: Listing) -> Iterator[Split]:
    """Make one split for each video, lazily: for small sets such as UCF Sports.

    Raises:
        DatasetError: a class with one video.
    """
    _refuse_single_videos(listing)
    return (_without(listing, file) for file in _files(listing))


def hold_out_validation(listing: Listing, split: Split, fraction: float = 0.2, seed: int = 0) -> Split:
    """Take validation videos out of the training part: whole groups where groups are known, else single videos.

    Each class gives about that share and keeps at least half of its training videos (or what a larger fraction leaves);
    one with a single group or video gives none.  A split that has a validation part already is returned as it is.

    Args:
        listing: the videos that the split counts in.
        split: test part and name stay as they are.
        fraction: share of the training part, above 0 and below 1.
        seed: of the random order.

    Raises:
        SettingsError: a fraction outside 0 to 1.
        DatasetError: not one video can be spared.
    """
    if not 0 < fraction < 1:
        raise SettingsError("validation_fraction", f"{fraction} is no share", "take more than 0 and less than 1")
    if split.val:
        return split
    units = units_of(listing, split.train)
    val = _draw(units, fraction, f"{seed}/validation", max(fraction, 0.5))
    if not val:
        raise DatasetError(
            split.name, "has no class with two groups or videos to train on", "validate on the test part, or not at all"
        )
    labels = {listing.entries[index].label for index in split.train}
    without = sorted(labels - {listing.entries[index].label for index in val})
    kind = "whole groups" if any(len(unit.videos) > 1 for unit in units) else "single videos"
    notes = [f"validation: {len(val)} of {len(split.train)} training videos, {kind}, fraction {fraction}, seed {seed}"]
    if without:
        notes.append(f"validation has no video of {len(without)} classes: {some(without)}")
    train = tuple(index for index in split.train if index not in val)
    return replace(split, train=train, val=tuple(sorted(val)), notes=(*split.notes, *notes))


def default_split(listing: Listing) -> str:
    """Name the split that is used if none is given.

    The first official one; else the folder's own; else the table's column; else 7:3 by groups where they are known;
    else 7:3 within each class.
    """
    for name in ("official-1", "folders", "column"):
        if name in listing.official:
            return name
    return next(iter(listing.official), "grouped-7:3" if listing.groups else "stratified-7:3")


def split_names(listing: Listing) -> tuple[str, ...]:
    """List the names that ``make_split`` takes for this listing."""
    grouped = ("grouped-7:3", "leave-one-group-out:GROUP", "leave-groups-out:GROUP,GROUP") if listing.groups else ()
    always = ("random-7:3", "stratified-7:3", "leave-one-out:PATH", "all", "all-test")
    return (*listing.official, *grouped, *always)


def make_splits(listing: Listing, name: str | None = None, seed: int = 0, repeats: int = 1) -> Iterator[Split]:
    """Make all splits of a protocol, one after the other.

    Args:
        listing: the videos.
        name: as in ``make_split``; ``leave-one-group-out`` and ``leave-one-out`` alone give them all.
        seed: of the random splits.
        repeats: how many draws of ``random-7:3`` and ``stratified-7:3``.

    Raises:
        SettingsError: an unknown name.
        DatasetError: the videos do not make that split.
    """
    name = name or default_split(listing)
    splits: Iterable[Split]
    if name == "leave-one-group-out":
        splits = leave_one_group_out(listing)
    elif name == "leave-one-out":
        splits = leave_one_out(listing)
    elif name in _DRAWN:
        splits = random_7_3(listing, seed, repeats, stratified=_DRAWN[name])
    else:
        splits = (make_split(listing, name, seed),)
    return (_refuse_torn(listing, split) for split in splits)


def make_split(listing: Listing, name: str | None = None, seed: int = 0, repeat: int = 1) -> Split:
    """Make one split by the name that a recipe gives it.

    Args:
        listing: the videos.
        name: ``official-1`` (``-2``, ``-3``), ``folders``, ``column``, ``random-7:3`` (the paper's),
            ``stratified-7:3``, ``grouped-7:3``, ``leave-one-group-out:g03``, ``leave-groups-out:anna,ben``,
            ``leave-one-out:PATH``, ``all`` (every video trains, none is tested) or ``all-test`` (the other way round).
            None takes ``default_split``.
        seed: of a random split.
        repeat: which draw of ``random-7:3`` or ``stratified-7:3``, from 1.

    Raises:
        SettingsError: an unknown name.
        DatasetError: the videos do not make that split.
    """
    return _refuse_torn(listing, _make_split(listing, name or default_split(listing), seed, repeat))


def _make_split(listing: Listing, name: str, seed: int, repeat: int) -> Split:
    if name in _DRAWN:
        return random_7_3(listing, seed, repeat, stratified=_DRAWN[name])[-1]
    if name == "grouped-7:3":
        return grouped_7_3(listing, seed)
    everything = tuple(range(len(listing.entries)))
    if name == "all":
        return Split("all videos train", everything, (), notes=("no video is left to test on",))
    if name == "all-test":
        return Split("all videos are tested", (), everything, notes=("no video is left to train on",))
    if name in listing.official or name.startswith("official-") or name in {"folders", "column"}:
        return _own(listing, name)
    protocol, _, argument = name.partition(":")
    if protocol in _LEAVING and argument:
        return _LEAVING[protocol](listing, argument)
    raise SettingsError("split", f"{name!r} is no split of {listing.dataset}", f"choose {_choices(listing)}")


def folds_of(listing: Listing) -> tuple[str, ...]:
    """List the groups without their classes, sorted, for ``leave_groups_out``."""
    return tuple(sorted({entry.fold for entry in listing.entries if entry.fold is not None}))


def _choices(listing: Listing) -> str:
    return "one of " + ", ".join(split_names(listing))


def _own(listing: Listing, name: str) -> Split:
    """Return a split that comes with the data set, which must have every class on both sides."""
    if name not in listing.official:
        raise DatasetError(listing.root, f"has no split {name!r}", f"choose {_choices(listing)}")
    split = listing.official[name]
    remedy = "add videos of it to the other part, take it out, or choose another split"
    train, test = _sides(listing, split)
    if one_sided := sorted(set(train) ^ set(test)):
        label = one_sided[0]
        part, count = ("training", train[label]) if train[label] else ("test", test[label])
        raise DatasetError(split.name, f"class {label!r} is only in the {part} part ({count} videos)", remedy)
    return split


def _complement(listing: Listing, name: str, test: Collection[int]) -> Split:
    train = tuple(index for index in range(len(listing.entries)) if index not in test)
    return Split(name, train, tuple(sorted(test)))


def _files(listing: Listing) -> list[Unit]:
    """List the video files, each with its segments where it has some."""
    videos: dict[str, list[int]] = {}
    for index, entry in enumerate(listing.entries):
        videos.setdefault(entry.file_path, []).append(index)
    return [
        Unit(file, tuple(indices), Counter(listing.entries[index].label for index in indices))
        for file, indices in videos.items()
    ]


def _refuse_torn(listing: Listing, split: Split) -> Split:
    """Refuse a split with segments of one video in two of its parts.

    Raises:
        DatasetError: there are some.
    """
    part_of: dict[str, str] = {}
    for part in PARTS:
        for index in getattr(split, part):
            entry = listing.entries[index]
            other = part_of.setdefault(entry.file_path, part)
            if other != part:
                reason = f"segments of {entry.file_path!r} are in the {other} part and in the {part} part"
                raise DatasetError(split.name, reason, "put all segments of a video into one part, or one group")
    return split


def _without(listing: Listing, file: Unit) -> Split:
    return _complement(listing, f"leave one out: {shown(file.key)}", file.videos)


def _leave_path_out(listing: Listing, path: str) -> Split:
    _refuse_single_videos(listing)
    files = {file.key: file for file in _files(listing)}
    if found := match_names([path], files):
        return _without(listing, files[found[path]])
    raise DatasetError(listing.root, f"there is no video {path!r}", "name it by its path from the root")


_LEAVING: Mapping[str, Callable[[Listing, str], Split]] = {
    "leave-one-group-out": lambda listing, fold: leave_groups_out(listing, [fold]),
    "leave-groups-out": lambda listing, folds: leave_groups_out(listing, {fold.strip() for fold in folds.split(",")}),
    "leave-one-out": _leave_path_out,
}


def _shuffled(keyed: Iterable[tuple[str, int]], salt: str) -> list[int]:
    """Order numbers by a hash of salt and key."""

    def order(item: tuple[str, int]) -> bytes:
        return hashlib.sha256(f"{salt}\n{canonical(item[0])}".encode(errors="surrogatepass")).digest()

    return [number for _, number in sorted(keyed, key=order)]


def units_of(listing: Listing, indices: Iterable[int]) -> list[Unit]:
    """Join videos into units that stay together: groups, duplicates, segments of one video, and what these tie."""
    ties = DisjointSet()
    members: dict[str, list[int]] = {}
    for index in indices:
        entry = listing.entries[index]
        # Of these names no two kinds can be the same: a path has no NUL.
        names = [f"group\0{entry.group}"] if entry.group is not None else [entry.path]
        names += [f"file\0{entry.file_path}"]
        names += [f"double\0{entry.double_of}"] if entry.double_of is not None else []
        for name in names:
            ties.add(name)
            ties.merge(name, names[0])
        members.setdefault(names[0], []).append(index)
    units = []
    for subset in ties.subsets():
        videos = sorted(index for name in subset for index in members.get(name, ()))
        key = min(name.removeprefix("group\0") for name in subset if name in members)
        units.append(Unit(key, tuple(videos), Counter(listing.entries[index].label for index in videos)))
    return units


def _draw(units: Sequence[Unit], fraction: float, salt: str, most: float = 0.5) -> set[int]:
    """Draw whole units at random until about that fraction of each class is taken.

    A unit is taken while that brings the classes' shares nearer to the fraction (in the sum of squares).  A class that
    got nothing then gets the smallest unit.  No class gives more than the share ``most``, or its last video.
    """
    totals, taken = Counter[str](), Counter[str]()
    for unit in units:
        totals.update(unit.labels)
    chosen: set[int] = set()
    order = _shuffled([(unit.key, number) for number, unit in enumerate(units)], salt)

    def gain(unit: Unit) -> float:
        return sum(
            count * (2 * (fraction * totals[label] - taken[label]) - count) / totals[label] ** 2
            for label, count in unit.labels.items()
        )

    def spares(unit: Unit) -> bool:
        after = {label: taken[label] + count for label, count in unit.labels.items()}
        return all(count <= most * totals[label] and count < totals[label] for label, count in after.items())

    for number in order:
        if gain(units[number]) > 0 and spares(units[number]):
            taken.update(units[number].labels)
            chosen.add(number)
    for label in sorted(totals):
        if taken[label]:
            continue
        fitting = [n for n in order if n not in chosen and label in units[n].labels and spares(units[n])]
        if fitting:
            number = min(fitting, key=lambda n: units[n].labels.total())
            taken.update(units[number].labels)
            chosen.add(number)
    return {index for number in chosen for index in units[number].videos}


def _need_groups(listing: Listing) -> None:
    if not listing.groups:
        remedy = "give a group_pattern or a column group, or take stratified-7:3"
        raise DatasetError(listing.root, "the groups of its videos are not known", remedy)


def _ungrouped(listing: Listing) -> tuple[str, ...]:
    count = sum(entry.group is None for entry in listing.entries)
    return (f"{count} videos have no known group and count as one each",) if count else ()


def _refuse_single_videos(listing: Listing) -> None:
    counts = Counter(entry.label for entry in listing.entries)
    for entry in listing.entries:
        if counts[entry.label] == 1:
            raise DatasetError(
                listing.root,
                f"class {entry.label!r} has one video, {entry.path!r}, which cannot be on both sides",
                "add videos of it, or take it out",
            )


def _sides(listing: Listing, split: Split) -> tuple[Counter[str], Counter[str]]:
    train = Counter(listing.entries[index].label for index in split.train)
    return train, Counter(listing.entries[index].label for index in split.test)


def _refuse_untrained(listing: Listing, split: Split) -> None:
    train, test = _sides(listing, split)
    for label in listing.labels:
        if test[label] and not train[label]:
            reason = f"class {label!r} is only in the test part, with all its {test[label]} videos"
            raise DatasetError(split.name, reason, "take another seed or split, or add videos of it")


def _untested(listing: Listing, split: Split) -> tuple[str, ...]:
    train, test = _sides(listing, split)
    missing = sorted(set(train) - set(test))
    return (f"{len(missing)} classes have no test video: {some(missing)}",) if missing else ()
