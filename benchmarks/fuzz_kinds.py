"""The files that are read, one or more of each kind, and how each kind is read: material for ``fuzz.py``.

Videos come in all containers and codecs that the wheel of PyAV can write.  What a reader may do with a changed file is
to answer or to raise an error of the package's family.  Frames of a video that still decodes must be FFmpeg's own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter

from actionfusion.data.check_videos import CheckJournal, CheckTask, check_video
from actionfusion.data.layouts import open_dataset
from actionfusion.data.layouts.table import read_rows
from actionfusion.data.manifest import read_manifest
from actionfusion.data.recorded_split import reopen_data
from actionfusion.data.store import Contents, SourceIdentity, StoredVideo, write_stored_video
from actionfusion.errors import ActionFusionError, VideoError
from actionfusion.evaluation.result import read_evaluation
from actionfusion.inference.exports.export import export
from actionfusion.inference.exports.exported import open_export
from actionfusion.inference.runtimes.packages import is_installed
from actionfusion.inference.runtimes.prepared import Artifact, find_prepared, open_prepared
from actionfusion.inference.runtimes.sub_models import clip_model
from actionfusion.models.weights import read_checkpoint
from actionfusion.reporting.run_report import report
from actionfusion.run_folder import open_run
from actionfusion.training.feature_store import FeatureStore, feature_recipes
from actionfusion.training.recipe import load_recipe
from actionfusion.training.resume import recorded_recipe
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.containers import find_structure_fault, open_video
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.live import Losses, open_source
from actionfusion.video.reading import Frame, count_frames, iterate_frames, probe
from actionfusion.video.seeking import scan_packets
from actionfusion.video.sources import Source
from actionfusion.video.still_pictures import read_picture
from actionfusion.video.video_source import VideoSource

logging.getLogger("libav").propagate = False

MOST_FRAMES = 400
"""Frames of a video that are compared."""


UNDETERMINED = "FFmpeg differs from itself"


class Differs(Exception):
    """A changed file reads, and otherwise than FFmpeg alone reads it."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of it.
        files: to change, within the folder of all material.
        read: reads what is there, given that folder and the changed file's name.
        text: whether the files are text.
        share: how often it comes, beside others.
    """

    name: str
    files: Sequence[str]
    read: Callable[[Path, str], object]
    text: bool = False
    share: int = 1


_PLAIN = ("avi", "mp4", "mov", "matroska", "nut", "mpegts", "m4v", "3gp", "ogg")
# Muxer, encoder, pixel format and options of the videos; each is left out where this build does not write it.
VIDEOS = (
    *((muxer, "mpeg4", "yuv420p", {}) for muxer in _PLAIN),
    *((muxer, "libx264", "yuv420p", {"g": "4"}) for muxer in ("h264", *_PLAIN[:6], "flv")),
    ("mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov", "g": "4"}),
    ("mp4", "libx264", "yuv420p", {"movflags": "faststart", "bf": "3"}),
    ("mpegts", "libx264", "yuv420p", {"bf": "2", "x264-params": "open-gop=1:keyint=4:scenecut=0"}),
    *((muxer, "libx265", "yuv420p", {"x265-params": "log-level=none:keyint=4"}) for muxer in ("mp4", "hevc")),
    *((muxer, "libvpx", "yuv420p", {"g": "4"}) for muxer in ("webm", "ivf", "ogg", "avi")),
    *((muxer, "libvpx-vp9", "yuv420p", {"g": "4"}) for muxer in ("webm", "mp4", "ivf")),
    *((muxer, "libsvtav1", "yuv420p", {}) for muxer in ("matroska", "mp4", "obu", "ivf")),
    *((muxer, "mpeg2video", "yuv420p", {"g": "4", "bf": "2"}) for muxer in ("mpeg", "mpegts", "mxf", "mpeg2video")),
    *((muxer, "mpeg1video", "yuv420p", {"g": "4"}) for muxer in ("mpeg", "mpeg1video", "avi")),
    *((muxer, "mjpeg", "yuvj420p", {}) for muxer in ("avi", "mov", "matroska")),
    *((muxer, "ffv1", "yuv420p", {"level": "3", "slicecrc": "1"}) for muxer in ("matroska", "avi", "nut")),
    ("apng", "apng", "rgb24", {}),
    ("gif", "gif", "rgb8", {}),
    ("flv", "flv", "yuv420p", {"g": "4"}),
    ("flv", "flashsv", "bgr24", {}),
    ("asf", "wmv1", "yuv420p", {}),
    ("asf", "wmv2", "yuv420p", {"g": "4"}),
    ("asf", "msmpeg4", "yuv420p", {}),
    ("avi", "msmpeg4v2", "yuv420p", {}),
    ("wtv", "mpeg2video", "yuv420p", {}),
    ("rm", "rv10", "yuv420p", {}),
    ("rm", "rv20", "yuv420p", {}),
    ("3gp", "h263", "yuv420p", {}),
    ("avi", "h263p", "yuv420p", {}),
    ("mov", "prores_ks", "yuv422p10le", {}),
    ("mov", "qtrle", "rgb24", {}),
    ("mov", "rpza", "rgb555le", {}),
    ("mov", "svq1", "yuv410p", {}),
    ("mov", "png", "rgb24", {}),
    ("mov", "cfhd", "yuv422p10le", {}),
    ("yuv4mpegpipe", "wrapped_avframe", "yuv420p", {}),
    *(
        ("avi", codec, pixels, {})
        for codec, pixels in (
            ("huffyuv", "yuv422p"), ("ffvhuff", "yuv420p"), ("utvideo", "yuv420p"), ("magicyuv", "gbrp"),
            ("zlib", "bgr24"), ("zmbv", "bgr0"), ("cinepak", "rgb24"), ("msvideo1", "rgb555le"), ("msrle", "pal8"),
            ("rawvideo", "yuv420p"), ("snow", "yuv420p"), ("asv1", "yuv420p"), ("asv2", "yuv420p"), ("ljpeg", "bgr24"),
            ("jpegls", "rgb24"), ("jpeg2000", "rgb24"), ("v210", "yuv422p10le"), ("dxv", "rgba"), ("amv", "yuvj420p"),
        )
    ),
    ("matroska", "dirac", "yuv420p", {}),
    ("matroska", "vc2", "yuv420p", {}),
)  # fmt: skip


def make_material(folder: Path, run: Path, clips: Path, real: Path | None = None) -> None:
    """Write a file of every kind, or more.

    Args:
        folder: to write to.
        run: a run folder of a small network, evaluated or not.
        clips: the folder of the data set that it was trained on.
        real: real videos, of which small ones are taken; None takes none.
    """
    folder.mkdir(parents=True)
    videos = folder / "videos"
    videos.mkdir()
    for number, (muxer, codec, pixels, options) in enumerate(VIDEOS):
        path = videos / f"{number:02d}-{codec}.{muxer}"
        try:
            _write_video(path, muxer, codec, pixels, options)
            assert count_frames(path) > 0
        except (av.FFmpegError, ValueError, VideoError, AssertionError):
            path.unlink(missing_ok=True)  # this build does not write it, or does not read it back
    if real is not None:
        taken = sorted(path for path in real.rglob("*") if path.suffix in (".avi", ".mp4", ".mov", ".mkv", ".gif"))
        small = [path for path in taken if path.stat().st_size < 400_000]
        for number, path in enumerate(small[:: max(len(small) // 20, 1)]):
            shutil.copy(path, videos / f"real-{number:02d}{path.suffix}")
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("checkpoint*"))
    _write_stores(folder)
    _write_lists(folder, clips)
    _write_of_run(folder, clips)


def _write_video(path: Path, muxer: str, codec: str, pixels: str, options: dict[str, str]) -> None:
    width, height = (176, 144) if codec in ("h263", "h263p", "rv10", "rv20", "amv", "dxv", "cfhd") else (64, 48)
    muxing = {name: value for name, value in options.items() if name == "movflags"}
    with path.open("wb") as file, av.open(file, "w", format=muxer, options=muxing) as out:
        coding = {name: value for name, value in options.items() if name != "movflags"}
        stream = out.add_stream(codec, rate=25, options={"strict": "experimental", **coding})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        for number in range(8):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[..., 0] = np.linspace(0, 255, width)
            picture[..., 1] = 30 * number
            picture[4 * number : 4 * number + 16, 4 * number : 4 * number + 16] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _write_stores(folder: Path) -> None:
    (folder / "store").mkdir()
    pictures = [cv2.blur(np.full((32, 32, 3), 20 * number, np.uint8), (3, 3)) for number in range(6)]
    frames = [Frame(number, number / 25, picture) for number, picture in enumerate(pictures)]
    with (folder / "store" / "a.avi.zip").open("wb") as stream:
        contents = Contents.of_flow(FlowRecipe("farneback", 8, 32))
        write_stored_video(stream, frames, contents, SourceIdentity("a.avi", 1, "0" * 64), 95)
    (folder / "pictures").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for ending in ("jpg", "png", "bmp", "tiff", "webp"):
        (folder / "pictures" / f"a.{ending}").write_bytes(cv2.imencode(f".{ending}", picture)[1].tobytes())


def _write_lists(folder: Path, clips: Path) -> None:
    films = sorted(clips.rglob("*.mp4"))[:6]
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}\n" for path in films]
    (folder / "tables").mkdir()
    (folder / "tables" / "a.csv").write_text("path,label\n" + "".join(rows))
    (folder / "tables" / "a.tsv").write_text("path\tlabel\n" + "".join(rows).replace(",", "\t"))
    with suppress(ImportError):
        import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
        from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

        parquet.write_table(pa.table({"path": ["a/a.avi"], "label": ["a"]}), folder / "tables" / "a.parquet")
    (folder / "data").mkdir()
    columns = "path,label,group,frames,fps,width,height,codec,rotation,hash,status,reason,double_of\n"
    (folder / "data" / "manifest.csv").write_text(columns + "a/a.avi,a,a/g01,12,25.0,64,48,mpeg4,0,00,ok,,\n" * 1)
    with CheckJournal(folder / "data" / "journal.jsonl") as journal:
        for path in films[:2]:
            journal.add(check_video(CheckTask(path, path.name)))
    names = [f"v_{label}_g{group:02d}_c01.avi" for label in ("Archery", "Bowling") for group in (1, 8)]
    for name in names:
        target = folder / "ucf" / "UCF-101" / name.split("_")[1] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"")
    lists = folder / "ucf" / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Bowling\n")
    for number in (1, 2, 3):
        lines = [f"{name.split('_')[1]}/{name}" for name in names]
        (lists / f"trainlist{number:02d}.txt").write_text(f"{lines[1]} 1\n{lines[3]} 2\n")
        (lists / f"testlist{number:02d}.txt").write_text(f"{lines[0]}\n{lines[2]}\n")


def _write_of_run(folder: Path, clips: Path) -> None:
    run = folder / "run"
    opened = open_run(run)
    shutil.copy(run / "config.yaml", folder / "data" / "recipe.yaml")
    recipe = {name: value for name, value in opened.config.items() if name in ("model", "clip", "network", "training")}
    (folder / "data" / "recipe.yaml").write_text(json.dumps(recipe))
    (run / "resume.json").write_text(json.dumps({"data": {"root": str(clips)}, "device": None}))
    store = FeatureStore(folder / "features", _feature_recipe(run))
    store.begin()
    video = _Video("a.avi")
    store.write(video, None, torch.zeros(store.recipe.shape))  # type: ignore[arg-type]
    if not is_installed("onnxruntime"):
        return
    sub_model = clip_model(opened.load_network, opened.model_class, opened.network, opened.clip)
    with ExitStack() as keep:
        open_prepared(Artifact(opened, sub_model, "onnx", "fp32"), keep=keep)
    export(run, out=folder / "export")


@dataclass
class _Video:
    """A video whose features are kept, of which the store asks no more."""

    name: str
    identity: dict[str, int] = field(default_factory=lambda: {"size": 1, "sha256": 0})

    def stamp(self, kept: Path) -> None:
        del kept

    def is_of(self, recorded: object, kept: Path) -> bool:
        del kept
        return recorded == self.identity


_recipes: dict[Path, object] = {}


def _feature_recipe(run: Path) -> object:
    if run not in _recipes:
        opened = open_run(run)
        _recipes[run] = feature_recipes(opened.load_network(), opened.clip, "float32", prepared=False)["rgb"]
    return _recipes[run]


def kinds(folder: Path) -> list[Kind]:
    """List the kinds that there is material for."""

    def files(place: str, *patterns: str) -> list[str]:
        found = sorted({path for pattern in patterns for path in (folder / place).glob(pattern) if path.is_file()})
        return [path.relative_to(folder).as_posix() for path in found]

    run_files = files("run", "config.yaml", "labels.txt", "split.csv", "metrics.csv", "resume.json", "evaluation*.json")
    known = [
        Kind("video", files("videos", "*"), read_video, share=24),
        Kind("video as a pipe", files("videos", "*"), read_pipe, share=4),
        Kind("clip of a video", files("videos", "*"), read_clip, share=4),
        Kind("picture", files("pictures", "*"), lambda at, name: read_picture(at / name), share=2),
        Kind("store entry", files("store", "*"), read_store, share=2),
        Kind("manifest", ["data/manifest.csv"], lambda at, name: read_manifest(at / name), text=True),
        Kind("journal of check", ["data/journal.jsonl"], lambda at, name: CheckJournal(at / name), text=True),
        Kind("table", files("tables", "*"), lambda at, name: list(read_rows(at / name)), text=True),
        Kind("split list", files("ucf/ucfTrainTestlist", "*"), read_lists, text=True),
        Kind("recipe", ["data/recipe.yaml"], lambda at, name: load_recipe(at / name), text=True),
        Kind("run folder", run_files, read_run, text=True, share=2),
        Kind("weights", ["run/model.safetensors"], read_weights),
        Kind("evaluation", files("run", "evaluation*.json"), read_run_evaluation, text=True),
        Kind("feature store", files("features", "*/*.json", "*/*/*"), read_features),
        Kind("prepared runtime", files("run/prepared", "*/*"), read_prepared, share=2),
        Kind("export", files("export", "*.json", "check/*", "*.onnx"), read_export, text=True),
    ]  # fmt: skip
    return [kind for kind in known if kind.files]


def read_video(folder: Path, name: str) -> str | None:
    """Read a video in every way, and compare what decodes with FFmpeg alone.

    Some of FFmpeg's decoders show what lies in fresh memory; then FFmpeg agrees with itself as little, which is said.
    """
    path = folder / name
    for look in (find_structure_fault, count_frames, probe):
        with suppress(VideoError):
            look(path)
    ours = _ours(path)
    if not probe(path).begins_with_key:  # of what comes before, FFmpeg gives at its lenient setting what it makes up
        tails = [_by_ffmpeg_alone(path, strict=strict)[-len(ours) :] for strict in (True, False)]
        if all(len(tail) < len(ours) or _first_other(ours, tail) is not None for tail in tails):
            raise Differs(f"{len(ours)} frames of a stream without a key frame at its beginning")
        return None
    theirs = _by_ffmpeg_alone(path)
    if len(ours) != len(theirs):
        raise Differs(f"{len(ours)} frames, FFmpeg gives {len(theirs)}")
    if (number := _first_other(ours, theirs)) is None:
        return None
    others = [_by_ffmpeg_alone(path, held) for held in (-1, 1, 2, 100)]
    if any(_first_other(ours, other) is None for other in others) or any(other != theirs for other in others):
        return UNDETERMINED
    for fill in (0, 0xA5):
        for size in range(64, 1 << 16, 64):
            np.full(size, fill, np.uint8)  # memory that is fresh to those who come next
        if _ours(path) != ours or _by_ffmpeg_alone(path) != theirs:
            return UNDETERMINED
    raise Differs(f"frame {number} of {len(ours)}")


Pictures = list[tuple[int, tuple[int, ...]]]
Theirs = list[tuple[int, tuple[int, ...]] | None]


def _ours(path: Path) -> Pictures:
    with closing(iterate_frames(path)) as frames:
        return [(zlib.crc32(frame.image), frame.image.shape) for frame in islice(frames, MOST_FRAMES)]


def _first_other(ours: Pictures, theirs: Theirs) -> int | None:
    pairs = zip(ours, theirs[len(theirs) - len(ours) :], strict=True)
    return next((number for number, (our, their) in enumerate(pairs) if their is not None and our != their), None)


def _by_ffmpeg_alone(path: Path, held: int = 0, *, strict: bool = False) -> Theirs:
    """Sum and shape of each frame as PyAV decodes and converts it; None where it is turned or of another size.

    Errors count only once a picture has come.

    Args:
        path: the file.
        held: pictures that are kept, so that the next come into other memory; -1 keeps none while others are decoded.
        strict: report faults, and leave out corrupt pictures before the first that is not.
    """
    with open_video(path) as (_, chosen):
        index = chosen.index
    found: Theirs = []
    sum_of, kept = _Sum(), deque[av.VideoFrame](maxlen=max(held, 0))
    with _open(path) as container, suppress(IndexError):  # of streams that appear late
        stream = container.streams.video[[each.index for each in container.streams.video].index(index)]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode+crccheck"} if strict else {}
        for packet in container.demux(stream):
            if not packet.size and packet.pts is not None:  # of a frame that was dropped; it would end the stream
                continue
            try:
                if held < 0:
                    pictures = packet.decode()
                    while pictures:
                        found.append(sum_of(pictures.pop(0)))
                else:
                    for picture in packet.decode():
                        if strict and not found and picture.is_corrupt:
                            continue
                        kept.append(picture)
                        found.append(sum_of(picture))
            except av.FFmpegError:
                if found:
                    break
            if len(found) >= MOST_FRAMES:
                break
    return found


class _Sum:
    """Sums of pictures of one stream, converted to RGB by the same way of swscale."""

    def __init__(self) -> None:
        self._convert = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._is_turned = False

    def __call__(self, picture: av.VideoFrame) -> tuple[int, tuple[int, ...]] | None:
        size = picture.width, picture.height
        if self._size is None:
            self._size = size
            # Asked of the first alone: a picture that was asked is kept in memory until Python tidies up.
            self._is_turned = bool(picture.side_data.get(SideDataType.DISPLAYMATRIX))
        if self._is_turned or size != self._size:
            return None
        if picture.colorspace == 3:
            picture.colorspace = 2
        how = int(Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP)
        rgb = self._convert.reformat(picture, format="rgb24", interpolation=how, threads=1).to_ndarray()
        return zlib.crc32(np.ascontiguousarray(rgb)), rgb.shape


def _open(path: Path) -> InputContainer:
    return av.open(str(path), options={"max_pixels": str(8192 * 8192)}, metadata_errors="replace")


def read_pipe(folder: Path, name: str) -> None:
    """Read a video as if it came through a pipe."""
    source = Source("pipe", "pipe", os.fspath(folder / name))
    with open_source(source, Losses()) as opened:
        for number, picture in enumerate(opened.pictures(32)):
            picture.image()
            if number > MOST_FRAMES:
                break


def read_clip(folder: Path, name: str) -> str | None:
    """Cut a clip, by seeking where that is possible, and by decoding everything: both must agree."""
    settings = ClipSettings(4, 2, FlowRecipe("farneback", 20, 32))
    clips = [cut_clip(VideoSource(folder / name, settings.flow, seek=seek), settings) for seek in (True, False)]
    if np.array_equal(clips[0].rgb, clips[1].rgb) and np.array_equal(clips[0].flow, clips[1].flow):
        return None
    if scan_packets(folder / name).index is None:  # both were decoded from the start
        return UNDETERMINED
    raise Differs("a clip cut by seeking")


def read_store(folder: Path, name: str) -> None:
    """Read the whole entry."""
    stored = StoredVideo(folder / name)
    stored.verify()
    stored.read(range(stored.num_frames), range(stored.num_frames - 1))


def read_lists(folder: Path, name: str) -> None:
    """Read a data set by its official lists."""
    del name
    open_dataset("ucf101", folder / "ucf" / "UCF-101")


def read_run(folder: Path, name: str) -> None:
    """Open a run, in each way that reads one of its files."""
    run = open_run(folder / "run")
    if name.endswith(("config.yaml", "resume.json")):
        with suppress(ActionFusionError):
            recorded_recipe(run.path)
    if name.endswith(("split.csv", "config.yaml")):
        with suppress(ActionFusionError):
            reopen_data(run, None, None)
    if name.endswith(("metrics.csv", "labels.txt")):
        report(run.path, out=folder / "report.html")


def read_weights(folder: Path, name: str) -> None:
    """Read the weights, of a run and as a file to start from."""
    with suppress(ActionFusionError):
        read_checkpoint(folder / name)
    open_run(folder / "run").load_network()


def read_run_evaluation(folder: Path, name: str) -> None:
    """Read an evaluation, and draw the report with it."""
    read_evaluation(folder / name)
    report(folder / "run", out=folder / "report.html")


def read_features(folder: Path, name: str) -> None:
    """Ask for features, and read them."""
    del name
    store = FeatureStore(folder / "features", _feature_recipe(folder / "run"))  # type: ignore[arg-type]
    video = _Video("a.avi")
    if store.has(video, None):  # type: ignore[arg-type]
        store.read("a.avi", None, video.identity)


def read_export(folder: Path, name: str) -> None:
    """Open an export, and its model."""
    del name
    open_export(folder / "export").open("onnx", None, None)


def read_prepared(folder: Path, name: str) -> None:
    """Look for what is prepared."""
    del name
    run = open_run(folder / "run")
    sub_model = clip_model(run.load_network, run.model_class, run.network, run.clip)
    find_prepared(replace(Artifact(run, sub_model, "onnx", "fp32")))
