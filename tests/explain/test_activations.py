"""Figure 7: the right layers, and their strongest channels."""

import numpy as np
import pytest
import torch

from actionfusion.errors import SettingsError
from actionfusion.explain.activations import default_layers, layer_activations, streams_of
from actionfusion.models.vgg16 import NARROW_LAYOUT, VGG16_LAYOUT


def test_the_papers_layers_where_the_tower_is_the_papers():
    assert default_layers(VGG16_LAYOUT) == (1, 6, 9)
    assert default_layers(NARROW_LAYOUT) == (1, 2, 3)
    assert default_layers((8,)) == (1,)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_maps_are_those_of_the_convolution_counted_by_hand(random_question, stream):
    asked = random_question(3, batch_norm=False)
    tower = getattr(asked.network, f"{stream}_tower")
    shown = layer_activations(asked, stream, [3, 1], moment=2, channels=5)
    assert [(layer.layer, layer.name, layer.width) for layer in shown] == [(3, "conv3_1", 32), (1, "conv1_1", 8)]
    with torch.no_grad():
        inputs = dict(zip(("rgb", "flow"), asked.network.normalizer(asked.rgb, asked.flow), strict=True))[stream][0, 2]
        one, two, three = [layer for layer in tower.features if isinstance(layer, torch.nn.Conv2d)][:3]
        pool = torch.nn.functional.max_pool2d
        first = one(inputs[None]).relu()
        third = three(pool(two(pool(first, 2)).relu(), 2)).relu()
    for layer, expected in zip(shown, (third[0], first[0]), strict=True):
        np.testing.assert_allclose(layer.maps, expected[list(layer.channels)].numpy(), atol=1e-5)
        energy = expected.square().sum(dim=(1, 2)).numpy()
        assert set(layer.channels) == set(np.argsort(-energy, kind="stable")[:5])
        assert (np.diff(energy[list(layer.channels)]) <= 0).all()


def test_a_narrow_layer_shows_all_that_it_has(random_question):
    (shown,) = layer_activations(random_question(), "rgb", [1], moment=0, channels=50)
    assert len(shown.channels) == shown.width == 8


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"layers": [1, 6]}, "there is no convolution 6, the run's towers have 4; give numbers from 1 to 4"),
        ({"layers": [0]}, "there is no convolution 0"),
        ({"layers": []}, "none is asked for"),
        ({"layers": [2, 2]}, "asked for twice"),
        ({"channels": 0}, "0 channels"),
        ({"moment": 4}, "no sampled frame 4"),
    ],
)
def test_what_is_not_there_is_named(random_question, wrong, told):
    with pytest.raises(SettingsError, match=told):
        layer_activations(random_question(), **{"stream": "rgb", "layers": [1], "moment": 0} | wrong)


def test_a_stream_that_is_not_there_is_named(random_question):
    asked = random_question(streams="flow")
    assert streams_of(asked.network) == ("flow",)
    with pytest.raises(SettingsError, match="no rgb stream; take flow"):
        layer_activations(asked, "rgb", [1], moment=0)
