"""The command ``export``: a run as a model file for other programs, usable without this package.

The folder holds the model, ``model.json`` (what goes in and out, and how a clip is cut), and ``check/``: the inputs of
one clip as raw bytes with the answer, so that a program can check that it uses the model correctly.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from actionfusion.errors import ExportError, RuntimeUnavailable, SettingsError, printable
from actionfusion.files import cannot_write, refuse_unwritable, replacing_folder, write_atomically
from actionfusion.hub import open_named_run
from actionfusion.inference.exports.description import describe
from actionfusion.inference.exports.exported import ABOUT, CHECK, open_export
from actionfusion.inference.exports.synthetic import SyntheticVideo
from actionfusion.inference.runtimes.backend import Backend, TorchBackend, check_precision, open_model, read_openvino
from actionfusion.inference.runtimes.choice import not_exportable
from actionfusion.inference.runtimes.onnx_file import MODEL, export_onnx
from actionfusion.inference.runtimes.prepared import (
    COARSE_TOLERANCE,
    TOLERANCE,
    XML,
    Artifact,
    Prepared,
    find_prepared,
    open_prepared,
    weights_digest,
)
from actionfusion.inference.runtimes.sub_models import Array, clip_model
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text
from actionfusion.video.clip import Clip, ClipSettings, cut_clip
from actionfusion.video.video_source import VideoSource

FormatName = Literal["onnx", "openvino"]


def export(
    run: Path,
    *,
    out: Path,
    format: FormatName = "onnx",  # noqa: A002 - the flag's name
    precision: Literal["fp32", "int8"] = "fp32",
    dynamic_batch: bool = False,
    root: PathLike | None = None,
    store: PathLike | None = None,
    video: Path | None = None,
) -> Path:
    """Write a run as a model that other programs can use, with a description and a clip to check it by.

    Args:
        run: the run folder that ``train`` wrote.
        out: folder to write; it must not hold anything.
        format: onnx, or openvino (model.xml and model.bin).
        precision: fp32, or int8: calibrated on the run's training videos, and refused where it costs more than a
            point of accuracy; the measurements are kept beside the run.
        dynamic_batch: let the model take any number of clips at a time, in fp32; else it takes one.
        root: folder of the run's data set, or its address, for int8.
        store: folder of its prepared clips, or its address, for int8; none reads the videos themselves.
        video: the clip to check by is cut from it; from a synthetic moving picture where none is given.

    Returns:
        The folder.

    Raises:
        ExportError: ``out`` holds something.
        OutputError: it cannot be written.
        ActionFusionError: as for ``Recognizer.load``; or the video cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(out, "exists already and is not empty", "choose another --out or remove it")
    refuse_unwritable(out / ABOUT)
    if precision not in ("fp32", "int8"):
        raise SettingsError("precision", f"{precision!r} is not exported", "choose fp32 or int8")
    if dynamic_batch and precision == "int8":
        raise SettingsError("dynamic_batch", "int8 is made for one clip at a time", "take fp32, or leave it out")
    check_precision(format, precision)
    folder = open_named_run(run)
    if not folder.model_class.exportable:
        raise not_exportable(format)
    clip = _cut_check_clip(folder.clip, video)
    sub_model = clip_model(folder.load_network, folder.model_class, folder.network, folder.clip)
    sub_model = sub_model.batched(-1) if dynamic_batch else sub_model
    with ExitStack() as keep:
        artifact = Artifact(folder, sub_model, format, precision, root, store)
        # int8 is expensive to make and to measure, so it is kept beside the run.
        prepared = open_prepared(artifact, keep=keep)[1] if precision == "int8" else None
        if precision == "fp32" and not dynamic_batch:
            prepared = find_prepared(artifact)[0]
        try:
            with replacing_folder(out) as target:
                model = _write_model(artifact, target, prepared)
                answer = _write_check(artifact, target, model, clip, "synthetic" if video is None else video.name)
                int8 = prepared.about["int8"] if precision == "int8" and prepared is not None else None
                files = {file.name: file.stat().st_size for file in sorted(target.iterdir()) if file.is_file()}
                about = describe(folder, sub_model, format, precision, weights_digest(folder))
                about |= {"model": model, "files": files, "int8": int8, "check": f"{CHECK}/expected.json"}
                write_atomically(target / ABOUT, json.dumps(about, indent=2, ensure_ascii=False))
                open_export(target)
        except OSError as error:
            raise cannot_write(out, error, "free some space, or choose another --out") from error
    size = sum(files.values()) / 2**20
    text = f"{out}: {format} {precision}, {size:.1f} MiB; {answer['label']!r} for its check clip, "
    text += f"{answer['largest_difference_from_pytorch']:.1g} off the run's own probabilities"
    Console(stderr=True).print(Text(printable(text)), soft_wrap=True)
    return out


