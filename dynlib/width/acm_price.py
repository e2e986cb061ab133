"""The price at which gates spend a budget, and a price put into the gates for good.

How many learners a gate gives is moved by a price λ, subtracted from its logits once for each learner
(:class:`dynlib.width.AdaptiveComputationModule`). Which price a share of the work is, is found by trying.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynlib.cost import count
from dynlib.deciding import record, setting
from dynlib.inputs import check_number
from dynlib.width.acm import AdaptiveComputationModule, LearnersChosen
from dynlib.width.acm_conversion import acm_layers


def shares_of_tokens(records: Mapping[str, Sequence[LearnersChosen]]) -> Float[Tensor, "*tokens"]:
    """What each token spends in the learners of all modules, over the most that it could.

    Args:
        records: of :func:`dynlib.deciding.record`, of modules that all saw tokens of the same shape.

    Raises:
        ValueError: if nothing was recorded.
    """
    every = [one for some in records.values() for one in some]
    if not every:
        raise ValueError("nothing was recorded: run the model within record(model, AdaptiveComputationModule)")
    spent = torch.stack([one.learners.double() * one.flops for one in every]).sum(0)
    return spent / sum(one.of * one.flops for one in every)


def gates_share(model: nn.Module) -> float:
    """What the gates of a model cost, over all its learners.

    Raises:
        ValueError: if it has no adaptive computation modules.
    """
    layers = acm_layers(model).values()
    asked = sum(count(one.gate, one.expand.new_zeros(1, one.dim)).flops for one in layers)
    return asked / sum(2 * one.hidden * (one.dim + one.out) for one in layers)


@torch.no_grad()
def price_for(model: nn.Module, batch: Any, share: float | int, *, most: float | int = 16, halvings: int = 14) -> float:
    """The least price, of those that were tried, at which a batch costs no more than a share of the learners' work.

    The model is run as it is, in evaluation mode, and keeps its prices.

    Args:
        batch: what the model is called with; a tuple is several arguments.
        share: Σ k p / Σ N p over all tokens, p being what a learner of the module costs.
        most: prices from −most to this are tried,
        halvings: by halving that range so often.

    Raises:
        ValueError: if the model has no adaptive computation modules, or no price in the range spends as little.
    """
    check_number("share", share, least=0, most=1, open=True)
    acm_layers(model)
    modes = {module: module.training for module in model.modules()}

    def spent(price: float) -> float:
        with (
            setting(model, AdaptiveComputationModule, price=price),
            record(model, AdaptiveComputationModule) as records,
        ):
            model(*batch) if isinstance(batch, tuple) else model(batch)
        every = [one for some in records.values() for one in some]
        done = sum(one.learners.sum().item() * one.flops for one in every)
        return done / sum(one.learners.numel() * one.of * one.flops for one in every)

    low, high = -float(most), float(most)
    try:
        model.eval()
        if (least := spent(high)) > share:
            raise ValueError(
                f"at a price of {high:g} the gates still spend {least:.3f} of the learners' work, not {share}"
            )
        for _ in range(halvings):
            price = (low + high) / 2
            low, high = (price, high) if spent(price) > share else (low, price)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return high


@torch.no_grad()
def fold_price(model: nn.Module, price: float | int) -> None:
    """Put a price into the biases of the gates: at a price of 0 they now choose as they did at this one.

    Raises:
        ValueError: if the model has no adaptive computation modules.
    """
    check_number("price", price)
    for layer in acm_layers(model).values():
        bias = cast(nn.Linear, layer.gate[-1]).bias
        bias.sub_(price * torch.arange(len(bias)).to(bias))
