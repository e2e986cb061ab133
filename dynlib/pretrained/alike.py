"""What all layers of a model have in common: their sizes, norms, dropout and activations.

Each raises ValueError where the layers differ, or have something that a backbone here has not.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from dynlib.backbone import FeedForward, GatedFeedForward, RMSNorm

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "GELUActivation": nn.GELU,
    "NewGELUActivation": partial(nn.GELU, "tanh"),
    "FastGELUActivation": partial(nn.GELU, "tanh"),
    "AccurateGELUActivation": partial(nn.GELU, "tanh"),
    "GELUTanh": partial(nn.GELU, "tanh"),
    "SiLUActivation": nn.SiLU,
    "MishActivation": nn.Mish,
    "LinearActivation": nn.Identity,
}
"""The functions of ``transformers`` that are one of PyTorch's, by the names of their classes."""


OWN = (nn.GELU, nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Mish, nn.Identity)
"""PyTorch's, taken as they are."""


def common(what: str, values: Iterable[Any], none: Any) -> Any:
    """What all layers have in common; ``none`` where there are no layers."""
    found = list(values)
    if any(value != found[0] for value in found):
        raise ValueError(f"all layers must be alike, and their {what} are {found}")
    return found[0] if found else none


def dropout_of(dropped: Iterable[float | int | None]) -> float:
    """The share of features that all drop."""
    return float(common("shares of dropout", dropped, 0.0) or 0.0)


def heads_of(attentions: list[Any], head_dim: str, *outputs: Iterable[int]) -> list[int]:
    """The size of a head, and how many heads each of these outputs has, in all layers alike."""
    size = common("head sizes", (getattr(attention, head_dim) for attention in attentions), 2)
    scale = common("scales of attention scores", (attention.scaling for attention in attentions), size**-0.5)
    if abs(scale * size**0.5 - 1) > 1e-12:
        raise ValueError(f"attention scores scaled by {scale} and not by 1 / √{size} are not supported")
    return [size, *(common("numbers of features", features, size) // size for features in outputs)]


def norm_of(norms: list[Any]) -> Callable[[int], nn.Module]:
    """What makes norms as these are, of a number of features."""
    kind = common("kinds of norm", map(type, norms), nn.LayerNorm)
    if kind is nn.LayerNorm:
        bias = common("norms' biases", (norm.bias is not None for norm in norms), True)
        return partial(nn.LayerNorm, eps=common("norms' ε", (norm.eps for norm in norms), 0), bias=bias)
    return partial(RMSNorm, eps=common("norms' ε", (norm.variance_epsilon for norm in norms), 0), dtype=torch.float32)


def feed_forward_of(activations: list[Any], config: Any, *, gated: bool = False, bias: bool = True) -> Any:
    """What makes feed-forward parts with this activation, of ``dim`` and ``hidden``."""
    kind = common("activations", map(type, activations), nn.GELU)
    field = "hidden_act" if hasattr(config, "hidden_act") else "activation_function"
    if kind in OWN:
        activation = deepcopy(activations[0]) if activations else nn.GELU()
    elif kind.__module__ == "transformers.activations" and kind.__name__ in ACTIVATIONS:
        activation = ACTIVATIONS[kind.__name__]()
    else:
        raise ValueError(
            f"the activation {kind.__name__} ({field}={getattr(config, field)!r}) is not supported; known are the "
            f"GELU, exact or by tanh, the SiLU, {', '.join(one.__name__ for one in OWN[2:])}"
        )
    if gated:
        return partial(_gated, activation=activation, bias=bias)
    exact = type(activation) is nn.GELU and activation.approximate == "none"
    return FeedForward if exact else partial(_plain, activation=activation)


def _plain(dim: int, hidden: int | None, *, activation: nn.Module) -> FeedForward:
    return FeedForward(dim, hidden, activation=deepcopy(activation))


def _gated(dim: int, hidden: int | None, *, activation: nn.Module, bias: bool) -> GatedFeedForward:
    return GatedFeedForward(dim, hidden, activation=deepcopy(activation), bias=bias)
