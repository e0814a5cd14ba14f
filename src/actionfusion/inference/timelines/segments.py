"""``predict --segments``: what happens when in videos that are not cut to one action."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from actionfusion.errors import SettingsError, VideoError, printable
from actionfusion.files import cannot_write, refuse_foreign, refuse_unwritable, write_atomically
from actionfusion.inference.intervals import usual_interval
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.timelines.files import as_csv, as_json, as_webvtt, file_names
from actionfusion.inference.timelines.timeline import TimelineRules
from actionfusion.inference.timelines.untrimmed import VideoTimeline, WindowSettings, find_segments
from actionfusion.inference.video_results import VideoResults
from actionfusion.run_folder import RunFolder
from actionfusion.settings import EVALUATION_BYTES, read_json
from actionfusion.terminal import Console, Text
from actionfusion.video.reading import count_frames

_ENDINGS = (".json", ".csv", ".vtt", ".png")

VideoTimelines = VideoResults[VideoTimeline]


@dataclass(frozen=True)
class SegmentOptions:
    """Options of ``predict`` that only ``--segments`` uses; see there."""

    every: int | None = None
    stride: int = 1
    threshold: float = 0.0
    shortest: float = 0.0
    out: Path | None = None

    def refuse_without_segments(self) -> None:
        """Raise SettingsError for an option that would be ignored."""
        unused = [name for name in vars(self) if getattr(self, name) != getattr(SegmentOptions, name)]
        if unused:
            raise SettingsError(unused[0], "is for timelines", "give --segments too, or leave it out")


def predict_segments(
    run: RunFolder,
    load: Callable[[RunFolder], Recognizer],
    videos: Sequence[str | Path],
    options: SegmentOptions,
    *,
    top_k: int,
    json: bool,
) -> VideoTimelines:
    """Make the timeline of each video, write its files, and print a table, or JSON; see ``predict``.

    Args:
        run: the run.
        load: gives its recogniser.
        videos: video files.
        options: of the command.
        top_k: classes shown for each segment with ``json``.
        json: print one JSON list instead of a table.

    Raises:
        SettingsError: an option that makes no sense, or files of a video's name in the folder that are no timeline.
        OutputError: a folder that cannot be written to.
    """
    rules = TimelineRules(options.threshold, options.shortest)
    every = usual_interval(run) if options.every is None else options.every
    windows = WindowSettings(every, options.stride)
    names = file_names(map(str, videos))
    if options.out is not None:
        with _writing(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
        for video, name in zip(videos, names, strict=True):
            _refuse_others(options.out / name, video)
        refuse_unwritable(options.out / f"{names[0]}.csv")
    recognizer = load(run)
    console = Console(stderr=True)
    console.print(Text(f"runtime: {recognizer.runtime}; {recognizer.stepper.method}"), soft_wrap=True)
    results = VideoTimelines()
    for number, (video, name) in enumerate(zip(videos, names, strict=True), 1):
        with _watching(console, video, f"{number}/{len(videos)} {video}") as watch:
            timeline = find_segments(recognizer, video, windows, rules, top_k=top_k, watch=watch)
        if timeline.note is not None:
            console.print(Text(printable(f"note: {video}: {timeline.note}")), soft_wrap=True)
        results.append(timeline)
        if options.out is not None:
            _write(timeline, options.out / name)
    results.show(_table, json=json)
    return results


def _write(timeline: VideoTimeline, path: Path) -> None:
    from actionfusion.inference.timelines.picture import draw_timeline  # noqa: PLC0415  # loads for half a second

    # JSON is first: it shows whose the others are, also after a kill between them.
    contents: tuple[str | bytes, ...] = (
        as_json(timeline),
        as_csv(timeline.segments),
        as_webvtt(timeline),
        draw_timeline(timeline),
    )
    with _writing(path.parent):
        for ending, content in zip(_ENDINGS, contents, strict=True):
            write_atomically(path.with_name(path.name + ending), content)


def _refuse_others(path: Path, video: str | Path) -> None:
    """Refuse to write over another video's timeline, or over files of other origin, such as subtitles of that name."""
    about = path.with_name(path.name + _ENDINGS[0])

    def is_ours(_: Path) -> bool:
        return {"video", "segments"} <= read_json(about, largest=EVALUATION_BYTES).keys()

    for ending in _ENDINGS:
        refuse_foreign(path.with_name(path.name + ending), is_ours)
    if about.is_file() and about.stat().st_size:
        before = str(read_json(about, largest=EVALUATION_BYTES)["video"])
        with suppress(OSError):
            if before == str(video) or Path(before).samefile(video):
                return
        raise SettingsError(about, f"is the timeline of {before}", "choose another --out")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error, "free some space, or choose another --out") from error


@contextmanager
def _watching(console: Console, video: str | Path, title: str) -> Iterator[Callable[[int], object] | None]:
    """Show a bar of decoded frames, out of as many as the packets suggest; nothing where there is no terminal."""
    if not console.is_terminal:
        yield None
        return
    total: int | None = None
    with suppress(VideoError):  # reading meets the same fault, and reports it
        total = count_frames(video)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(printable(title)), total=total)
        yield lambda frames: bar.update(task, completed=frames)


def _table(results: Sequence[VideoTimeline]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("video", overflow="fold")
    table.add_column("start", justify="right")
    table.add_column("end", justify="right")
    table.add_column("action", overflow="fold")
    table.add_column("probability", justify="right")
    for item in results:
        name = Text(printable(item.video))
        for index, segment in enumerate(item.segments):
            label = Text("no label", style="dim") if segment.label is None else Text(segment.label)
            share = Text("" if segment.probability is None else f"{segment.probability:.1%}")
            first = name if index == 0 else Text("")
            table.add_row(first, _clock(segment.start), _clock(segment.end), label, share)
        if item.error:
            first = Text("") if item.segments else name
            fault = Text(printable(f"{item.error.kind}: {item.error.reason}"), style="red")
            table.add_row(first, _clock(item.segments[-1].end) if item.segments else "", "", fault, "")
    return table


def _clock(seconds: float) -> str:
    """Format seconds as ``m:ss.s``, with hours in front where there are any."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
    return f"{hours}:{text}" if hours else text
