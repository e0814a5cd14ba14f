"""Which videos a run trains on, chooses by, and is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, cast, get_args

from actionfusion.data.duplicates import exact_duplicates, label_conflicts, note_on_conflicts, with_equal_files
from actionfusion.data.fetched_video import FetchedVideo
from actionfusion.data.layouts import open_dataset
from actionfusion.data.listing import PARTS, Leaks, Listing, Part, Split, canonical, some, spellings
from actionfusion.data.loading import LabelledSource
from actionfusion.data.manifest import OK, read_manifest
from actionfusion.data.segment_source import SegmentSource
from actionfusion.data.source_videos import PictureFolderSource
from actionfusion.data.splits import hold_out_validation, make_split
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.errors import DatasetError, RecipeMismatch, SettingsError
from actionfusion.remote_path import RemotePath
from actionfusion.run_folder import fault_of_labels
from actionfusion.storage import AnyPath, PathLike, ask_many, to_path
from actionfusion.video.clip import ClipSettings, ClipSource
from actionfusion.video.rates import FrameRates
from actionfusion.video.video_source import VideoSource

MissingName = Literal["refuse", "leave_out"]
THE_SAME_ROOT = "give the folder that the run was trained on"
_PREPARE = "prepare with the recipe that you train with"


@dataclass(frozen=True)
class DataSettings:
    """Which videos, and which of them are for training, validation and testing.

    Args:
        root: folder of the data set, or its address (s3://bucket/clips and all else that fsspec opens).
        dataset: layout of the folder: ucf101, ucf11, ucfsports, hmdb51, folder (a folder a class), csv or
            shapes (generated); none recognises it.
        split: name of the split; none takes the layout's default (official lists, else the folder's own parts, else
            7:3 by groups, else a random 7:3).
        seed: of a random split.
        validation: where the clips that end a training stage come from: ``hold_out`` takes them out of the training
            part, whole groups where there are groups; ``test`` uses the test part itself, as the paper does, and the
            run says so; ``none`` trains all epochs.
        validation_fraction: share of the training part that ``hold_out`` takes.
        group_pattern: for ``folder``, a regular expression with a named part ``group`` that finds a video's group in
            its file name.
        store: folder of prepared clips, or its address; none reads the videos themselves.
        manifest: what ``check`` wrote: videos that are not ok in it are left out, and duplicates of any kind are known.
            Without one, equal files are found by themselves.
        missing: of videos that a table names and that are not there: ``refuse`` them, or ``leave_out`` and go on.

    Raises:
        SettingsError: a fraction outside 0 to 1, or another choice.
    """

    root: PathLike | None = None
    dataset: str | None = None
    split: str | None = None
    seed: int = 0
    validation: Literal["hold_out", "test", "none"] = "hold_out"
    validation_fraction: float = 0.2
    group_pattern: str | None = None
    store: PathLike | None = None
    manifest: Path | None = None
    missing: MissingName = "refuse"

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise SettingsError("data.validation_fraction", f"{self.validation_fraction}", "take more than 0, below 1")
        if self.missing not in get_args(MissingName):
            raise SettingsError("data.missing", f"{self.missing!r} is no choice", "choose refuse or leave_out")


@dataclass(frozen=True)
class LabelledVideos:
    """A listing with its split, as a run uses it.

    Args:
        listing: the videos, by their paths as the run knows them.
        split: counts in the listing.
        settings: of both.
        found_as: today's path of a video that had another one when it was split; None where it is gone.
        named_as_trained: videos of another data set than the run's that are named as videos of its training.
    """

    listing: Listing
    split: Split
    settings: DataSettings
    found_as: Mapping[int, str | None] = field(default_factory=dict)
    named_as_trained: int = 0

    @cached_property
    def store(self) -> AnyPath | None:
        """Where the prepared clips are."""
        return None if self.settings.store is None else to_path(self.settings.store)

    def part(self, name: Part) -> tuple[int, ...]:
        """Return the indices into ``listing.entries`` of one part of the split."""
        chosen: tuple[int, ...] = getattr(self.split, name)
        return chosen

    def leaks(self, part: Part) -> Leaks:
        """Count the leakage of training into one part of the split."""
        return self.split.leaks(self.listing, part)

    def seen_in_training(self, part: Part) -> int:
        """Count the videos of one part that training saw: they themselves, their duplicates, or by their names."""
        shown = {self.listing.entries[index].double_of for index in self.split.train} - {None}
        here = self.part(part)
        seen = sum(part == "train" or self.listing.entries[index].double_of in shown for index in here)
        return seen + self.named_as_trained

    def sources(
        self, indices: Sequence[int], clip: ClipSettings, rates: FrameRates | None = None
    ) -> list[LabelledSource]:
        """List the videos of these indices, ready to be opened.

        Args:
            indices: into ``listing.entries``.
            clip: what is cut of them.
            rates: of a run's training videos, at about which files are read then; a store has each frame's flow.
        """
        targets = {label: number for number, label in enumerate(self.listing.labels)}
        entries = self.listing.entries
        return [
            LabelledSource(
                entries[index].path,
                partial(self._open, index, clip, rates),
                targets[entries[index].label],
                self.file(index),
            )
            for index in indices
        ]

    def check_there(self, parts: Sequence[Part]) -> None:
        """Check that every video of these parts is there.

        Raises:
            DatasetError: one is not.
        """
        for part in parts:
            paths = [self.listing.entries[index].path for index in self.part(part) if self._today(index) is None]
            if paths:
                reason = f"{len(paths)} of the {len(self.part(part))} {part} videos of the run's split are not there"
                remedy = f"{THE_SAME_ROOT}; evaluate --split all-test measures on what is there"
                raise DatasetError(self.listing.root, f"{reason}: {some(paths)}", remedy)

    def check_store(self, clip: ClipSettings, parts: Sequence[Part] = PARTS) -> None:
        """Check that the store, if there is one, holds what such clips need of every video of these parts.

        Raises:
            RecipeMismatch: the store was made by another recipe, or without flow.
            DatasetError: a video is not in the store, or its entry is damaged.
        """
        if self.store is None:
            return
        entries = [self.file(index) for part in parts for index in self.part(part)]
        each: Iterable[StoredVideo] = map(StoredVideo, entries)
        if isinstance(self.store, RemotePath):
            with suppress(OSError):  # The entries report the fault, and name it better.
                self.store.forget_all()
            each = (stored for _, stored in ask_many(StoredVideo, entries))
        for stored in each:
            if clip.reads_flow and not stored.contents.has_flow:
                raise RecipeMismatch(self.store, "was prepared without flow", _PREPARE)
            if difference := clip.difference(stored.recipe, stored.frame_size):
                raise RecipeMismatch(self.store, f"has {difference}", _PREPARE)

    def digest(self) -> str:
        """Compute a hash of which videos are in which part, the same on every machine."""
        entries = self.listing.entries
        return split_digest((name, canonical(entries[index].path)) for name in PARTS for index in self.part(name))

    def _today(self, index: int) -> str | None:
        return self.found_as.get(index, self.listing.entries[index].path)

    def file(self, index: int) -> AnyPath:
        """Give the file of a video: itself, or its entry of the store."""
        entry = self.listing.entries[index]
        today = replace(entry, path=self._today(index) or entry.path)
        return self.listing.root / today.file_path if self.store is None else _entry(self.store, today.path)

    def _open(self, index: int, clip: ClipSettings, rates: FrameRates | None) -> ClipSource:
        entry, video = self.listing.entries[index], self.file(index)
        if self.store is not None:
            return StoredVideo(video)
        if entry.segment is not None:
            if isinstance(video, Path):
                return SegmentSource(video, entry.segment, clip.flow, clip.frame_size, rates)
            reason = f"is behind an address, and of its segment {entry.segment} only the prepared store reads"
            raise DatasetError(video, reason, "run prepare and give --data.store")
        if entry.kind == "frames":
            if isinstance(video, Path):
                return PictureFolderSource(video, clip.flow, clip.frame_size)
            reason = "is a folder of pictures behind an address, which only the prepared store reads"
            raise DatasetError(video, reason, "run prepare and give --data.store")
        if isinstance(video, Path):
            return VideoSource(video, clip.flow, entry.frames, frame_size=clip.frame_size, rates=rates)
        return FetchedVideo(video, clip.flow, clip.frame_size, rates)


def split_digest(videos: Iterable[tuple[str, str]]) -> str:
    """Compute a hash of the parts and paths of videos, in whatever order they come."""
    digest = hashlib.sha256()
    for part, path in sorted(videos, key=lambda video: (PARTS.index(cast("Part", video[0])), video[1])):
        digest.update(f"{part}\0{path}\0".encode())
    return digest.hexdigest()[:16]


def open_data(settings: DataSettings) -> LabelledVideos:
    """Find the videos and split them; the settings that come back name the layout.

    Raises:
        SettingsError: no root was given, or an address that cannot be opened here.
        DatasetError: the folder is not what its layout says, has one class alone, or a part of the split is empty.
    """
    listing = open_listing(settings)
    refuse_single_class(listing)
    if fault := fault_of_labels(listing.labels):
        raise DatasetError(listing.root, fault, "rename the class")
    return split_listing(listing, replace(settings, dataset=listing.dataset))


def refuse_single_class(listing: Listing) -> None:
    """Raise a DatasetError for videos of one class alone, which leave nothing to tell apart."""
    if len(listing.labels) < 2:
        reason = f"holds videos of one class alone, {listing.labels[0]!r}"
        raise DatasetError(listing.root, reason, "put the videos of each class into a folder of its own")


def split_listing(listing: Listing, settings: DataSettings) -> LabelledVideos:
    """Split videos that were found.

    Raises:
        SettingsError: an unknown split.
        DatasetError: the videos do not make that split, or it leaves none to train on.
    """
    split = make_split(listing, settings.split, seed=settings.seed)
    if not split.train:
        raise DatasetError(listing.root, f"split {split.name!r} leaves no video to train on", "choose another split")
    if settings.validation == "hold_out" and not split.val:
        split = hold_out_validation(listing, split, settings.validation_fraction, settings.seed)
    return LabelledVideos(listing, with_leakage_note(listing, split), settings)


def _entry(store: AnyPath, name: str) -> AnyPath:
    """Find a video in a store that may have been filled from a disk with another form of accented letters."""
    first, *others = (entry_path(store, spelling) for spelling in spellings(name))
    if others and not first.exists():
        return next((entry for entry in others if entry.exists()), first)
    return first


def open_listing(settings: DataSettings) -> Listing:
    """List the videos of a data set with what a manifest knows of them, or else with equal files marked.

    Raises:
        SettingsError: no root was given, an unknown layout, or a pattern that is none.
        DatasetError: the folder is not what its layout says, the manifest is not its own, or videos are missing.
    """
    if settings.root is None:
        raise SettingsError("data.root", "is not given", "say where the videos are: --data.root DIR")
    listing = open_dataset(settings.dataset, settings.root, group_pattern=settings.group_pattern)
    if settings.manifest is not None:
        manifest = read_manifest(settings.manifest)
        listing = manifest.applied_to(listing)
        equal = exact_duplicates({row.path: row.hash for row in manifest.rows if row.status == OK})
        conflicts = label_conflicts(equal, {row.path: row.label for row in manifest.rows})
        listing = replace(listing, notes=(*listing.notes, *note_on_conflicts(conflicts)))
    if gone := listing.missing:
        reason = f"{len(gone)} of the {len(listing.entries)} videos that the table names are not there: {some(gone)}"
        if settings.missing == "refuse":
            remedy = "correct its paths, or go on with --data.missing leave_out"
            raise DatasetError(to_path(settings.root), reason, remedy)
        listing = listing.present(f"{len(gone)} missing videos were left out")
    return with_equal_files(listing) if settings.manifest is None else listing


def with_leakage_note(listing: Listing, split: Split) -> Split:
    """Add a note on the leakage of a split, if there is any and no note says so yet."""
    leaks = split.leaks(listing)
    note = f"leakage: {leaks.describe()}"
    return replace(split, notes=(*split.notes, note)) if leaks.found and note not in split.notes else split
