"""Draw docs/model_card.svg and write the tables of docs/model_card.md, all from the network itself.

python docs/draw_model_card.py          # rewrites both
python docs/draw_model_card.py --check  # exits 1 if that would change them
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from actionfusion.models import FusionNetwork, FusionNetworkSettings
from actionfusion.models.backbones.vgg16 import VGG16_LAYOUT

DOCS = Path(__file__).parent
CARD, PICTURE = DOCS / "model_card.md", DOCS / "model_card.svg"
FRAMES, CLASSES = 17, 101
TINY_FRAMES, TINY_CLASSES = 8, 8
MODULES = {
    "backbones.rgb": "RGB backbone, VGG-16 to relu5_3",
    "backbones.flow": "flow backbone, the same on 8 channels",
    "fusion": "interleave (eq. 1), 3-D convolution 3x3x3, ReLU",
    "branch_lstms.conv": "flatten, LN_LSTM*",
    "fc6": "2x2 max pool, fc6, ReLU",
    "branch_lstms.fc": "LN_LSTM*",
    "last_lstm": "join both, LN_LSTM, last state",
    "head": "literal head",
}


@dataclass(frozen=True)
class Stage:
    """One part of the network for one clip: shapes behind the batch, parameters, multiply-adds."""

    given: tuple[int, ...]
    made: tuple[int, ...]
    parameters: int
    macs: int


def measure(network: FusionNetwork, frames: int) -> dict[str, Stage]:
    """Stages of a network on the meta device, in the order of MODULES, and ``all``."""
    settings = network.eval().settings
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes[name] = (tuple(inputs[0].shape), tuple(output.shape))

        return hook

    for name in MODULES:
        network.get_submodule(name).register_forward_hook(note(name))
    size = (settings.image_size, settings.image_size)
    rgb = torch.empty(1, frames, 3, *size, device="meta")
    flow = torch.empty(1, frames, settings.flow_channels, *size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(rgb, flow)
    flops = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    stages: dict[str, Stage] = {}
    for name in MODULES:
        given, made = (shape[1:] if len(shape) != 4 else (frames, *shape[1:]) for shape in shapes[name])
        parameters = sum(p.numel() for p in network.get_submodule(name).parameters())
        stages[name] = Stage(given, made, parameters, flops.get(f"FusionNetwork.{name}", 0) // 2)
    parameters = sum(p.numel() for p in network.parameters())
    stages["all"] = Stage((), (), parameters, flops["Global"] // 2)
    return stages


def _meta(settings: FusionNetworkSettings) -> FusionNetwork:
    with torch.device("meta"):
        return FusionNetwork(settings)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{length:,}" for length in shape)


def stages_table() -> str:
    """Shapes, parameters and multiply-adds of the faithful network."""
    stages = measure(_meta(FusionNetworkSettings.faithful(CLASSES)), FRAMES)
    total = stages.pop("all")
    lines = ["| stage | output for a clip | parameters | GMAC | % |", "|---|---|---:|---:|---:|"]
    for name, stage in stages.items():
        share = 100 * stage.macs / total.macs
        figures = f"{stage.parameters:,} | {stage.macs / 1e9:.3f} | {share:.2f}"
        lines.append(f"| {MODULES[name]} | {_shape(stage.made)} | {figures} |")
    lines.append(f"| **all** | | **{total.parameters:,}** | **{total.macs / 1e9:.3f}** | 100 |")
    return "\n".join(lines)


def modes_table() -> str:
    """Every setting in which the three named modes differ, and what each costs."""
    modes = {
        "faithful": (FusionNetworkSettings.faithful(CLASSES), FRAMES),
        "practical": (FusionNetworkSettings.practical(CLASSES), FRAMES),
        "tiny": (FusionNetworkSettings.tiny(TINY_CLASSES), TINY_FRAMES),
    }
    costs = {name: measure(_meta(settings), frames)["all"] for name, (settings, frames) in modes.items()}
    lines = [f"| | {' | '.join(modes)} |", "|---|---|---|---|"]
    for field in fields(FusionNetworkSettings):
        values = [getattr(settings, field.name) for settings, _ in modes.values()]
        if len(set(values)) > 1:
            lines.append(f"| `{field.name}` | {' | '.join(str(value) for value in values)} |")
    lines.append(f"| frames per clip in these figures | {' | '.join(str(frames) for _, frames in modes.values())} |")
    lines.append(f"| parameters | {' | '.join(f'{cost.parameters:,}' for cost in costs.values())} |")
    lines.append(f"| GMAC per clip | {' | '.join(f'{cost.macs / 1e9:.3f}' for cost in costs.values())} |")
    return "\n".join(lines)


INK, GREY, BLUE, ORANGE, GREEN, VIOLET = "#1f2933", "#616e7c", "#d6e6f8", "#fbe3c8", "#d8efd9", "#e6dcf5"
WIDTH, HEIGHT = 1240, 560


def _text(x: float, y: float, text: str, *, size: int = 13, fill: str = INK, weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" font-weight="{weight}">{text}</text>'


def _box(place: tuple[float, float, float, float], fill: str, lines: list[str]) -> str:
    """A rounded box: its first line bold, the others grey and smaller, all centred."""
    x, y, width, height = place
    parts = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" stroke="{INK}"/>']
    top = y + height / 2 - 8.5 * (len(lines) - 1) + 4.5
    for number, line in enumerate(lines):
        style = {"weight": "bold"} if number == 0 else {"fill": GREY}
        parts.append(_text(x + width / 2, top + 17 * number, line, size=13 if number == 0 else 12, **style))
    return "\n".join(parts)


def _arrow(*points: tuple[float, float]) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.6" marker-end="url(#tip)"/>'


def _frames(x: float, y: float, fill: str, lines: list[str]) -> str:
    """A stack of pictures."""
    sheets = [
        f'<rect x="{x + 7 * k:g}" y="{y - 7 * k:g}" width="96" height="96" fill="{fill}" stroke="{INK}"/>'
        for k in (2, 1, 0)
    ]
    return "\n".join([*sheets, *(_text(x + 48, y + 36 + 17 * k, line, size=12) for k, line in enumerate(lines))])


def _blocks(x: float, y: float, fill: str, settings: FusionNetworkSettings) -> str:
    """A bar a block of convolutions: as high as its map, labelled with its convolutions and channels."""
    blocks, size = [[]], settings.image_size  # type: list[list[int]], int
    for entry in VGG16_LAYOUT:
        if entry == "M":
            blocks.append([])
        else:
            blocks[-1].append(int(entry))
    parts = []
    for number, block in enumerate(blocks):
        height = 34 + 96 * (size / settings.image_size)
        left = x + 52 * number
        parts.append(
            f'<rect x="{left:g}" y="{y - height / 2:g}" width="40" height="{height:g}" rx="4" '
            f'fill="{fill}" stroke="{INK}"/>'
        )
        parts.append(_text(left + 20, y - 2, f"{len(block)}×", size=12))
        parts.append(_text(left + 20, y + 13, f"{block[-1]}", size=12))
        parts.append(_text(left + 20, y + 84, f"{size}²", size=11, fill=GREY))
        size //= 2
    return "\n".join(parts)


def picture() -> str:
    """The faithful network as SVG, its figures from the network."""
    settings = FusionNetworkSettings.faithful(CLASSES)
    stages = measure(_meta(settings), FRAMES)
    side, channels = settings.image_size, settings.flow_channels
    maps = _shape(stages["backbones.rgb"].made[1:])
    fused = _shape(stages["fusion"].made[1:])
    doubled = _shape((2 * stages["backbones.rgb"].made[1], *stages["backbones.rgb"].made[2:]))
    pooled = f"{stages['fc6'].given[-1]:,}"
    hidden, joined = settings.hidden, stages["last_lstm"].given[-1]

    def cost(name: str) -> str:
        return f"{stages[name].parameters / 1e6:.1f} M, {stages[name].macs / 1e9:.2f} GMAC"

    parts = [
        _text(
            24, 34, f"The faithful network: T = {FRAMES} frames of {side}², {CLASSES} classes", size=18, weight="bold"
        ),
        _text(
            24,
            56,
            f"shapes for one of the {FRAMES} frames; {stages['all'].parameters:,} parameters, "
            f"{2 * stages['all'].macs / 1e12:.2f} TFLOP per clip",
            fill=GREY,
        ),
        _frames(24, 130, BLUE, ["RGB frame", f"3 × {side}²", f"× {FRAMES}"]),
        _frames(24, 360, ORANGE, ["flow t−2…t+2", f"{channels} × {side}²", f"× {FRAMES}"]),
        _arrow((138, 178), (164, 178)),
        _arrow((138, 408), (164, 408)),
        _blocks(168, 178, BLUE, settings),
        _blocks(168, 408, ORANGE, settings),
        _text(296, 102, f"VGG-16 without pool5: {cost('backbones.rgb')}", size=12, fill=GREY),
        _text(296, 332, f"the same, conv1_1 random: {cost('backbones.flow')}", size=12, fill=GREY),
        _text(484, 168, f"{maps}", size=12),
        _text(484, 398, f"{maps}", size=12),
        _arrow((422, 178), (540, 178), (540, 246)),
        _arrow((422, 408), (540, 408), (540, 340)),
        _box((478, 250, 124, 86), GREEN, ["interleave", "b1, a1, b2, a2, …", doubled]),
        _arrow((602, 293), (632, 293)),
        _box((636, 238, 150, 110), GREEN, ["3-D convolution", "3×3×3 over T, h, w", "+ ReLU", f"X_conv {fused}"]),
        _text(711, 366, cost("fusion"), size=12, fill=GREY),
        _arrow((786, 276), (812, 276), (812, 178), (838, 178)),
        _arrow((786, 310), (812, 310), (812, 408), (838, 408)),
        _box((842, 140, 130, 76), VIOLET, ["flatten", f"{stages['branch_lstms.conv'].given[-1]:,}"]),
        _arrow((972, 178), (1000, 178)),
        _box((1004, 140, 130, 76), VIOLET, ["LN_LSTM*", f"all T states, {hidden}"]),
        _text(1069, 132, cost("branch_lstms.conv"), size=12, fill=GREY),
        _box((842, 362, 130, 92), VIOLET, ["max pool 2×2", pooled, "fc6, ReLU", f"X_fc {settings.fc6_width:,}"]),
        _text(907, 472, cost("fc6"), size=12, fill=GREY),
        _arrow((972, 408), (1000, 408)),
        _box((1004, 370, 130, 76), VIOLET, ["LN_LSTM*", f"all T states, {hidden}"]),
        _text(1069, 464, cost("branch_lstms.fc"), size=12, fill=GREY),
        _arrow((1069, 216), (1069, 242)),
        _arrow((1069, 370), (1069, 344)),
        _box((1004, 246, 130, 94), VIOLET, ["LN_LSTM", f"joined, {joined}", f"last state h, {settings.last_hidden}"]),
        _arrow((1134, 293), (1160, 293)),
        _text(1194, 290, "softmax", weight="bold"),
        _text(1194, 308, f"{CLASSES}", size=12, fill=GREY),
        _text(620, 526, "dropout in training: 0.5 behind fc6, 0.25 behind each LSTM", size=12, fill=GREY),
        _text(620, 544, "bars: convolutions × channels of each VGG block, and the side of its map", size=12, fill=GREY),
    ]
    for index in (0, 1):
        parts[index] = parts[index].replace("<text ", '<text text-anchor="start" ')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" text-anchor="middle">\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def with_tables(text: str) -> str:
    """The card with both tables made anew between their marks."""
    for name, table in (("stages", stages_table()), ("modes", modes_table())):
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        text, found = marks.subn(rf"\1{table}\n\2", text)
        if found != 1:
            sys.exit(f"{CARD.name}: no marks for the table {name!r}")
    return text


def main() -> None:
    """Rewrite the card and its picture, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if anything would change")
    check = parser.parse_args().check
    wanted = {CARD: with_tables(CARD.read_text(encoding="utf-8")), PICTURE: picture()}
    for path, text in wanted.items():
        if check and path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.name} is out of date: run python docs/draw_model_card.py")
        if not check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
