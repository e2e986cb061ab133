"""Learn through any solver: perturb what it is given, solve, and average.

A solver that returns the best path, subset or ranking for scores θ returns a vertex of a polytope C,

    y*(θ) = argmax ⟨y, θ⟩ over y ∈ C,

and jumps from vertex to vertex: its gradient is zero almost everywhere. With noise Z of density exp(−ν) added to the
scores, its mean no longer jumps, and it has a gradient that asks nothing of the solver but more calls:

    F_σ(θ) = E max ⟨y, θ + σZ⟩,    y_σ(θ) = E y*(θ + σZ) = ∇F_σ(θ),    ∂y_σ/∂θ = E[y*(θ + σZ) ∇ν(Z)ᵀ] / σ.

For Gaussian noise ∇ν(Z) = Z, for Gumbel noise 1 − exp(−Z). Gumbel noise and a solver that takes the largest of θ give
softmax(θ / σ), with its Jacobian. A small σ stays close to the solver, a large one is smooth.

A *solver* is any function from [problems, *item] to [problems, *item] that gives for every problem the vertex y with
the largest ⟨y, θ⟩. It is called once, without gradients, for all samples: sample m of problem i out of n is its
problem m · n + i. It maximises. *To minimise costs, hand over their negatives*: with a ``cheapest(costs)`` that
minimises,

    loss = fenchel_young_loss(lambda scores: cheapest(-scores), -costs, example, item_dims=2)

and mind that the noise makes some costs negative, however positive they were, which Dijkstra's algorithm, for one, gets
wrong.

What holds of everything below: half precision is widened to float32 inside, for the solver too, and rounded once, at
the end; with equal seeds two calls see equal noise; a ``generator`` leaves torch's global one untouched. There
are no second derivatives: the perturbed argmax refuses them, and to those of the other two the vertices are constants.

Source: arXiv:2002.08676.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.choice.gumbel import gumbel_noise
from dynlib.inputs import check_dtype, check_filled, check_name, check_scale, check_tensor, check_whole, widen
from dynlib.transforms import BatchedFunction, FirstDerivative, look

Solver = Callable[[Tensor], Tensor]
Noise = Literal["gaussian", "gumbel"]


def perturbed_argmax(
    solver: Solver,
    theta: Float[Tensor, "*shape"],
    *,
    samples: int = 100,
    sigma: float | int = 1.0,
    noise: Noise = "gaussian",
    control_variate: bool = False,
    item_dims: int = 1,
    generator: torch.Generator | None = None,
    check: bool = True,
) -> Float[Tensor, "*shape"]:
    """Monte Carlo estimate of y_σ(θ) = E y*(θ + σZ), differentiable in θ.

    The estimates of value and gradient are unbiased. That of the gradient has a variance of about 1 / (σ² samples): a
    σ a tenth as large needs a hundred times the samples. Where an example solution is known,
    :func:`fenchel_young_loss` learns from it with no such factor.

    Args:
        solver: maximises, as said at the top of the page.
        theta: scores, [*batch, *item].
        samples: how many draws of the noise; each is one more problem for every problem of the batch.
        sigma: scale of the noise, in units of θ.
        noise: "gaussian" for all polytopes; "gumbel" where a softmax is meant.
        control_variate: also solve for θ itself, in the same call, and take ⟨y*(θ), g⟩ off every ⟨y*(θ + σZ), g⟩ of
            the gradient. Its mean stays, since E ∇ν(Z) = 0; its variance falls where σ is so small that most samples
            give y*(θ) again.
        item_dims: how many of the last dimensions make one problem; those before are batch.
        generator: where the randomness comes from; torch's global one if left out.
        check: the solver must return zeros and ones, and its answers must be possible for a maximiser: of two samples
            of one problem, ⟨y − y′, θ − θ′⟩ ≥ 0. One sample without control variate leaves nothing to compare. False
            allows polytopes with other vertices, and solvers that only come near the best.

    Returns:
        The mean of the vertices, in the shape and dtype of ``theta``.

    Raises:
        TypeError: if θ is not of a floating-point dtype, ``samples`` or ``item_dims`` is no int, ``sigma`` no number,
            or the solver returns no tensor or another dtype.
        ValueError: if θ is empty or not finite, ``samples`` < 1, ``sigma`` is not positive and finite, the noise has
            another name, there are not so many dimensions, the generator is of another device, or the solver returns
            another shape, numbers that are not finite, or what ``check`` forbids.
    """
    draws = _draw(solver, theta, samples, sigma, noise, item_dims, generator, check, plain=control_variate)
    slope = draws.noise if noise == "gaussian" else 1 - draws.noise.neg().exp()  # ∇ν(Z)
    mean: Tensor = _PerturbedArgmax.apply(draws.theta, draws.vertices, draws.plain, slope, sigma)
    return mean.reshape(theta.shape).to(theta.dtype)


def perturbed_max(
    solver: Solver,
    theta: Float[Tensor, "*shape"],
    *,
    samples: int = 100,
    sigma: float | int = 1.0,
    noise: Noise = "gaussian",
    item_dims: int = 1,
    generator: torch.Generator | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch"]:
    """Monte Carlo estimate of F_σ(θ) = E max ⟨y, θ + σZ⟩, one for every problem.

    F_σ is convex, and its gradient is the mean of the vertices: :func:`perturbed_argmax` with the same draws. Gaussian
    noise makes it at least max ⟨y, θ⟩. Gumbel noise and one choice among many make it σ log Σ exp(θ / σ) + σγ, with
    Euler's γ, the mean of that noise.

    Arguments and errors as in :func:`perturbed_argmax`.
    """
    draws = _draw(solver, theta, samples, sigma, noise, item_dims, generator, check)
    # max ⟨y, θ + σZ⟩ = ⟨y*, θ⟩ + σ⟨y*, Z⟩, and y* does not change with a small step of θ
    value = (draws.vertices.mean(0) * draws.theta).sum(-1) + sigma * _mean_product(draws)
    return value.reshape(theta.shape[: theta.ndim - item_dims]).to(theta.dtype)


def fenchel_young_loss(
    solver: Solver,
    theta: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    *,
    samples: int = 100,
    sigma: float | int = 1.0,
    noise: Noise = "gaussian",
    item_dims: int = 1,
    generator: torch.Generator | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch"]:
    """F_σ(θ) − ⟨θ, y⟩, one for every problem: small where the perturbed solver gives the example y on average.

    Its gradient is y_σ(θ) − y: zero where the two agree. This is the whole of learning from example solutions, and its
    variance does not grow when σ falls, so that one to three samples a step will do. The loss is convex in θ, and
    F_σ is estimated with the draws that the gradient is made of: with one seed, finite differences agree with it. For
    Gaussian noise and a y in C its mean is not negative. Its least value is a property of y, and not always 0.

    Args:
        target: the example solutions y, or means of several, [*batch, *item]. It gets the gradient −θ if it asks for
            one.
        solver, theta, samples, sigma, noise, item_dims, generator, check: as in :func:`perturbed_argmax`.

    Raises:
        TypeError, ValueError: as in :func:`perturbed_argmax`, or if ``target`` is not of a floating-point dtype, has
            another shape than ``theta``, or is not finite.
    """
    check_tensor(theta, "theta")
    check_dtype(target)
    if target.shape != theta.shape:
        raise ValueError(
            f"theta and target must have one shape; got {tuple(theta.shape)} and {tuple(target.shape)}: expand the "
            "smaller one if it is meant to be repeated"
        )
    draws = _draw(solver, theta, samples, sigma, noise, item_dims, generator, check)
    look(_check_target, target)
    # F_σ(θ) − ⟨θ, y⟩ = ⟨y_σ − y, θ⟩ + σ E⟨y*, Z⟩: no difference of two large numbers
    gap = draws.vertices.mean(0) - target.reshape(draws.theta.shape).to(draws.theta.dtype)
    value = (gap * draws.theta).sum(-1) + sigma * _mean_product(draws)
    return value.reshape(theta.shape[: theta.ndim - item_dims]).to(theta.dtype)


class _PerturbedArgmax(BatchedFunction):
    """The mean of the vertices, with the gradient of the perturbed argmax."""

    batch_in, batch_out = (0, 1, 0, 1, 0), 0

    @staticmethod
    def forward(theta: Tensor, vertices: Tensor, plain: Tensor | None, slope: Tensor, sigma: float | int) -> Tensor:
        return vertices.mean(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.sigma = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, by_theta: Tensor, *_: Any) -> Tensor:
        _, vertices, plain, slope = ctx.saved_tensors
        # 1/(σM) Σ_m y_m ⟨∇ν(Z_m), θ'⟩
        vertices = vertices if plain is None else vertices - plain
        along = torch.einsum("m...n,...n->m...", slope, by_theta)
        return torch.einsum("m...,m...n->...n", along, vertices) / (ctx.sigma * len(vertices))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _PerturbedSlope.apply(*ctx.saved_tensors, ctx.sigma, gradient), None, None, None, None


class _PerturbedSlope(FirstDerivative):
    """1/(σM) Σ_m ⟨y_m, g⟩ ∇ν(Z_m)."""

    batch_in, batch_out = (0, 1, 0, 1, 0, 0), 0

    @staticmethod
    def forward(
        theta: Tensor,
        vertices: Tensor,
        plain: Tensor | None,
        slope: Tensor,
        sigma: float | int,
        gradient: Tensor,
    ) -> Tensor:
        along = torch.einsum("m...n,...n->m...", vertices, gradient)  # ⟨y_m, g⟩
        if plain is not None:
            along = along - (plain * gradient).sum(-1)
        return torch.einsum("m...,m...n->...n", along, slope) / (sigma * len(vertices))


class _Draws(NamedTuple):
    theta: Tensor  # [problems, n] in float32 or wider; the one that has a gradient
    noise: Tensor  # Z [samples, problems, n]
    vertices: Tensor  # y*(θ + σZ) [samples, problems, n]
    plain: Tensor | None  # y*(θ) [problems, n]


def _mean_product(draws: _Draws) -> Tensor:
    # E⟨y*, Z⟩ [problems]
    return (draws.vertices * draws.noise).sum(-1).mean(0)


def _draw(
    solver: Solver,
    theta: Tensor,
    samples: int,
    sigma: float | int,
    noise: str,
    item_dims: int,
    generator: torch.Generator | None,
    check: bool,
    *,
    plain: bool = False,
) -> _Draws:
    """Draw the noise and solve, once for all samples."""
    check_filled(theta)
    _check_options(theta, samples, sigma, noise, item_dims, generator)
    item = theta.shape[theta.ndim - item_dims :]
    flat = widen(theta).reshape(-1, item.numel())
    with torch.no_grad():
        like = flat.detach().expand(samples, -1, -1)
        if noise == "gumbel":
            z = gumbel_noise(like, generator=generator)
        else:
            z = torch.empty_like(like, memory_format=torch.contiguous_format).normal_(generator=generator)
        # the block without noise comes last
        blocks = torch.cat([z, torch.zeros_like(z[:1])]) if plain else z
        solved = _Solved.apply(flat.detach(), blocks, solver, item, sigma, check)
    return _Draws(flat, z, solved[:samples], solved[samples] if plain else None)


class _Solved(BatchedFunction):
    """Vertices for θ + σZ, all in one call, [blocks, …, n] for θ of […, n] and noise of [blocks, …, n]. No gradient."""

    batch_in, batch_out = (0, 1, 0, 0, 0, 0), 1

    @staticmethod
    def forward(
        theta: Tensor, blocks: Tensor, solver: Solver, item: tuple[int, ...], sigma: float | int, check: bool
    ) -> Tensor:
        scores = torch.add(theta, blocks, alpha=sigma)
        _check_scores(theta, scores)
        problems = scores.reshape(-1, *item)
        solved = solver(problems)
        _check_solved(solved, like=scores, shape=tuple(problems.shape))
        solved = solved.detach().reshape(scores.shape)
        if check:
            _check_vertices(solved)
            _check_maximal(solved, blocks, theta, sigma)
        return solved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        return (None,) * 6


def _check_options(
    theta: Tensor, samples: int, sigma: float | int, noise: str, item_dims: int, generator: torch.Generator | None
) -> None:
    check_whole("samples", samples, least=1)
    check_whole("item_dims", item_dims)
    check_scale("sigma", sigma, instead="without noise call the solver itself")
    check_name("noise", noise, ("gaussian", "gumbel"))
    if theta.ndim == 0:
        raise ValueError("theta is a single number: give a problem at least one dimension, with theta.unsqueeze(-1)")
    if not 1 <= item_dims <= theta.ndim:
        raise ValueError(
            f"theta of shape {tuple(theta.shape)} has no problems of {item_dims} dimensions: choose item_dims from 1 "
            f"to {theta.ndim}"
        )
    if generator is not None and generator.device.type != theta.device.type:
        raise ValueError(
            f"the generator is on {generator.device} and theta on {theta.device}: make one with "
            f"torch.Generator({theta.device.type!r})"
        )


def _check_target(target: Tensor) -> None:
    if not target.isfinite().all():
        raise ValueError("the target is not finite: it must be a vertex of the solver's polytope, or a mean of several")


def _check_scores(theta: Tensor, scores: Tensor) -> None:
    if scores.isfinite().all():
        return
    if theta.isnan().any():
        raise ValueError(
            "theta is NaN somewhere: look for a 0 / 0, a log of a negative number, or a learning rate too high"
        )
    if theta.isinf().any():
        raise ValueError(
            "theta is infinite somewhere, which makes ⟨y, θ⟩ meaningless: to forbid a choice, forbid it in the solver, "
            "or give it a score that is finite and very low"
        )
    raise ValueError("theta + sigma · Z is beyond the largest number of its dtype: choose a smaller sigma or scale")


def _check_solved(solved: object, *, like: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(solved, Tensor):
        raise TypeError(f"the solver must return a tensor; got {type(solved).__name__}: use torch.as_tensor")
    if solved.shape != shape:
        raise ValueError(
            f"the solver was given shape {shape} and must return it; got {tuple(solved.shape)}: it gets all samples at "
            "once, [samples · problems, *item], and answers with vertices, not with indices"
        )
    if solved.dtype != like.dtype:
        raise TypeError(f"the solver was given {like.dtype} and must return it; got {solved.dtype}: use y.to(scores)")
    if solved.device != like.device:
        raise ValueError(
            f"the solver was given {like.device} and must return it; got {solved.device}: use y.to(scores)"
        )
    if not solved.isfinite().all():
        raise ValueError("the solver returned NaN or an infinity: it must return vertices")


def _check_vertices(solved: Tensor) -> None:
    other = (solved != 0) & (solved != 1)
    if other.any():
        raise ValueError(
            f"the solver must return zeros and ones; got {solved[other][0].item():.7g}: return the choice and not the "
            "weights of a softmax, and y.round() if it is only rounding; for a polytope with other vertices say "
            "check=False"
        )


def _check_maximal(solved: Tensor, noise: Tensor, theta: Tensor, sigma: float | int) -> None:
    """Two scores θ, θ′ of one problem: ⟨y, θ⟩ ≥ ⟨y′, θ⟩ and ⟨y′, θ′⟩ ≥ ⟨y, θ′⟩ add up to ⟨y − y′, θ − θ′⟩ ≥ 0."""
    gain = sigma * (solved.diff(dim=0) * noise.diff(dim=0)).sum(-1)
    # ⟨y, θ⟩ is a sum of Σ|y| scores, so that each of its partial sums, the solver's too, is rounded by less than this
    ones = solved.abs().sum(-1).amax(0)
    largest = theta.abs().amax(-1) + sigma * noise.abs().amax((0, -1))
    rounding = 4 * torch.finfo(torch.float32).eps * ones.square() * largest
    if (gain >= -rounding).all():
        return
    if (gain <= rounding).all():
        raise ValueError(
            "the solver seems to minimise: its answers get worse where the scores rise. Give a solver of costs the "
            "negated scores, solver(-scores), and give this function the negated costs as theta"
        )
    raise ValueError(
        "the solver does not maximise: of two samples of one problem, each would do better with the other's answer. "
        "Does it keep the order of its problems? Is it exact for negative scores? If it is only nearly exact, say "
        "check=False"
    )
