"""The ``model.json`` of an export: everything a program needs to cut a clip and read the answer."""

from __future__ import annotations

from typing import Any

from actionfusion.inference.exports.exported import FORMAT
from actionfusion.inference.runtimes.onnx_file import OPSET
from actionfusion.inference.runtimes.sub_models import SubModel
from actionfusion.run_folder import RunFolder
from actionfusion.settings import plain
from actionfusion.version import __version__
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import LARGEST_CODE_STEP, ZERO_CODE, FlowRecipe

# A size of -1 is any number of clips.
_LAYOUT = ["clip", "sampled frame", "channel", "row from the top", "column from the left"]


def describe(run: RunFolder, sub_model: SubModel, format_name: str, precision: str, weights: str) -> dict[str, Any]:
    """Make all of ``model.json`` except its files and int8's measurements.

    Args:
        run: what is exported.
        sub_model: the whole model from a clip to probabilities.
        format_name: onnx or openvino.
        precision: fp32 or int8.
        weights: SHA-256 of the run's weights.
    """
    channels = _channels(run.clip)
    return {
        "export_format": FORMAT,
        "package": "actionfusion",
        "version": __version__,
        "format": format_name,
        "opset": OPSET,
        "precision": precision,
        "weights_sha256": weights,
        "model_name": run.model,
        "dynamic_batch": sub_model.inputs[0].shape[0] == -1,
        "inputs": [plain(spec) | {"layout": _LAYOUT} | channels[spec.name] for spec in sub_model.inputs],
        "output": {
            "name": sub_model.outputs[0],
            "shape": [sub_model.inputs[0].shape[0], len(run.labels)],
            "dtype": "float32",
            "meaning": "probability of each class, after the softmax, in the order of labels; they sum to 1",
        },
        "labels": list(run.labels),
        "frames": _frames(run.clip.frame_size),
        **({"flow_recipe": plain(run.clip.flow), "flow": _flow(run.clip.flow)} if run.clip.reads_flow else {}),
        "sampling": _sampling(run.clip),
        "clip": plain(run.clip),
        "rates": plain(run.rates),
        "network": plain(run.network),
    }


def _channels(clip: ClipSettings) -> dict[str, dict[str, Any]]:
    numbers = range(1, clip.flow_frames + 1)
    return {
        "rgb": {
            "range": [0, 255],
            "channels": ["red", "green", "blue"],
            "meaning": "the sampled frames; do not scale or normalise them, the model does",
        },
        "flow": {
            "range": [1, 255],
            "channels": [f"{axis} of field {number}" for number in numbers for axis in ("u", "v")],
            "meaning": f"flow codes, {ZERO_CODE} is no motion; do not scale or normalise them, the model does",
        },
    }


def _frames(size: int) -> dict[str, Any]:
    return {
        "size": [size, size],
        "resize": "the whole frame, upright as its rotation says, to this size without keeping its proportions; "
        "averaging over the source area (FFmpeg's swscale AREA, OpenCV's INTER_AREA are near enough)",
        "colour": "RGB in the full range 0..255, by the video's own matrix and range (BT.601 limited where it says "
        "none)",
    }


def _flow(recipe: FlowRecipe) -> dict[str, Any]:
    engines = {
        "tvl1": "OpenCV optflow DualTVL1OpticalFlow with its default settings (5 scales of 0.8, 5 warps, lambda 0.15)",
        "dis": "OpenCV DISOpticalFlow, preset MEDIUM",
        "dis-fast": "OpenCV DISOpticalFlow, preset FAST",
        "farneback": "OpenCV calcOpticalFlowFarneback(pyr_scale 0.5, levels 5, winsize 13, iterations 10, poly_n 5, "
        "poly_sigma 1.1, flags 0)",
    }
    return {
        "engine": engines[recipe.engine],
        "size": [recipe.size, recipe.size],
        "computed_on": "grey levels 0.299 R + 0.587 G + 0.114 B of frames p and p + 1, resized to this size; field p "
        "is the motion from p to p + 1, and zero where both are equal",
        "units": "pixels of the resized frame; u to the right, v down",
        "encode": f"code = round(clip(pixels, -bound, bound) * {LARGEST_CODE_STEP} / bound) + {ZERO_CODE}, "
        "halves to even",
        "decode": f"pixels = (code - {ZERO_CODE}) * bound / {LARGEST_CODE_STEP}",
        "bound": recipe.bound,
    }


def _sampling(clip: ClipSettings) -> dict[str, Any]:
    if clip.sampling == "dense":
        rule = f"frames {clip.stride} apart from the middle of the video, counted from 0"
        formula = "min(max(floor((N - 1 - (T - 1) * S) / 2), 0) + (k - 1) * S, N - 1)"
        numbers = "N frames in the video, T sampled ones and the stride S"
    else:
        rule = "frames evenly spaced over the whole video (Ou and Sun 2019, eqs 13-14), counted from 0"
        formula = "min(k * max(floor(N / T), 1), N) - 1"
        numbers = "N frames in the video and T sampled ones"
    sampling: dict[str, Any] = {
        "frames": clip.frames,
        "sampling": clip.sampling,
        "stride": clip.stride,
        "rule": f"{rule}; a video of fewer frames repeats its last one",
        "formula": f"position(k) = {formula} for k = 1..T, with {numbers}",
    }
    if clip.reads_flow:
        fields, half = clip.flow_frames, clip.flow_frames // 2
        sampling["flow_fields"] = fields
        sampling["flow_window"] = (
            f"around a sampled frame t the {fields} fields that start at t - {half} .. t + {half - 1}, each clamped "
            "to 0 .. N - 2; of a video of one frame, all codes are no motion"
        )
    return sampling
