"""Losses that train a model of adaptive computation modules to a budget, beside its task's own.

- budget, |Σ k p / Σ N p − β|, over all tokens and modules, a learner costing p;
- entropy, Σ_j a_j log a_j / log J, of the mean a of the probabilities of the J choices over all tokens: that no
  number of learners goes unused. It is −1 at best, and 0 where all tokens choose alike;
- diversity, −2 mean |b_i − b_m| over pairs of samples, b the share of the learners that a sample runs: that some
  samples get more than others. It is 0 where all get as much, and about −1 at best.

The task's own gradient reaches the gates through u (:mod:`dynlib.width.acm`), and with it which tokens are worth it.

Source: arXiv:2312.10193. Where this differs from its public code, bartwojcik/adaptive_computation_modules:

- entropy: the code takes it of the drawn choices, sequence by sequence, and then the mean over sequences and modules;
  here it is of the probabilities, over all tokens of a batch at once. One sequence may so be all of one choice;
- diversity: the code compares what samples get over all modules together, here it is each module for itself, and a
  sample is not compared with itself.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.inputs import check_number
from dynlib.width.acm import LearnersChosen


class ACMLoss(NamedTuple):
    """What is added to the task's loss, and its parts before they are weighted."""

    total: Float[Tensor, ""]
    budget: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    diversity: Float[Tensor, ""]


def budget_loss(records: Mapping[str, Sequence[LearnersChosen]], budget: float | int) -> Float[Tensor, ""]:
    """|Σ k p / Σ N p − β|, over all tokens of all records; p is what a learner of the module costs.

    Args:
        records: of :func:`dynlib.deciding.record`. In training they have the gradient of the choice.
        budget: β, the share of all learners' work that may be done on average, above 0 and at most 1.

    Raises:
        TypeError: if the budget is no number.
        ValueError: if it is not above 0 and at most 1, or nothing was recorded.
    """
    check_number("budget", budget, least=0, most=1, open=True)
    spent = torch.stack([_shares(one).sum() * (one.of * one.flops) for one in _all(records)]).sum()
    return (spent / sum(one.learners.numel() * one.of * one.flops for one in _all(records)) - budget).abs()


def entropy_loss(records: Mapping[str, Sequence[LearnersChosen]]) -> Float[Tensor, ""]:
    """Σ_j a_j log a_j / log J, the mean over the modules; a_j is the mean probability of choice j over all tokens.

    From −1, where all J choices are as likely, to 0.

    Raises:
        ValueError: if nothing was recorded, or a gate was not asked.
    """
    losses = []
    for one in _all(records):
        if one.logits is None:
            raise ValueError("a module ran a fixed number of learners and asked no gate: set fixed=None to train gates")
        a = one.logits.flatten(0, -2).softmax(-1).mean(0)
        log_a = a.clamp_min(torch.finfo(a.dtype).tiny).log()  # 0 log 0 = 0, with a finite gradient
        losses.append((a * log_a).sum() / max(torch.tensor(float(len(a))).log().item(), 1e-12))
    return torch.stack(losses).mean()


def diversity_loss(records: Mapping[str, Sequence[LearnersChosen]]) -> Float[Tensor, ""]:
    """−2 mean_{i ≠ m} |b_i − b_m|, the mean over the modules; b_i is the mean k / N of sample i.

    From 0, where all samples get as much, to −S / (S − 1), where of S samples half get all and half get nothing.

    Raises:
        ValueError: if nothing was recorded, or not of [samples, tokens, …] with two samples or more.
    """
    losses = []
    for one in _all(records):
        samples = len(one.learners) if one.learners.ndim > 1 else 0
        if samples < 2:
            raise ValueError(
                "diversity compares samples: the tokens must be [samples, tokens, …], two samples or more; a module "
                f"got tokens of shape {list(one.learners.shape)}"
            )
        b = _shares(one).flatten(1).mean(1)
        losses.append(-2 * (b[:, None] - b).abs().sum() / (samples * (samples - 1)))
    return torch.stack(losses).mean()


def acm_loss(
    records: Mapping[str, Sequence[LearnersChosen]],
    *,
    budget: float | int,
    budget_weight: float | int = 0.1,
    entropy_weight: float | int = 0.05,
    diversity_weight: float | int = 0.05,
) -> ACMLoss:
    """What is added to the task's loss, in training mode::

        with record(model, AdaptiveComputationModule) as records:
            task = F.cross_entropy(model(images), labels)
        loss = task + acm_loss(records, budget=0.4).total

    Args:
        records, budget: as in :func:`budget_loss`.
        budget_weight, entropy_weight, diversity_weight: of the three losses; at 0 one is not computed, and given as 0.

    Raises:
        TypeError, ValueError: as the three losses do, and if a weight is negative or not finite.
    """
    weights = {"budget": budget_weight, "entropy": entropy_weight, "diversity": diversity_weight}
    for name, weight in weights.items():
        check_number(f"{name}_weight", weight, least=0)
    zero = _shares(_all(records)[0]).new_zeros(())
    parts = {
        "budget": budget_loss(records, budget),  # its β is checked whatever it weighs
        "entropy": entropy_loss(records) if entropy_weight else zero,
        "diversity": diversity_loss(records) if diversity_weight else zero,
    }
    total = torch.stack([weight * parts[name] for name, weight in weights.items()]).sum()
    return ACMLoss(total, **parts)


def _shares(one: LearnersChosen) -> Tensor:
    """k / N of each token, with the choice's gradient where it has one."""
    k = one.learners.to(torch.get_default_dtype()) if one.used is None else one.used.sum(-1)
    return k / one.of


def _all(records: Mapping[str, Sequence[LearnersChosen]]) -> list[LearnersChosen]:
    every = [one for some in records.values() for one in some if one.learners.numel()]
    if not every:
        raise ValueError("nothing was recorded: run the model within record(model, AdaptiveComputationModule)")
    return every
