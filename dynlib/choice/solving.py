"""A solver called once, without gradients, on scores with noise, and what its answers must be.

What a solver is, is said in :mod:`dynlib.choice.perturbed`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dynlib.choice.gumbel import gumbel_noise
from dynlib.inputs import check_filled, check_name, check_scale, check_whole, widen
from dynlib.transforms import WithoutGradient

Solver = Callable[[Tensor], Tensor]
Noise = Literal["gaussian", "gumbel"]


class Draws(NamedTuple):
    """Noise and answers of one call, each item as n numbers."""

    theta: Tensor  # [problems, n] in float32 or wider; the one that has a gradient
    noise: Tensor  # Z [samples, problems, n]
    vertices: Tensor  # y*(θ + σZ) [samples, problems, n]
    plain: Tensor | None  # y*(θ) [problems, n]


def draw(
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
) -> Draws:
    """Draw the noise and solve, once for all samples; with ``plain`` also for θ itself, in the same call.

    Arguments and errors as in :func:`dynlib.choice.perturbed_argmax`.
    """
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
    return Draws(flat, z, solved[:samples], solved[samples] if plain else None)


class _Solved(WithoutGradient):
    """Vertices for θ + σZ, all in one call, [blocks, …, n] for θ of […, n] and noise of [blocks, …, n]."""

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
