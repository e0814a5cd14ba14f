"""List a data set: its videos, labels and groups, and which video is in which part of a split.

Nothing here opens a video.  An index always counts into ``Listing.entries``, which is sorted by path, so that the same
files give the same indices on every machine.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal, get_args

from actionfusion.data.segments import Segment
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.storage import AnyPath

Kind = Literal["file", "frames", "missing"]
Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


def canonical(text: str) -> str:
    """Give one spelling of a name: file systems differ in how they store accented letters."""
    return unicodedata.normalize("NFC", text)


def caseless(name: str) -> str:
    """Give one spelling of names that differ only in case or in how accented letters are stored."""
    return canonical(name).casefold()


def spellings(name: str) -> tuple[str, ...]:
    """Give a name as it is and in the two ways in which file systems store accented letters, each once."""
    return tuple(dict.fromkeys((name, canonical(name), unicodedata.normalize("NFD", name))))


def match_names(wanted: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """Map names as they were recorded to those that are here, whichever way accented letters are stored now.

    A name that is here as recorded is itself; one that could be two of those here is not mapped.
    """
    known = dict.fromkeys(here)
    forms: dict[str, list[str]] = {}
    for name in known:
        forms.setdefault(canonical(name), []).append(name)
    found = {}
    for name in wanted:
        alike = [name] if name in known else forms.get(canonical(name), [])
        if len(alike) == 1:
            found[name] = alike[0]
    return found


def sorted_labels(entries: Iterable[VideoEntry]) -> tuple[str, ...]:
    """Sort the classes of these videos, the same whichever way accented letters are stored."""
    return tuple(sorted({entry.label for entry in entries}, key=lambda label: (canonical(label), label)))


def notes_on_spelling(what: str, names: Iterable[str]) -> list[str]:
    """Name those that differ only in case, spaces, invisible characters or the form of their letters."""
    alike: dict[str, set[str]] = {}
    for name in names:
        shown = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
        alike.setdefault(" ".join(shown.casefold().split()), set()).add(name)
    return [
        f"{what} that differ only in how they are written: {', '.join(map(ascii, sorted(group)))}"
        for _, group in sorted(alike.items())
        if len(group) > 1
    ]


@dataclass(frozen=True)
class VideoEntry:
    """One video of a data set.

    Args:
        path: POSIX, relative to the listing's root, never leaving it; of a segment with its name behind it, such as
            ``film.mp4#t=1.5,3``.
        label: name of its class.
        group: videos of one group share scene, actor or source film; none where that is not known.  A group inside one
            class alone is written ``<label>/<group>``: g08 of one class has nothing to do with g08 of another.
        kind: ``file``; ``frames`` for a folder that holds the video as single pictures; ``missing`` where a table
            names it and nothing is there.
        frames: how many decoding gives, if a manifest has it.
        double_of: path of the first of the videos that show the same, itself among them; none where it is the only
            one known.
        segment: of the file, where the entry is not the whole of it.
    """

    path: str
    label: str
    group: str | None = None
    kind: Kind = "file"
    frames: int | None = None
    double_of: str | None = None
    segment: Segment | None = None

    @property
    def file_path(self) -> str:
        """The path without the segment: that of the file or the folder of pictures."""
        return self.path if self.segment is None else self.path.removesuffix(f"#{self.segment}")

    @property
    def fold(self) -> str | None:
        """The group without its class, as leave-one-group-out uses it for all classes at once."""
        return self.group.removeprefix(f"{self.label}/") if self.group is not None else None


@dataclass(frozen=True)
class Leaks:
    """Leakage of a split: groups, and videos that show the same, on both sides of it.

    Args:
        groups: those groups.
        test_videos: test videos with a group-mate in the training or validation part.
        same_label: the test videos among them with such a mate of their own class.
        tested: all test videos.
        ungrouped: test videos of unknown group, which may leak.
        duplicates: paths of the test videos with a duplicate in the training or validation part.
    """

    groups: tuple[str, ...]
    test_videos: int
    same_label: int
    tested: int
    ungrouped: int
    duplicates: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether any leakage is known."""
        return bool(self.test_videos or self.duplicates)

    def describe(self) -> str:
        """Write one line for people."""
        if self.ungrouped == self.tested:
            parts = ["groups are not known, so leakage cannot be counted"]
        else:
            mates = f"{self.same_label} of their own class; {len(self.groups)} groups on both sides"
            parts = [f"{self.test_videos} of {self.tested} test videos have a group-mate in training ({mates})"]
            if self.ungrouped:
                parts.append(f"{self.ungrouped} have no known group")
        if self.duplicates:
            parts.append(
                f"{len(self.duplicates)} of {self.tested} test videos have a duplicate in training: "
                f"{some(self.duplicates)}"
            )
        return "; ".join(parts)


