"""A clip becomes scores: the network of Ou and Sun 2019 and its parts."""

from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings

__all__ = ["FusionNetwork", "FusionNetworkSettings"]
