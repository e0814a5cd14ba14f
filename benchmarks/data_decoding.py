"""Decoding beside OpenCV and plain PyAV, and the flow engines inside ``prepare`` beside bare OpenCV."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2

from actionfusion.data import store as store_module
from actionfusion.data.prepare import prepare
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.video import reading
from actionfusion.video.flow import EngineName, FlowRecipe, flow_engine
from actionfusion.video.pictures import PictureConverter
from actionfusion.video.reading import iterate_frames
from actionfusion.video.threads import one_opencv_thread
from measuring import Cost, Figure, Stopwatch, in_turn, ratio, spread

Reader = Callable[[Path], int]
SIZES = (None, 224, 112, 96)
RESIZES = {"INTER_AREA": cv2.INTER_AREA, "INTER_LINEAR": cv2.INTER_LINEAR}
ENGINES: tuple[EngineName, ...] = ("dis", "farneback", "tvl1")
# OpenCV as its users call it, with the settings that the engines state.
BARE: Mapping[EngineName, Callable[[], Callable[..., Any]]] = {
    "dis": lambda: partial(cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc, flow=None),
    "tvl1": lambda: partial(cv2.optflow.DualTVL1OpticalFlow.create().calc, flow=None),
    "farneback": lambda: (
        lambda first, second: cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 5, 13, 10, 5, 1.1, 0)
    ),
}
# TV-L1 takes most of the time, so the others are measured on more frames and more often.
FLOW_FRAMES = {"dis": 45, "farneback": 15, "tvl1": 4}
PASSES = {"dis": 3, "farneback": 2, "tvl1": 1}


def _ours(path: Path, size: int | None) -> int:
    return sum(1 for _ in iterate_frames(path, size=size))


def _opencv(path: Path, size: int | None, resize: int, threads: int | None) -> int:
    """``VideoCapture`` as it comes, BGR, or on one thread; a picture is resized if a size is asked for."""
    if threads is None:
        video = cv2.VideoCapture(str(path))
    else:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    count = 0
    while True:
        there, picture = video.read()
        if not there:
            video.release()
            return count
        if size is not None:
            cv2.resize(picture, (size, size), interpolation=resize)
        count += 1


def _plain_pyav(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for frame in container.decode(video=0) if frame.to_ndarray(format="rgb24") is not None)


def _bare_decoder(path: Path, threads: int, kind: str, convert: Callable[[Any], object] | None = None) -> int:
    """PyAV's decoder with nothing done to the pictures, or with our conversion."""
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        codec.thread_count, codec.thread_type = threads, kind
        return sum(1 for frame in container.decode(video=0) if convert is None or convert(frame) is not None)


def _threaded(path: Path, size: int | None, kind: str) -> int:
    converters: list[PictureConverter] = []

    def convert(frame: Any) -> object:
        if not converters:
            converters.append(PictureConverter(frame, size))
        return converters[0](frame)

    return _bare_decoder(path, 2, kind, convert)


def _readers(size: int | None) -> dict[str, Reader]:
    readers: dict[str, Reader] = {"ours": partial(_ours, size=size)}
    if size is None:
        readers |= {
            "OpenCV": partial(_opencv, size=None, resize=0, threads=None),
            "OpenCV, one thread": partial(_opencv, size=None, resize=0, threads=1),
            "PyAV to_ndarray": _plain_pyav,
            "PyAV, decoded only": partial(_bare_decoder, threads=1, kind="NONE"),
        }
    else:
        for name, resize in RESIZES.items():
            readers[f"OpenCV, {name}"] = partial(_opencv, size=size, resize=resize, threads=None)
    readers["ours on 2 frame threads"] = partial(_threaded, size=size, kind="FRAME")
    readers["ours on 2 slice threads"] = partial(_threaded, size=size, kind="SLICE")
    return readers


def decoding(clips: Sequence[Path], repetitions: int) -> Figure:
    """Every reader over all frames of the clips, on all cores and on one, and where our time goes."""
    frames = sum(_ours(path, None) for path in clips)
    rows = [row for size in SIZES for row in _compare(clips, frames, size, repetitions)]
    with _on_one_core() as pool:
        one_core = None if pool is None else pool.submit(_compare, clips, frames, None, repetitions).result()
    return {
        "clips": len(clips),
        "frames": frames,
        "repetitions": repetitions,
        "rows": rows,
        "rows_on_one_core": one_core,
        "shares": {str(size): _reading_shares(clips, size) for size in SIZES},
    }


def _compare(clips: Sequence[Path], frames: int, size: int | None, repetitions: int) -> list[Figure]:
    def over_all(reader: Reader) -> None:
        found = sum(reader(path) for path in clips)
        assert found == frames, f"{found} frames instead of {frames}"

    cases = {name: partial(over_all, reader) for name, reader in _readers(size).items()}
    costs = in_turn(cases, repetitions)
    rows = []
    for name, taken in costs.items():
        row: Figure = {"size": size, "reader": name}
        for field in Cost._fields:
            times, ours = ([getattr(cost, field) for cost in of] for of in (taken, costs["ours"]))
            row[f"micro{field}_a_frame".replace("microcore_", "core_micro")] = spread([1e6 * v / frames for v in times])
            row[f"{field}_over_ours"] = ratio(times, ours)
        rows.append(row)
    return rows


