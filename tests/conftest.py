"""What several rooms' tests share: videos of many kinds, a data set, and a small run trained on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import settings

# Time decides no test, and chance none of a change's: HYPOTHESIS_PROFILE=explore looks for examples never tried before.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# What a fork runs is not counted, so it need not be traced.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: sys.settrace(None))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _libraries_uncounted() -> Iterator[None]:
    """Coverage leaves alone what libraries take two to three times as long for with it, and of which it counts no line.

    That is PyTorch's exporter, its work on tensors without values, and Matplotlib's drawing.
    """
    if sys.gettrace() is None:
        yield
        return
    import torch
    from matplotlib.figure import Figure
    from torch._subclasses.fake_tensor import FakeTensorMode

    work = (torch.onnx, "export"), (FakeTensorMode, "__torch_dispatch__"), (Figure, "subplots"), (Figure, "savefig")
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in work:
            patch.setattr(owner, name, _uncounted(getattr(owner, name)))
        patch.setattr(threading, "_sys", _PatientSys())
        yield


class _PatientSys:
    """The `sys` of a starting thread: it tries again where Python refuses a tracer, since another sets its own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)

    def settrace(self, function: Any) -> None:
        for _ in range(1000):
            try:
                return sys.settrace(function)
            except RuntimeError:
                time.sleep(0.001)
        return sys.settrace(function)


def _uncounted(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if threading.active_count() > 1:  # Python sets no tracer while another thread sets its own
            return function(*args, **named)
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **named)
        finally:
            sys.settrace(tracer)

    return call


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real clips, which never come with the repository."""
    root = Path(os.environ.get("ACTIONFUSION_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not root.is_dir():
        pytest.skip("the real clips are not on this machine (set ACTIONFUSION_SHARED to their folder's parent)")
    return root


@pytest.fixture(scope="session")
def vgg16_file() -> Path:
    """ImageNet's thirteen convolutions of VGG-16, which never come with the repository."""
    shared = Path(os.environ.get("ACTIONFUSION_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "weights" / "vgg16_imagenet_conv.safetensors"
    if not path.is_file():
        pytest.skip("the weights are not on this machine (set ACTIONFUSION_SHARED to their folder's parent)")
    return path


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory) -> Path:
    """Four training and two test clips of each of the eight generated classes."""
    from actionfusion.data.shapes_files import make_shapes

    root = tmp_path_factory.mktemp("shapes")
    return make_shapes(root, train_per_class=4, val_per_class=0, test_per_class=2, seed=7)


@pytest.fixture(scope="session")
def three(tmp_path_factory, shapes_root) -> Path:
    """Three of those classes."""
    root = tmp_path_factory.mktemp("three")
    for part in ("train", "test"):
        for label in ("motion_up", "motion_down", "order_left_right"):
            shutil.copytree(shapes_root / part / label, root / part / label)
    return root


@pytest.fixture(scope="session")
def train_arguments(shapes_root) -> dict[str, object]:
    """Arguments of ``train`` for one quick epoch of the tiny network on the generated clips."""
    from actionfusion.training.recipe import load_recipe
    from actionfusion.training.stages import Stage

    recipe = load_recipe("tiny")
    data = replace(recipe.data, dataset="folder", root=shapes_root, split="folders", validation="test")
    training = replace(recipe.training, stages=(Stage(1e-3, 1, 1),), batch_size=8, workers=0)
    return {"recipe": recipe.changed(data=data, training=training)}


@pytest.fixture(scope="module")
def drawn_once() -> Iterator[None]:
    """The curves of a file's first training are those of all: to draw them takes as long as many a training here."""
    from actionfusion.training import checkpointing

    real, drawn = checkpointing.save_curves, list[bytes]()

    def save(rows: Sequence[Any], path: Path) -> None:
        if drawn:
            path.write_bytes(drawn[0])
        else:
            real(rows, path)
            drawn.append(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "save_curves", save)
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, train_arguments) -> Path:
    """A run folder of the tiny network after one epoch."""
    from actionfusion.training.train import train

    return train(**train_arguments | {"out": tmp_path_factory.mktemp("runs") / "tiny"})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip("only root may mount a small disk")
        return folder

    if sys.platform != "linux":
        pytest.skip("needs Linux's tmpfs")
    yield mount
    subprocess.run(["umount", folder], check=False, capture_output=True)


@pytest.fixture(scope="session")
def shelf_package(tmp_path_factory) -> Path:
    """The folder of an installed package that gives fsspec the protocol ``shelf``, in this process and its children."""
    import fsspec

    site = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("shelf_filesystem.py"), site)
    about = site / "shelf-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\nshelf = shelf_filesystem:ShelfFileSystem\n")
    sys.path.insert(0, str(site))
    fsspec.register_implementation("shelf", "shelf_filesystem.ShelfFileSystem", clobber=True)
    return site


@pytest.fixture
def shelf(shelf_package, tmp_path, monkeypatch) -> Path:
    """The folder that ``shelf://`` leads to, empty."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("SHELF", str(folder))
    monkeypatch.delenv("SHELF_FAULTS", raising=False)
    return folder


@pytest.fixture
def memory() -> Iterator[None]:
    """``memory://`` is empty, before and after."""
    from fsspec.implementations.memory import MemoryFileSystem

    def clear() -> None:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    clear()
    yield
    clear()


