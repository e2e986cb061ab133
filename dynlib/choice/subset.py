"""Choose k of n: two laws of random subsets, each with a gradient, and a smooth top-k.

With weights w_i = exp(s_i) there are two ways to draw a set S of k, and they are not the same:

- *Plackett–Luce*: draw one in proportion to its weight, put it aside, draw the next among the rest, k times. Adding
  Gumbel noise to the s_i and taking the k largest does it in one go: :func:`gumbel_topk`, relaxed in
  :func:`relaxed_topk`.
- the *k-subset law* (conditional Bernoulli): p(S) ∝ Π_{i∈S} w_i, independent coins of odds w_i given that k come up
  heads. Its inclusion probabilities come from a short recursion, :func:`subset_marginals` (those of Plackett–Luce are
  integrals over one variable), and exact samples with them, :func:`sample_subset`.

:func:`soft_topk` draws nothing: it smooths the top-k itself.

What holds of everything below: −inf marks what cannot be chosen, it gets probability 0 and gradient 0, and k others
must remain; k = 0 and k = n are allowed; results have the dtype of the input, half precision is widened inside and
rounded once, at the end; a ``generator`` leaves torch's global one untouched.

Raised by each: TypeError if the scores are not of a floating-point dtype or ``k`` is not an integer; ValueError if
there are no scores or no such dimension, one is NaN or +inf, a row is −inf throughout, ``k`` is negative or larger than
the number of possible choices in a row, or the generator lives on another device.

Source: arXiv:1903.06059 (Gumbel top-k), arXiv:1901.10517 (relaxed), arXiv:2303.09752 (soft top-k, there iterated, here
exact), arXiv:2210.01941 (subset marginals with a straight-through gradient).
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dynlib.choice.gumbel import gumbel_noise, straight_through
from dynlib.inputs import check_logits, check_scale, check_top, check_whole, widen
from dynlib.transforms import BatchedFunction, FirstDerivative, WithoutGradient, double, look

FAR = -1e30  # as a logarithm: never chosen, and yet a number to compute with
WAYS = 8  # how many numbers of saturated scores are asked about at a time


@torch.no_grad()
def gumbel_topk(
    logits: Float[Tensor, "..."], k: int, *, dim: int = -1, generator: torch.Generator | None = None
) -> Int[Tensor, "..."]:
    """Draw k without replacement, each time in proportion to exp(logits) among what is left (Plackett–Luce).

    Returns:
        int64 indices into ``dim``, k of them along it, in the order drawn; the other dimensions as in ``logits``.
    """
    _check(logits, k, dim)
    # the k largest of s_i + u_i, the largest first
    return _largest(_perturb(logits, generator), k, dim)[1]


def relaxed_topk(
    logits: Float[Tensor, "*shape"],
    k: int,
    tau: float | int = 1.0,
    *,
    hard: bool = False,
    dim: int = -1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """A relaxed k-hot sample of :func:`gumbel_topk`: the sum of k softmaxes, each with the earlier picks held down.

    The weights sum to k but a single one may exceed 1. Where a pick is shared, say half and half between two, both are
    held down by log ½ only, and either can be picked again. So this is no probability, and at a low temperature its k
    largest need not be the k that were drawn.

    Args:
        logits: unnormalised log-probabilities of the first pick; −inf where a choice is impossible.
        k: how many.
        tau: temperature of the softmaxes. The draw does not depend on it.
        hard: give zeros and ones, exactly k ones, at the k largest perturbed logits, with the gradient of the relaxed
            sample. With equal seeds it is the set of :func:`gumbel_topk`.
        dim: the dimension of the choices.
        generator: as in :func:`dynlib.choice.gumbel_noise`.

    Raises:
        As above; TypeError or ValueError if ``tau`` is not a positive, finite number.
    """
    _check(logits, k, dim)
    check_scale("tau", tau)
    keys = _perturb(logits, generator)
    drawn = _largest(keys, k, dim)[1]
    khot = _zeros(keys)
    for pick in range(k):
        # a = softmax(α / τ), added up over the picks
        x = ((keys - keys.detach().amax(dim, keepdim=True)) / tau).clamp_min(FAR)
        a = x.softmax(dim)
        khot = khot + a
        if pick + 1 < k:
            # α ← α + log(1 − a). For the largest 1 − a may round to 0: there log Σ_{j≠i} e^{x_j} − log Σ_j e^{x_j}
            first = torch.zeros_like(x, dtype=torch.bool).scatter(dim, x.argmax(dim, keepdim=True), True)
            others = x.masked_fill(first, -torch.inf).logsumexp(dim, keepdim=True) - x.logsumexp(dim, keepdim=True)
            keys = keys + torch.where(first, others, torch.log1p(-a.masked_fill(first, 0.0)))
    return (straight_through(torch.zeros_like(khot).scatter(dim, drawn, 1.0), khot) if hard else khot).to(logits.dtype)


def soft_topk(
    scores: Float[Tensor, "*shape"], k: int, epsilon: float | int = 1.0, *, dim: int = -1
) -> Float[Tensor, "*shape"]:
    """The top-k smoothed by entropy: the p in [0, 1] with Σ p = k that maximises ⟨p, s⟩ − ε Σ p log p.

    The solution is p = min(1, e^{(s − ν) / ε}), with the ν that makes Σ p = k. The m largest scores are *saturated*, at
    1; among the others p is a softmax times k − m. Only the k largest can be saturated, so only they are sorted, and m
    is found by asking a few of them at a time: a score v is saturated where Σ min(1, e^{(s − v) / ε}) <= k.

    The gradient is exact: that of the softmax among the unsaturated, ∂p_i = p_i / ε (∂s_i − Σ p_j ∂s_j / Σ p_j), and 0
    for the saturated.

    Args:
        scores: what to choose by; −inf where a choice is impossible.
        k: the sum of the result.
        epsilon: the smoothing, in units of the scores. Towards 0 it is the hard top-k; large is uniform, k / n.
        dim: the dimension of the choices.

    Raises:
        As above; TypeError or ValueError if ``epsilon`` is not a positive, finite number.
    """
    _check(scores, k, dim)
    check_scale("epsilon", epsilon)
    s = widen(scores)
    top = _largest(s, k, dim)[0]
    if k == 0:
        return _zeros(s).to(scores.dtype)
    m = _saturated(s, top, k, epsilon, dim)
    least = top.gather(dim, m.clamp_max(k - 1))  # the largest that is not saturated, if there is one
    ones = (s > least) | ((m == k) & (s >= least))
    mass = k - m
    # p = (k − m) softmax(s / ε) over the unsaturated; where there is no mass to give, any softmax will do
    x = ((s - least) / epsilon).clamp_max(0.0).masked_fill(ones & (mass > 0), -torch.inf)
    p = (mass * x.softmax(dim)).clamp_max(1.0)
    return torch.where(ones, 1.0, p).to(scores.dtype)


def subset_marginals(log_weights: Float[Tensor, "*shape"], k: int, *, dim: int = -1) -> Float[Tensor, "*shape"]:
    """P(i ∈ S) under the k-subset law p(S) ∝ Π_{i∈S} w_i, exact, with the exact gradient.

    With e_j the sum over all sets of j of the products of their weights (elementary symmetric polynomials),

        P(i ∈ S) = w_i Σ_j e_j(w_1 … w_{i−1}) e_{k−1−j}(w_{i+1} … w_n) / e_k(w_1 … w_n),

    and only sums of positive numbers occur, so nothing cancels. The gradient, ∂μ_i / ∂ log w_j = Cov(i ∈ S, j ∈ S), can
    be taken once, not twice. All is in logarithms and float64 (float32 on a device that has no float64), in n steps
    over the batch; memory is about 2 n k numbers a row forward, and three times that backward.

    Args:
        log_weights: log w_i; log(p / (1 − p)) for a coin of probability p; −inf where a choice is impossible. The same
            number may be added to all.
        k: the size of the set.
        dim: the dimension of the choices.

    Returns:
        probabilities in the shape and dtype of ``log_weights`` that sum to k along ``dim``.
    """
    theta = _centred(log_weights, k, dim)
    marginals, _ = _Marginals.apply(theta, _Tables.apply(theta, k), k)
    return marginals.movedim(0, dim).to(log_weights.dtype)


def sample_subset(
    log_weights: Float[Tensor, "*shape"], k: int, *, dim: int = -1, generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """An exact sample of the k-subset law as zeros and ones, exactly k ones, with the gradient of its marginals.

    One look at each i in turn, with r still to choose: it is taken with probability
    w_i e_{r−1}(w_{i+1} … w_n) / e_r(w_i … w_n). Forward it is the set, backward :func:`subset_marginals`: for a linear
    function of the set every draw has the gradient of the mean, exactly; for others it has a bias. Arguments as there,
    ``generator`` as in :func:`dynlib.choice.gumbel_noise`.
    """
    theta = _centred(log_weights, k, dim)
    tables = _Tables.apply(theta, k)
    log_uniform = -torch.exp(-gumbel_noise(theta, generator=generator))  # −e^{−u} is the log of a uniform number
    hard = _Sample.apply(theta.detach(), tables, log_uniform, k)
    sample = straight_through(hard, _Marginals.apply(theta, tables, k)[0])
    return sample.movedim(0, dim).to(log_weights.dtype)


class _Marginals(BatchedFunction):
    """Inclusion probabilities [n, …] from log-weights [n, …] and their tables; beside them, what the gradient needs."""

    batch_in, batch_out = (1, 3, 0), (1, 2)

    @staticmethod
    def forward(theta: Tensor, tables: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if k == 0:
            joint, mu = theta.new_zeros(len(theta), 0, *theta.shape[1:]), torch.zeros_like(theta)
        else:
            # log e_j(before i) + log e_{k−1−j}(after i)
            joint = tables[:-1, :k, 0] + tables[:-1, :k, 1].flip(0, 1)
            mu = (theta + joint.logsumexp(1) - tables[-1, k, 0]).exp_().clamp_(max=1.0)
        return mu, joint

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        theta, tables, _ = inputs
        mu, joint = output
        ctx.mark_non_differentiable(joint)
        ctx.save_for_backward(theta, tables, joint, mu)
        ctx.save_for_forward(theta, tables, joint, mu)

    @staticmethod
    def jvp(ctx: Any, by_theta: Tensor, *_: Any) -> tuple[Tensor, None]:
        return _Covariance.apply(*ctx.saved_tensors, by_theta), None  # a covariance is symmetric

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        return _Covariance.apply(*ctx.saved_tensors, g), None, None


class _Covariance(FirstDerivative):
    """Cov g = μ_i (E[g·z | i ∈ S] − E[g·z]), z the k-hot of S. The means are found step by step as the tables."""

    batch_in, batch_out = (1, 3, 2, 1, 1), 1

    @staticmethod
    def forward(theta: Tensor, tables: Tensor, joint: Tensor, mu: Tensor, g: Tensor) -> Tensor:
        k = joint.shape[1]
        if k == 0:
            return torch.zeros_like(g)
        # P(i ∈ S) where S has j of the first i; 0 where there is no such S
        take = tables[:-1, :-1] + torch.stack([theta, theta.flip(0)], 1)[:, None]
        take.sub_(tables[1:, 1:]).exp_().nan_to_num_(nan=0.0)
        # mean of g·z over the sets of j of the first i: D_{i,j} = (1 − P) D_{i−1,j} + P (D_{i−1,j−1} + g_i)
        means = g.new_zeros(tables.shape)
        for i, gain in enumerate(torch.stack([g, g.flip(0)], 1)):
            means[i + 1, 1:].copy_(means[i, 1:]).lerp_(means[i, :-1] + gain, take[i])
        others = (means[:-1, :k, 0] + means[:-1, :k, 1].flip(0, 1)).mul_(joint.softmax(1)).sum(1)
        return mu * (g + others - means[-1, k, 0])


class _Tables(WithoutGradient):
    """log e_j of the first i log-weights, and of the last i: [n + 1, k + 1, 2, …] for θ of [n, …]."""

    batch_in, batch_out = (1, 0), 3

    @staticmethod
    def forward(theta: Tensor, k: int) -> Tensor:
        weights = torch.stack([theta, theta.flip(0)], 1)
        tables = theta.new_full((len(theta) + 1, k + 1, *weights.shape[1:]), -torch.inf)
        tables[:, 0] = 0.0
        for i, weight in enumerate(weights):
            # e_j(w_1 … w_i) = e_j(w_1 … w_{i−1}) + w_i e_{j−1}(w_1 … w_{i−1})
            torch.logaddexp(tables[i, 1:], tables[i, :-1] + weight, out=tables[i + 1, 1:])
        return tables


class _Sample(WithoutGradient):
    """The set as zeros and ones [n, …], from log-weights, their tables, and logarithms of uniform numbers [n, …]."""

    batch_in, batch_out = (1, 3, 1, 0), 1

    @staticmethod
    def forward(theta: Tensor, tables: Tensor, log_uniform: Tensor, k: int) -> Tensor:
        n = len(theta)
        hard = torch.zeros_like(theta)
        left = torch.full_like(theta[:1], k, dtype=torch.int64)
        for i in range(n):
            rest, rest_and_i = tables[n - 1 - i, :, 1], tables[n - i, :, 1]
            log_p = theta[i] + rest.gather(0, (left - 1).clamp_min(0)) - rest_and_i.gather(0, left)
            take = (log_uniform[i] < log_p) & (left > 0)
            hard[i] = take[0]
            left = left - take.long()
        return hard


@torch.no_grad()
def _saturated(s: Tensor, top: Tensor, k: int, epsilon: float | int, dim: int) -> Tensor:
    """How many of the k largest, ``top``, the largest first, have e^{(s − ν) / ε} > 1."""
    last = top.narrow(dim, k - 1, 1)
    # Σ e^{(s_i − s_k) / ε} over all but the k largest. What is not below s_k counts 1 and is counted, to be exact.
    drop = (s - last) / epsilon
    tail = drop.exp().masked_fill_(drop >= 0, 0.0).sum(dim, keepdim=True) + ((drop >= 0).sum(dim, keepdim=True) - k)
    top, last, tail = (part.movedim(dim, -1) for part in (top, last, tail))
    low, left = torch.zeros_like(last, dtype=torch.int64), k + 1  # the answer is one of low, …, low + left − 1
    while left > 1:
        step = -(-(left - 1) // WAYS)
        asked = low + step * torch.arange(-(-(left - 1) // step), device=s.device)
        value = top.gather(-1, asked.clamp_max(k - 1))
        drop = (top[..., None, :] - value[..., None]) / epsilon
        # v is saturated where Σ min(1, e^{(s_i − v) / ε}) <= k; the ones are taken to the other side
        below = drop.exp().masked_fill_(drop >= 0, 0.0).sum(-1) + tail * ((last - value) / epsilon).exp()
        saturated = (below <= k - (drop >= 0).sum(-1)) & (asked < k)
        low = low + ((saturated.sum(-1, keepdim=True) - 1) * step + 1).clamp_min(0)
        left = step
    return low.movedim(-1, dim)


def _perturb(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """s + u, in float32 or wider."""
    wide = widen(logits)
    return wide + gumbel_noise(wide, generator=generator)


def _centred(log_weights: Tensor, k: int, dim: int) -> Tensor:
    """Log-weights in float64 where there is one, their choices in the first dimension, the largest at 0."""
    _check(log_weights, k, dim)
    theta = double(log_weights).movedim(dim, 0)
    return theta - _largest(theta, max(k, 1), 0)[0][:1]


def _zeros(like: Tensor) -> Tensor:
    """Zeros that are part of the graph, with gradient 0."""
    return like.masked_fill(torch.ones_like(like, dtype=torch.bool), 0.0)


@torch.no_grad()
def _largest(scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
    """The k largest with their indices, the largest first. What makes no choice of k is found here."""
    values, indices = scores.topk(max(k, 1), dim)
    check_top(values.narrow(dim, 0, 1))
    look(partial(_check_enough, k=k, dim=dim if dim < 0 else dim - scores.ndim), values)
    return values.narrow(dim, 0, k), indices.narrow(dim, 0, k)


def _check_enough(values: Tensor, k: int, dim: int) -> None:
    """Of the k largest of every row."""
    if values.narrow(dim, -1, 1).isneginf().any():
        possible = int(values.isfinite().sum(dim).min())
        raise ValueError(f"k = {k}, but a row has only {possible} logits above -inf: choose fewer, or mask less")


def _check(scores: Tensor, k: object, dim: int) -> None:
    """Raises TypeError or ValueError for what can be seen without the values."""
    check_logits(scores, dim)
    n = scores.shape[dim]
    if not 0 <= check_whole("k", k) <= n:
        raise ValueError(f"k must be from 0 to {n}, the size of dimension {dim}; got {k}: nothing can be chosen twice")
