"""The two-stream LSTM's variants against torch's LSTM on what they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.models.layer_norm_lstm import LayerNormLSTM
from actionfusion.models.systems.two_stream_lstm import TwoStreamLSTM, TwoStreamLSTMSettings

VARIANTS = ("conv_l", "fc_1", "fc_2", "fusion_1", "fusion_2")
READ = {"conv_l": ["conv"], "fc_1": ["fc"], "fc_2": ["fc"], "fusion_1": ["conv", "fc"], "fusion_2": ["conv", "fc"]}


def network(variant: str, **changes: Any) -> TwoStreamLSTM:
    small = {"image_size": 32, "backbone": (4, "M", 6), "batch_norm": False, "hidden": 7, "fc6_width": 5}
    return TwoStreamLSTM(TwoStreamLSTMSettings.tiny(4, variant=variant, **{**small, **changes}))


def torchs(own: LayerNormLSTM, inputs: Tensor) -> Tensor:
    """All states of torch's LSTM with these weights; torch's gates are i, f, j, o, and it has two biases."""
    order, plain = [0, 2, 1, 3], nn.LSTM(own.input_size, own.hidden_size, batch_first=True)
    values = {"weight_ih_l0": own.weight_ih, "weight_hh_l0": own.weight_hh, "bias_ih_l0": own.norm.bias}
    state = {name: value.unflatten(0, (4, own.hidden_size))[order].flatten(0, 1) for name, value in values.items()}  # type: ignore[union-attr]
    plain.load_state_dict({**state, "bias_hh_l0": torch.zeros(4 * own.hidden_size)})
    states: Tensor = plain(inputs)[0]
    return states


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_what_its_name_says(variant: str) -> None:
    model = network(variant, conv_reduce="average").eval()
    maps = torch.randn(2, 3, 6, 16, 16)
    read = {"conv": maps.mean((-2, -1))}
    if "fc" in READ[variant]:
        assert model.fc6 is not None
        read["fc"] = F.relu(model.fc6(F.max_pool2d(maps.flatten(0, 1), 2).flatten(1))).reshape(2, 3, 5)
    joined = [read[name] for name in READ[variant]]
    if variant.endswith("_2"):
        joined = [torchs(model.branch_lstm(name), read[name]) for name in READ[variant]]
    last = torchs(model.last_lstm, torch.cat(joined, 2))[:, -1]

    torch.testing.assert_close(model.classify({"rgb": maps}), model.head(last))
    assert set(model.memories) == ({*READ[variant], "last"} if variant.endswith("_2") else {"last"})


def test_what_the_variant_says_is_not_said_otherwise() -> None:
    for wrong, named in (({"branches": "fc"}, "branches"), ({"temporal_head": "mean"}, "temporal_head")):
        with pytest.raises(SettingsError, match=f"network.{named}: .* is not what fusion_2 has"):
            TwoStreamLSTMSettings(variant="fusion_2", **wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"network\.variant"):
        TwoStreamLSTMSettings(variant="fusion_3")  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_original_has_vgg_and_its_fc6(variant: str) -> None:
    with torch.device("meta"):
        model = TwoStreamLSTM(TwoStreamLSTMSettings.original(variant=variant))

    def lstm(inputs: int) -> int:
        return 4 * 256 * (inputs + 256 + 1)

    conv, fc = 512 * 7 * 7, 4096
    heads = {
        "conv_l": lstm(conv),
        "fc_1": lstm(fc),
        "fc_2": lstm(fc) + lstm(256),
        "fusion_1": lstm(conv + fc),
        "fusion_2": lstm(conv) + lstm(fc) + lstm(512),
    }
    fc6 = 0 if variant == "conv_l" else fc * (conv + 1)
    expected = 14_714_688 + fc6 + heads[variant] + 101 * 257
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
