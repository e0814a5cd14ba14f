"""The command ``explain``: what a run saw in a video, where, when and in which stream."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from actionfusion.errors import ActionFusionError, SettingsError, printable
from actionfusion.explain.activations import PAPER_CHANNELS, check_layers
from actionfusion.explain.localization import HiddenName
from actionfusion.explain.question import find_label
from actionfusion.explain.reasons import Reasons, give_reasons
from actionfusion.files import replacing_folder
from actionfusion.inference.recognizer import Recognizer
from actionfusion.report.filmstrip import common_scale
from actionfusion.report.heatmaps import (
    activation_picture,
    contact_sheet,
    drawn_flow,
    heat_over,
    png_bytes,
    scaled_heat,
    square,
)
from actionfusion.report.overlay import Overlay, write_overlay
from actionfusion.report.reasons_page import render_reasons
from actionfusion.run_folder import refuse_taken

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
    """Show what the network looked at: a page with pictures, and the video with heat map, flow and probabilities.

    Args:
        run: the run folder that train wrote.
        video: a video file.
        out: a new folder for index.html, the pictures, overlay.mp4 and explanation.json.
        label: the class to explain; none takes the most probable one.
        layers: convolutions to show, by number; none takes 1, 6 and 9 of 13 as in the paper, or those as deep.
        channels: how many channels of each layer, the strongest ones.
        hide: what occlusion hides a part of; input (frames and flow), or map (the fused map), which is many times as
            fast with VGG-16.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

    Returns:
        The page.

    Raises:
        RunFolderError: not a run folder, or ``out`` holds something already.
        WeightsError: weights missing, damaged, or of another network.
        VideoError: the video cannot be read.
        SettingsError: a class, a layer or a number of channels that there is not, or ``out`` cannot be written.
    """
    refuse_taken(out)
    recognizer = Recognizer.load(run, runtime="torch", device=device)
    # What is wrong with the words is said before anything is computed.
    if label is not None:
        find_label(recognizer.labels, label)
    if layers is not None:
        check_layers(recognizer.network.settings.layout, layers)
    console = Console(stderr=True)
    try:
        with replacing_folder(out) as folder, console.status("reading the video") as status:
            clip = recognizer.clip(video)
            status.update("asking the network")
            reasons = give_reasons(recognizer, clip, label, layers=layers, channels=channels, hidden=hide)
            status.update("drawing")
            _write(folder, video, reasons)
    except ActionFusionError:
        raise  # a missing video is an OSError too
    except OSError as error:
        raise SettingsError(out, f"cannot be written ({error.strerror or error})", "choose another --out") from error
    share = f"{100 * float(reasons.probabilities[reasons.target]):.1f} %"
    console.print(
        Text(printable(f"{video}: {reasons.label}, {share}; now open {out / PAGE} in a browser")), soft_wrap=True
    )
    return out / PAGE


def _write(folder: Path, video: Path, reasons: Reasons) -> None:
    clip, scale = reasons.clip, common_scale([reasons.clip])
    heat = scaled_heat(reasons.cam)
    frames = [square(picture.transpose(1, 2, 0)) for picture in clip.rgb]
    flows = drawn_flow(clip, scale)
    for stream, layers in reasons.activations.items():
        shown = frames[reasons.moment] if stream == "rgb" else flows[reasons.moment]
        (folder / f"activations_{stream}.png").write_bytes(png_bytes(activation_picture(shown, layers)))
    hidden = scaled_heat(reasons.occluded)
    sheet = [
        ("sampled frames", frames),
        ("flow to the next frame of the video", flows),
        (f"Grad-CAM: speaks for {reasons.label}", list(map(heat_over, frames, heat))),
        (f"occlusion: hiding it costs {reasons.label}", list(map(heat_over, frames, hidden))),
    ]
    (folder / SHEET).write_bytes(png_bytes(contact_sheet(sheet)))
    overlay = Overlay(reasons.labels, reasons.target, clip.positions, heat, reasons.running, clip.recipe, scale)
    write_overlay(folder / VIDEO, video, overlay)
    (folder / FIGURES).write_text(json.dumps({"video": video.name, **reasons.as_json()}) + "\n", encoding="utf-8")
    page = render_reasons(video.name, reasons, folder / VIDEO)
    (folder / PAGE).write_text(page, encoding="utf-8")