@pytest.fixture
def scratch(monkeypatch) -> Iterator[Path]:
    """The folder of temporary files, in which none of ours may be left at the end."""
    # A short name: torch's loaders put sockets into it, whose paths may have 107 characters, and else wait for ever.
    folder = Path(tempfile.mkdtemp(prefix="af"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    left = list(folder.glob("actionfusion-*"))
    shutil.rmtree(folder)
    assert left == []


# Encoders that would otherwise write to standard error.
_QUIET = {"libx265": {"x265-params": "log-level=none"}}
os.environ.setdefault("SVT_LOG", "0")

_MUXERS = {
    ".mkv": "matroska",
    ".mpg": "mpeg",
    ".ts": "mpegts",
    ".wmv": "asf",
    ".m4v": "m4v",
}


def _numbered(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Pictures that name themselves by the grey of their right upper quarter: ``20 + 200 * index / (count - 1)``.

    The left upper quarter is white and the lower quarter red, so that every way of turning them shows.
    """
    pictures = []
    for index in range(count):
        picture = np.full((height, width, 3), 20 + 200 * index // max(count - 1, 1), np.uint8)
        picture[: height // 2, : width // 2] = 240
        picture[-(height // 4) :] = (200, 30, 30)
        pictures.append(picture)
    return pictures


def _frame(picture: np.ndarray, source_format: str, pixel_format: str) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format=source_format)
    return frame if pixel_format == source_format else frame.reformat(format=pixel_format)


def _write(
    path: Path,
    pictures: Sequence[np.ndarray] | None = None,
    *,
    count: int = 12,
    width: int = 64,
    height: int = 48,
    codec: str = "mpeg4",
    pixel_format: str = "yuv420p",
    source_format: str = "rgb24",
    rate: int = 25,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
    colorspace: int | None = None,
    color_range: int | None = None,
    rotation: tuple[int, bool, bool] | None = None,
    sound: bool = False,
) -> Path:
    """Write ``pictures``, or ``count`` numbered ones, and give the path back.

    ``times`` are in milliseconds; ``rotation`` is counter-clockwise degrees, then mirrored in x, in y.
    """
    if pictures is None:
        pictures = _numbered(count, width, height)
    muxer = _MUXERS.get(path.suffix, path.suffix[1:])
    unit = Fraction(1, 1000) if times is not None else Fraction(1, rate)
    with path.open("wb") as file, av.open(file, "w", format=muxer, options=muxer_options) as out:
        stream = out.add_stream(codec, rate=rate, options={**_QUIET.get(codec, {}), **(options or {})})
        shape = pictures[0].shape
        stream.height, stream.width = shape[-2:] if shape[0] == 3 else shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = unit
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        voice = out.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        for index, picture in enumerate(pictures):
            frame = _frame(picture, source_format, pixel_format)
            frame.time_base, frame.pts = unit, times[index] if times is not None else index
            out.mux(stream.encode(frame))
            if voice is not None:
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
                tone.sample_rate, tone.time_base, tone.pts = 8000, Fraction(1, 8000), 320 * index
                out.mux(voice.encode(tone))
        for each in (stream, voice):
            if each is not None:
                out.mux(each.encode(None))
    return path


def _encode(pictures: Sequence[np.ndarray], codec: str, pixel_format: str) -> list[bytes]:
    """The packets of an encoder that neither delays nor reorders."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = pixel_format, Fraction(1, 25), 1
    packets = []
    for index, picture in enumerate(pictures):
        frame = _frame(picture, "rgb24", pixel_format)
        frame.pts = index
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in packets + encoder.encode(None)]


def _mux(
    path: Path,
    streams: Sequence[tuple[Sequence[np.ndarray], str, int]],
    stamps: Sequence[tuple[int, int]] | None = None,
    extra: dict[int, bytes] | None = None,
) -> Path:
    """Write packets with chosen timestamps.

    ``streams`` holds (pictures, codec, disposition); ``stamps`` (presentation, decoding) times in milliseconds, 40 ms
    apart where not given; ``extra`` packets of the first stream by the number of the packet that they follow.
    """
    formats = {"mjpeg": "yuvj420p", "ffv1": "yuv420p", "mpeg4": "yuv420p"}
    with path.open("wb") as file, av.open(file, "w", format=_MUXERS.get(path.suffix, path.suffix[1:])) as out:
        packets = []
        outputs = []
        for pictures, codec, disposition in streams:
            output = out.add_stream(codec, rate=25)
            output.height, output.width = pictures[0].shape[:2]
            output.pix_fmt, output.disposition = formats[codec], disposition
            outputs.append(output)
            rows: list[bytes] = []
            for index, data in enumerate(_encode(pictures, codec, formats[codec])):
                rows.append(data)
                if extra and output is outputs[0] and index in extra:
                    rows.append(extra[index])
            packets.append(rows)
        for output, rows in zip(outputs, packets, strict=True):
            for index, data in enumerate(rows):
                packet = av.Packet(data)
                packet.stream, packet.time_base = output, Fraction(1, 1000)
                packet.pts, packet.dts = stamps[index] if stamps else (40 * index, 40 * index)
                packet.is_keyframe = index == 0 or output.codec_context.name in ("mjpeg", "ffv1")
                out.mux(packet)
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Encodes pictures into a file: see ``_write``."""
    return _write


@pytest.fixture(scope="session")
def mux_video() -> Callable[..., Path]:
    """Puts encoded packets into a file under chosen timestamps: see ``_mux``."""
    return _mux


@pytest.fixture(scope="session")
def numbered() -> Callable[..., list[np.ndarray]]:
    """Makes (count, width, height) pictures that name themselves."""
    return _numbered


@pytest.fixture(scope="session")
def hub_server():
    """The stand-in of the Hugging Face hub, for all tests."""
    from hub_stand_in import stand_in

    with stand_in() as hub:
        yield hub


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The stand-in, empty, for a user who is logged in nowhere, in an empty folder."""
    hub_server.repositories.clear()
    hub_server.large.clear()
    hub_server.requests.clear()
    hub_server.answer = None
    monkeypatch.setenv("HF_ENDPOINT", hub_server.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return hub_server
