"""C3D beside trajectories: what it describes, and where C3D's weights come from."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from actionfusion.errors import SettingsError, WeightsError
from actionfusion.models.solving import DescribedClips
from actionfusion.models.systems.c3d import C3D, C3DSettings
from actionfusion.models.systems.c3d_idt_svm import C3DAndTrajectories, C3DAndTrajectoriesSettings


def make(**changes) -> C3DAndTrajectories:
    torch.manual_seed(1)
    return C3DAndTrajectories(C3DAndTrajectoriesSettings.tiny(3, **changes)).eval()


def c3d() -> C3D:
    torch.manual_seed(5)
    return C3D(C3DSettings.tiny(7, image_size=28, width=2, fc_width=16)).eval()


@torch.no_grad()
def test_fc6_is_that_of_c3d_averaged_over_overlapping_clips() -> None:
    model, other = make(frames=32), c3d()
    model.c3d.load_state_dict(other.state_dict(), strict=False)
    rgb = torch.randint(0, 256, (2, 32, 3, 32, 32), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    other.fc6.register_forward_hook(lambda _, __, output: seen.append(F.relu(output)))
    for start in (0, 8, 16):
        other(rgb=rgb[:, start : start + 16, :, 2:30, 2:30])
    expected = F.normalize(torch.stack(seen).mean(0), dim=1)
    found = model.describe(model.features({"rgb": rgb}))
    torch.testing.assert_close(found[:, :16].float(), expected, atol=1e-3, rtol=0)


def test_weights_of_c3d_are_taken_from_a_file_by_its_own_names(tmp_path) -> None:
    other = c3d()
    save_file(other.state_dict(), tmp_path / "c3d.safetensors")
    model = make()
    report = model.load_pretrained(tmp_path / "c3d.safetensors")
    assert set(report.loaded) == {name for name, _ in model.named_parameters() if name.startswith("c3d.")}
    assert torch.equal(model.c3d.fc6.weight, other.fc6.weight)
    assert not any(parameter.requires_grad for parameter in model.c3d.parameters())
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="holds nothing of C3D"):
        model.load_pretrained(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="there is no such file"):
        model.load_pretrained(tmp_path / "none.safetensors")


@torch.no_grad()
def test_both_parts_weigh_the_same_and_solving_leaves_c3d_as_it_is(motions) -> None:
    model = make(image_size=48, samples=200)
    rgb, targets = motions(range(4))
    rgb = torch.cat((rgb, rgb.flip(1)), 1)  # there and back
    clips = DescribedClips(
        model.describe(model.features({"rgb": rgb})), targets, tuple(map(str, range(12))), (None,) * 12
    )
    before = {name: value.clone() for name, value in model.c3d.state_dict().items()}
    model.solve(clips)
    assert all(torch.equal(before[name], value) for name, value in model.c3d.state_dict().items())
    encoded = model.each(model._encode, clips.values)
    torch.testing.assert_close(encoded[:, :16].norm(dim=1), torch.ones(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(encoded[:, 16:].norm(dim=1), torch.ones(12))
    assert model(rgb=rgb).argmax(1).tolist() == targets.tolist()


def test_the_default_is_the_papers_c3d() -> None:
    with torch.device("meta"):
        model = C3DAndTrajectories()
    assert sum(parameter.numel() for parameter in model.c3d.parameters()) == 27_655_936 + 33_558_528
    assert model.machine.in_features == 4096 + 2 * 256 * 213


def test_a_crop_larger_than_the_frames_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"network\.crop: 112 px are more than the frames' 96 px"):
        C3DAndTrajectoriesSettings(image_size=96)
