"""Snippets against loops in numpy: key frames, the pyramid, and the codes that iterative quantisation wants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from actionfusion.errors import SettingsError
from actionfusion.models.solving import DescribedClips
from actionfusion.models.systems.snippets import SnippetHead, Snippets, SnippetsSettings, rotated_axes

D = 6


def solved_codes(**changes: Any) -> SnippetHead:
    """A head whose three bits are the signs of the first three channels."""
    head = SnippetHead({"rgb": D}, 4, bits=3, **changes).double()
    head.axes.copy_(torch.eye(D)[:, :3])
    return head


def summary_of(frames: npt.NDArray[np.float64], changed_bits: int, *, changes: bool) -> list[float]:
    """The pyramid of one clip ``[T, D]``, as it is described."""
    codes = frames[:, :3] > 0
    keys = [t for t in range(len(frames)) if t == 0 or (codes[t] != codes[t - 1]).sum() >= changed_bits]
    chosen = frames[keys]
    moved = np.abs(np.diff(chosen, axis=0, prepend=chosen[:1]))
    values = []
    for level in (1, 2, 4):
        for part in range(level):
            start, end = part * len(keys) // level, math.ceil((part + 1) * len(keys) / level)
            values.extend(chosen[start:end].mean(0))
            values.extend(moved[start:end].mean(0) if changes else [])
    return values


@pytest.mark.parametrize("changes", [True, False])
@pytest.mark.parametrize("changed_bits", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_the_pyramid_is_of_the_frames_whose_codes_change(frames: int, changed_bits: int, changes: bool) -> None:
    pooled = torch.randn(5, frames, D, dtype=torch.float64)
    found = solved_codes(changed_bits=changed_bits, changes=changes).summarize(pooled)

    for clip in range(5):
        expected = summary_of(pooled[clip].numpy(), changed_bits, changes=changes)
        np.testing.assert_allclose(found[clip], expected, atol=1e-12)


def test_the_original_is_a_vgg16_and_a_classifier_of_seven_parts() -> None:
    with torch.device("meta"):
        model = Snippets(SnippetsSettings.original())

    summary = 2 * 512 * 7  # means and changes, of the whole, both halves and all four quarters
    assert sum(parameter.numel() for parameter in model.parameters()) == 14_714_688 + 101 * (summary + 1)


def test_frames_that_repeat_their_code_change_nothing() -> None:
    pooled = torch.randn(2, 4, D, dtype=torch.float64)
    slow = pooled.repeat_interleave(3, 1)
    slow[:, 1::3, 3:] += 1  # which the code does not see

    head = solved_codes()
    torch.testing.assert_close(head.summarize(slow), head.summarize(pooled))


def test_rotated_axes_are_orthogonal_and_quantise_no_worse_than_pca() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(500, D)) @ random.normal(size=(D, D)) + 3
    mean, axes = rotated_axes(values, 3)

    def error(axes: npt.NDArray[np.float64]) -> float:
        projected = (values - values.mean(0)) @ axes
        return float(np.square(np.where(projected > 0, 1, -1) - projected).sum())

    _, _, rows = np.linalg.svd(values - values.mean(0))
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(axes @ axes.T, rows[:3].T @ rows[:3], atol=1e-9)  # the space of PCA
    assert error(axes) <= error(rows[:3].T)


def test_solving_tells_orders_apart_that_a_mean_cannot() -> None:
    """Both classes show the same two pictures, in either order."""
    model = Snippets(SnippetsSettings.tiny(2, backbone=(4, "M", D), bits=2))
    first, second = 3 * torch.randn(2, D)
    targets = torch.arange(24) % 2
    orders = torch.stack((torch.stack((first, second)), torch.stack((second, first))))[targets]
    frames = orders.repeat_interleave(3, 1) + 0.1 * torch.randn(24, 6, D)
    videos = tuple(map(str, range(24)))
    report = model.solve(DescribedClips(frames.flatten(1), targets, videos, (None,) * 24))

    assert (report.correct, report.count) == (24, 24)
    assert torch.equal(model.answer_described(frames.flatten(1)).argmax(1), targets)
    maps = frames[..., None, None].expand(-1, -1, -1, 2, 2)
    assert torch.equal(model.classify({"rgb": maps}).argmax(1), targets)
    shares = model.attention({"rgb": maps})["key frames"]
    assert (shares[:, [0, 3]] > 0.3).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(24))


@pytest.mark.parametrize("wrong", [{"bits": 7}, {"bits": 2, "changed_bits": 3}])
def test_codes_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=r"network\.bits"):
        SnippetsSettings(backbone=(4, "M", D), **wrong)  # type: ignore[arg-type]
