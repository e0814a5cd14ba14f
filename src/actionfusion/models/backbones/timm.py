"""Any model of the package timm as a backbone, ``timm:NAME``, with timm's own facts and parameter names.

Only this module imports timm, and only when such a backbone is made, since timm needs torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actionfusion.errors import SettingsError, WeightsError
from actionfusion.models.backbones.backbone import Backbone
from actionfusion.models.weights import Checkpoint, fetch_from_hub, read_checkpoint

HUB_FILE = "model.safetensors"


def _timm(name: str) -> ModuleType:
    try:
        import timm  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:  # the latter where torch and torchvision do not match
        reason = f"timm:{name} needs timm, which cannot be imported here ({str(error).splitlines()[0]})"
        raise SettingsError("network.backbone", reason, "run pip install 'actionfusion[timm]'") from error
    package: ModuleType = timm
    return package


class TimmBackbone(Backbone):
    """A model of timm up to its last feature map, run by timm's own code.

    Args:
        name: timm's, such as ``resnet50`` or ``resnet50.a1_in1k``; without a tag the weights are timm's default ones.
        in_channels: channels of a picture: 3 for RGB, 2L for a stack of L flow frames.

    Raises:
        SettingsError: timm is not installed, has no such model, or cannot take its features.
    """

    def __init__(self, name: str, in_channels: int) -> None:
        super().__init__(in_channels)
        timm = _timm(name)
        if not timm.is_model(name):  # also keeps names that would lead to the hub or a folder from timm
            near = get_close_matches(name, timm.list_models(), 1)
            remedy = f"did you mean timm:{near[0]}?" if near else "see timm.list_models()"
            raise SettingsError("network.backbone", f"timm has no model {name!r}", remedy)
        try:
            self.model: Any = timm.create_model(
                name, features_only=True, feature_cls="getter", out_indices=(-1,), in_chans=in_channels
            )
        except (RuntimeError, AttributeError, AssertionError) as error:
            reason = f"timm gives no feature maps of {name!r}: {str(error).splitlines()[0]}"
            raise SettingsError("network.backbone", reason, "take another backbone") from error
        self.name = name
        self.facts: Mapping[str, Any] = self.model.model.pretrained_cfg
        self.mean, self.std = tuple(self.facts["mean"]), tuple(self.facts["std"])
        self.stride = self.model.feature_info.reduction()[-1]
        self.out_channels = self.model.feature_info.channels()[-1]

    def _units(self) -> dict[str, nn.Module]:
        """List timm's layers in the order of their definition, with the children of containers that hold stages."""
        layers: dict[str, nn.Module] = {}
        opened = {stage.partition(".")[0] for stage in self._stage_names() if "." in stage}
        for name, layer in self.model.model.named_children():
            inner = {f"{name}.{inner_name}": part for inner_name, part in layer.named_children()}
            layers |= inner if name in opened else {name: layer}
        return layers

    def _stage_names(self) -> list[str]:
        return [each["module"] for each in self.model.feature_info.info]

    @property
    def units(self) -> Sequence[nn.Module]:
        """The layers that `freeze` goes by."""
        return list(self._units().values())

    @property
    def stage_ends(self) -> Mapping[str, int]:
        """The stages of timm, as far as they are layers."""
        names = list(self._units())
        return {stage: names.index(stage) + 1 for stage in self._stage_names() if stage in names}

    def map_size(self, image_size: int) -> int:
        """Return height and width of the map of a square picture.

        Raises:
            SettingsError: the model does not take pictures of this size.
        """
        return _map_size(self.name, image_size)

    def norms(self) -> Iterator[tuple[nn.Module, str, str]]:
        """List none: in timm's models the order of definition does not say what a batch norm reads."""
        return iter(())

    def freeze(self, through: str | None) -> None:
        """Keep the layers up to the end of a stage as they are; positions and tokens are frozen with the first."""
        super().freeze(through)
        for parameter in self.model.model.parameters(recurse=False):
            parameter.requires_grad_(self.num_frozen == 0)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures ``[N, C, H, W]``, normalised, to ``[N, D, h, w]``."""
        if self.channels_last:
            pictures = pictures.contiguous(memory_format=torch.channels_last)
        if self.is_frozen:
            with torch.no_grad():
                return self._maps(pictures)
        if self.recompute_frames is None or not torch.is_grad_enabled():
            return self._maps(pictures)
        chunks = torch.split(pictures, self.recompute_frames)
        return torch.cat([checkpoint(self._maps, chunk, use_reentrant=False) for chunk in chunks])

    def _maps(self, pictures: Tensor) -> Tensor:
        maps: Tensor = self.model(pictures)[-1]
        return maps

    def stage_maps(self, pictures: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """Return the maps ``[N, D, h, w]`` at the end of some stages, by name."""
        names = sorted(stages, key=self._stage_names().index)
        indices = [self._stage_names().index(name) for name in names]
        maps = self.model.model.forward_intermediates(pictures, indices=indices, intermediates_only=True)
        return dict(zip(names, maps, strict=True))

    def fetch_imagenet(self) -> Checkpoint:
        """Fetch timm's weights from the Hugging Face hub, or take them from the hub's cache.

        Raises:
            WeightsError: timm has none there, or they cannot be fetched.
        """
        repository = self.facts.get("hf_hub_id")
        if not repository:
            raise WeightsError("imagenet", f"timm has no weights of {self.name} on the hub", "give a file of weights")
        file = self.facts.get("hf_hub_filename") or HUB_FILE
        path = fetch_from_hub(repository, file, f"download {file} of {repository} there and give its path")
        return read_checkpoint(path, f"{repository}/{file}")

    def translate(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Prefix timm's names with the path of timm's model in this backbone."""
        return {f"model.model.{name}": tensor for name, tensor in tensors.items()}

    def first_layer(self) -> str:
        """Name the first convolution."""
        return f"model.model.{self.facts['first_conv']}"


@cache
def _map_size(name: str, image_size: int) -> int:
    """Run a model without memory for weights, since models round sizes in their own ways."""
    with torch.device("meta"), torch.no_grad():
        try:
            maps: Tensor = TimmBackbone(name, 3).eval()(torch.empty(1, 3, image_size, image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = f"timm:{name} does not take {image_size} px: {str(error).splitlines()[0]}"
            raise SettingsError("network.image_size", reason, "take the size it was trained with") from error
    return maps.shape[-1]