@dataclass(frozen=True)
class Split:
    """Videos for training, for testing, and for deciding when training ends.

    Args:
        name: what every result carries, such as ``ucf101 official 1`` or ``random 7:3, seed 0, repeat 1``.
        train: indices into the listing's entries.
        test: likewise; no video is in two parts.
        val: likewise.
        notes: facts about it, one line each.

    Raises:
        DatasetError: a video is named twice.
    """

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]
    val: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        together = [*self.train, *self.test, *self.val]
        if len(set(together)) < len(together):
            twice = next(index for index in together if together.count(index) > 1)
            raise DatasetError(self.name, f"video {twice} is named twice", "put every video in one part alone")

    def leaks(self, listing: Listing, part: Part = "test") -> Leaks:
        """Count the groups and duplicates on both sides; validation counts as seen, since it chooses the weights.

        Args:
            listing: that the split counts in.
            part: whose videos are tested; of the training part, each counts as its own mate and duplicate.
        """
        seen = [listing.entries[index] for index in (*self.train, *(self.val if part == "test" else ()))]
        shown_already = {entry.double_of for entry in seen} - {None}
        groups = {entry.group for entry in seen if entry.group is not None}
        own = {(entry.group, entry.label) for entry in seen if entry.group is not None}
        test = [listing.entries[index] for index in getattr(self, part)]
        duplicates = tuple(entry.path for entry in test if part == "train" or entry.double_of in shown_already)
        return Leaks(
            groups=tuple(sorted(groups & {entry.group for entry in test if entry.group is not None})),
            test_videos=sum(entry.group in groups for entry in test),
            same_label=sum((entry.group, entry.label) in own for entry in test),
            tested=len(test),
            ungrouped=sum(entry.group is None for entry in test),
            duplicates=duplicates,
        )

    def describe(self) -> str:
        """Give the name and the size of every part on one line."""
        val = f", {len(self.val)} validation" if self.val else ""
        return f"{self.name}: {len(self.train)} training{val}, {len(self.test)} test videos"


