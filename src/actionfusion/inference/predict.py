"""The command ``predict``: labels for videos never seen, or a timeline of each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.table import Table

from actionfusion.errors import VideoError, printable
from actionfusion.hub import open_named_run, say_if_unfinished
from actionfusion.inference.given_videos import expanded
from actionfusion.inference.recognizer import Prediction, Recognizer, no_classes
from actionfusion.inference.runtimes.backend import PrecisionName, RuntimeName
from actionfusion.inference.timelines.segments import SegmentOptions, VideoTimelines, predict_segments
from actionfusion.inference.video_results import VideoResults, error_as_json
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.video.clip_reader import clips_ahead
from actionfusion.video.sources import without_secrets


@dataclass(frozen=True)
class VideoPrediction:
    """The predictions for one video.

    Attributes:
        video: the path as it was given.
        predictions: best first; empty if the video failed.
        error: why the video failed, or None.
    """

    video: str
    predictions: tuple[Prediction, ...] = ()
    error: VideoError | None = None

    def as_json(self) -> dict[str, object]:
        """Make the entry of ``predict --json``."""
        predictions = [asdict(item) for item in self.predictions]
        return {"video": self.video, "predictions": predictions, "error": error_as_json(self.error)}


VideoPredictions = VideoResults[VideoPrediction]


def predict(
    run: Path,
    videos: Sequence[str | Path],
    *,
    top_k: int = 5,
    json: bool = False,
    segments: bool = False,
    every: int | None = None,
    stride: int = 1,
    threshold: float = 0.0,
    shortest: float = 0.0,
    out: Path | None = None,
    device: str | None = None,
    runtime: RuntimeName = "auto",
    precision: PrecisionName | None = None,
    root: PathLike | None = None,
    store: PathLike | None = None,
) -> VideoPredictions | VideoTimelines:
    """Name the action in each video, or with --segments what happens when, and print a table, or JSON.

    A video that cannot be read is reported in its place, and the rest goes on.  Several clips are cut at a time, on
    all cores; with a GPU this overlaps with the network (``clips_ahead``).

    Args:
        run: the folder that ``train`` or ``export`` wrote, or a run's name on the hub: user/name or user/name@revision.
        videos: video files; folders, for the videos below them; or folders of pictures, each one video.
        top_k: classes shown for each video, and with --json for each segment.
        json: print one JSON list instead of a table.
        segments: a timeline of each video (start, end, label, probability), for videos that are not cut to one action.
            A run knows only the classes of its training clips, and none for "nothing", so some label is given wherever
            --threshold allows it. A damaged video has its error and the segments up to the fault.
        every: with --segments, frames from one sampled frame to the next; none takes the middle of the intervals that
            the run was trained with, or 6 where it does not say. They count at the rate of the run's training
            videos, where that is known and the video's is far from it.
        stride: with --segments, sampled frames from one window to the next, up to a window's length.
        threshold: with --segments, the probability under which a moment has no label, 0 to 1.
        shortest: with --segments, seconds under which a segment is given to a neighbour.
        out: with --segments, a folder for NAME.csv, NAME.json, NAME.vtt (WebVTT) and NAME.png of each video.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
        runtime: auto, torch, openvino or onnx; auto takes the fastest there is and says which.
        precision: fp32, bf16 or int8; none is fp32, or what an export has.
        root: folder of the data set that the run was trained on, or its address, for int8 to be prepared with.
        store: folder of its prepared clips, or its address, likewise; none reads the videos themselves.

    Returns:
        What was printed.

    Raises:
        ActionFusionError: as for ``Recognizer.load``.
        SettingsError: a setting out of range, one that needs ``segments``, or an ``out`` that cannot be written to.
    """
    if top_k < 1:
        raise no_classes(top_k)
    load = partial(Recognizer.load, runtime=runtime, precision=precision, device=device, root=root, store=store)
    options = SegmentOptions(every, stride, threshold, shortest, out)
    videos = expanded([videos] if isinstance(videos, str | Path) else videos)
    if segments:
        return predict_segments(
            open_named_run(run), partial(load, first="step"), videos, options, top_k=top_k, json=json
        )
    options.refuse_without_segments()
    say_if_unfinished(Path(run))
    results = _predict_labels(load(run), videos, top_k)
    results.show(_table, json=json)
    return results


def _predict_labels(recognizer: Recognizer, videos: Sequence[str | Path], top_k: int) -> VideoPredictions:
    results = VideoPredictions()
    console = Console(stderr=True)
    console.print(Text(f"runtime: {recognizer.runtime}"), soft_wrap=True)
    on_a_gpu = recognizer.runtime.device != "cpu"
    rates: dict[str, int] = {}
    with console.status("") as status, closing(clips_ahead(recognizer.paced_clip, videos, overlap=on_a_gpu)) as clips:
        status.update(_progress(0, videos))
        for number, (video, cut) in enumerate(clips, 1):
            if isinstance(cut, VideoError):
                results.append(VideoPrediction(without_secrets(str(video)), error=cut))
            else:
                clip, pace = cut
                if pace.note is not None:
                    rates[pace.note] = rates.get(pace.note, 0) + 1
                best = recognizer.best(recognizer.probabilities([clip])[0], top_k)
                results.append(VideoPrediction(without_secrets(str(video)), tuple(best)))
            status.update(_progress(number, videos))
    for note, count in rates.items():
        console.print(Text(f"note: {count} of {len(videos)} videos: {note}"), soft_wrap=True)
    return results


def _progress(done: int, videos: Sequence[str | Path]) -> Text:
    """Show how many videos are done, and which comes next."""
    return Text(
        printable(" ".join([f"{done}/{len(videos)}", *map(without_secrets, map(str, videos[done : done + 1]))]))
    )


def _table(results: Sequence[VideoPrediction]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("video", overflow="fold")
    table.add_column("action", overflow="fold")
    table.add_column("probability", justify="right")
    for item in results:
        name = Text(printable(item.video))
        if item.error:
            table.add_row(name, Text(printable(f"{item.error.kind}: {item.error.reason}"), style="red"), "")
        for rank, prediction in enumerate(item.predictions):
            style = "bold" if rank == 0 else "dim"
            share = Text(f"{prediction.probability:.1%}", style=style)
            table.add_row(name if rank == 0 else Text(""), Text(prediction.label, style=style), share)
    return table
