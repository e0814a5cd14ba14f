"""Read every video of a data set once, in full: contents, faults, fingerprint and borders.

Findings are recorded video by video (``CheckJournal``), so that a video is not read again after a kill, or when other
videos are added or changed.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from actionfusion.data.layouts.tree import frame_files
from actionfusion.data.listing import Listing
from actionfusion.data.manifest import ManifestRow
from actionfusion.data.pools import Pool
from actionfusion.data.segment_source import read_segment_frames, segment_bounds
from actionfusion.data.segments import Segment
from actionfusion.data.shared_folders import Landmark, where_seen
from actionfusion.data.source_videos import (
    at_hand,
    guess_frames,
    read_source_frames,
    source_hash,
    source_status,
    source_status_anew,
)
from actionfusion.data.workers import WorkerDied
from actionfusion.errors import DatasetError, VideoError
from actionfusion.files import write_atomically
from actionfusion.remote_path import UNKNOWN_SIZE, RemotePath
from actionfusion.settings import build, parse_json
from actionfusion.storage import AnyPath, ask_many
from actionfusion.video.borders import BorderMeter, Borders, border_positions
from actionfusion.video.fingerprint import PICTURE_SIZE, Fingerprint, fingerprint_positions
from actionfusion.video.reading import probe
from actionfusion.video.still_pictures import read_picture

FORMAT = 1
Progress = Callable[[int, int, str], None]
"""Called with the number of videos done, of all videos, and the path of the one just done."""


@dataclass(frozen=True)
class CheckTask:
    """One video to check, with all that a worker on any machine needs.

    Attributes:
        source: the video.
        path: within the data set.
        segment: of the source, where that is not to be checked whole.
    """

    source: AnyPath
    path: str
    segment: Segment | None = None


@dataclass(frozen=True)
class CheckedVideo:
    """Findings about one video.

    Attributes:
        row: of the manifest, without what the video itself does not show: label, group and duplicates.
        size: bytes of the file, or of a folder's pictures.
        modified: its latest change in nanoseconds.
        fingerprint: as ``Fingerprint.encode`` gives it; empty for a video with a fault.
        borders: of the picture; none for a video with a fault, or one that an earlier version checked.
        written: the row that was found for the manifest when it was written last, before edits of that row were put in.
    """

    row: ManifestRow
    size: int = 0
    modified: int = 0
    fingerprint: str = field(default="", repr=False)
    borders: Borders | None = None
    written: ManifestRow | None = field(default=None, repr=False)

    def with_cells(self, **facts: Any) -> CheckedVideo:
        """Return a copy with other cells in its row."""
        return replace(self, row=replace(self.row, **facts))

    def faulty(self, status: str, reason: str) -> CheckedVideo:
        """Return a copy with a fault."""
        return replace(self.with_cells(status=status, reason=reason), fingerprint="", borders=None)


def check_video(task: CheckTask) -> CheckedVideo:
    """Read a video to its end; faults become ``status`` and ``reason``, not exceptions."""
    found = CheckedVideo(ManifestRow(task.path, ""))
    try:
        size, modified = source_status_anew(task.source)
        found = replace(found, size=size, modified=modified)
        with at_hand(task.source) as video:
            found = _read(video, found, task.segment)
        has_changed = source_status_anew(task.source) != (size, modified)
        return found.faulty(VideoError.kind, "changed while it was read") if has_changed else found
    except VideoError as error:
        return found.faulty(error.kind, error.reason)
    except Exception as error:  # noqa: BLE001  One video in a library's blind spot must not end a night's work.
        return found.faulty("error", " ".join(f"{type(error).__name__}: {error}".split()))


def _read(video: Path, found: CheckedVideo, segment: Segment | None) -> CheckedVideo:
    """Examine a local file or folder, also one with a fault."""
    found = found.with_cells(hash=source_hash(video))
    try:
        found = found.with_cells(**_container(video))
        return _decoded(video, found, segment)
    except VideoError as error:
        before = _frames_before(video) if segment is None else 0
        return found.faulty(error.kind, error.reason).with_cells(frames=before)


def _container(source: Path) -> dict[str, Any]:
    """Read the facts that need no decoding."""
    if source.is_dir():
        pictures = frame_files(source)
        first = read_picture(pictures[0]) if pictures else None
        height, width = (0, 0) if first is None else first.shape[:2]
        codec = pictures[0].suffix.lower().removeprefix(".") if pictures else ""
        return {"width": width, "height": height, "codec": codec}
    info = probe(source)
    return {
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
        "rotation": info.rotation,
        "reason": "" if info.begins_with_key else "begins without a key frame, and what comes before one is left out",
    }


def _decoded(source: Path, found: CheckedVideo, segment: Segment | None) -> CheckedVideo:
    thumbnails = []
    meter = BorderMeter()
    first, last = (0, guess_frames(source)) if segment is None else segment_bounds(source, segment)
    positions = fingerprint_positions(last - first)
    with closing(read_segment_frames(source, PICTURE_SIZE, segment, positions, border_positions(positions))) as frames:
        while True:
            try:
                frame = next(frames)
            except StopIteration as end:
                count: int = end.value
                break
            if frame.unscaled is not None:
                meter.add(frame.unscaled)
            thumbnails.append(replace(frame, unscaled=None))
    seen = Fingerprint.of(thumbnails, count)
    found = found.with_cells(frames=count)
    return replace(found, fingerprint=seen.encode() if seen else "", borders=meter.borders())


def _frames_before(source: Path) -> int:
    """Count the frames before the fault of a damaged video."""
    count = 0
    with suppress(Exception):
        for _ in read_source_frames(source, 16):
            count += 1
    return count


def check_videos(
    listing: Listing,
    journal: CheckJournal,
    pool: Pool,
    progress: Progress | None = None,
    *,
    on_cluster: bool = False,
) -> dict[str, CheckedVideo]:
    """Check the videos of a listing that the journal does not hold as they are now.

    Args:
        listing: the videos.
        journal: known findings; new ones are added at once.
        pool: does the work.
        progress: called after each video, and once before the first.
        on_cluster: whether other machines do it, which must see the videos under the same absolute paths.

    Returns:
        By path, in the listing's order.

    Raises:
        DatasetError: the journal cannot be written; what was found until then is kept.
        ClusterError: the cluster is lost, or a machine of it does not see the videos.
    """
    tasks = [
        CheckTask(listing.path(index).absolute(), entry.path, entry.segment)
        for index, entry in enumerate(listing.entries)
    ]
    is_as_known = partial(_is_as_known, journal.known)
    is_remote = isinstance(listing.root, RemotePath)
    answers = ask_many(is_as_known, tasks) if is_remote else ((task, is_as_known(task)) for task in tasks)
    known = {task.path: journal.known[task.path] for task, is_known in answers if is_known}
    due = [task for task in tasks if task.path not in known]
    if progress is not None:
        progress(len(known), len(tasks), "")
    # A machine without the shared disk would report all videos as missing.
    here = [task.source for task in due if isinstance(task.source, Path) and task.source.exists()]
    to_see = [Landmark(source, source) for source in here[:1]] if on_cluster else []
    for task, outcome in pool.run(partial(where_seen, to_see, check_video), due):
        if isinstance(outcome, WorkerDied):
            reason = f"the process that read it died ({outcome})"
            found = CheckedVideo(ManifestRow(task.path, "")).faulty(VideoError.kind, reason)
        else:
            found = outcome
        journal.add(found)
        known[task.path] = found
        if progress is not None:
            progress(len(known), len(tasks), task.path)
    return {task.path: known[task.path] for task in tasks}


def _is_as_known(known: Mapping[str, CheckedVideo], task: CheckTask) -> bool:
    found = known.get(task.path)
    # A fault may have been the disk's, or the memory's; to look again costs little.
    if found is None or found.row.status in {"missing", "unreadable", "video", "error"} or found.size == UNKNOWN_SIZE:
        return False
    try:
        return source_status(task.source) == (found.size, found.modified)
    except VideoError:
        return False


class CheckJournal:
    """Findings so far, a line of JSON a video, in a file beside the manifest.

    A line is written in one go and counts once it is whole; so a kill costs the videos that were at work.

    Args:
        path: the file; made when the first video is added.

    Raises:
        DatasetError: a file that is no such journal, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = {found.row.path: found for found in _read_journal(path)}
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> CheckJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def add(self, found: CheckedVideo) -> None:
        """Record the findings about a video.

        Raises:
            DatasetError: it cannot be written.
        """
        try:
            stream = self._stream = self._stream or _open_journal(self.path)
            _write_whole(stream, _line(asdict(found)))
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self.known[found.row.path] = found

    def keep_only(self, rows: Sequence[ManifestRow]) -> None:
        """Drop videos that are gone, and older lines of those that have changed; record what was found for each row."""
        self.known = {row.path: replace(self.known[row.path], written=row) for row in rows}
        lines = [_HEADER, *(_line(asdict(found)) for found in self.known.values())]
        try:
            write_atomically(self.path, b"".join(lines))
        except OSError as error:
            raise _cannot_write(self.path, error) from error