@contextmanager
def _on_one_core() -> Iterator[ProcessPoolExecutor | None]:
    """A fresh process that may use one core alone; None where the system cannot do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(cores)})
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(os.getpid).result()  # Only now the process is there, with the affinity of this moment.
            os.sched_setaffinity(0, cores)
            yield pool
    finally:
        os.sched_setaffinity(0, cores)


def _reading_shares(clips: Sequence[Path], size: int | None) -> Figure:
    """What part of ``iterate_frames`` is FFmpeg's decoder (through PyAV) and what is swscale's."""
    with Stopwatch() as watch:
        watch.time_generator(reading, "_decode", "decoding")
        watch.time(PictureConverter, "__call__", "conversion")
        started = time.process_time()
        for path in clips:
            _ours(path, size)
        return watch.shares(time.process_time() - started, ("decoding", "conversion"))


def flow_costs(clips: Sequence[Path], sizes: Sequence[int], repetitions: int) -> Figure:
    """Each engine inside ``prepare`` over bare OpenCV on the same pictures, and the engines among themselves."""
    rows: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, one_opencv_thread():
        short = {
            name: [
                _first_frames(path, count, Path(folder) / f"{name}-{number}.avi") for number, path in enumerate(clips)
            ]
            for name, count in FLOW_FRAMES.items()
        }
        for size in sizes:
            inside: dict[str, list[float]] = {name: [] for name in ENGINES}
            bare: dict[str, list[float]] = {name: [] for name in ENGINES}
            for _ in range(repetitions):
                for name in ENGINES:
                    runs = [_flow_cost(short[name], FlowRecipe(name, size=size)) for _ in range(PASSES[name])]
                    inside[name].append(median(run[0] for run in runs))
                    bare[name].append(median(run[1] for run in runs))
            rows += [
                {
                    "size": size,
                    "engine": name,
                    "bare_core_milliseconds_a_field": spread([1e3 * value for value in bare[name]]),
                    "inside_prepare_over_bare": ratio(inside[name], bare[name]),
                    "over_dis": ratio(bare[name], bare["dis"]),
                }
                for name in ENGINES
            ]
    return {
        "clips": len(clips),
        "frames_a_clip": FLOW_FRAMES,
        "repetitions": repetitions,
        "passes": PASSES,
        "rows": rows,
    }


def _first_frames(path: Path, count: int, target: Path) -> Path:
    """The first pictures of a clip as they are stored, in a file of their own: TV-L1 takes long."""
    with av.open(str(path)) as source, av.open(str(target), "w") as made:
        stream = source.streams.video[0]
        copy = made.add_stream_from_template(stream)
        for packet in islice(source.demux(stream), count):
            packet.stream = copy
            made.mux(packet)
    return target


def _flow_cost(clips: Sequence[Path], recipe: FlowRecipe) -> tuple[float, float]:
    """Core seconds a field inside ``prepare`` (grey, engine, 8-bit codes), and of the bare engine likewise."""
    parts = prepare_in_parts(clips, recipe)
    compute = BARE[recipe.engine]()
    compute(*parts.pairs[0])
    started = time.process_time()
    for first, second in parts.pairs:
        compute(first, second)
    count = len(parts.pairs)
    return parts.watch.seconds["flow"] / count, (time.process_time() - started) / count


@dataclass(frozen=True)
class PreparedInParts:
    """What ``prepare`` took, part by part.

    Attributes:
        watch: core seconds of decoding, conversion, flow and JPEG.
        seconds: core seconds, all together.
        frames: of all videos.
        size: bytes of their entries.
        pairs: the grey pictures that flow was computed on.
    """

    watch: Stopwatch
    seconds: float
    frames: int
    size: int
    pairs: list[tuple[Any, Any]]


def prepare_in_parts(clips: Sequence[Path], recipe: FlowRecipe) -> PreparedInParts:
    """Run ``prepare`` in this process on one OpenCV thread.

    Its first video is one more, not counted: it comes after the estimate of the disk need, which is no part of the
    work.
    """
    pairs: list[tuple[Any, Any]] = []
    engine = flow_engine(recipe.engine)
    started = 0.0

    def noted(first: Any, second: Any) -> Any:
        pairs.append((first, second))
        return engine(first, second)

    def grey(_: Any, code: int, *__: Any, **___: Any) -> str | None:
        return "flow" if code == cv2.COLOR_RGB2GRAY else None

    def begin(done: int, *_: object) -> None:
        nonlocal started
        if done == 1:
            pairs.clear()
            watch.clear()
            started = time.process_time()

    items = [(clips[0], "first.avi"), *((path, f"{number}.avi") for number, path in enumerate(clips))]
    with tempfile.TemporaryDirectory() as folder, Stopwatch() as watch:
        watch.time_generator(reading, "_decode", "decoding")
        watch.time(PictureConverter, "__call__", "conversion")
        watch.time(cv2, "cvtColor", grey)
        watch.replace(store_module, "flow_engine", lambda _: noted)
        watch.time_made(store_module, "flow_engine", "flow")
        watch.time(FlowRecipe, "encode", "flow")
        watch.time(cv2, "imencode", "JPEG")
        report = prepare(items, folder, recipe, workers=0, progress=begin)
        seconds = time.process_time() - started
        assert not report.failures, report.failures
        first = entry_path(Path(folder), "first.avi")
        frames = report.frames - StoredVideo(first).num_frames
        return PreparedInParts(watch, seconds, frames, report.size - first.stat().st_size, pairs)
