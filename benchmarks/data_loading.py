"""What training waits for: ``prepare`` and its processes, batches from the store and from video, memory, JPEG loss."""

from __future__ import annotations

import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from actionfusion.data import loading
from actionfusion.data.augment import Augmentation
from actionfusion.data.loading import ClipDataset, EpochLoader, LabelledSource
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.training.recipe import load_recipe
from actionfusion.video import flow as flow_module
from actionfusion.video import reading, video_source
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.flow_maker import FlowMaker
from actionfusion.video.pictures import PictureConverter
from actionfusion.video.threads import one_opencv_thread
from actionfusion.video.video_source import VideoSource
from data_decoding import prepare_in_parts
from measuring import Figure, Stopwatch, in_turn, ratio, rounded, spread

PREPARE_PARTS = ("decoding", "conversion", "flow", "JPEG")
CLIP_PARTS = ("decoding", "conversion", "flow", "JPEG", "augmentation")
SOURCES = ("store", "video")


@dataclass(frozen=True)
class Setup:
    """A recipe's clips: T frames of a size, a batch, and how they vary."""

    recipe: str
    clip: ClipSettings
    augmentation: Augmentation
    batch_size: int

    @classmethod
    def of(cls, recipe: str) -> Setup:
        """As a recipe that ships with the package says; flow by DIS."""
        settings = load_recipe(recipe)
        clip = replace(settings.clip, flow=replace(settings.clip.flow, engine="dis"))
        return cls(recipe, clip, settings.augmentation, settings.training.batch_size)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.recipe}: T = {self.clip.frames}, {self.clip.flow.size} px"


def prepare_processes(clips: Sequence[Path], flow: FlowRecipe, store: Path, repetitions: int) -> Figure:
    """The command ``prepare`` by one process and by two, in turn, from its start to its end; the last store stays.

    A command of its own, since each worker process imports the script that started it, and this one imports torch.
    """
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clips"
        for path, name in _items(clips):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(path.resolve())
        for repetition in range(repetitions):
            for workers, taken in seconds.items():
                is_last = repetition == repetitions - 1 and workers == 2
                target = store if is_last else Path(folder) / f"{repetition}-{workers}"
                taken.append(_command_seconds(root, target, flow, workers))
    return {
        "clips": len(clips),
        "repetitions": repetitions,
        "size": flow.size,
        "engine": flow.engine,
        "seconds": {str(workers): spread(values) for workers, values in seconds.items()},
        "one_over_two": ratio(seconds[1], seconds[2]),
    }