def _open_journal(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("ab+", buffering=0)
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if end < len(_HEADER) and _HEADER.startswith(stream.read(end)):  # new, or killed within its first line
        if end:
            stream.truncate(0)
        _write_whole(stream, _HEADER)
    elif stream.seek(end - 1) and stream.read(1) != b"\n":
        # A kill, or a full disk, has cut the last line.
        _write_whole(stream, b"\n")
    return stream


def _write_whole(stream: IO[bytes], data: bytes) -> None:
    """Write a line without a buffer, so that lines of other runs stay whole; a full disk may take a part at first."""
    while data:
        data = data[stream.write(data) :]


def _line(values: Mapping[str, object]) -> bytes:
    return json.dumps(values).encode() + b"\n"


_HEADER = _line({"format": FORMAT})


def _read_journal(path: Path) -> Iterator[CheckedVideo]:
    if not path.is_file():
        return
    try:
        content = path.read_bytes()
        if _HEADER.startswith(content):
            return
        first, *lines = content.split(b"\n")
        is_known = parse_json(first, path)["format"] == FORMAT
    except OSError as error:
        raise DatasetError(path, f"cannot be read ({error.strerror or error})", "check your rights") from error
    except (ValueError, TypeError, KeyError):
        is_known = False
    if not is_known:
        raise DatasetError(path, "is no journal of this version's check", "remove it, and every video is checked again")
    for line in lines:
        # What a kill has cut is checked again.
        with suppress(ValueError, TypeError, KeyError):
            yield build(CheckedVideo, parse_json(line, path), path)


def _cannot_write(path: Path, error: OSError) -> DatasetError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and check again, which goes on from there"
        return DatasetError(path, f"the disk is full ({error.strerror})", remedy)
    reason = f"cannot be written ({error.strerror or error})"
    return DatasetError(path, reason, "choose a folder that you may write to with --out")