@dataclass(frozen=True)
class Listing:
    """The videos of one data set as they were found.

    Args:
        dataset: name of the layout.
        root: folder that every entry's path starts from, on this machine or behind an address.
        entries: the videos, sorted by path.
        labels: the classes in the order of the network's outputs: the official index where there is one, else sorted.
        official: splits that come with the data, by the name that ``make_split`` takes: ``official-1``, ``folders``
            (train/, val/ and test/ of the folder itself) or ``column`` (of a table).
        notes: what is missing or was left out, one line each.
        recognised_by: the sign by which the layout was recognised; none where it was given.

    Raises:
        DatasetError: a path that is absolute, leaves the root or comes twice, a label that is not among ``labels``,
            or no videos at all.
    """

    dataset: str
    root: AnyPath
    entries: tuple[VideoEntry, ...]
    labels: tuple[str, ...]
    official: Mapping[str, Split] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    recognised_by: str | None = None

    def __post_init__(self) -> None:
        if not self.entries:
            raise DatasetError(self.root, "holds no video", "check that this is the folder with the videos")
        known, seen = set(self.labels), set[str]()
        for entry in self.entries:
            path = PurePosixPath(entry.path)
            if path.is_absolute() or ".." in path.parts:
                raise DatasetError(self.root, f"video {entry.path!r} is outside it", "name paths inside the root")
            if entry.path in seen:
                raise DatasetError(self.root, f"video {entry.path!r} is listed twice", "list every video once")
            if entry.label not in known:
                raise DatasetError(self.root, f"label {entry.label!r} is no class", "add it to the labels")
            seen.add(entry.path)

    @property
    def groups(self) -> tuple[str, ...]:
        """The known groups, sorted."""
        return tuple(sorted({entry.group for entry in self.entries if entry.group is not None}))

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of the videos that are named and not there."""
        return tuple(entry.path for entry in self.entries if entry.kind == "missing")

    def present(self, note: str = "") -> Listing:
        """Return a listing of the videos that are there; ``note`` explains that the others are not.

        Raises:
            DatasetError: none is there.
        """
        if not self.missing:
            return self
        if len(self.missing) == len(self.entries):
            reason = f"not one of the {len(self.entries)} videos that the table names is there: {some(self.missing)}"
            raise DatasetError(self.root, reason, "correct their paths, or mount the disk that holds them")
        return self.select((index for index, entry in enumerate(self.entries) if entry.kind != "missing"), note)

    def path(self, index: int) -> AnyPath:
        """Give the path of that video, or of the one that it is a segment of.

        ``storage.local_copy`` makes a local file of a remote one.
        """
        return self.root / self.entries[index].file_path

    def describe(self) -> str:
        """Return one line: how many classes, videos and groups were found, and where."""
        groups = f"{len(self.groups)} groups" if self.groups else "groups not known"
        folders = sum(entry.kind == "frames" for entry in self.entries)
        frames = f" ({folders} as folders of pictures)" if folders else ""
        gone = f", {len(self.missing)} of them missing" if self.missing else ""
        found = f"{len(self.labels)} classes, {len(self.entries)} videos{frames}{gone}, {groups}"
        return f"{self.dataset}: {found}, found in {shown(str(self.root))}"

    def describe_choice(self, flag: str = "--data.dataset") -> list[str]:
        """Return a line that says how the layout was recognised, and which flag sets it; none where it was given."""
        if self.recognised_by is None:
            return []
        return [f"layout: {self.dataset} (chosen: {self.recognised_by}; {flag} sets it)"]

    def describe_classes(self, most: int = 12) -> str:
        """Return one line: the first classes with their numbers of videos, and how many more there are."""
        counts = Counter(entry.label for entry in self.entries)
        named = ", ".join(f"{shown(label)} ({counts[label]})" for label in self.labels[:most])
        more = f" and {len(self.labels) - most} more" if len(self.labels) > most else ""
        return f"classes: {named}{more}"

    def select(self, indices: Iterable[int], note: str = "") -> Listing:
        """Return a listing of these videos alone; its splits follow, and ``note`` explains the rest.

        A class without videos is dropped.

        Raises:
            DatasetError: nothing is left.
        """
        kept = sorted(set(indices))
        position = {index: number for number, index in enumerate(kept)}

        def follow(part: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(position[index] for index in part if index in position)

        entries = tuple(self.entries[index] for index in kept)
        present = {entry.label for entry in entries}
        official = {
            name: replace(split, train=follow(split.train), test=follow(split.test), val=follow(split.val))
            for name, split in self.official.items()
        }
        emptied = [name for name, split in official.items() if not split.train or not split.test]
        return replace(
            self,
            entries=entries,
            labels=tuple(label for label in self.labels if label in present),
            official={name: split for name, split in official.items() if name not in emptied},
            notes=(
                *self.notes,
                *([note] if note else []),
                *(f"split {name} is not offered any more: one of its parts is empty" for name in emptied),
            ),
        )

    def with_duplicates(self, double_of: Mapping[str, str]) -> Listing:
        """Return a copy in which these paths are duplicates of the paths that they are mapped to."""
        entries = tuple(replace(entry, double_of=double_of.get(entry.path)) for entry in self.entries)
        return replace(self, entries=entries)

    def grouped_by(self, pattern: str) -> Listing:
        """Return a copy with the groups that a regular expression finds in the file names.

        Args:
            pattern: searched in each file's name (a frame folder's own name); its part ``(?P<group>...)`` is the
                group.  ``(?P<group>[a-z]+)_`` takes the person of ``daria_bend.avi``.

        Raises:
            SettingsError: no regular expression, or one without that part.
            DatasetError: it matches no file name at all.
        """
        expression = _group_expression(canonical(pattern))
        matches = [expression.search(canonical(PurePosixPath(entry.file_path).name)) for entry in self.entries]
        groups = [(match["group"] or None) if match else None for match in matches]
        entries = tuple(replace(entry, group=group) for entry, group in zip(self.entries, groups, strict=True))
        unmatched = [entry.path for entry in entries if entry.group is None]
        if len(unmatched) == len(entries):
            raise DatasetError(
                self.root, f"group pattern {pattern!r} matches no file name", f"try it on {unmatched[0]!r}"
            )
        note = (
            f"{len(unmatched)} file names do not match the group pattern, {unmatched[0]!r} first" if unmatched else ""
        )
        return replace(self, entries=entries, notes=(*self.notes, note) if note else self.notes)


def _group_expression(pattern: str) -> re.Pattern[str]:
    example = "write it like (?P<group>[a-z]+)_"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SettingsError("group_pattern", f"{pattern!r} is no regular expression: {error}", example) from error
    if "group" not in expression.groupindex:
        raise SettingsError("group_pattern", f"{pattern!r} has no part named group", example)
    return expression


def sorted_entries(entries: Iterable[VideoEntry]) -> tuple[VideoEntry, ...]:
    """Sort entries in the order that every listing keeps, whatever order the file system gave."""
    return tuple(sorted(entries, key=lambda entry: (canonical(entry.path), entry.path)))


def shown(name: str) -> str:
    """Return a name as it is if it prints on one line, else with its odd characters escaped."""
    return name if name.isprintable() else repr(name)


def some(names: Sequence[str], most: int = 3) -> str:
    """Quote the first few names, and say how many more there are, on one line."""
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
