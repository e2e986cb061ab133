"""What keeps a mixture of experts from sending all tokens to a few of them: two losses, and a way without any.

Who is asked gets a gradient, becomes better, and is asked more often. Against that:

- the load-balancing loss, N Σ_i f_i P_i, where f_i is the share of the choices that fell on expert i and P_i its mean
  probability. f has no gradient; that of P makes those less likely that have much. It is 1 where all is even, and N
  where all tokens ask for one expert and are sure of it (arXiv:2101.03961, Eq. 4);
- the z-loss, mean of log²Σ exp(logits), keeps logits small, and so probabilities from 0 and 1 (arXiv:2202.08906,
  Eq. 5). It does not know of loads;
- a bias, added to p for the choice and not for the weight, moved after each step: up for experts with less than an even
  load, down for those with more (arXiv:2408.15664). It touches no gradient.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dynlib.inputs import check_number
from dynlib.width.experts import ExpertsChosen, MixtureOfExperts

Records = Mapping[str, Sequence[ExpertsChosen]] | Sequence[ExpertsChosen] | ExpertsChosen


def load_balancing_loss(records: Records, *, pooled: bool = False) -> Float[Tensor, ""]:
    """N Σ_i f_i P_i, mean over the layers; f and P are over the tokens that are there, f over all k choices of each.

    f sums to 1 for any k, so that an even load gives 1. (In ``transformers`` it sums to k, which gives k.)

    Args:
        records: of :func:`dynlib.deciding.record`, a list of them, or one.
        pooled: take f and P over the tokens of all layers together. Then layers that collapse onto different experts
            look even.

    Raises:
        TypeError: if one is no record of a mixture.
        ValueError: if there are none, one was not made by a router, or ``pooled`` layers have different numbers of
            experts.
    """
    shares, means = [], []
    for record, logits in _routed(records):
        asked = F.one_hot(record.chosen[record.present].flatten(), record.experts).sum(0)
        shares.append(asked.to(logits.dtype) / asked.sum())  # f
        means.append(logits.softmax(-1).mean(0))  # P, of the softmax over all experts
    if pooled:
        if len({len(share) for share in shares}) > 1:
            raise ValueError(f"the layers have {[len(share) for share in shares]} experts, and cannot be pooled")
        many = torch.tensor([float(record.present.sum()) for record, _ in _routed(records)]).to(means[0])
        shares, means = ([(torch.stack(part) * many[:, None] / many.sum()).sum(0)] for part in (shares, means))
    return torch.stack([len(f) * (f * p).sum() for f, p in zip(shares, means, strict=True)]).mean()


def router_z_loss(records: Records) -> Float[Tensor, ""]:
    """Mean over tokens, then layers, of log²Σ exp(logits).

    Args:
        records: of :func:`dynlib.deciding.record`, a list of them, or one.

    Raises:
        TypeError: if one is no record of a mixture.
        ValueError: if there are none, or one was not made by a router.
    """
    return torch.stack([logits.logsumexp(-1).square().mean() for _, logits in _routed(records)]).mean()


@torch.no_grad()
def balance_bias(layer: MixtureOfExperts, record: ExpertsChosen, *, rate: float | int = 0.001) -> None:
    """One step of balancing without a loss: b_i ← b_i + rate · sign(1/N − f_i), in the layer's ``balance``.

    Call it after each training step, with what the layer decided in it.

    Args:
        layer: whose bias it is.
        record: one of the layer's records.
        rate: how far the bias moves, in units of probability.

    Raises:
        TypeError, ValueError: if the rate is no positive number, so small that a bias in half precision does not move,
            or the record is of a layer with other experts.
    """
    if check_number("rate", rate, least=0) == 0:
        raise ValueError("rate must be above 0: at 0 the bias does not move")
    if record.experts != layer.experts:
        raise ValueError(f"the record is of {record.experts} experts and the layer has {layer.experts}")
    step = rate * (1 / layer.experts - record.load()).sign().to(layer.balance)
    moved = layer.balance + step
    if ((moved == layer.balance) & (step != 0)).any():
        raise ValueError(
            f"a step of {rate} is lost beside the bias in {layer.balance.dtype}: take a larger rate, or keep the bias "
            "in float32 with layer.balance = layer.balance.float()"
        )
    layer.balance.copy_(moved)


def _routed(records: Records) -> Iterator[tuple[ExpertsChosen, Tensor]]:
    """Each record with the logits of the tokens that are there."""
    if isinstance(records, ExpertsChosen):
        flat = [records]
    elif isinstance(records, Mapping):
        flat = [one for layer in records.values() for one in layer]
    else:
        flat = list(records)
    if not flat:
        raise ValueError("there are no records: call the model inside of record(model, MixtureOfExperts)")
    for record in flat:
        if not isinstance(record, ExpertsChosen):
            raise TypeError(f"need the records of a mixture; got {type(record).__name__}: see dynlib.deciding.record")
        if record.logits is None:
            raise ValueError("a record was not made by a router but by a hash, and has no logits")
        if not record.present.any():
            raise ValueError("a record has no tokens: all of them are marked as not present")
        yield record, record.logits[record.present]
