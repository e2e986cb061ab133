"""What a feed-forward part is made of, whoever wrote it: two linear layers and a function, or three and a gate."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynlib.backbone import FeedForward, GatedFeedForward
from dynlib.backbone.attention import hooked

ELEMENTWISE = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Softplus, nn.Identity)
"""Functions of each neuron on its own, with nothing to learn and nothing random; those of transformers are such too."""

TAKEN = (
    "FeedForward, GatedFeedForward, MatFormerFeedForward, nn.Sequential(linear, function, linear), or gate_proj, "
    "up_proj, down_proj and act_fn"
)


class Parts(NamedTuple):
    """The layers of a feed-forward part; no gate where it is not gated."""

    gate: nn.Linear | None
    expand: nn.Linear
    contract: nn.Linear
    activation: nn.Module


def parts_of(given: nn.Module, *alike: type[nn.Module]) -> Parts:
    """The layers that a feed-forward part is made of, themselves.

    Args:
        given: the feed-forward part.
        alike: further classes with the names of :class:`GatedFeedForward`, and None for the gate where there is none.

    Raises:
        TypeError: if it is none of ``TAKEN``, or has something that its plain layers do not say: a hook, an adapter, a
            parametrised or quantised weight, something else to learn.
        ValueError: if its layers do not fit one another.
    """
    parts = _named(given, alike)
    if parts is None:
        raise TypeError(f"the feed-forward part must be {TAKEN}; got {type(given).__name__}")
    for name, layer in zip(Parts._fields, parts, strict=True):
        if layer is not None and name != "activation":
            check_plain(layer)
    kind = type(parts.activation)
    each_alone = kind in ELEMENTWISE or kind.__module__ == "transformers.activations"
    if not each_alone or any(True for _ in parts.activation.parameters()):
        known = ", ".join(one.__name__ for one in ELEMENTWISE)
        raise TypeError(f"the function between the layers must be one of {known}; got {kind.__name__}")
    for module in (given, parts.activation):
        if hooked(module):
            raise TypeError(f"the {type(module).__name__} has a hook or a forward of its own, which would be lost")
    held = {id(tensor) for part in parts if part is not None for tensor in part.parameters()} | set(map(id, parts))
    if any(id(one) not in held for one in (*given.children(), *given.parameters(), *given.buffers())):
        raise TypeError(f"the {type(given).__name__} holds more than its layers, which would be lost")
    gate, expand, contract, _ = parts
    wide = expand.weight.shape[0]
    fits = contract.weight.shape[1] == wide and (gate is None or gate.weight.shape == expand.weight.shape)
    if not fits:
        shapes = [tuple(layer.weight.shape) for layer in (gate, expand, contract) if layer is not None]
        raise ValueError(f"the linear layers do not fit one another, their weights are {shapes}")
    if hasattr(given, "act_fn"):
        _try(given, parts)
    return parts


def check_plain(layer: nn.Module) -> None:
    """Raises TypeError unless a call of this linear layer is its weight and bias and nothing else."""
    if type(layer) is not nn.Linear or not (
        type(layer.weight) in (Tensor, nn.Parameter) or torch.compiler.is_exporting()  # which has tensors of its own
    ):
        raise TypeError(
            f"a slice of {type(layer).__name__} is not known, only of a plain nn.Linear: merge an adapter, remove a "
            "parametrisation, or undo a quantisation first"
        )
    if hooked(layer):
        raise TypeError("a linear layer has a hook or a forward of its own, which a slice of its weight would pass by")


def plain(parts: Parts) -> nn.Module:
    """These layers as a feed-forward part: the plainest that computes what they say."""
    gate, expand, contract, activation = parts
    gelu = type(activation) is nn.GELU and activation.approximate == "none"
    if gate is None and not (gelu and expand.bias is not None and contract.bias is not None):
        return nn.Sequential(expand, activation, contract)
    with torch.device("meta"):
        made: FeedForward | GatedFeedForward = FeedForward(1, 1) if gate is None else GatedFeedForward(1, 1)
    made.expand, made.contract = expand, contract
    if isinstance(made, GatedFeedForward) and gate is not None:
        made.gate, made.activation = gate, activation
    return made


def _named(given: Any, alike: tuple[type[nn.Module], ...]) -> Parts | None:
    if type(given) is nn.Sequential:
        layers: list[Any] = list(given)
        return Parts(None, layers[0], layers[2], layers[1]) if len(layers) == 3 else None
    if type(given) is FeedForward:
        return Parts(None, given.expand, given.contract, given.activation or nn.GELU())
    if type(given) in (GatedFeedForward, *alike):
        return Parts(given.gate, given.expand, given.contract, given.activation)
    names = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if all(isinstance(getattr(given, name, None), nn.Module) for name in names):
        return Parts(*(getattr(given, name) for name in names))
    return None


@torch.no_grad()
def _try(given: nn.Module, parts: Parts) -> None:
    """Whether a part that others wrote computes what its layers say, on random tokens."""
    like = parts.expand.weight
    x = torch.randn(4, like.shape[1], generator=torch.Generator().manual_seed(0)).to(like)
    if like.is_meta:
        return
    said, got = plain(parts)(x), given(x)
    if not isinstance(got, Tensor) or not torch.allclose(got.float(), said.float(), rtol=1e-2, atol=1e-3):
        raise TypeError(
            f"the {type(given).__name__} has gate_proj, up_proj, down_proj and act_fn and computes something else than "
            "down_proj(act_fn(gate_proj(x)) * up_proj(x))"
        )
