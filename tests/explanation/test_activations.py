"""Figure 7: the right layers, and their strongest channels."""

import numpy as np
import pytest
import torch

from actionfusion.errors import SettingsError
from actionfusion.explanation.activations import default_layers, layer_activations
from actionfusion.models.backbones import make_backbone


def test_the_papers_layers_where_the_backbone_is_the_papers():
    depths = [len(make_backbone(name, 3).stages) for name in ("vgg16", "narrow", (8,))]
    assert [default_layers(depth) for depth in depths] == [(1, 6, 9), (1, 2, 3), (1,)]


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_maps_are_those_of_the_convolution_counted_by_hand(random_target, stream):
    asked = random_target(3, batch_norm=False)
    model = asked.model
    shown = layer_activations(asked, stream, [3, 1], position=2, channels=5)
    assert [(layer.layer, layer.name, layer.width) for layer in shown] == [(3, "conv3_1", 32), (1, "conv1_1", 8)]
    with torch.no_grad():
        inputs = model.normalizers[stream](asked.clips[stream])[0, 2]
        one, two, three = [layer for layer in model.backbones[stream].features if isinstance(layer, torch.nn.Conv2d)][
            :3
        ]
        pool = torch.nn.functional.max_pool2d
        first = one(inputs[None]).relu()
        third = three(pool(two(pool(first, 2)).relu(), 2)).relu()
    for layer, expected in zip(shown, (third[0], first[0]), strict=True):
        np.testing.assert_allclose(layer.maps, expected[list(layer.channels)].numpy(), atol=1e-5)
        energy = expected.square().sum(dim=(1, 2)).numpy()
        assert set(layer.channels) == set(np.argsort(-energy, kind="stable")[:5])
        assert (np.diff(energy[list(layer.channels)]) <= 0).all()


def test_a_narrow_layer_shows_all_that_it_has(random_target):
    (shown,) = layer_activations(random_target(), "rgb", [1], position=0, channels=50)
    assert len(shown.channels) == shown.width == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": [1, 6]}, "there is no stage 6, the run's backbones have 4; give numbers from 1 to 4"),
        ({"layers": [0]}, "there is no stage 0"),
        ({"layers": []}, "none is asked for"),
        ({"layers": [2, 2]}, "asked for twice"),
        ({"channels": 0}, "0 channels"),
        ({"position": 4}, "no sampled frame 4"),
    ],
)
def test_what_is_not_there_is_named(random_target, wrong, message):
    with pytest.raises(SettingsError, match=message):
        layer_activations(random_target(), **{"stream": "rgb", "layers": [1], "position": 0} | wrong)


def test_a_stream_without_a_backbone_is_named(random_target):
    asked = random_target(streams="flow")
    with pytest.raises(SettingsError, match="no backbone of rgb; take flow"):
        layer_activations(asked, "rgb", [1], position=0)
