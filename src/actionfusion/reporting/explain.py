"""The command ``explain``: what a model saw in a video, where, when and in which stream."""

from __future__ import annotations

import json
from pathlib import Path

from actionfusion.errors import ActionFusionError, VideoMissing, printable
from actionfusion.explanation.activations import PAPER_CHANNELS
from actionfusion.explanation.explanation import Explanation, check_options, explain_clip
from actionfusion.explanation.localization import HiddenName
from actionfusion.explanation.target import find_label
from actionfusion.files import cannot_write, refuse_unwritable, replacing_folder
from actionfusion.inference.given_videos import refuse_address
from actionfusion.inference.recognizer import Recognizer
from actionfusion.reporting.explanation_page import render_explanation
from actionfusion.reporting.filmstrip import common_scale, square
from actionfusion.reporting.heatmaps import (
    activation_picture,
    contact_sheet,
    drawn_flow,
    heat_over,
    png_bytes,
    scaled_heat,
    weighed_frames,
)
from actionfusion.reporting.overlay import Overlay, write_overlay
from actionfusion.run_folder import refuse_taken
from actionfusion.terminal import Console, Text

PAGE, FIGURES, VIDEO, SHEET = "index.html", "explanation.json", "overlay.mp4", "where.png"


def explain(
    run: Path,
    video: Path,
    *,
    out: Path,
    label: str | None = None,
    layers: tuple[int, ...] | None = None,
    channels: int = PAPER_CHANNELS,
    hide: HiddenName = "input",
    device: str | None = None,
) -> Path:
    """Show what the model looked at: a page with pictures, and the video with heat map, flow and probabilities.

    Args:
        run: the run folder that train wrote.
        video: a video file.
        out: a new folder for index.html, the pictures, overlay.mp4 and explanation.json.
        label: the class to explain; none takes the most probable one.
        layers: stages of the backbones to show, by number; none takes 1, 6 and 9 of 13 as in the paper, or those as
            deep.
        channels: how many channels of each stage, the strongest ones.
        hide: what occlusion hides a part of; input (frames and flow), or map (the feature map that Grad-CAM works on),
            which is many times as fast with a large backbone.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

    Returns:
        The page.

    Raises:
        RunFolderError: not a run folder, or ``out`` holds something already.
        WeightsError: weights missing, damaged, or of another network.
        VideoError: the video cannot be read.
        SettingsError: a class, a stage, a number of channels or a map that there is not.
        OutputError: ``out`` cannot be written.
    """
    refuse_taken(out)
    refuse_unwritable(out / PAGE)
    refuse_address(video)
    if video.is_dir():
        raise VideoMissing(video, "this is a folder", "give one video file")
    recognizer = Recognizer.load(run, runtime="torch", device=device)
    # Wrong options are refused before anything is computed.
    if label is not None:
        find_label(recognizer.labels, label)
    check_options(recognizer.network, layers, channels, hide)
    console = Console(stderr=True)
    try:
        with replacing_folder(out) as folder, console.status("reading the video") as status:
            clip = recognizer.clip(video)
            status.update("explaining")
            explanation = explain_clip(recognizer, clip, label, layers=layers, channels=channels, hidden=hide)
            status.update("drawing")
            _write(folder, video, explanation)
    except ActionFusionError:
        raise  # a missing video is an OSError too
    except OSError as error:
        raise cannot_write(out, error, "free some space, or choose another --out") from error
    share = f"{100 * float(explanation.probabilities[explanation.target]):.1f} %"
    console.print(
        Text(printable(f"{video}: {explanation.label}, {share}; now open {out / PAGE} in a browser")), soft_wrap=True
    )
    return out / PAGE


def _write(folder: Path, video: Path, explanation: Explanation) -> None:
    clip, scale, label = explanation.clip, common_scale([explanation.clip]), explanation.label
    hidden = scaled_heat(explanation.occluded)
    heat = hidden if explanation.cam is None else scaled_heat(explanation.cam)
    frames = [square(picture.transpose(1, 2, 0)) for picture in clip.rgb]
    flows = drawn_flow(clip, scale)
    for stream, layers in explanation.activations.items():
        shown = frames[explanation.position] if stream == "rgb" else flows[explanation.position]
        (folder / f"activations_{stream}.png").write_bytes(png_bytes(activation_picture(shown, layers)))
    sheet = [
        ("sampled frames", frames),
        ("flow to the next frame of the video", flows),
        (f"Grad-CAM: speaks for {label}", [] if explanation.cam is None else list(map(heat_over, frames, heat))),
        (f"occlusion: hiding it costs {label}", list(map(heat_over, frames, hidden))),
        *((name, weighed_frames(frames, weights)) for name, weights in explanation.attention.items()),
    ]
    (folder / SHEET).write_bytes(png_bytes(contact_sheet([row for row in sheet if row[1]])))
    recipe = None if clip.flow is None else clip.recipe
    overlay = Overlay(explanation.labels, explanation.target, clip.positions, heat, explanation.running, recipe, scale)
    write_overlay(folder / VIDEO, video, overlay)
    (folder / FIGURES).write_text(json.dumps({"video": video.name, **explanation.as_json()}) + "\n", encoding="utf-8")
    page = render_explanation(video.name, explanation, folder / VIDEO)
    (folder / PAGE).write_text(page, encoding="utf-8")