def _command_seconds(root: Path, store: Path, flow: FlowRecipe, workers: int) -> float:
    settings = {"engine": flow.engine, "size": flow.size, "bound": flow.bound}
    words = [f"--flow.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "actionfusion", "prepare", "folder", str(root), "--store", str(store), *words]
    started = time.perf_counter()
    subprocess.run([*command, "--workers", str(workers)], check=True, capture_output=True)
    return time.perf_counter() - started


def prepare_parts(clips: Sequence[Path], flow: FlowRecipe) -> Figure:
    """Where the time of ``prepare`` goes, in one process."""
    parts = prepare_in_parts(clips, flow)
    return {
        "size": flow.size,
        "engine": flow.engine,
        "frames": parts.frames,
        "core_milliseconds_a_frame": rounded(1e3 * parts.seconds / parts.frames),
        "flow_core_milliseconds_a_frame": rounded(1e3 * parts.watch.seconds["flow"] / parts.frames),
        "bytes_a_frame": round(parts.size / parts.frames),
        "shares": parts.watch.shares(parts.seconds, PREPARE_PARTS),
    }


def _items(clips: Sequence[Path]) -> list[tuple[Path, str]]:
    return [(path, f"{path.parent.name}/{path.name}") for path in clips]


def dataset(setup: Setup, clips: Sequence[Path], store: Path, source: str) -> ClipDataset:
    """The training clips, from the store or straight from video."""
    openers: list[Callable[[], Any]] = [
        partial(StoredVideo, entry_path(store, name))
        if source == "store"
        else partial(VideoSource, path, setup.clip.flow)
        for path, name in _items(clips)
    ]
    sources = [LabelledSource(path.name, opener, 0) for path, opener in zip(clips, openers, strict=True)]
    return ClipDataset(sources, setup.clip, augmentation=setup.augmentation, seed=0)


def batches(setup: Setup, clips: Sequence[Path], store: Path, workers: int, repetitions: int) -> Figure:
    """Batches a second with worker processes, and where the time of one process goes."""
    sets = {source: dataset(setup, clips, store, source) for source in SOURCES}
    rates = _rates(setup, sets, workers, repetitions)
    rows = {}
    with one_opencv_thread():
        for source in SOURCES:
            watch, seconds = _in_parts(setup, sets[source])
            rows[source] = {
                "batches_a_second": spread(rates[source]),
                "core_milliseconds_a_clip": rounded(1e3 * seconds / len(clips)),
                "flow_fields_computed_a_clip": rounded(watch.calls["engine"] / len(clips)),
                "flow_core_milliseconds_a_clip": rounded(1e3 * watch.seconds["flow"] / len(clips)),
                "shares": watch.shares(seconds, CLIP_PARTS),
            }
    return {
        "setup": setup.name,
        "size": setup.clip.flow.size,
        "clips": len(clips),
        "repetitions": repetitions,
        "batch_size": setup.batch_size,
        "workers": workers,
        "sources": rows,
        "store_over_video": ratio(rates["store"], rates["video"]),
    }


def _loader(setup: Setup, clips: ClipDataset, workers: int) -> EpochLoader:
    return EpochLoader(clips, batch_size=setup.batch_size, shuffle=True, workers=workers)


def _read(loader: EpochLoader, epoch: int) -> int:
    return sum(len(batch.names) for batch in loader.epoch(epoch))


def _rates(setup: Setup, sets: Mapping[str, ClipDataset], workers: int, repetitions: int) -> dict[str, list[float]]:
    """Batches a second, epoch by epoch in turn; the workers have started before."""
    loaders = {source: _loader(setup, clips, workers) for source, clips in sets.items()}
    numbers = dict.fromkeys(sets, 0)

    def run(source: str) -> None:
        numbers[source] += 1
        _read(loaders[source], numbers[source])

    costs = in_turn({source: partial(run, source) for source in sets}, repetitions)
    count = math.ceil(len(next(iter(sets.values()))) / setup.batch_size)
    return {source: [count / cost.seconds for cost in taken] for source, taken in costs.items()}


def _in_parts(setup: Setup, clips: ClipDataset) -> tuple[Stopwatch, float]:
    loader = _loader(setup, clips, 0)
    _read(loader, 1)
    with Stopwatch() as watch:
        watch.time(video_source, "count_frames", "decoding")
        watch.time_generator(reading, "_decode", "decoding")
        watch.time(PictureConverter, "__call__", "conversion")
        watch.time(FlowMaker, "add", "flow")
        watch.time_made(flow_module, "flow_engine", "engine")
        watch.time(cv2, "imdecode", "JPEG")
        watch.time(loading, "augment", "augmentation")
        started = time.process_time()
        _read(loader, 1)
        return watch, time.process_time() - started


def memory(setup: Setup, clips: Sequence[Path], store: Path, epochs: int) -> Figure:
    """Megabytes that the larger of two worker processes has for itself after each epoch, and its peak so far.

    The workers are forked from a fresh process: those of a long-lived one would make its old pages theirs, one by one.
    """
    usual = (multiprocessing.get_start_method(),)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_processes_by, usual) as pool:
        return pool.submit(_memory, setup, clips, store, epochs).result()


