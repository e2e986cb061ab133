"""Learn through any solver: perturb what it is given, solve, and average.

A solver that returns the best path, subset or ranking for scores θ returns a vertex of a polytope C,

    y*(θ) = argmax ⟨y, θ⟩ over y ∈ C,

and jumps from vertex to vertex: its gradient is zero almost everywhere. With noise Z of density exp(−ν) added to the
scores, its mean no longer jumps, and it has a gradient that asks nothing of the solver but more calls. To draw an
answer so, by noise and the best of what comes, is known as *perturb-and-MAP*:

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

The noise, the call and what is asked of its answers stand in :mod:`dynlib.choice.solving`.

Source: arXiv:2002.08676.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.choice.solving import Draws, Noise, Solver, draw
from dynlib.inputs import check_dtype, check_tensor
from dynlib.transforms import BatchedFunction, FirstDerivative, look


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

    The estimates of value and gradient are unbiased. The variance of the gradient has a factor 1 / (σ² samples): at
    θ = 0, where the answers do not depend on σ, a σ a tenth as large needs a hundred times the samples, and about as
    many elsewhere. Where an example solution is known, :func:`fenchel_young_loss` learns from it with no such factor.

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
    draws = draw(solver, theta, samples, sigma, noise, item_dims, generator, check, plain=control_variate)
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
    draws = draw(solver, theta, samples, sigma, noise, item_dims, generator, check)
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

    Its gradient is y_σ(θ) − y: zero where the two agree. That is all it takes to learn from example solutions, and no
    1 / σ is in its variance, so that one to three samples a step often do. (Where the noise is much larger than the
    scores it scatters more than the gradient of :func:`perturbed_argmax`.) The loss is convex in θ, and
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
    draws = draw(solver, theta, samples, sigma, noise, item_dims, generator, check)
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


def _mean_product(draws: Draws) -> Tensor:
    # E⟨y*, Z⟩ [problems]
    return (draws.vertices * draws.noise).sum(-1).mean(0)


def _check_target(target: Tensor) -> None:
    if not target.isfinite().all():
        raise ValueError("the target is not finite: it must be a vertex of the solver's polytope, or a mean of several")
