"""Which tokens a layer runs for: CoLT5, Mixture-of-Depths, A-ViT."""

from dynlib.tokens.avit import AdaptiveViT
from dynlib.tokens.colt5 import ConditionalAttention, ConditionalFeedForward
from dynlib.tokens.mixture_of_depths import MixtureOfDepths

__all__ = ["AdaptiveViT", "ConditionalAttention", "ConditionalFeedForward", "MixtureOfDepths"]
