"""A small run with answers that are spread, so that parity says something, and videos that it may be calibrated on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def randomise():
    """Gives a network random weights and statistics, as ``_randomise`` does."""
    return _randomise


def _randomise(network, seed=0):
    """Weights and batch-norm statistics of a network that has seen much, in place."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif value.ndim > 1 and "gain" not in name and "shift" not in name:
            # He's start keeps the spread through the layers; the LSTMs get enough of it to open and shut their gates.
            value.copy_(noise * (2.0 / value[0].numel()) ** 0.5 * (3 if "weight" in name and "lstm" in name else 1))
        else:
            value.add_(0.3 * noise)
    return network.eval()


@pytest.fixture(scope="session")
def small_run_source(tmp_path_factory, shapes_root) -> Path:
    """A run folder of a very small network, random, whose split calls the test videos what fp32 calls them."""
    import torch

    from actionfusion.inference.recognizer import Recognizer
    from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
    from actionfusion.run_folder import create_run
    from actionfusion.video.clip import ClipSettings
    from actionfusion.video.flow import FlowRecipe

    settings = FusionNetworkSettings.tiny(
        5, image_size=16, flow_channels=4, tower=(8, "M", 16), fc6_width=16, hidden=8, norm="tf"
    )
    clip = ClipSettings(frames=3, flow_fields=2, flow=FlowRecipe("dis", 8.0, 16))
    folder = tmp_path_factory.mktemp("small") / "run"
    labels = [f"class {number}" for number in range(5)]
    run = create_run(folder, clip=clip, network=settings, labels=labels, further={"data": {"dataset": "folder"}})
    with torch.no_grad():
        network = _randomise(FusionNetwork(settings), seed=1)
    recognizer = Recognizer(network, clip, labels)
    paths = [path for part in ("train", "test") for path in sorted((shapes_root / part).glob("*/*.mp4"))[:12]]
    clips = [recognizer.clip(path) for path in paths]
    with torch.no_grad():
        # Left alone a random network calls all clips the same.
        logits = network(
            *(torch.from_numpy(np.stack([getattr(clip, name) for clip in clips])) for name in ("rgb", "flow"))
        )
        scale = 1.5 / logits.std(0)
        network.head.linear.bias.sub_(logits.mean(0)).mul_(scale)
        network.head.linear.weight.mul_(scale[:, None])
    run.save_weights(network)
    rows = []
    for path, probabilities in zip(paths, recognizer.probabilities(clips), strict=True):
        name = path.relative_to(shapes_root).as_posix()
        rows.append([name, labels[probabilities.argmax()], "", "", name.split("/")[0]])
    with (folder / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "group", "double_of", "part"], *rows])
    return folder


@pytest.fixture
def small_run(small_run_source, tmp_path) -> Path:
    """A copy of it, to write beside."""
    return Path(shutil.copytree(small_run_source, tmp_path / "run"))


@pytest.fixture
def small_clip(small_run_source) -> dict[str, np.ndarray]:
    """Random inputs of the small run's network."""
    generator = np.random.default_rng(3)
    return {
        "rgb": generator.integers(0, 256, (1, 3, 3, 16, 16)).astype(np.uint8),
        "flow": generator.integers(1, 256, (1, 3, 4, 16, 16)).astype(np.uint8),
    }


@pytest.fixture(scope="session")
def prepared_run(small_run_source, tmp_path_factory) -> Path:
    """Another copy, prepared for OpenVINO and ONNX Runtime in fp32; not to be changed."""
    from actionfusion.inference.recognizer import Recognizer

    folder = shutil.copytree(small_run_source, tmp_path_factory.mktemp("prepared") / "run")
    for runtime in ("openvino", "onnx"):
        Recognizer.load(folder, runtime=runtime)
    return folder
