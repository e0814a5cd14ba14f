"""Run the command ``check``: read every video once, write the manifest, and report what is wrong with the data.

That is faults, duplicates, leakage and shortcuts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actionfusion.data.check_videos import CheckedVideo, CheckJournal, check_videos
from actionfusion.data.duplicates import Duplicate, clusters, exact_duplicates, label_conflicts, near_duplicates
from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.table import read_rows
from actionfusion.data.listing import Listing, Split, VideoEntry
from actionfusion.data.manifest import OK, TOO_SHORT, Manifest, ManifestRow, check_format, write_manifest, write_table
from actionfusion.data.manifest_edits import keep_edits, read_earlier, refuse_another_set
from actionfusion.data.pools import Pool, open_pool
from actionfusion.data.segments import named_segment
from actionfusion.data.shortcuts import Shortcuts, find_shortcuts
from actionfusion.data.splits import default_split, make_splits
from actionfusion.errors import DatasetError, SettingsError
from actionfusion.files import refuse_foreign, refuse_unwritable
from actionfusion.plain_progress import PlainProgress
from actionfusion.storage import PathLike, to_path
from actionfusion.terminal import Console, Text
from actionfusion.video.fingerprint import Fingerprint
from actionfusion.video.rates import mixed_rates

# Lines of one kind that are printed; the manifest has them all.
_SHOWN = 20
_MANIFEST = Path("manifest.csv")
_LEAK_COLUMNS = ("split", "path", "kind", "shared")
_CUE_COLUMNS = ("cue", "videos", "classes", "groups", "chance", "accuracy", "low", "high", "shortcut", "p")


def _leaks(out: Path) -> Path:
    return out.with_name(f"{out.stem}.leaks.csv")


def _shortcuts(out: Path) -> Path:
    return out.with_name(f"{out.stem}.shortcuts.csv")


@dataclass(frozen=True)
class SplitFinding:
    """Leakage of a split, or why it cannot be made.

    Attributes:
        name: of the split.
        summary: one line.
        leaking: test videos with a duplicate or their group in training, duplicates first.
        sound: whether it can be made and has no known leakage.
    """

    name: str
    summary: str
    leaking: tuple[Leak, ...]
    sound: bool


@dataclass(frozen=True)
class Leak:
    """A test video that leaks into training.

    Attributes:
        path: of the test video.
        kind: ``double`` (a duplicate) or ``group``.
        shared: the training video that shows the same, or the group that is in training too.
    """

    path: str
    kind: Literal["double", "group"]
    shared: str

    def __str__(self) -> str:
        if self.kind == "double":
            return f"{self.path!r} shows what {self.shared!r} in training shows"
        return f"{self.path!r} has group {self.shared!r} in common with training"


@dataclass(frozen=True)
class CheckReport:
    """Findings of ``check``.

    Attributes:
        rows: a row a video, in the listing's order.
        duplicates: pairs of videos that show the same.
        splits: leakage of each split.
        shortcuts: facts of the files that tell the label.
        out: the manifest.
        strict: whether anything wrong counts as a failure.
    """

    rows: tuple[ManifestRow, ...]
    duplicates: tuple[Duplicate, ...]
    splits: tuple[SplitFinding, ...]
    shortcuts: Shortcuts
    out: Path
    strict: bool = False

    @property
    def faults(self) -> tuple[ManifestRow, ...]:
        """The rows whose status is not ok."""
        return tuple(row for row in self.rows if row.status != OK)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Pairs of equal files that have two labels, one of which must be wrong."""
        return tuple(label_conflicts(self.duplicates, {row.path: row.label for row in self.rows}))

    @property
    def leaks(self) -> Path:
        """Path of the table of leaking test videos, if there are any: split, path, kind, shared."""
        return _leaks(self.out)

    @property
    def shortcut_table(self) -> Path:
        """Path of the table of what each cue tells of the labels, if there are enough groups to say it."""
        return _shortcuts(self.out)

    @property
    def failed(self) -> bool:
        """Whether to exit with 1: with ``strict``, if a video has a fault or two labels, or a split leaks."""
        return self.strict and (bool(self.faults or self.conflicts) or not all(split.sound for split in self.splits))


