"""Which tokens a layer runs for: Mixture-of-Depths."""

from dynlib.tokens.mixture_of_depths import MixtureOfDepths

__all__ = ["MixtureOfDepths"]
