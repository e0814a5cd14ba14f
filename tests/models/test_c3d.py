from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actionfusion.errors import SettingsError
from actionfusion.models.systems.c3d import C3D, C3DSettings


def test_parameters_are_those_of_the_published_definition() -> None:
    with torch.device("meta"):
        network = C3D()
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in network.named_children()}

    assert sum(counts[name] for name in counts if name.startswith("conv")) == 27_655_936
    assert [counts[name] for name in ("fc6", "fc7", "fc8")] == [33_558_528, 16_781_312, 413_797]
    assert sum(counts.values()) == 78_409_573


def test_shapes_of_each_layer() -> None:
    with torch.device("meta"):
        network = C3D().eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in network.named_children():
        if name.startswith(("conv", "fc")):
            layer.register_forward_hook(lambda _, __, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    network(torch.empty(2, 16, 3, 112, 112, device="meta"))

    assert shapes == {
        "conv1": (64, 16, 112, 112), "conv2": (128, 16, 56, 56), "conv3a": (256, 8, 28, 28),
        "conv3b": (256, 8, 28, 28), "conv4a": (512, 4, 14, 14), "conv4b": (512, 4, 14, 14),
        "conv5a": (512, 2, 7, 7), "conv5b": (512, 2, 7, 7), "fc6": (4096,), "fc7": (4096,), "fc8": (101,),
    }  # fmt: skip


def test_the_layers_are_those_of_the_paper() -> None:
    """A second network, layer by layer, with Caffe's rounding up at the last pooling by ``ceil_mode``."""
    network = C3D(C3DSettings.tiny(5, image_size=112, width=2, fc_width=6)).eval()

    def conv(name: str, before: int, width: int) -> list[nn.Module]:
        layer = nn.Conv3d(before, width, 3, padding=1)
        layer.load_state_dict(network.get_submodule(name).state_dict())
        return [layer, nn.ReLU()]

    plain = nn.Sequential(
        *conv("conv1", 3, 2), nn.MaxPool3d((1, 2, 2)), *conv("conv2", 2, 4), nn.MaxPool3d(2),
        *conv("conv3a", 4, 8), *conv("conv3b", 8, 8), nn.MaxPool3d(2),
        *conv("conv4a", 8, 16), *conv("conv4b", 16, 16), nn.MaxPool3d(2),
        *conv("conv5a", 16, 16), *conv("conv5b", 16, 16), nn.MaxPool3d(2, ceil_mode=True),
        nn.Flatten(), network.fc6, nn.ReLU(), network.fc7, nn.ReLU(), network.fc8,
    )  # fmt: skip
    rgb = torch.randint(0, 256, (2, 16, 3, 112, 112), dtype=torch.uint8)
    pictures = network.normalizers["rgb"](rgb)

    torch.testing.assert_close(network(rgb), plain(pictures.transpose(1, 2)))


@pytest.mark.parametrize(("frames", "size"), [(16, 16), (17, 40), (32, 47), (24, 64)])
def test_other_lengths_and_sizes_work(frames: int, size: int) -> None:
    network = C3D(C3DSettings.tiny(5, frames=frames, image_size=size, width=1, fc_width=4))

    assert network(torch.zeros(1, frames, 3, size, size)).shape == (1, 5)


def test_what_leaves_no_map_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"network.frames: 8 is too small; take 16 or more"):
        C3DSettings(frames=8)
    with pytest.raises(SettingsError, match=r"network.image_size: 15 is too small; take 16 or more"):
        C3DSettings(image_size=15)


def test_features_of_another_shape_are_refused() -> None:
    network = C3D(C3DSettings.tiny(5))

    with pytest.raises(SettingsError, match=r"wanted \[B, 16, 3, 32, 32\]"):
        network(features={"rgb": torch.zeros(1, 8, 3, 32, 32)})


def test_the_order_of_frames_matters() -> None:
    network = C3D(C3DSettings.tiny(5)).eval()
    rgb: Tensor = torch.randint(0, 256, (1, 16, 3, 32, 32), dtype=torch.uint8)

    assert (network(rgb) - network(rgb.flip(1))).abs().max() > 1e-4


def test_training_drops_units_of_both_dense_layers() -> None:
    network = C3D(C3DSettings.tiny(5, dropout=0.5)).train()
    rgb = torch.randint(0, 256, (1, 16, 3, 32, 32), dtype=torch.uint8)
    seen: list[Tensor] = []
    for name in ("fc7", "fc8"):
        network.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(rgb)
    network.eval()(rgb)

    training, evaluation = seen[:2], seen[2:]
    assert all((kept == 0).sum() > (whole == 0).sum() for kept, whole in zip(training, evaluation, strict=True))