def _cut_check_clip(clip: ClipSettings, video: Path | None) -> Clip:
    if video is not None:
        return cut_clip(VideoSource(video, clip.flow, frame_size=clip.frame_size), clip)
    return cut_clip(SyntheticVideo(clip, max(4, clip.stride) * clip.frames), clip)


def _write_model(artifact: Artifact, target: Path, prepared: Prepared | None) -> str:
    """Write the model and return the name of its file."""
    if prepared is not None and (artifact.precision == "int8" or artifact.runtime == "onnx"):
        for file in sorted(prepared.folder.glob(f"{prepared.model.stem}.*")):
            shutil.copyfile(file, target / file.name)
        return prepared.model.name
    if artifact.runtime == "onnx":
        export_onnx(artifact.sub_model, target / MODEL)
        return MODEL
    from openvino import save_model  # noqa: PLC0415

    source = prepared.model if prepared is not None else target / MODEL
    if prepared is None:
        export_onnx(artifact.sub_model, source)
    save_model(read_openvino(source), target / XML, compress_to_fp16=False)
    if prepared is None:
        for file in target.glob(f"{MODEL}*"):
            file.unlink()
    return XML


def _write_check(artifact: Artifact, target: Path, model: str, clip: Clip, source: str) -> dict[str, Any]:
    """Write the inputs of a clip and the model's answer, and check it against the network's.

    Raises:
        RuntimeUnavailable: the answers differ.
    """
    inputs: dict[str, Array] = {name: array[None] for name, array in clip.inputs(artifact.run.clip.streams).items()}
    sub_model, labels = artifact.sub_model, artifact.run.labels
    assert artifact.precision != "bf16"
    exported = open_model(target / model, artifact.runtime, artifact.precision, sub_model.inputs, sub_model.outputs)
    eager = TorchBackend(sub_model, "fp32", torch.device("cpu")).run(inputs)["probabilities"][0]
    answer: Any = exported.run(inputs)["probabilities"][0]
    difference = float(np.abs(answer - eager).max())
    if artifact.precision == "fp32" and not difference <= TOLERANCE:
        reason = f"its probabilities are {difference:.1g} off PyTorch's, more than {TOLERANCE:g}"
        raise RuntimeUnavailable(artifact.runtime, reason, "take the run in PyTorch")
    if exported.takes_batches:
        _check_batches(artifact, exported)
    folder = target / CHECK
    folder.mkdir()
    for name, values in inputs.items():
        (folder / f"{name}.bin").write_bytes(np.ascontiguousarray(values).tobytes())
    expected: dict[str, Any] = {
        "source": source,
        "meaning": "uint8 in C order, of the shapes that model.json gives, for one clip",
        "positions": clip.positions.tolist(),
        "label": labels[int(answer.argmax())],
        "probabilities": [float(value) for value in answer],
        "probabilities_pytorch_fp32": [float(value) for value in eager],
        "largest_difference_from_pytorch": difference,
        "tolerance": TOLERANCE if artifact.precision == "fp32" else COARSE_TOLERANCE,
    }
    expected |= {name: f"{name}.bin" for name in inputs}
    write_atomically(folder / "expected.json", json.dumps(expected, indent=2, ensure_ascii=False))
    return expected


def _check_batches(artifact: Artifact, exported: Backend) -> None:
    """Check the answers to several clips at a time against the network's, clip by clip.

    Raises:
        RuntimeUnavailable: they differ.
    """
    eager = TorchBackend(artifact.sub_model, "fp32", torch.device("cpu"))
    for count in (2, 3):
        clips = artifact.sub_model.batched(count).example(seed=count)
        wanted = [eager.run({name: values[[row]] for name, values in clips.items()}) for row in range(count)]
        found: Any = exported.run(clips)["probabilities"]
        difference = float(np.abs(found - np.concatenate([each["probabilities"] for each in wanted])).max())
        if not difference <= TOLERANCE:
            reason = f"its probabilities for {count} clips at a time are {difference:.1g} off PyTorch's"
            raise RuntimeUnavailable(artifact.runtime, reason, "leave --dynamic_batch out, or take the run in PyTorch")