def _start_processes_by(method: str) -> None:
    multiprocessing.set_start_method(method, force=True)


def _memory(setup: Setup, clips: Sequence[Path], store: Path, epochs: int) -> Figure:
    rows = {}
    for source in SOURCES:
        before = set(multiprocessing.active_children())
        loader = _loader(setup, dataset(setup, clips, store, source), 2)
        own, peak = [], []
        for epoch in range(1, epochs + 1):
            _read(loader, epoch)
            workers = [psutil.Process(child.pid) for child in set(multiprocessing.active_children()) - before]
            assert len(workers) == 2, workers
            own.append(round(max(worker.memory_full_info().uss for worker in workers) / 1e6, 1))
            peak.append(round(max(_peak(worker) for worker in workers) / 1e6, 1))
        rows[source] = {"own_megabytes": own, "peak_megabytes": peak}
        del loader
    return {"setup": setup.name, "clips": len(clips), "epochs": epochs, "sources": rows}


def _peak(process: psutil.Process) -> int:
    """Bytes of the process's largest resident set, with what it shares; Linux keeps them in kilobytes."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.is_file():
        return int(process.memory_info().rss)
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


def loss(clips: Sequence[Path], flow: FlowRecipe, store: Path) -> Figure:
    """What the store's JPEG changes: all frames and fields against those of the video itself."""
    psnr: list[float] = []
    errors: list[np.ndarray] = []
    for path, name in _items(clips):
        stored = StoredVideo(entry_path(store, name))
        count = stored.num_frames
        video = VideoSource(path, flow, count)
        frames, codes, _ = stored.read(range(count), range(count - 1))
        real_frames, real_codes, _ = video.read(range(count), range(count - 1))
        squares = np.square(frames.astype(np.float32) - real_frames).mean(axis=(1, 2, 3))
        psnr += (10 * np.log10(255**2 / np.maximum(squares, 1e-9))).tolist()
        errors.append(np.abs(flow.decode(codes) - flow.decode(real_codes)).ravel())
    every = np.concatenate(errors)
    return {
        "size": flow.size,
        "bound": flow.bound,
        "clips": len(clips),
        "frames": len(psnr),
        "psnr_mean": round(float(np.mean(psnr)), 2),
        "psnr_lowest": round(min(psnr), 2),
        "flow_error_mean": rounded(float(every.mean())),
        "flow_error_99.9_percent_below": rounded(float(np.quantile(every, 0.999))),
        "flow_error_largest": rounded(float(every.max())),
        "flow_step": rounded(flow.bound / flow_module.LARGEST_CODE_STEP),
    }


def break_even(prepared: Figure, loaded: Figure, flow_rows: Sequence[Figure]) -> list[Figure]:
    """After how many epochs ``prepare`` has paid, an engine each, in one process.

    DIS was measured as it is; for the other engines its time in ``prepare`` and in the loader is exchanged for theirs.
    """
    video, store = loaded["sources"]["video"], loaded["sources"]["store"]
    frames = prepared["frames"] / loaded["clips"]
    rows = []
    for row in flow_rows:
        if row["size"] != prepared["size"]:
            continue
        slower = row["over_dis"]["median"] - 1
        preparing = frames * (
            prepared["core_milliseconds_a_frame"] + slower * prepared["flow_core_milliseconds_a_frame"]
        )
        direct = video["core_milliseconds_a_clip"] + slower * video["flow_core_milliseconds_a_clip"]
        from_store = store["core_milliseconds_a_clip"]
        rows.append(
            {
                "size": row["size"],
                "engine": row["engine"],
                "prepare_core_milliseconds_a_clip": rounded(preparing),
                "video_core_milliseconds_a_clip": rounded(direct),
                "store_core_milliseconds_a_clip": from_store,
                "epochs": rounded(preparing / (direct - from_store)),
                "pays_from_epoch": math.ceil(preparing / (direct - from_store)),
            }
        )
    return rows