def check(
    dataset: str,
    root: PathLike,
    *,
    out: Path = _MANIFEST,
    split: str | None = None,
    seed: int = 0,
    group_pattern: str | None = None,
    min_frames: int = 2,
    strict: bool = False,
    workers: int | None = None,
    ray: str | None = None,
) -> CheckReport:
    """Read every video of a data set to its end and write a manifest of contents and faults.

    Training, prepare and evaluation take the manifest (``--data.manifest``, ``--manifest``): videos that are not ok are
    left out, and duplicates are known.  Facts of the files that tell the label, such as letterbox bars, are reported as
    shortcuts.  A second call reads only new and changed videos, and keeps what was edited in the manifest; a call that
    was stopped or killed is resumed.

    Args:
        dataset: layout of the folder: ucf101, ucf11, ucfsports, hmdb51, folder (a folder a class), csv or shapes.
        root: folder of the data set, or its address (s3://bucket/clips and all else that fsspec opens).
        out: the manifest, .csv, .tsv or .parquet; a journal of the work is kept beside it.
        split: the split to look for groups and duplicates in; none takes all official ones, or the default.
        seed: of a random split.
        group_pattern: a regular expression with a named part ``group`` that finds a video's group in its file name.
        min_frames: videos with fewer frames are too short; 2 is the least that have any motion.
        strict: exit with 1 if a video is not ok, the same bytes have two labels, or a group or duplicate is on both
            sides of a split.
        workers: processes; none takes one a core, 0 works in this process; on a cluster the most videos at once.
        ray: address of a Ray cluster to work on, whose machines see the data set under the same paths: HOST:PORT if
            this machine belongs to it, ray://HOST:PORT if not, auto for the one running here.

    Returns:
        What was found.

    Raises:
        DatasetError: the folder does not have its layout, or manifest or journal cannot be written.
        OutputError: the manifest cannot be written.
        SettingsError: an unknown layout or split, an ending that is no table's, or a file in the manifest's place that
            check did not write.
        ClusterError: the cluster cannot be reached, was lost, or does not see the videos.
    """
    if min_frames < 1:
        raise SettingsError("min_frames", f"{min_frames}", "take 1 or more")
    check_format(out)
    _refuse_input(dataset, root, out)
    earlier = _refuse_others(out)
    refuse_unwritable(out)
    console = Console(stderr=True)
    listing = open_dataset(dataset, root, group_pattern=group_pattern)
    if earlier is not None:
        refuse_another_set(earlier, [entry.path for entry in listing.entries])
    _say(console, listing.describe(), *(f"note: {note}" for note in listing.notes))
    with CheckJournal(out.with_name(f"{out.name}.journal")) as journal:
        written = {path: video.written for path, video in journal.known.items() if video.written is not None}
        with open_pool(workers, ray) as pool, _bar(console) as bar:
            videos = _check_all(listing, journal, pool, bar, on_cluster=ray is not None)
            duplicates = _find_duplicates(videos, bar)
        first_of = clusters(duplicates, videos)
        found = [_row(entry, videos[entry.path], min_frames, first_of.get(entry.path, "")) for entry in listing.entries]
        rows, notes = (found, []) if earlier is None else keep_edits(found, earlier, written)
        splits = tuple(_look_at_splits(listing, rows, split, seed))
        shortcuts = _look_for_shortcuts(listing, rows, videos)
        report = CheckReport(tuple(rows), tuple(duplicates), splits, shortcuts, out, strict)
        _write(report)
        journal.keep_only(found)
    _say(console, *(f"note: {note}" for note in notes))
    _print(console, report)
    return report


def _refuse_input(dataset: str, root: PathLike, out: Path) -> None:
    """Refuse to write the manifest over the table that is checked."""
    table = to_path(root)
    if dataset != "csv" or not isinstance(table, Path) or not out.is_file():
        return
    with suppress(OSError):
        if table.samefile(out) or (table.is_dir() and (table / out.name).samefile(out)):
            raise SettingsError(out, "is the table that is to be checked", "choose another --out")


def _refuse_others(out: Path) -> Manifest | None:
    """Refuse to write over files that check did not write; read the manifest of an earlier one."""

    def has(columns: Sequence[str], path: Path) -> bool:
        return next(read_rows(path, columns, columns), None) is not None

    refuse_foreign(_leaks(out), partial(has, _LEAK_COLUMNS))
    refuse_foreign(_shortcuts(out), partial(has, _CUE_COLUMNS[:-1]))  # tables of version 0.1 have no p
    return read_earlier(out)


