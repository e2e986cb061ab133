"""K-means: samples into groups, so that each is near the mean of its group; and no group is empty.

For the few hundred short vectors of a batch, on whatever device they are, these lines take a fraction of the time that
a general library takes to begin.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dynlib.inputs import check_tensor, check_whole, widen
from dynlib.transforms import look


class Clusters(NamedTuple):
    """Who is in which group."""

    of: Int[Tensor, " batch"]
    """The group of each sample, from 0; each group has one at least."""
    centroids: Float[Tensor, "clusters d"]
    """The mean of each group."""


@torch.no_grad()
def k_means(
    x: Float[Tensor, "batch d"], clusters: int, *, iterations: int = 50, generator: torch.Generator | None = None
) -> Clusters:
    """Groups by Lloyd's algorithm, begun as k-means++ does: each new centre far from those that are there.

    A group that loses all its samples takes the one that is farthest from its own centre. So as many groups as samples
    give each sample a group of its own, also where samples are equal.

    Args:
        x: the samples.
        clusters: number of groups, 1 … batch.
        iterations: the most; it ends before where nobody changes place.
        generator: of the first centres, on the device of x.

    Raises:
        TypeError: if the samples are no tensor of floating-point numbers, or a number is no int.
        ValueError: if they are not [batch, d], one is not finite, or there are more groups than samples.
    """
    check_tensor(x, "the samples")
    if not x.is_floating_point():
        raise TypeError(f"samples must be floating-point; got {x.dtype}")
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"samples must be [batch, d], none of them 0; got {tuple(x.shape)}")
    check_whole("clusters", clusters, least=1, most=len(x), what="samples")
    check_whole("iterations", iterations, least=1)
    look(_check_finite, x)
    wide = widen(x)
    centroids = _first_centres(wide, clusters, generator)
    of = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        distance = torch.cdist(wide, centroids)
        nearest = _fill_empty(distance.argmin(1), distance, clusters)
        if torch.equal(nearest, of):
            break
        of = nearest
        member = F.one_hot(of, clusters).to(wide.dtype)
        centroids = member.T @ wide / member.sum(0)[:, None]
    return Clusters(of, centroids.to(x.dtype))


def _first_centres(x: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    draw = torch.randint(len(x), (1,), generator=generator, device=x.device)
    chosen = [draw]
    away = torch.cdist(x, x[draw])[:, 0].square()
    for _ in range(clusters - 1):
        # the chance of a sample is the square of its distance to the nearest centre; if all are 0, any will do
        weight = torch.where(away.sum() > 0, away, torch.ones_like(away))
        draw = torch.multinomial(weight, 1, generator=generator)
        chosen.append(draw)
        away = torch.minimum(away, torch.cdist(x, x[draw])[:, 0].square())
    return x[torch.cat(chosen)]


def _fill_empty(of: Tensor, distance: Tensor, clusters: int) -> Tensor:
    size = torch.bincount(of, minlength=clusters)
    for empty in (size == 0).nonzero()[:, 0].tolist():
        away = distance.gather(1, of[:, None])[:, 0].masked_fill(size[of] == 1, -1)
        moved = away.argmax()
        size[of[moved]] -= 1
        size[empty] = 1
        of[moved] = empty
    return of


def _check_finite(x: Tensor) -> None:
    if not x.isfinite().all():
        raise ValueError("a sample is NaN or infinite: look for NaN in the input or the weights")
