"""Linear regression in context: a prompt holds pairs of points and values of one linear map, and asks for new values.

Every prompt draws a map w of its own. Its pairs are (x_i, y_i = w·x_i + noise), its queries are points without a value,
and their answers are w·x. Nothing about w can be learned from other prompts: who answers has found it from the pairs.
:func:`least_squares` is the floor. Without noise it is exact from as many pairs as there are features on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynlib.data.drawing import Split, random_of
from dynlib.inputs import check_number, check_whole


@dataclass(frozen=True)
class Prompts:
    """Pairs and queries, the answers, and the maps that a network is not told."""

    x: Float[Tensor, "n pairs features"]
    """Points, each feature drawn from N(0, 1)."""
    y: Float[Tensor, "n pairs"]
    """Their values, noise included."""
    queries: Float[Tensor, "n queries features"]
    """Points whose values are asked for, from the same distribution."""
    answers: Float[Tensor, "n queries"]
    """Their values, without noise."""
    maps: Float[Tensor, "n features"]
    """w, each feature drawn from N(0, 1)."""

    def __len__(self) -> int:
        return len(self.x)

    def interleaved(self) -> Float[Tensor, "n tokens features"]:
        """The pairs as one sequence x_1, y_1, x_2, y_2, …: a value is the first feature of a token of zeros."""
        values = torch.zeros_like(self.x)
        values[..., 0] = self.y
        return torch.stack([self.x, values], dim=2).flatten(1, 2)


def linear_regression(
    count: int,
    *,
    features: int = 3,
    pairs: int = 12,
    queries: int = 1,
    noise: float | int = 0.0,
    split: Split = "train",
    seed: int = 0,
) -> Prompts:
    """Prompts, each with a linear map of its own, in float32. The same seed gives the same numbers.

    More prompts of a seed begin with those of fewer.

    Args:
        count: how many prompts.
        features: of a point.
        pairs, queries: of each prompt.
        noise: standard deviation of what is added to the values of the pairs.
        split: train and test prompts come from different random numbers, whatever the seeds.
        seed: of the draw.

    Raises:
        TypeError: if a number of something is no int, or ``noise`` no number.
        ValueError: if one of them is less than 1, ``noise`` is negative or not finite, the split has another name, or
            the seed is not one of 0 … 2³² − 1.
    """
    check_whole("count", count, least=1)
    check_whole("features", features, least=1)
    check_whole("pairs", pairs, least=1)
    check_whole("queries", queries, least=1)
    spread = check_number("noise", noise, least=0)
    # All is drawn prompt by prompt.
    random = random_of(split, seed)
    sizes = [features, pairs * features, queries * features, pairs]
    drawn = random.standard_normal((count, sum(sizes)))
    w, x, asked, errors = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
    x, asked = x.reshape(count, pairs, features), asked.reshape(count, queries, features)
    # y = w·x + noise
    y = np.einsum("nf,npf->np", w, x) + spread * errors
    answers = np.einsum("nf,nqf->nq", w, asked)
    return Prompts(*(torch.from_numpy(part).float() for part in (x, y, asked, answers, w)))


def least_squares(
    x: Float[Tensor, "n pairs features"],
    y: Float[Tensor, "n pairs"],
    queries: Float[Tensor, "n queries features"],
    *,
    ridge: float | int = 0,
) -> Float[Tensor, "n queries"]:
    """What the map that fits the pairs best, min_w ‖x w − y‖² + ridge ‖w‖², says of the queries.

    Args:
        x, y, queries: as in :class:`Prompts`. Where many maps fit, as with fewer pairs than features, the smallest.
        ridge: at noise² the answer is the mean of all maps, given the pairs: the best that anyone can say, as the maps
            are drawn from N(0, 1) themselves. Little noise and many pairs make it the same as least squares.

    Raises:
        TypeError: if ``ridge`` is no number.
        ValueError: if the shapes do not fit each other, or ``ridge`` is negative or not finite.
    """
    weight = check_number("ridge", ridge, least=0)
    if x.ndim != 3 or y.shape != x.shape[:2] or queries.ndim != 3 or queries.shape[::2] != x.shape[::2]:
        raise ValueError(
            "x must be [n, pairs, features], y [n, pairs] and queries [n, queries, features]; got "
            f"{tuple(x.shape)}, {tuple(y.shape)} and {tuple(queries.shape)}"
        )
    points, values = x.double(), y.double()[..., None]
    if weight > 0:  # √ridge w = 0: one more pair for each feature
        more = weight**0.5 * torch.eye(x.shape[2], dtype=torch.float64, device=x.device).expand(len(x), -1, -1)
        points, values = torch.cat([points, more], dim=1), torch.cat([values, torch.zeros_like(more[..., :1])], dim=1)
    w = torch.linalg.lstsq(points, values, driver="gelsd").solution
    return (queries.double() @ w)[..., 0].to(x.dtype)
