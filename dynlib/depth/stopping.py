"""When a sample, or a token, has looped enough: by how far its state still moves, or by a gate that has learned it.

It stops when its state hardly moves, ‖z_t − z_{t−1}‖ ≤ change · ‖z_t‖. Or by the gate: after loop t it says with
probability λ_t that this was enough, so that it stops after loop t with probability

    p_t = λ_t ∏_{j<t} (1 − λ_j),    and p_L = ∏_{j<L} (1 − λ_j) takes what is left,

and one that must be sure of it leaves at the first t with Σ_{j≤t} p_j ≥ quantile. Trained with Σ_t p_t loss_t alone,
the gate is soon sure of one loop, and the others learn nothing more; the entropy of p keeps all of them in use.

Source: arXiv:2510.25741, the gate as in its public code, the entropy as in its abstract.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.inputs import check_name, check_number, check_tensor, widen
from dynlib.transforms import look

Each = Literal["sample", "token"]
"""What stops by itself."""


def check_each(each: object) -> None:
    """Raises ValueError for what is no :data:`Each`."""
    check_name("each", each, ("sample", "token"))


class ExitGate(nn.Module):
    """How sure a state is that it is enough: one logit a sample, from the mean of its tokens; or one a token.

    λ = 1/2 before training.

    Args:
        dim: features of a token.
        each: "sample" or "token".

    Raises:
        ValueError: if ``each`` is neither.
    """

    def __init__(self, dim: int, *, each: Each = "sample") -> None:
        super().__init__()
        check_each(each)
        self.each = each
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, state: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch *tokens"]:
        """The logits of λ, [batch] or [batch, tokens]."""
        logits: Tensor = self.linear(self.norm(state if self.each == "token" else state.mean(1)))
        return logits[..., 0]


class StoppingRule:
    """Who has had enough, by the last two states: for both executions the same.

    Args:
        gate: maps states [batch, tokens, dim] to logits [batch], or [batch, tokens] where tokens stop.
        change, quantile: one of them, or none; as in :meth:`dynlib.depth.Looped.predict`.
        each: what stops, "sample" or "token".

    Raises:
        TypeError: if one is no number.
        ValueError: if both are given, one is out of its range, there is a quantile and no gate, or ``each`` has
            another name.
    """

    def __init__(
        self,
        gate: nn.Module | None,
        change: float | int | None,
        quantile: float | int | None,
        *,
        each: Each = "sample",
    ) -> None:
        check_each(each)
        if change is not None and quantile is not None:
            raise ValueError(f"a {each} stops by its change or by its gate: give change or quantile, not both")
        if quantile is not None and gate is None:
            raise ValueError("a quantile asks the gate, and there is none: Looped(…, gate=ExitGate(dim))")
        self.gate, self.axes = gate, 1 if each == "sample" else 2
        self.change = None if change is None else check_number("change", change, least=0)
        self.quantile = None if quantile is None else check_number("quantile", quantile, least=0, most=1)

    def survived(self, x: Tensor) -> Tensor:
        """log ∏ (1 − λ_j) before the first loop, [batch] or [batch, tokens]: 0."""
        return widen(x.new_zeros(x.shape[: self.axes]))

    def __call__(self, before: Tensor, after: Tensor, survived: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the rule sees, the new log ∏ (1 − λ_j), and who stops, each [batch] or [batch, tokens].

        Raises:
            ValueError: if a state is NaN or infinite, or the gate does not give one logit to each that stops.
        """
        if self.quantile is not None and self.gate is not None:
            survived = survived + self._logsurvival(self.gate, after)
            measure = -torch.expm1(survived)  # Σ_{j≤t} p_j = 1 − ∏_{j≤t} (1 − λ_j)
            stop = measure >= self.quantile
        elif self.change is not None:
            now, moved = (widen(part).flatten(self.axes).norm(dim=-1) for part in (after, after - before))
            measure = moved / now.clamp_min(torch.finfo(now.dtype).tiny)
            stop = measure <= self.change
        else:
            return torch.full_like(survived, torch.nan), survived, torch.zeros_like(survived, dtype=torch.bool)
        look(_check_measure, measure)
        return measure, survived, stop

    def _logsurvival(self, gate: nn.Module, state: Tensor) -> Tensor:
        """log (1 − λ)."""
        logits, expected = gate(state), state.shape[: self.axes]
        if logits.shape != expected:
            one = "sample" if self.axes == 1 else "token"
            raise ValueError(
                f"the gate must give one logit a {one}, {tuple(expected)}; got {tuple(logits.shape)}: "
                f"ExitGate(dim, each={one!r}) does"
            )
        return F.logsigmoid(-widen(logits))


def exit_distribution(gates: Float[Tensor, "loops *batch"]) -> Float[Tensor, "loops *batch"]:
    """The probabilities p_t to stop after each loop, from the gate's logits; they sum to one over the loops.

    The logit of the last loop is not asked, as that loop takes all that is left.

    Raises:
        TypeError: if the logits are no tensor of floating-point numbers.
        ValueError: if there are none, or one is not finite.
    """
    return _log_exit(gates).exp()


def gated_loss(
    losses: Float[Tensor, "loops *batch"], gates: Float[Tensor, "loops *batch"], *, beta: float | int
) -> Float[Tensor, ""]:
    """The loss to be expected where the gate stops, less β times the entropy: the mean of Σ_t p_t loss_t − β H(p).

    With H(p) = −Σ p_t log p_t. Up to a constant, −β H is β KL(p ‖ uniform): the prior has no favourite loop.

    Args:
        losses: of every loop and sample.
        gates: the gate's logits for the same.
        beta: β, not negative.

    Raises:
        TypeError: if one is no tensor of floating-point numbers, or β no number.
        ValueError: if their shapes differ, there are none, a logit is not finite, or β is negative or not finite.
    """
    check_tensor(losses, "losses")
    weight = check_number("beta", beta, least=0)
    log_p = _log_exit(gates)
    if losses.shape != gates.shape:
        raise ValueError(
            f"losses and gates must be of the same loops and samples; got {tuple(losses.shape)} and "
            f"{tuple(gates.shape)}"
        )
    p = log_p.exp()
    # Σ_t p_t loss_t − β H(p)
    return (p * losses + weight * p * log_p).sum(0).mean()


def _log_exit(gates: Tensor) -> Tensor:
    check_tensor(gates, "gates")
    if not gates.is_floating_point():
        raise TypeError(f"gates must be floating-point logits; got {gates.dtype}")
    if gates.ndim < 1 or gates.numel() == 0:
        raise ValueError(f"gates must be [loops, ...], one loop and sample at least; got {tuple(gates.shape)}")
    look(_check_logits, gates)
    logits = widen(gates)
    # log p_t = log λ_t + Σ_{j<t} log(1 − λ_j), and log λ_L = 0
    past = F.logsigmoid(-logits).cumsum(0)
    stops = torch.cat([F.logsigmoid(logits[:-1]), torch.zeros_like(logits[:1])])
    return stops + torch.cat([torch.zeros_like(past[:1]), past[:-1]])


def _check_logits(gates: Tensor) -> None:
    if not gates.isfinite().all():
        raise ValueError("a gate is NaN or infinite: look for NaN in the input or the weights")


def _check_measure(measure: Tensor) -> None:
    if measure.isnan().any():
        raise ValueError("a state is NaN or infinite: look for NaN in the input or the weights, or loop less often")
