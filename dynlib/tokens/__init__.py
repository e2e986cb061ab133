"""Which tokens a layer runs for: Mixture-of-Depths, A-ViT."""

from dynlib.tokens.avit import AdaptiveViT
from dynlib.tokens.mixture_of_depths import MixtureOfDepths

__all__ = ["AdaptiveViT", "MixtureOfDepths"]
