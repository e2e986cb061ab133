"""CoLT5's router: a number for every token, and the k best of a sequence with weights that can be learned.

s = x · u, and the weights s̃ of the smooth top-k (:func:`dynlib.choice.soft_topk`), which are between 0 and 1 and sum to
k, cut to the k largest.

Source: arXiv:2303.09752, section 3. The smooth top-k is there iterated, and exact here.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynlib.choice import soft_topk
from dynlib.deciding import report
from dynlib.inputs import check_features, check_key_mask, check_name, check_number, check_whole, widen
from dynlib.tokens.routing import Routed, check_capacity, expert_choice, kept
from dynlib.transforms import look

Routing = Literal["learned", "even", "anchored"]


class Router(nn.Module):
    """Scores every token by one product, and picks the k best of each sequence with weights that have a gradient.

    Args:
        dim: features of a token.
        capacity: share of the tokens that are routed, in (0, 1]; :meth:`kept` gives their number. A larger one spends
            more.
        epsilon: smoothing of the top-k, in units of the scores. Small: weights near 1, and a gradient only for those at
            the border. Large: weights near k / n.
        reach: the weights are those of a smooth top-⌈reach · k⌉, of which the k best are then cut. At 1 they sum to
            less than k by what the others hold; above, the best get closer to 1. 9/8 is one choice.
        routing: "learned", or as controls, with weight 1 and nothing to learn, evenly spaced tokens: "even" as far from
            the start as from the end, "anchored" from the first token on, where a question may stand.

    The last four are knobs (:func:`dynlib.deciding.setting`): attributes that may be changed, and are checked whenever
    the router is used. Its records (:func:`dynlib.deciding.record`) are :class:`dynlib.tokens.routing.Routed`.

    Raises:
        TypeError: if ``dim`` is no int, or ``epsilon`` or ``reach`` no number.
        ValueError: if the capacity is outside (0, 1], ``dim`` or ``epsilon`` is not positive, ``reach`` is below 1, one
            of them is not finite, or the routing has another name.
    """

    knobs = ("capacity", "epsilon", "reach", "routing")
    reports = Routed

    def __init__(
        self,
        dim: int,
        capacity: float | int,
        *,
        epsilon: float | int = 1.0,
        reach: float | int = 1.0,
        routing: Routing = "learned",
    ) -> None:
        super().__init__()
        self.dim = check_whole("dim", dim, least=1)
        self.capacity, self.epsilon, self.reach = capacity, epsilon, reach
        self.routing: Routing = routing
        self.check_knobs()
        self.score = nn.Linear(dim, 1, bias=False)
        nn.init.normal_(self.score.weight, std=dim**-0.5)

    def kept(self, tokens: int) -> int:
        """k = ⌈capacity · tokens⌉: one at least, and all of them at capacity 1."""
        return kept(self.capacity, tokens)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        k: int | None = None,
    ) -> Routed:
        """Choose.

        Args:
            x: the tokens, normalised.
            key_mask: False where a token is not there, because it fills up a shorter sequence: it is never routed, and
                each sequence routes ⌈capacity · its own length⌉.
            k: route this many of every sequence instead, from 0 to the length of the shortest.

        Raises:
            TypeError: if the tokens are not floating-point, ``key_mask`` is not bool, or ``k`` is not an int.
            ValueError: if there are no tokens, shapes do not fit, ``k`` is negative or a sequence has fewer tokens, or
                a score is not finite.
        """
        self.check_knobs()
        check_features(x, self.dim)
        if key_mask is not None:
            check_key_mask(key_mask, *x.shape[:2])
        routed = self._choose(x, key_mask, k)
        report(self, routed)
        return routed

    def _choose(self, x: Tensor, key_mask: Tensor | None, k: int | None) -> Routed:
        present = x.new_ones(x.shape[:2], dtype=torch.bool) if key_mask is None else key_mask
        lengths = [x.shape[1]] * len(x) if key_mask is None else key_mask.sum(1).tolist()
        if k is not None:
            _check_k(k, lengths)
        counts = [self.kept(length) if k is None else k for length in lengths]
        if self.routing != "learned":
            mask = _evenly(present, lengths, counts, anchored=self.routing == "anchored")
            return Routed(mask, mask.to(x.dtype), None, present, self.routing)
        # s = x · u
        scores = widen(self.score(x).squeeze(-1))
        look(_check_scores, scores)
        possible = scores if key_mask is None else scores.masked_fill(~present, -math.inf)
        smooth = self._smooth(possible, lengths, counts)
        same = len(set(counts)) == 1
        mask = expert_choice(possible.detach(), counts[0] if same else torch.tensor(counts, device=x.device))
        # s̃, cut to the k best
        return Routed(mask, torch.where(mask, smooth, 0.0).to(x.dtype), scores, present, self.routing)

    def _smooth(self, scores: Tensor, lengths: list[int], kept: list[int]) -> Tensor:
        totals = [min(math.ceil(self.reach * k - 1e-9), n) for k, n in zip(kept, lengths, strict=True)]
        if len(set(totals)) == 1 and totals[0]:
            return soft_topk(scores, totals[0], self.epsilon)
        weights = torch.zeros_like(scores)
        for total in set(totals) - {0}:  # sequences of different lengths keep different numbers
            rows = torch.tensor([row for row, mine in enumerate(totals) if mine == total], device=scores.device)
            weights = weights.index_copy(0, rows, soft_topk(scores[rows], total, self.epsilon))
        return weights

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        check_capacity(self.capacity)
        check_number("epsilon", self.epsilon, least=0, open=True)
        check_number("reach", self.reach, least=1)  # weights for fewer than k are not enough
        check_name("routing", self.routing, ("learned", "even", "anchored"))


def narrow(
    model: nn.Module,
    *,
    steps: int,
    hold: float | int = 0.2,
    end: float | int = 0.5,
    kind: type[nn.Module] = Router,
) -> Callable[[int], None]:
    """What sets the capacities of all routers in ``model`` for a step of training: 1 at first, their own in the end.

    A heavy branch gets a gradient for routed tokens alone, so that a router that starts at random can wait for ever for
    the one token that it would have to see. That it begins with all of them is not in the paper.

    Args:
        model: its routers have the capacities that they are to end with.
        steps: of the training.
        hold, end: shares of the steps. Until the first all tokens are routed, from the second on as few as in the end,
            and between them the logarithm of the capacity falls on a straight line.
        kind: the class of what routes, and has a ``capacity``: :class:`dynlib.tokens.MixtureOfDepths` is another.

    Raises:
        TypeError: if ``steps`` is no int, or ``hold`` or ``end`` no number.
        ValueError: if ``steps`` is below 1, or ``hold`` is negative or not below ``end``.
    """
    check_whole("steps", steps, least=1)
    if not check_number("hold", hold, least=0) < check_number("end", end):
        raise ValueError(f"hold must be less than end, both shares of the steps; got {hold} and {end}")
    routers: list[Any] = [module for module in model.modules() if isinstance(module, kind)]
    goals = [(router, float(router.capacity)) for router in routers]

    def at(step: int) -> None:
        way = min(max((step / steps - hold) / (end - hold), 0.0), 1.0)
        for router, goal in goals:
            router.capacity = goal**way

    return at


def _evenly(present: Tensor, lengths: list[int], kept: list[int], *, anchored: bool) -> Tensor:
    """k of the tokens of each sequence that are there, at equal distances, from the first or from the middle on."""
    n, k = (torch.tensor(numbers, device=present.device)[:, None] for numbers in (lengths, kept))
    n = n.clamp_min(1)
    rank = present.cumsum(1)  # 1 at the first token that is there
    # one whenever rank · k / n, which ends at k, passes a half; from the first on, whenever it leaves a whole number
    border = n - 1 if anchored else n // 2
    return present & ((rank * k + border) // n > ((rank - 1) * k + border) // n)


def _check_scores(scores: Tensor) -> None:
    if not scores.isfinite().all():
        raise ValueError("a router score is not finite: look for NaN in the tokens or the router's weights")


def _check_k(k: object, lengths: list[int]) -> None:
    if check_whole("the number of routed tokens", k) not in range(min(lengths) + 1):
        raise ValueError(
            f"cannot route {k} tokens: the shortest sequence has {min(lengths)} that are there, and none is routed "
            "twice: route from 0 to as many, or leave the number to the capacity"
        )