def _write(report: CheckReport) -> None:
    try:
        write_manifest(report.out, report.rows)
        leaks = [(split.name, leak.path, leak.kind, leak.shared) for split in report.splits for leak in split.leaking]
        _write_table(report.leaks, _LEAK_COLUMNS, leaks)
        cues = [
            (cue.cue, cue.videos, cue.classes, cue.groups, cue.chance, cue.accuracy, *(cue.interval or (None, None)),
             "yes" if cue.found else "no", cue.p)
            for cue in report.shortcuts.cues
        ]  # fmt: skip
        _write_table(report.shortcut_table, _CUE_COLUMNS, cues)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise DatasetError(report.out, reason, "choose another --out") from error


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table beside the manifest; one without rows is removed instead."""
    if rows:
        write_table(path, columns, rows)
    else:
        path.unlink(missing_ok=True)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _check_all(
    listing: Listing, journal: CheckJournal, pool: Pool, bar: Progress, *, on_cluster: bool
) -> dict[str, CheckedVideo]:
    task, lines = bar.add_task("checking", total=len(listing.entries)), PlainProgress(bar.console, "checking")

    def progress(done: int, total: int, _: str) -> None:
        bar.update(task, completed=done, total=total)
        lines(done, total)

    return check_videos(listing, journal, pool, progress=progress, on_cluster=on_cluster)


def _find_duplicates(videos: dict[str, CheckedVideo], bar: Progress) -> list[Duplicate]:
    equal = exact_duplicates({path: video.row.hash for path, video in videos.items()})
    later = {duplicate.second for duplicate in equal if duplicate.kind == "equal"}
    prints = {
        path: Fingerprint.decode(video.fingerprint)
        for path, video in videos.items()
        if video.fingerprint and path not in later
    }
    task = bar.add_task("looking for duplicates", total=len(prints))
    near = near_duplicates(prints, lambda done, total: bar.update(task, completed=done, total=total))
    # Segments of one video stay together in any case, and are alike wherever its scene is.
    return equal + [pair for pair in near if named_segment(pair.first)[0] != named_segment(pair.second)[0]]


def _row(entry: VideoEntry, video: CheckedVideo, min_frames: int, double_of: str) -> ManifestRow:
    row = replace(video.row, label=entry.label, group=entry.group, double_of=double_of)
    if row.status == OK and row.frames < min_frames:
        return replace(row, status=TOO_SHORT, reason=f"{row.frames} frames, where {min_frames} are the least")
    return row


def _look_at_splits(listing: Listing, rows: Sequence[ManifestRow], name: str | None, seed: int) -> list[SplitFinding]:
    try:
        listing = Manifest(_MANIFEST, tuple(rows), ()).applied_to(listing)
        names = [name] if name else list(listing.official) or [default_split(listing)]
        return [_look_at(listing, split) for chosen in names for split in make_splits(listing, chosen, seed)]
    except DatasetError as error:
        return [SplitFinding(name or "default", f"cannot be made: {error.reason}", (), sound=False)]


def _look_for_shortcuts(listing: Listing, rows: Sequence[ManifestRow], videos: Mapping[str, CheckedVideo]) -> Shortcuts:
    try:
        listing = Manifest(_MANIFEST, tuple(rows), ()).applied_to(listing)
    except DatasetError as error:
        return Shortcuts((), (f"shortcuts were not looked for: {error.reason}",))
    row_of = {row.path: row for row in rows}
    chosen = [row_of[entry.path] for entry in listing.entries]
    return find_shortcuts(listing, chosen, [videos[row.path].borders for row in chosen])


def _look_at(listing: Listing, split: Split) -> SplitFinding:
    leaks = split.leaks(listing)
    seen = {entry.double_of: entry.path for entry in (listing.entries[index] for index in (*split.train, *split.val))}
    groups = set(leaks.groups)
    duplicates, mates = [], []
    for entry in (listing.entries[index] for index in split.test):
        if entry.double_of is not None and entry.double_of in seen:
            duplicates.append(Leak(entry.path, "double", seen[entry.double_of]))
        elif entry.group is not None and entry.group in groups:
            mates.append(Leak(entry.path, "group", entry.group))
    return SplitFinding(split.name, leaks.describe(), (*duplicates, *mates), sound=not leaks.found)


def _print(console: Console, report: CheckReport) -> None:
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(row.status for row in report.rows).items()))
    frames = sum(row.frames for row in report.rows if row.status == OK)
    _say_some(console, [f"{row.status}: {row.path}: {row.reason}" for row in report.faults], report.out)
    _say_some(
        console,
        [
            f"duplicates ({pair.kind}, distance {pair.distance:.2f}): {pair.first!r} and {pair.second!r}"
            for pair in report.duplicates
        ],
        report.out,
    )
    _say_some(console, [f"label conflict, the same bytes: {pair}" for pair in report.conflicts], report.out)
    for split in report.splits:
        _say(console, f"split {split.name}: {split.summary}")
        _say_some(console, [f"  {leak}" for leak in split.leaking], report.leaks)
    _say(console, *report.shortcuts.lines())
    if mixed := mixed_rates(row.fps for row in report.rows if row.status == OK):
        _say(console, mixed)
    _say(console, f"{len(report.rows)} videos: {counts}; {frames:,} frames in those that are ok")
    _say(console, f"written to {report.out}")


def _say_some(console: Console, lines: Sequence[str], table: Path) -> None:
    _say(console, *lines[:_SHOWN])
    if len(lines) > _SHOWN:
        _say(console, f"  and {len(lines) - _SHOWN} more, all in {table}")


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(Text(" ".join(line.splitlines())), soft_wrap=True)
