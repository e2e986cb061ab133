"""The checks of unit 07. Blocks are stand-ins whose work is plain arithmetic, or small transformer blocks with large
weights; what is right is found token by token, and models that look ahead are made so that one knows what they read."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dynlib import checks
from dynlib.backbone import Block, CausalLM, LayerCache
from dynlib.checks import Task
from dynlib.cost import count
from dynlib.tokens.mixture_of_depths import MixtureOfDepths

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Listener:
    """A block's update that is easy to check by hand: 100 times a token's position, plus the sum of the tokens that it
    was given, from the first up to this one; or any other update. It keeps what it was given."""

    def __init__(self, update: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        self.update = update
        self.given: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        self.given.append((x, positions))
        return 100.0 * positions[..., None] + x.cumsum(1) if self.update is None else self.update(x, positions)


class Tally(nn.Module):
    """A block of tokens of one number: its update is ``share`` times the sum of all tokens that it was given up to this
    one, plus this one's position. It counts its calls."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.calls = share, 0

    def update(self, x: Tensor, *, positions: Tensor, cache: LayerCache) -> Tensor:
        self.calls += 1
        if not x.shape[1]:
            return x
        here = positions.reshape(1, -1).expand(*x.shape[:2])
        cache.append(x[:, None], x[:, None], here)
        return self.share * cache.values[:, 0].cumsum(1)[:, -x.shape[1] :] + here[..., None]

    def forward(self, x: Tensor, *, positions: Tensor, cache: LayerCache) -> Tensor:
        """As a block does: with the residual around the update."""
        return x + self.update(x, positions=positions, cache=cache)


class Layer(NamedTuple):
    """As in the notebook: a block, and what decides whether a token runs through it."""

    block: Any
    router: nn.Module | None = None
    predictor: nn.Module | None = None


def attentive(*, seed: int, dtype: torch.dtype = torch.float64) -> Block:
    """A causal transformer block of 8 features whose queries and keys know where they stand, with large weights."""
    generator = torch.Generator().manual_seed(seed)
    block = Block(8, 2, hidden=12, causal=True, rotary=True).to(dtype).requires_grad_(False)
    for weights in block.parameters():
        weights.normal_(std=0.5, generator=generator)
    return block


def marked(tokens: int, *rows: Iterable[int]) -> Tensor:
    """The mask that is True at these places of each row."""
    return torch.tensor([[place in {*places} for place in range(tokens)] for places in rows])


def some(tokens: int, *numbers: int, seed: int) -> Tensor:
    """A mask with so many True in each row, at random places."""
    generator = torch.Generator().manual_seed(seed)
    return marked(tokens, *(torch.randperm(tokens, generator=generator)[:k].tolist() for k in numbers))


# ---- task 1: expert_choice

WITHOUT = ("dynlib", "numpy", "scipy")
"""What an answer does without."""

Choice = tuple[str, Tensor, float, Tensor | None]
"""The check's name, scores, the capacity, and who is present; None: everyone."""

SCORES = torch.tensor([[0.3, -1.0, 2.5, 0.7, -0.2, 1.1], [-3.0, -0.5, -4.0, -2.0, 0.9, -1.0]])
EVEN = torch.tensor([[float(place % 3 == 0) for place in range(20)]] * 2)
UNEVEN = marked(10, range(10), range(2, 9), (1, 4, 9))  # ten, seven and three tokens
MIXED = torch.tensor(
    [
        [0.2, 1.4, -0.7, 2.2, 0.9, -1.3, 0.1, 1.8, -0.4, 0.6],
        [9.0, 9.5, -2.1, -0.3, -1.7, -0.9, -3.0, -0.2, -1.1, 8.0],
        [7.0, -5.0, 6.0, 5.5, -4.0, 6.5, 3.0, 2.5, 4.5, -6.0],
    ]
)
CHOICES: tuple[Choice, ...] = (
    ("the largest", SCORES, 1 / 3, None),
    ("ties", torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]], dtype=torch.float64), 0.4, None),
    ("ties", EVEN, 0.45, None),
    ("nearly equal", 1 + 1e-9 * torch.tensor([[-1e9, -5e8, 0, 2, -1, 1, -5e8]], dtype=torch.float64), 2 / 7, None),
    ("everybody", SCORES, 1.0, None),
    ("lengths", MIXED, 0.5, UNEVEN),
    ("rounded up", SCORES, 0.2, None),
    ("a share of 7", checks.normal(2, 50, seed=5), 0.14, None),
    ("a share of 15", checks.normal(2, 50, seed=6), 0.3, None),
    ("nobody there", SCORES, 0.5, marked(6, (), (0, 5))),
    ("whatever the absent hold", torch.where(UNEVEN, MIXED, math.nan), 0.3, UNEVEN),
)
_CHOOSE = {
    "the largest": "the k largest of each row, True at their places; each row on its own",
    "ties": "exactly k, and of equals the earlier: argsort(dim=1, descending=True, stable=True) keeps equals in their "
    "order; without stable=True it does so in short rows only",
    "nearly equal": "compare the scores as they are: a small number added to break ties swaps neighbours, and so may "
    "another dtype",
    "everybody": "at a capacity of 1 everyone who is present runs",
    "lengths": "k is a share of the tokens that are present in this row, not of its length",
    "rounded up": "0.2 of 6 tokens are 1.2, and k is 2: rounded up, math.ceil",
    "a share of 7": "0.14 * 50 is 7.000000000000001 and means 7: take 1e-9 off before you round up, and count in "
    "Python's numbers or in float64, as float32 has seven digits",
    "a share of 15": "0.3 of 50 are 15: a tensor of whole numbers times a Python float is float32, in which it is "
    "more by a little, and 1e-9 gets lost; .double() first",
    "nobody there": "a row in which nobody is present keeps nobody: k = 0",
    "whatever the absent hold": "absent tokens never run, whatever stands there: masked_fill(~present, -math.inf) "
    "before the sort",
}


def expert_choice(
    check: Task,
    answer: Callable[[Tensor, float, Tensor], Tensor],
    *,
    cases: Iterable[Choice] = CHOICES,
    outside: Iterable[float] = (0.0, 1.5),
) -> None:
    """Task 1: scores, capacity and who is present; then capacities that are to be refused."""
    check.by_hand(
        "by hand",
        answer,
        without=WITHOUT,
        tested="what the code of expert_choice uses",
        likely="PyTorch alone: a sort and a mask",
    )
    for name, given, capacity, there in cases:
        present = torch.ones_like(given, dtype=torch.bool) if there is None else there.clone()
        scores = given.clone()
        on = f"capacity {capacity:.4g} of {scores.tolist() if scores.numel() < 13 else f'scores {list(scores.shape)}'}"
        on += f", {scores.dtype}" + ("" if there is None else f"; present {_routed(present)}")
        expected = by_beating(scores, capacity, present)
        with check.untouched("scores stay", tested=on, scores=scores, present=present):
            found = answer(scores, capacity, present)
        check.true(
            "a mask",
            isinstance(found, Tensor) and found.dtype == torch.bool,
            tested=on,
            expected="a tensor of bool",
            got=getattr(found, "dtype", type(found).__name__),
            likely="give True and False, neither the indices of the tokens nor their scores",
        )
        slips = {} if bool(scores.isnan().any()) else _mistaken_choices(scores, capacity, present)
        if there is not None:
            slips |= _mistaken_presence(scores, capacity, present)
        check.equal(name, found, expected, tested=on, likely=_CHOOSE[name], mistakes=slips)
    for capacity in outside:
        check.raises(
            "capacity out of range",
            ValueError,
            partial(answer, checks.normal(2, 6, seed=6), capacity, torch.ones(2, 6, dtype=torch.bool)),
            tested=f"capacity {capacity}",
            likely="a share of the tokens, above 0 and at most 1: raise ValueError for everything else",
        )


def kept(capacity: float, tokens: int) -> int:
    """The smallest whole number that the share does not exceed."""
    return next(k for k in range(tokens + 1) if k >= capacity * tokens - 1e-9)


def by_beating(
    scores: Tensor,
    capacity: float,
    present: Tensor | None = None,
    *,
    of: Callable[[int], int] | None = None,
    rounded: Callable[[float], int] | None = None,
) -> Tensor:
    """Who runs: those present whom fewer than k others present beat, by a larger score, or an equal one that stands
    before. of: of how many tokens k is a share, from the row; rounded: what k is, from the share."""
    masks = []
    for at, row in enumerate(scores.tolist()):
        there = [True] * len(row) if present is None else present[at].tolist()
        total = sum(there) if of is None else of(at)
        k = kept(capacity, total) if rounded is None else rounded(capacity * total)
        others = [(other, place) for place, other in enumerate(row) if there[place]]
        masks.append(
            [
                there[here] and sum(other > mine or (other == mine and at < here) for other, at in others) < k
                for here, mine in enumerate(row)
            ]
        )
    return torch.tensor(masks)


def _mistaken_choices(scores: Tensor, capacity: float, present: Tensor) -> dict[str, Tensor]:
    scores = scores.detach()
    by = partial(by_beating, scores, capacity, present)
    right, none = by(), torch.zeros_like(scores, dtype=torch.bool)
    found = {
        "the other way round: True is who runs": ~right & present,
        "those are the smallest": by_beating(-scores, capacity, present),
        "the size of r counts, not that of |r|: a very negative score comes last": by_beating(
            scores.abs(), capacity, present
        ),
        "of equals the earlier come first, not the later": by_beating(scores.flip(1), capacity, present.flip(1)).flip(
            1
        ),
        "who has r > 0 is another rule, and not k tokens: the k largest run, be they negative": (scores > 0) & present,
        "rounded up, not down": by(rounded=lambda share: int(share + 1e-9)),
        "rounded up, not to the nearest": by(rounded=lambda share: round(share)),
        "one too many: k tokens run": by(rounded=lambda share: math.ceil(share - 1e-9) + 1),
        "int(share) + 1 is one too many where the share is whole": by(rounded=lambda share: int(share) + 1),
        "strictly above the k-th largest are fewer than k: that one runs too": by(
            rounded=lambda share: math.ceil(share - 1e-9) - 1
        ),
        "the places of all sequences were marked in each: mask.scatter(1, places, True) keeps to its row": (
            right.any(0).expand_as(right)
        ),
        "nothing is marked: scatter() gives a new tensor and leaves its own as it was; keep what it gives": none,
    }
    if bool(present.all()):
        k = kept(capacity, scores.shape[1])
        over = torch.zeros(scores.numel(), dtype=torch.bool)
        over[scores.flatten().argsort(descending=True, stable=True)[: k * len(scores)]] = True
        last = scores.sort(dim=1, descending=True).values[:, k - 1, None]
        found |= {
            "scores >= the k-th largest are more than k where some are equal": scores >= last,
            "torch.topk takes any of the equals: sort stably": none.scatter(1, scores.topk(k, dim=1).indices, True),
            "the largest of all sequences together: each sequence keeps k of its own": over.view_as(scores),
            "chosen along the batch: the tokens are dimension 1": by_beating(
                scores.T, 1.0, of=lambda row: kept(capacity, len(scores)), rounded=lambda share: int(share)
            ).T,
            "topk's indices are the tokens; their argsort gives 0 ... k - 1, whatever the scores": (
                none | (torch.arange(scores.shape[1]) < k)
            ),
            "argsort gives at each rank the place, not at each place the rank": (
                scores.argsort(dim=1, descending=True) < k
            ),
        }
    return {says: mask for says, mask in found.items() if not torch.equal(mask, right)}


def _mistaken_presence(scores: Tensor, capacity: float, present: Tensor) -> dict[str, Tensor]:
    by = partial(by_beating, scores, capacity)
    first, *_ = numbers = present.sum(1).tolist()
    zeroed = by_beating(scores * present, capacity, of=lambda row: numbers[row])
    as_zeros = "the absent count as 0, and a 0 is more than a negative score: masked_fill(~present, -math.inf)"
    alone = ~present.any(1, keepdim=True) & (torch.arange(scores.shape[1]) == 0)
    return {
        as_zeros: zeroed,
        f"{as_zeros}; taking them out afterwards leaves fewer than k": zeroed & present,
        "the absent run too: only those who are present do": by(of=lambda row: numbers[row]),
        "the absent run too, and count for k: only those who are present do": by(),
        "k is a share of the tokens present in this row, not of the longest row": by(
            present, of=lambda row: max(numbers)
        ),
        "k is a share of the tokens present in this row, not of its length with what fills it up": by(
            present, of=lambda row: scores.shape[1]
        ),
        "k is counted for the first row alone: each row has its own": by(present, of=lambda row: first),
        "a row in which nobody is present keeps nobody": by(present) | alone,
    }


# ---- task 2: mixture_of_depths

Routing = tuple[Listener, Tensor, Tensor, Tensor]


def routings() -> list[Routing]:
    """Listeners with x, r and a mask: one row; two of as many tokens; three, of two, none and four; nobody."""
    x = torch.tensor([[[1.0, 7.0], [2.0, 5.0], [4.0, -3.0], [8.0, 6.0], [16.0, 9.0]]], dtype=torch.float64)
    r = torch.tensor([[0.5, -2.0, 3.0, 1.5, -1.0]], dtype=torch.float64)
    two = checks.normal(2, 6, 3, seed=1, dtype=torch.float64), checks.normal(2, 6, seed=2, dtype=torch.float64)
    three = checks.normal(3, 7, 3, seed=3, dtype=torch.float64), checks.normal(3, 7, seed=4, dtype=torch.float64)
    return [
        (Listener(), x, r, marked(5, (1, 2, 4))),
        (Listener(), *two, marked(6, (0, 2, 5), (1, 3, 4))),
        (Listener(), *three, marked(7, (2, 5), (), (0, 1, 3, 6))),
        (Listener(), *three, marked(7, (0, 6), (1, 2, 4), ())),
        (Listener(), *two, marked(6, (), ())),
        _spoilt(*three, marked(7, (2, 5), (), (0, 1, 3, 6))),
    ]


def _spoilt(x: Tensor, r: Tensor, mask: Tensor) -> Routing:
    """Unrouted tokens that are NaN, in the rows that route any, and an update of nobody that is NaN."""

    def update(routed: Tensor, at: Tensor) -> Tensor:
        return Listener()(routed, at).masked_fill(at[..., None] < 0, math.nan)

    return Listener(update), x.masked_fill(~mask[..., None] & mask.any(1)[:, None, None], math.nan), r, mask


def transformer(
    *numbers: int, tokens: int, seed: int, dtype: torch.dtype = torch.float64, seen: float = 1.0
) -> Routing:
    """The same for a transformer block, and so many tokens of each row at random places."""
    block = attentive(seed=seed, dtype=dtype)
    x = seen * checks.normal(len(numbers), tokens, 8, seed=seed, dtype=dtype)
    r = checks.normal(len(numbers), tokens, seed=seed + 50, dtype=dtype)
    return (
        Listener(lambda routed, positions: block.update(routed, positions=positions)),
        x,
        r,
        some(tokens, *numbers, seed=seed),
    )


def mixture_of_depths(
    check: Task, answer: Callable[..., Tensor], *, cases: Callable[[], Iterable[Routing]] = routings
) -> None:
    """Task 2: blocks that keep what they were given, with x, r and a mask."""
    check.by_hand(
        "by hand",
        answer,
        without=WITHOUT,
        tested="what the code of mixture_of_depths uses",
        likely="PyTorch alone: gather, one call of the block, put back",
    )
    for block, x, r, mask in cases():
        (batch, tokens, dim), k = x.shape, int(mask.sum())
        ragged = bool((mask.sum(1) != mask[:1].sum(1)).any())
        on = f"x {[batch, tokens, dim]}, {x.dtype}; routed: {_routed(mask)}"
        if block.update is None:
            on += "; the update is 100 times a token's position, plus the sum of the tokens given up to it"
        expected = one_by_one(block.update or Listener(), x, r, mask)
        with check.untouched("x stays", tested=on, x=x, r=r, mask=mask):
            found = answer(block, x, r, mask)
        if batch > 1 and isinstance(found, Tensor) and found.shape == x.shape:
            _whose_places(check, found, x, mask)
            _what_fills_up(check, found, x, mask)
        check.equal(
            "dtype",
            getattr(found, "dtype", None),
            x.dtype,
            tested=on,
            likely="what is added may be wider than x: .to(x.dtype) at the end",
        )
        spoilt = not bool(x.isfinite().all())
        slips = _mistaken_routings(x, r, mask) if block.update is None and not spoilt else {}
        name, likely = "value", "r times the update, plus x, at the routed tokens; x elsewhere"
        if not k:
            name, likely = "nobody", "everyone passes by where nobody is routed"
        elif batch > 1:
            name, likely = (
                "rows of different lengths" if ragged else "rows",
                "the routed tokens in the order of the text, at their true positions, each with its r",
            )
        check.close(
            "NaN passes by" if spoilt else name,
            found[mask] if spoilt else found,
            expected[mask] if spoilt else expected,
            tested=f"the routed tokens; others hold NaN, as may the update of nobody; {on}" if spoilt else on,
            tolerance=TOLERANCE[x.dtype],
            likely="0 times NaN is NaN: do not multiply by a mask, index" if spoilt else likely,
            mistakes={says: (result() if k else found).to(x.dtype) for says, result in slips.items()},
        )
        same = _bits(found[~mask]) == _bits(x[~mask])
        check.true(
            "passes by",
            same.all(),
            tested=f"the bits of the tokens that are not routed; {on}",
            expected="all as they were, and so 0 numbers that differ",
            got=int((~same).sum()),
            likely="exactly as they were: do not compute with them, nor add to them what the block gives for nobody; 0 "
            "times NaN is NaN, infinity minus infinity too",
        )
        if not r.any():
            check.equal("r is 0", found, x, tested=f"r = 0 everywhere: the layer is the identity; {on}")
        _how_it_was_called(check, block, mask, x, on)
        if x.dtype != torch.bfloat16 and not spoilt:
            _gradients(check, answer, block.update, x, r, mask, on)


def one_by_one(block: Callable[[Tensor, Tensor], Tensor], x: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    """Row by row: the block on the routed tokens of this row, each result put back by itself."""
    rows = []
    for row, routed in enumerate(_routed(mask)):
        states = list(x[row])
        if routed:
            update = block(torch.stack([x[row, place] for place in routed])[None], torch.tensor([routed]))[0]
            for at, place in enumerate(routed):
                states[place] = (x[row, place] + r[row, place] * update[at]).to(x.dtype)
        rows.append(torch.stack(states))
    return torch.stack(rows)


def _routed(mask: Tensor) -> list[list[int]]:
    return [[place for place, goes in enumerate(row) if goes] for row in mask.tolist()]


def _bits(numbers: Tensor) -> Tensor:
    return numbers.detach().contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.itemsize])


def _whose_places(check: Task, found: Tensor, x: Tensor, mask: Tensor) -> None:
    moved = (found.detach() != x.detach()).any(-1)
    same = bool((mask == mask[:1]).all()) or not bool(x.isfinite().all())
    check.true(
        "whose places",
        same or not torch.equal(moved, mask[:1].expand_as(mask)),
        tested=f"which tokens changed; routed: {_routed(mask)}",
        expected="those of each row's own mask",
        got="in all rows those of the first",
        likely="mask[0] speaks of the first sequence alone: each row has places of its own",
    )


def _what_fills_up(check: Task, found: Tensor, x: Tensor, mask: Tensor) -> None:
    """An update of what only fills up a row lands on its first token (position 0) or on its last (-1)."""
    numbers = mask.sum(1)
    strange = (found.detach() != x.detach()).any(-1) & ~mask & x.isfinite().all(-1)
    short = (numbers < numbers.max())[:, None] & ~mask
    places = torch.arange(mask.shape[1])
    landed = [
        name
        for name, at in (("first", 0), ("last", mask.shape[1] - 1))
        if (short & (places == at)).any() and torch.equal(strange, short & (places == at))
    ]
    check.true(
        "what fills up",
        not landed,
        tested=f"which tokens changed; routed: {_routed(mask)}",
        expected="the routed ones alone",
        got=f"in rows with fewer routed tokens than others the {landed[0]} token changed too" if landed else "",
        likely="the update of what only fills up a row was added back: leave it out, update[there]",
    )


def _how_it_was_called(check: Task, block: Listener, mask: Tensor, x: Tensor, on: str) -> None:
    routed = _routed(mask)
    most = max(map(len, routed))
    if not most:
        check.equal(
            "nobody, no call",
            len(block.given),
            0,
            tested=f"how often the block was called; {on}",
            likely="there is nothing to compute: return before the block is called",
        )
        return
    check.equal(
        "one call",
        len(block.given),
        1,
        tested=f"how often the block was called; {on}",
        likely="once for all rows: those with fewer routed tokens are filled up, so that [batch, most, dim] is full",
    )
    got, places = block.given[0]
    check.equal(
        "the shape",
        tuple(got.shape[:2]),
        (len(routed), most),
        tested=f"the shape of what the block got, without its last dimension; {on}",
        likely="gather first: a block that gets all tokens has computed all tokens, whatever is done with the rest",
        mistakes={"the block ran for all tokens, and nothing is saved": tuple(mask.shape)},
    )
    check.equal(
        "positions",
        places,
        torch.tensor([[*row, *[-1] * (most - len(row))] for row in routed]),
        tested=f"the positions that the block got; {on}",
        likely="int64, [batch, most]: a row for each sequence, its places first, and then -1 where nobody stands",
    )
    check.equal(
        "zeros fill up",
        got[places < 0],
        torch.zeros_like(got[places < 0]),
        tested=f"what the block got where nobody stands; {on}",
        likely="what fills up a row is 0, no other token, nor 0 times one: that of NaN is NaN",
    )


def _gradients(
    check: Task, answer: Callable[..., Tensor], update: Any, x: Tensor, r: Tensor, mask: Tensor, on: str
) -> None:
    """Both gradients, through a function in front of x and of r."""
    block = update or Listener()
    sources = x.detach().clone().requires_grad_(), r.detach().clone().requires_grad_()
    expected = one_by_one(block, sources[0] * 1, sources[1] * 1, mask)
    found = answer(block, sources[0] * 1, sources[1] * 1, mask)
    likely = {
        "gradient of r": "r · Δ changes with r by Δ, as long as nothing but r itself stands there",
        "gradient of x": "x reaches the result by the residual and through the block: nothing is detached",
    }
    for name, source in zip(("gradient of r", "gradient of x"), (sources[1], sources[0]), strict=True):
        want = checks.gradient(expected, source)
        check.close(
            name,
            checks.gradient(found, source),
            want,
            tested=f"the {name}; {on}",
            tolerance=TOLERANCE[x.dtype] * max(1.0, float(want.abs().max())),
            likely=likely[name],
            mistakes={
                f"none arrives: {name[-1]} has to stand on the path to the result: no detach(), no no_grad(), no "
                ".item()": torch.zeros_like(want)
            },
        )


def _by_hand(
    x: Tensor,
    r: Tensor,
    mask: Tensor,
    *,
    order: Callable[[list[int], Tensor], list[int]] | None = None,
    at: Callable[[list[int], int], list[int]] | None = None,
    weights: Callable[[Tensor, list[int]], Tensor] | None = None,
    keep: Callable[[float], float] | None = None,
    first: bool = False,
    others: float = 1,
    heard: str = "routed",
) -> Tensor:
    """What Listener's tokens become where something is different. order: of the routed ones, from places and r; at:
    where they are said to stand, from places and the row; weights: from the row's r and the places; keep: how much of a
    token remains, from r; first: the results go to the first k places; others: what unrouted tokens are multiplied by;
    heard: "routed", "all", "alone", or "before": the rows above too."""
    result, before = others * x, torch.zeros(x.shape[2], dtype=x.dtype)
    for row, routed in enumerate(_routed(mask)):
        places = order(routed, r[row]) if order else routed
        where = at(places, row) if at else places
        factor = weights(r[row], places) if weights else r[row, places]
        for rank, place in enumerate(places):
            listened = {"all": range(place + 1), "alone": [place]}.get(heard, places[: rank + 1])
            update = 100.0 * where[rank] + x[row, list(listened)].sum(0) + (before if heard == "before" else 0)
            kept = keep(float(r[row, place])) if keep else 1
            result[row, rank if first else place] = kept * x[row, place] + factor[rank] * update
        before = before + x[row, places].sum(0)
    return result


def _mistaken_routings(x: Tensor, r: Tensor, mask: Tensor) -> dict[str, Callable[[], Tensor]]:
    def by(*, mask: Tensor = mask, **slip: Any) -> Callable[[], Tensor]:
        return lambda: _by_hand(x, r, mask, **slip)

    def ranks(places: list[int], row: int) -> list[int]:
        falling = sorted(places, key=lambda place: -r[row, place])
        return [falling.index(place) for place in places]

    slips, total = {}, int(mask.sum())
    if total % len(mask) == 0 and bool((mask.sum(1) != total // len(mask)).any()):
        mixed = mask.nonzero()[:, 1].view(len(mask), -1).tolist()
        slips[
            "view(batch, -1) cuts the places into equal parts, and hands those of one row to another: rows route "
            "different numbers of tokens"
        ] = by(mask=marked(x.shape[1], *mixed))
    return slips | {
        "r times the update replaces x: add x to it": by(keep=lambda r: 0),
        "the update is not multiplied by r: the weight stands on the path": by(weights=lambda r, at: 0 * r[at] + 1),
        "the residual counts twice: the update is added to x once": by(keep=lambda r: 2),
        "r multiplies the update alone, not the token: r times Δ, plus x": by(keep=lambda r: r),
        "what the block gives is the update: r times Δ, plus x, and not r times (x + Δ), plus x": by(
            keep=lambda r: 1 + r
        ),
        "positions are those of the text, not 0, 1, 2, ...: give the block their true ones": by(
            at=lambda places, row: [*range(len(places))]
        ),
        "positions count from 0": by(at=lambda places, row: [place + 1 for place in places]),
        "those are the rows of the batch: nonzero() gives the row first, and then the place": by(
            at=lambda places, row: [row] * len(places)
        ),
        "positions are those of the text, not ranks by score": by(at=ranks),
        "sigmoid(r): here the update is multiplied by r itself": by(weights=lambda r, at: r[at].sigmoid()),
        "a softmax over the routed tokens: the weight is r itself": by(weights=lambda r, at: r[at].softmax(0)),
        "a softmax over the sequence: the weight is r itself": by(weights=lambda r, at: r.softmax(0)[at]),
        "the size of r without its sign: a negative r subtracts": by(weights=lambda r, at: r[at].abs()),
        "negative r set to 0: a negative r subtracts": by(weights=lambda r, at: r[at].relu()),
        "the weights are those of the first tokens: each routed token has its own r": by(
            weights=lambda r, at: r[: len(at)]
        ),
        "the routed tokens in the order of their scores: a block needs them in the order of the text": by(
            order=lambda places, r: sorted(places, key=lambda place: -r[place])
        ),
        "the results went to the first places: each goes back to where its token was": by(first=True),
        "the tokens that are not routed became 0: they pass by as they are": by(others=0),
        "the tokens that are not routed were doubled: they pass by as they are": by(others=2),
        "the block ran for all tokens, so that the unrouted ones were heard too: give it the routed ones alone": by(
            heard="all"
        ),
        "the unrouted tokens ran, and the routed passed by": by(mask=~mask),
        "each token ran by itself and heard nobody: the block gets the routed ones together": by(heard="alone"),
        "the rows were put end to end, and one heard the other: the block gets [batch, k, dim]": by(heard="before"),
    }


# ---- task 3: looks_ahead

TABLE = checks.normal(7, 7, seed=3, dtype=torch.float64)  # what each of 7 tokens says about the next
TEXTS = torch.tensor([[2, 5, 1, 1, 0, 3], [0, 4, 2, 2, 5, 3], [1, 1, 4, 5, 2, 3]])  # no 6, which is a token too
RANKED = torch.tensor([[2, 6, 1, 5, 0, 3], [3, 2, 1, 5, 1, 0], [2, 2, 1, 5, 5, 0]])
NUMBERS = torch.tensor([0.1, -0.4, 0.9, 0.2, 1.7, -1.2, 0.5], dtype=torch.float64)  # of each token
ALL = slice(None)

Leak = Callable[[Tensor, Tensor], None]
"""Changes logits [batch, tokens, 7] by what it reads in the tokens."""


def leaking(*leaks: Leak) -> Callable[[Tensor], Tensor]:
    """A model that is causal, a sum over all tokens up to each place, but for what the leaks do to its logits."""

    def model(tokens: Tensor) -> Tensor:
        if int(tokens.min()) < 0 or int(tokens.max()) >= 7:
            raise ValueError("a token outside the vocabulary, whose size is the last dimension of the logits")
        logits = TABLE[tokens].cumsum(1)
        for leak in leaks:
            leak(logits, tokens)
        return logits

    return model


def reads(
    at: int | slice,
    *,
    to: int | slice = ALL,
    which: int | slice = ALL,
    token: int | None = None,
    times: float | tuple[float, ...] = 1.0,
    rows: tuple[int | slice, int | slice] = (ALL, ALL),
) -> Leak:
    """The logits at the places ``to``, of them those of ``which``, read the tokens at the places ``at``: what they are,
    or whether they are ``token``, times one number, or one for each place. rows: which rows' logits, and which rows'
    tokens."""
    whose, of = (_range(part) for part in rows)

    def leak(logits: Tensor, tokens: Tensor) -> None:
        said = tokens if token is None else tokens == token
        read = (said[of, _range(at)] * torch.tensor(times, dtype=torch.float64)).sum(1)
        logits[whose, _range(to), _range(which)] += read[:, None, None]

    return leak


def always(value: float, *, which: int) -> Leak:
    """A logit that is this everywhere."""

    def leak(logits: Tensor, tokens: Tensor) -> None:
        logits[:, :, which] = value

    return leak


def compares(at: int, one: int, other: int) -> Leak:
    """The logits of the first row read the token at a place of one row, less that of another."""

    def leak(logits: Tensor, tokens: Tensor) -> None:
        logits[0] += tokens[one, at] - tokens[other, at]

    return leak


def spoils(at: int, *, which: int) -> Leak:
    """The first logit of place 0 is NaN where the token at a place is ``which``."""

    def leak(logits: Tensor, tokens: Tensor) -> None:
        logits[tokens[:, at] == which, 0, 0] = math.nan

    return leak


def _range(part: int | slice) -> slice:
    return part if isinstance(part, slice) else slice(part, part + 1 or None)


def _by_length(logits: Tensor, tokens: Tensor) -> None:
    logits /= tokens.shape[1]


def _by_batch(logits: Tensor, tokens: Tensor) -> None:
    logits *= 1 + 1e-14 * tokens.shape[0]


def _whole_text(logits: Tensor, tokens: Tensor) -> None:
    logits += TABLE[tokens].mean(1, keepdim=True)


def _two_largest(logits: Tensor, tokens: Tensor) -> None:
    logits *= by_beating(NUMBERS[tokens], 2 / tokens.shape[1])[..., None]


def _above_zero(logits: Tensor, tokens: Tensor) -> None:
    logits *= (NUMBERS[tokens] > 0)[..., None]


class Suspect(NamedTuple):
    """A model, and whether it looks ahead of a place."""

    name: str
    model: Callable[[Tensor], Tensor]
    place: int
    looks: bool
    what: str
    tokens: Tensor = TEXTS


def suspects() -> Iterator[Suspect]:
    """Models that are causal, and models that look ahead."""
    at, later = "place = 3 of 6", slice(3, 6)
    yield Suspect(
        "a causal model", leaking(), 3, False, "a causal model: each place reads itself and what stands before it"
    )
    yield Suspect("a causal threshold", leaking(_above_zero), 2, False, "tokens count whose number is above zero")
    yield Suspect("the length", leaking(_by_length), 3, False, "a causal model that divides by the number of tokens")
    what = "a causal model whose last digits depend on the number of rows, as those of a matrix product do"
    yield Suspect("the shape", leaking(_by_batch), 3, False, what)
    what = "a model that adds the mean of the whole text everywhere"
    yield Suspect("the whole text", leaking(_whole_text), 3, True, what)
    what = f"{at}: all logits, in float64, read tokens 3, 4 and 5, and change by less than 1e-8"
    yield Suspect("a small leak", leaking(reads(later, times=1e-10)), 3, True, what)
    what = f"{at}: the logits at place 0, and no others before 3, read tokens 3, 4 and 5"
    yield Suspect("the first place sees it", leaking(reads(later, to=0)), 3, True, what)
    what = f"{at}: the logits at place 2, and no others before 3, read tokens 3, 4 and 5"
    yield Suspect("the place before sees it", leaking(reads(later, to=2)), 3, True, what)
    for name, token in (("the token at place", 3), ("the last token", 5), ("a token in between", 4)):
        yield Suspect(name, leaking(reads(token)), 3, True, f"{at}: all logits read token {token}, and no other")
    for token in range(7):
        what = f"{at}: all logits read whether token 5 is a {token}; here it is a 3"
        yield Suspect("one token of the vocabulary", leaking(reads(5, token=token)), 3, True, what)
    what = f"{at}: all logits read whether token 4 is a 6, less whether token 5 is one"
    yield Suspect("one at a time", leaking(reads(slice(4, 6), token=6, times=(1.0, -1.0))), 3, True, what)
    model = leaking(reads(2, to=slice(0, 2)))
    yield Suspect("place matters", model, 3, False, "place = 3: logits 0 and 1 read token 2, which is before place")
    yield Suspect("place moves", model, 2, True, "the same model, and place = 2")
    what = "a model in which the two tokens with the largest numbers of the text count"
    yield Suspect("top-k", leaking(_two_largest), 4, True, what, RANKED)
    model = leaking(reads(5, token=4, rows=(0, 2)))
    what = f"{at}: the logits of the first row read whether token 5 of the third row is a 4; here it is a 3"
    yield Suspect("another row", model, 3, True, what)
    what = f"{at}: the logits of the first row read token 5 of the second row, less token 5 of the third"
    yield Suspect("one row at a time", leaking(compares(5, 1, 2)), 3, True, what)
    what = f"{at}: a causal model, one of whose logits is NaN, whatever is read"
    yield Suspect("a constant NaN", leaking(always(math.nan, which=4)), 3, False, what)
    what = f"{at}: a logit at place 0 is NaN where token 4 of its row is a 2"
    yield Suspect("NaN comes and goes", leaking(spoils(4, which=2)), 3, True, what)


def neighbours(texts: Tensor) -> Iterator[Suspect]:
    """Every place of these texts, for a causal model and for one in which each place reads the next one."""
    for place in range(1, texts.shape[1]):
        what = f"texts {list(texts.shape)}, place = {place}"
        yield Suspect("short texts", leaking(), place, False, f"a causal model, {what}", texts)
        model = leaking(reads(place, to=place - 1))
        yield Suspect(
            "short texts", model, place, True, f"a model in which each place reads the next one, {what}", texts
        )


def transformers(texts: Tensor, places: Iterable[int], *, routing: Any = None) -> Iterator[Suspect]:
    """A small causal transformer, or one with a Mixture-of-Depths layer that routes like this."""
    for place in places:
        what = f"a transformer in float32, texts {list(texts.shape)}, place = {place}"
        what += f"; a Mixture-of-Depths layer, routing {routing}" if routing else "; it is causal"
        name = "Mixture-of-Depths" if routing else "transformers"
        yield Suspect(name, language_model(routing=routing), place, routing == "top_k", what, texts)


def looks_ahead(check: Task, answer: Callable[..., bool], *, cases: Callable[[], Iterable[Suspect]] = suspects) -> None:
    """Task 3: models of which it is known whether they look ahead."""
    check.by_hand(
        "by hand",
        answer,
        without=WITHOUT,
        tested="what the code of looks_ahead uses",
        likely="PyTorch alone: replace, run and compare",
    )
    for name, model, place, looks, what, texts in cases():
        tokens = texts.clone()
        with check.untouched(
            "tokens stay", tested=what, likely="changed = tokens.clone(), and then change that", x=tokens
        ):
            said = answer(model, tokens, place)
        check.true(
            "True or False",
            type(said) is bool,
            tested="what looks_ahead gives",
            expected="a bool",
            got=type(said).__name__,
            likely="bool(...) makes one of a tensor of one number; torch.equal gives one",
        )
        check.equal(name, said, looks, tested=what, likely=_WHY.get(name, _LOOKS if looks else _CAUSAL))


_CAUSAL = (
    "change nothing before place, and compare only what stands before it: logits[:, :place] leaves place itself out, "
    "which may of course read its own token"
)
_LOOKS = "change a token at place or later, run the model again, and compare the logits before place"
_WHY = {
    "the length": "replace tokens and keep their number: how long the text is, is no token of it",
    "the shape": "run the replaced tokens in the shape in which the first ones ran: rounding differs between shapes",
    "transformers": "run the replaced tokens in the shape in which the first ones ran: rounding differs between shapes",
    "a small leak": "compare the logits themselves, not the likeliest token nor the probabilities, and forgive "
    "nothing, nor let torch.allclose do so: the lecture's bound of 1e-4 is for models that round differently, and here "
    "none does",
    "the first place sees it": "compare all logits before place; one of them that differs is enough",
    "the place before sees it": "compare up to place - 1: logits[:, :place]; one of them that differs is enough",
    "the token at place": "the token at place itself is one to replace: start at place, not after it; and one "
    "difference is enough, whatever the tokens after it show",
    "the last token": "every later place has to be tried, to the end",
    "a token in between": "every later place has to be tried, not the first and the last alone",
    "one token of the vocabulary": "try every token of the vocabulary, 0 to logits.shape[-1] - 1, whatever the text "
    "holds",
    "one at a time": "replace one token and leave the others as they were: of several that change together, one may "
    "undo the other",
    "one row at a time": "replace one token of one row: of two rows that change together, one may undo the other",
    "another row": "replace a token in any row, and look at the logits of all rows: a batch made of one row and its "
    "replacements has lost the others",
    "a constant NaN": "NaN is not equal to itself: where both are NaN nothing has changed",
    "rows that cancel": "replace one token of one row: of two rows that change together, one may undo the other",
    "NaN comes and goes": "a logit that becomes NaN has changed, though no difference with NaN is above 0: compare "
    "with ==, and forgive only where both are NaN",
    "always NaN": "NaN is not equal to itself: where both are NaN nothing has changed",
    "the last of all": "try every row, to the last token of the vocabulary at the last place",
    "NaN elsewhere": "compare number by number; a NaN that is always there hides no other logit",
    "place matters": "what stands before place stays the same: only tokens at place or later are replaced",
    "place moves": "replace the token at place too",
    "top-k": "many a change alters nothing, as long as the same two are the largest: try every token at every later "
    "place",
    "one logit": "compare every logit before place",
    "by a hair": "compare with torch.equal, not allclose",
    "a leak that cancels": "compare number by number: sums and means hide it",
    "a shift": "compare the logits themselves: a softmax and an argmax do not see a shift",
    "the last row": "replace in every row, and compare all of them",
    "the first row": "replace in every row, and compare all of them",
    "across rows": "replace tokens in every row, and compare all rows",
    "minus infinity": "the difference of two infinities is NaN: torch.equal compares without a difference",
    "Mixture-of-Depths": "top-k looks ahead, a threshold or a predictor on the token alone does not",
}


def language_model(*, routing: Any = None) -> CausalLM:
    """A causal transformer in float32 with large weights; with a routing, its second layer is a mixture of depths."""
    generator = torch.Generator().manual_seed(21)
    model = CausalLM(vocabulary=7, dim=16, depth=2, heads=2)
    if routing:  # masked: gathered, its last digits depend on how many are routed
        routed = MixtureOfDepths(model.blocks[1], 0.25, predictor=True, execution="masked", routing=routing)
        model.blocks[1] = routed
    for weights in model.parameters():
        weights.data.normal_(std=0.4, generator=generator)
    return model.eval()


# ---- task 4: routing_loss and predictor_loss


class Weighted(nn.Module):
    """The plainest predictor, w·x."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights


LOGITS = (
    (
        torch.tensor([[1.5, -0.5, 2.0, -3.0], [0.25, 1.0, -2.0, -1.0]], dtype=torch.float64),
        marked(4, (0,), (1,)),
    ),
    (torch.tensor([[300.0, -300.0, 300.0, -300.0, 0.5]]), marked(5, (0, 1, 4))),
)


def routing_losses(
    check: Task,
    routing_loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    predictor_loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    *,
    logits: Iterable[tuple[Tensor, Tensor]] = LOGITS,
    predictor: Callable[[], nn.Module] = Weighted,
    x: Tensor | None = None,
    lengths: Sequence[int] = (5, 2, 4),
    seed: int = 3,
) -> None:
    """Task 4: r and masks; then a predictor that reads x (made of something), with a mask of some tokens; both first
    with everybody present, and then in rows of these lengths."""
    check.by_hand(
        "by hand",
        routing_loss,
        predictor_loss,
        without=WITHOUT,
        tested="what the code of the two losses uses",
        likely="PyTorch alone: it has a binary cross-entropy that takes logits",
    )
    for r, mask in logits:
        _one_loss(check, lambda r, mask: routing_loss(r, mask, mask | True), r.clone(), mask.clone())
    x = checks.normal(2, 4, 2, seed=1, dtype=torch.float64) if x is None else x
    mask = marked(x.shape[1], *((row,) for row in range(len(x))))
    _loss_of_predictor(check, lambda part, x, mask: predictor_loss(part, x, mask, mask | True), predictor(), x, mask)
    _losses_of_lengths(check, routing_loss, predictor_loss, predictor, x.shape[-1], lengths, seed)


def _one_loss(check: Task, answer: Callable[[Tensor, Tensor], Tensor], r: Tensor, mask: Tensor) -> None:
    large = bool(r.abs().max() > 50)
    on = f"r = {r.tolist() if r.numel() < 9 else list(r.shape)}, {r.dtype}; among the k: {_routed(mask)}"
    tolerance = 1e-10 if r.dtype == torch.float64 else 1e-5
    with check.untouched(tested=on, r=r, mask=mask):
        loss = answer(r, mask)
    check.equal("one number", _shape(loss), (), tested=on, likely="the mean over all tokens of all rows")
    check.equal(
        "dtype",
        loss.dtype,
        r.dtype,
        tested=f"the dtype of the loss; {on}",
        likely="binary_cross_entropy_with_logits computes in the dtype of its targets: mask.to(r.dtype), not "
        "mask.float()",
    )
    check.close(
        "large logits" if large else "routing loss",
        loss.detach(),
        torch.tensor(_mean(each(r, mask)), dtype=r.dtype),
        tested=on,
        tolerance=tolerance,
        likely="on the logits: of a probability that is 0 in float32 the logarithm is infinite, or cut off"
        if large
        else "-log sigmoid(r) of the k, -log(1 - sigmoid(r)) of the others, mean over all of them; dtype of r",
        mistakes={says: torch.tensor(float(wrong), dtype=r.dtype) for says, wrong in _mistaken_losses(r, mask).items()},
    )
    source = r.clone().requires_grad_()
    loss = answer(source * 1, mask)
    check.true(
        "r learns",
        loss.requires_grad,
        tested="whether the loss reaches r",
        expected="a gradient",
        got="none",
        likely="no detach(), no no_grad() and no .item() between r and the loss",
    )
    (slope,) = torch.autograd.grad(loss, source, allow_unused=True)
    check.close(
        "gradient of r",
        slope,
        _slope(r, mask),
        tested=f"the gradient of the loss with respect to r, (sigmoid(r) - membership) / {r.numel()}; {on}",
        tolerance=tolerance / 10,
        likely="a clamped logarithm has no gradient" if large else None,
    )


def _loss_of_predictor(
    check: Task, answer: Callable[[nn.Module, Tensor, Tensor], Tensor], predictor: nn.Module, x: Tensor, mask: Tensor
) -> None:
    source = (x / 2).requires_grad_()
    x, on = 2 * source, f"x {list(x.shape)}; among the k: {_routed(mask)}"
    odds = predictor(x).detach()
    with check.untouched(
        "x stays in its graph",
        tested=f"x after the call; the model's own loss needs it; {on}",
        likely="detach() gives another tensor; detach_() and requires_grad_(False) change x itself",
        x=x,
    ):
        loss = answer(predictor, x, mask)
    check.close(
        "predictor loss",
        loss.detach() if isinstance(loss, Tensor) else loss,
        torch.tensor(_mean(each(odds, mask)), dtype=x.dtype),
        tested=on,
        tolerance=1e-10,
        likely="the same loss, of predictor(x)",
        mistakes={says: torch.tensor(float(no), dtype=x.dtype) for says, no in _mistaken_losses(odds, mask).items()},
    )
    check.true(
        "the predictor learns",
        loss.requires_grad,
        tested="whether the loss reaches the predictor",
        expected="a gradient",
        got="none",
        likely="detach what goes into the predictor, not what comes out of it; and no no_grad() around it",
    )
    weights = list(predictor.parameters())
    got = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    want = torch.autograd.grad(predictor(x.detach()), weights, _slope(odds, mask))
    for one, other in zip(got, want, strict=True):
        check.close(
            "gradient of the predictor",
            one,
            other,
            tested=f"the gradients of its weights: (sigmoid - membership) / {odds.numel()} at its output; {on}",
            tolerance=1e-10,
        )
    far = 300 * torch.tensor([[[2.0, 0.0], [-2.0, 0.0], [2.0, 0.0]]], dtype=torch.float64)
    members = marked(3, (0, 1))
    check.close(
        "large logits of a predictor",
        answer(Weighted(), far, members).detach(),
        torch.tensor(200.0, dtype=torch.float64),
        tested="a predictor that says 300, -300, 300; among the k are the first and the second",
        tolerance=1e-10,
        likely="on the logits: of a probability that is 0 or 1 to the last digit the logarithm is infinite, or cut off",
    )
    check.close(
        "x is left alone",
        checks.gradient(loss, source),
        torch.zeros_like(source),
        tested=f"the gradient of what x was made of; {on}",
        tolerance=1e-12,
        likely="the predictor reads x.detach()",
    )
    check.close(
        "the model's own gradient",
        checks.gradient(loss + x.square().sum(), source),
        -8 * source.detach(),
        tested="the gradient of what x was made of, from predictor_loss and a loss of the model's own",
        tolerance=1e-12,
        likely="the predictor's loss adds nothing to it, and does not cut x off from the other loss",
    )
    check.true(
        "still in training mode",
        predictor.training and all(weight.requires_grad for weight in weights),
        tested="the predictor after the call",
        expected="in the mode and with the weights that it had",
        likely="no eval(), no requires_grad_(False)",
    )


def _losses_of_lengths(
    check: Task,
    routing_loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    predictor_loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    predictor: Callable[[], nn.Module],
    dim: int,
    lengths: Sequence[int],
    seed: int,
) -> None:
    """Rows of different lengths, filled up with a number, and with NaN."""
    batch, tokens = len(lengths), max(lengths)
    present = marked(tokens, *map(range, lengths))
    r, x = checks.normal(batch, tokens, seed=seed).double(), checks.normal(batch, tokens, dim, seed=seed + 1).double()
    mask = present & (r > 0.2)
    on = f"lengths {[*lengths]} in rows of {tokens}; among the k: {_routed(mask)}"
    right = _mean(each(r[present], mask[present]))
    slope = torch.where(present, (r.sigmoid() - mask.double()) / int(present.sum()), 0.0)
    for fill in (3.0, math.nan):
        given = torch.where(present, r, fill).requires_grad_()
        loss = routing_loss(given * 1, mask, present)
        told = f"{on}; the absent hold {fill:g}"
        rows = [
            _mean(each(row[there], among[there]))
            for row, among, there in zip(r, mask, present, strict=True)
            if there.any()
        ]
        of_all = each(given.detach(), mask)
        check.close(
            "those present",
            loss.detach(),
            torch.tensor(right, dtype=torch.float64),
            tested=told,
            tolerance=1e-10,
            likely="the mean over the tokens that are present"
            + ("; 0 times NaN is NaN: take r[present]" if math.isnan(fill) else ", each of which counts the same"),
            mistakes={
                "a mean over all tokens, the absent among them": _mean(of_all),
                "divided by all tokens: divide by the number of those present": right * len(r[present]) / r.numel(),
                "a mean of the rows' means: every token that is present counts the same": _mean(rows),
                "the absent count as r = 0, which costs log 2 each": _mean(each(torch.where(present, r, 0.0), mask)),
            },
        )
        check.close(
            "gradient of those present",
            torch.autograd.grad(loss, given, allow_unused=True)[0],
            slope,
            tested=f"the gradient of the loss with respect to r; {told}",
            tolerance=1e-11,
            likely="0 where nobody is present; torch.where hides a NaN, but not that of its gradient: index instead",
        )
        part, seen = predictor(), torch.where(present[..., None], x, fill)
        found = predictor_loss(part, seen.clone(), mask, present)
        odds = part(torch.where(present[..., None], x, 0.0))
        check.close(
            "predictor, those present",
            found.detach(),
            torch.tensor(_mean(each(odds[present].detach(), mask[present])), dtype=torch.float64),
            tested=told,
            tolerance=1e-10,
            likely="the same loss, over those present",
        )
        weights = list(part.parameters())
        want = torch.autograd.grad(
            odds, weights, torch.where(present, (odds.detach().sigmoid() - mask.double()) / int(present.sum()), 0.0)
        )
        for one, other in zip(torch.autograd.grad(found, weights, allow_unused=True), want, strict=True):
            check.close(
                "gradient of the predictor, those present",
                one,
                other,
                tested=f"the gradients of the predictor's weights; {told}",
                tolerance=1e-10,
                likely="what the absent hold reached the predictor's weights, if only by 0 times NaN: put zeros there "
                "before it reads x",
            )


def each(logits: Tensor, mask: Tensor) -> list[float]:
    """The loss of every token: log(1 + e^wrong), without the power of a large number."""
    found = []
    for number, among in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        wrong = -number if among else number
        found.append(max(wrong, 0.0) + math.log1p(math.exp(-abs(wrong))))
    return found


def _slope(logits: Tensor, mask: Tensor) -> Tensor:
    return (logits.sigmoid() - mask.to(logits.dtype)) / logits.numel()


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _mean(numbers: Iterable[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found) if found else math.nan


def _mistaken_losses(r: Tensor, mask: Tensor) -> dict[str, float | Tensor]:
    of, odds = each(r, mask), r.sigmoid()
    belongs = mask.flatten().tolist()
    among = [loss for loss, member in zip(of, belongs, strict=True) if member]
    outside = [loss for loss, member in zip(of, belongs, strict=True) if not member]
    return {
        "the sum: take the mean over the tokens": sum(of),
        "summed over the tokens, mean over the batch alone: mean over all tokens": sum(of) / len(r),
        "the targets are the other way round: 1 for the k": _mean(each(r, ~mask)),
        "the sign: the loss is what is to be made small": -_mean(of),
        "sigmoid twice: ..._with_logits takes it itself": _mean(each(odds, mask)),
        "the k alone: those who are not among them count too": _mean(among),
        "the k alone, divided by all tokens: those who are not among them count too": sum(among) / len(of),
        "those outside the k alone: the k count too": sum(outside) / len(of),
        "a softmax over the tokens: each of them is asked on its own, by a sigmoid": -(r.log_softmax(1)[mask]).mean(),
        "the squared distance: binary cross-entropy": (odds - mask.double()).square().mean(),
        "the share that was decided wrongly has no gradient: binary cross-entropy": ((r > 0) != mask).double().mean(),
        "in bits: the natural logarithm": _mean(of) / math.log(2),
        "logits and targets are swapped: first r, then the mask as numbers": _mean(
            math.log1p(math.exp(member)) - member * number
            for number, member in zip(r.flatten().tolist(), belongs, strict=True)
        ),
        "weighted so that both kinds count the same: every token counts the same": (_mean(among) + _mean(outside)) / 2,
    }


# ---- task 5: causal_step

VALUES = (4.0, -3.0, 0.0, 2.0, -6.0, -2.5)
Kind = tuple[float, float | None, float | None]
KINDS: dict[str, Kind] = {
    "a layer without a router": (0.5, None, None),
    "a layer with a router": (0.25, 0.5, None),
    "a layer with a predictor": (-0.5, 0.2, -0.1),
}


class Text(NamedTuple):
    """What transformer layers of these kinds read: so many tokens from a place on, some of them before
    the answer begins, and then in pieces of so many."""

    kinds: Sequence[str]
    tokens: int
    first: int = 0
    prompt: int = 0
    piece: int = 1
    dtype: torch.dtype = torch.float64
    seed: int = 0


def causal_step(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    values: Sequence[float] = VALUES,
    kinds: dict[str, Kind] = KINDS,
    pieces: Sequence[Sequence[int]] = ((6,), (1, 3, 2), (2, 2, 2)),
    texts: Iterable[Text] = (),
) -> None:
    """Task 5: tokens of one number through a layer of each kind (share, router and predictor), through four together,
    one by one and in pieces; and texts through transformer layers."""
    check.by_hand(
        "by hand",
        answer,
        without=("dynlib.tokens", *WITHOUT[1:]),
        tested="what the code of causal_step uses",
        likely="PyTorch alone, and what the layers bring along",
    )
    for name, kind in kinds.items():
        states, held, calls = _by_steps(check, answer, [kind], values)
        expected, ran = whole([kind], values)
        check.close(
            name,
            states,
            expected,
            tested=f"a text of {len(values)} tokens, step by step, through {name} and nothing else",
            tolerance=1e-10,
            likely="r times the update, plus x, where a token runs; x where it passes by; the cache that was given is "
            "the layer's only memory",
            mistakes={says: whole([kind], values, **slip)[0] for says, slip in _STEPS.items()},
        )
        check.equal(
            f"the cache of {name}",
            held,
            ran,
            tested="the positions in that layer's cache after the same text",
            likely="the tokens that ran, each at its place, and no others",
            mistakes={"above 0 runs: 0 itself does not": whole([kind], values, runs=lambda r, odds: odds >= 0)[1]},
        )
        check.equal(
            "nothing for nothing",
            calls,
            [len(row) for row in ran],
            tested=f"how often the block of {name} was called",
            likely="a token that passes by costs no block: decide before you call it",
        )
    if len(kinds) > 1:
        _together(check, answer, [*kinds.values(), (0.125, None, None)], values)
        _in_pieces(check, answer, [*kinds.values(), (0.125, None, None)], values, pieces)
    for text in texts:
        _transformers(check, answer, text)


def _together(check: Task, answer: Callable[..., Tensor], kinds: list[Kind], values: Sequence[float]) -> None:
    states, held, _ = _by_steps(check, answer, kinds, values)
    expected, ran = whole(kinds, values)
    alone, asked = [whole([kind], values) for kind in kinds], whole(kinds, values, asks=values)
    stopped = [[place for place in row if all(place in above for above in ran[:at])] for at, row in enumerate(ran)]
    check.equal(
        "four caches",
        held,
        ran,
        tested=f"the positions in the caches of {len(kinds)} layers after the same text; the last has no router",
        likely="who runs is decided by the token's state at this layer; each layer has its own cache",
        mistakes={
            "the state that the layer itself gets decides, not the one that the first layer got": asked[1],
            "a token that passes one layer by still goes to the next: continue, not break or return": stopped,
            "each layer gets what the one before it gave, not the first state": [one[1][0] for one in alone],
        },
    )
    check.close(
        "four layers",
        states,
        expected,
        tested="the states after the last of these layers",
        tolerance=1e-10,
        likely="each layer gets what the one before it gave",
        mistakes={
            "each layer gets what the one before it gave, not the first state": alone[-1][0],
            "the state that the layer itself gets gives r, not the one that the first layer got": asked[0],
        },
    )


def _in_pieces(
    check: Task,
    answer: Callable[..., Tensor],
    kinds: list[Kind],
    values: Sequence[float],
    pieces: Iterable[Sequence[int]],
) -> None:
    """Several tokens in one call: each layer by itself, then all of them."""
    for some in [[kind] for kind in kinds] + [kinds]:
        for sizes in pieces:
            layers, caches = _layers(some), [LayerCache() for _ in some]
            on = f"{len(values)} tokens through {len(some)} of the four layers, in pieces of {[*sizes]}"
            found, place, called = [], 0, []
            for size in sizes:
                before = [layer.block.calls for layer in layers]
                x = torch.tensor(values[place : place + size], dtype=torch.float64).view(1, -1, 1)
                with check.untouched("x stays", tested=on, likely="+= changes what you were given", x=x):
                    found.append(answer(layers, x, place, caches))
                check.equal("shape", _shape(found[-1]), (1, size, 1), tested=on, likely="a state for each token of x")
                place += size
                called.append([layer.block.calls - had for layer, had in zip(layers, before, strict=True)])
            ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
            begins = [end - size for end, size in zip(ends, sizes, strict=True)]
            start = {place: begin for begin, end in zip(begins, ends, strict=True) for place in range(begin, end)}
            expected, ran = whole(some, values)
            check.equal(
                "the caches after pieces",
                _held(caches),
                ran,
                tested=f"the positions in the caches after {on}",
                likely="each token decides by its own log-odds, and keeps its own place: the i-th of the new ones, "
                "from 0, stands at place + i, whoever passes by before it",
                mistakes={
                    "all tokens of a piece were said to stand at place: they stand at place, place + 1, ...": (
                        whole(some, values, at=lambda place, number, start=start: start[place])[1]
                    ),
                    "those who pass by are in the cache: gather the ones that run": (
                        whole(some, values, writes=True)[1]
                    ),
                },
            )
            check.close(
                "several at once",
                torch.cat(found, dim=1).flatten(),
                expected,
                tested=f"the states after {on}",
                tolerance=1e-10,
                likely="what steps of one token give: each has its own r, decides for itself, and keeps its place",
                mistakes={says: whole(some, values, **slip)[0] for says, slip in _STEPS.items()},
            )
            check.equal(
                "once a piece",
                called,
                [
                    [int(any(begin <= at < end for at in row)) for row in ran]
                    for begin, end in zip(begins, ends, strict=True)
                ],
                tested=f"how often each block was called for each piece; {on}",
                likely="one call for all tokens of a piece that run, and none if nobody does: gather them first",
            )


def _layers(kinds: Sequence[Kind]) -> list[Layer]:
    return [
        Layer(Tally(share), *(None if number is None else _scaled(number) for number in decides))
        for share, *decides in kinds
    ]


def _by_steps(
    check: Task, answer: Callable[..., Tensor], kinds: list[Kind], values: Sequence[float]
) -> tuple[Tensor, list[list[int]], list[int]]:
    """With the learner's function: the states, what the caches hold, and how often each block was called."""
    layers = _layers(kinds)
    caches, found = [LayerCache() for _ in layers], []
    for place, value in enumerate(values):
        x = torch.full((1, 1, 1), value, dtype=torch.float64)
        with check.untouched(
            "x stays",
            tested="the token that you were given, after the call",
            likely="+= changes what you were given: it is the caller's",
            x=x,
        ):
            found.append(answer(layers, x, place, caches))
        check.equal(
            "shape",
            _shape(found[-1]),
            (1, 1, 1),
            tested="the state after the last layer, x [1, 1, 1]",
            likely="a state for each token of x, as it came: no squeeze(), no [0]",
        )
    return torch.cat(found).flatten(), _held(caches), [layer.block.calls for layer in layers]


def _held(caches: Sequence[LayerCache]) -> list[list[int]]:
    return [cache.positions[0].tolist() if cache.length else [] for cache in caches]


def _scaled(number: float) -> nn.Linear:
    """A router, or a predictor, that multiplies tokens of one number by this one."""
    layer = nn.Linear(1, 1, bias=False).double().requires_grad_(False)
    nn.init.constant_(layer.weight, number)
    return layer


def whole(
    kinds: Sequence[Kind],
    values: Sequence[float],
    *,
    runs: Callable[[float, float], bool] = lambda r, odds: odds > 0,
    weight: Callable[[float, float], float] = lambda r, odds: r,
    at: Callable[[int, int], int] = lambda place, number: place,
    keep: float = 1,
    carry: float = 0,
    passing: float = 1,
    dense: float = 1,
    writes: bool = False,
    asks: Sequence[float] | None = None,
) -> tuple[Tensor, list[list[int]]]:
    """The whole text, layer after layer, with plain numbers: the states after the last layer, and who is in which
    cache. runs, weight: from r and log-odds; at: a position, of the place and the number of tokens before it in the
    cache; keep: what remains of a token beside its update; carry: how much of it is in the update; passing: what
    remains of one that does not run; dense: the weight where there is no router; writes: those who pass by are in the
    cache; asks: whose state is asked, if not its own."""
    states, caches = list(values), []
    for share, router, predictor in kinds:
        heard: list[float] = []
        after: list[float] = []
        where: list[int] = []
        for place, state in enumerate(states):
            asked = state if asks is None else asks[place]
            r = 1 if router is None else router * asked
            odds = r if predictor is None else predictor * asked
            goes = router is None or runs(r, odds)
            if goes or writes:
                where.append(at(place, len(heard)))
                heard.append(state)
            if goes:
                factor = dense if router is None else weight(r, odds)
                after.append(keep * state + factor * (carry * state + share * sum(heard) + where[-1]))
            else:
                after.append(passing * state)
        states = after
        caches.append(where)
    return torch.tensor(states, dtype=torch.float64), caches


_STEPS: dict[str, dict[str, Any]] = {
    "the residual counts twice: block.update(x, ...) gives Δ, and block(x, ...) gives x + Δ": {"carry": 1},
    "r times the update replaces x: add x to it": {"keep": 0},
    "the residual counts twice: the update is added to x once": {"keep": 2},
    "the update is multiplied by r where there is a router": {"weight": lambda r, odds: 1},
    "the weight is r, the router's: the predictor only decides": {"weight": lambda r, odds: odds},
    "sigmoid(r): here the weight is r itself": {"weight": lambda r, odds: 1 / (1 + math.exp(-r))},
    "the weight is r with its sign": {"weight": lambda r, odds: abs(r)},
    "a token that passes by keeps its state; here it became 0": {"passing": 0},
    "a layer without a router adds its update; here it was left out": {"dense": 0},
    "above 0 runs: 0 itself does not": {"runs": lambda r, odds: odds >= 0},
    "everyone ran: of one token the first k are that token, and a probability is always above 0: decide by "
    "log-odds above 0": {"runs": lambda r, odds: True},
    "nobody ran where there is a router": {"runs": lambda r, odds: False},
    "where there is a predictor, it decides, not r": {"runs": lambda r, odds: r > 0},
    "the other way round: log-odds above 0 run": {"runs": lambda r, odds: odds < 0},
    "a token that passes by is not in the cache, and update() writes to it: do not call it": {"writes": True},
    "the position is the place in the text, not the number of tokens that the cache holds": {
        "at": lambda place, number: number
    },
    "a position one too high: the token stands at place": {"at": lambda place, number: place + 1},
    "a position one too low: the token stands at place": {"at": lambda place, number: place - 1},
    "every token stands at position 0: it stands at place": {"at": lambda place, number: 0},
}


def _transformers(check: Task, answer: Callable[..., Tensor], text: Text) -> None:
    kinds, tokens, first, prompt, piece, dtype, seed = text
    layers = []
    for number, kind in enumerate(kinds):
        decides = [_router(seed=by * seed + number, dtype=dtype) for by in (20, 30)]
        block = attentive(seed=10 * seed + number, dtype=dtype)
        layers.append(Layer(block, *decides[: ("dense", "threshold", "predictor").index(kind)]))
    x = checks.normal(1, tokens, 8, seed=seed, dtype=dtype)
    expected, ran = _at_once(layers, x, first)
    caches, after = [LayerCache() for _ in layers], f", {prompt} of which the caches hold already" if prompt else ""
    if prompt:
        _at_once(layers, x[:, :prompt], first, caches)
    found = [answer(layers, x[:, at : at + piece].clone(), first + at, caches) for at in range(prompt, tokens, piece)]
    on = f"{', '.join(kinds)}; {tokens} tokens from place {first}{after}, {piece} at a time; {dtype}"
    check.equal(
        "holes",
        _held(caches),
        ran,
        tested=f"positions in the caches: {on}",
        likely="a token that does not run is not in the layer's cache; the caches are not yours to make: write to "
        "those that you are given",
    )
    check.close(
        "as the whole text at once",
        torch.cat(found, dim=1),
        expected[:, prompt:],
        tested=f"the states: {on}",
        tolerance=1e-9 if dtype == torch.float64 else 1e-3,
        likely="step by step gives what the whole text gives: mind the positions, and whose state decides",
    )


def _router(*, seed: int, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(8, 1, bias=False).to(dtype).requires_grad_(False)
    layer.weight.copy_(checks.normal(1, 8, seed=seed, dtype=dtype) / 2)
    return layer


def _at_once(
    layers: Sequence[Layer], x: Tensor, first: int, caches: Sequence[LayerCache] | None = None
) -> tuple[Tensor, list[list[int]]]:
    """A whole text [1, tokens, dim], layer after layer; also who ran where. The caches keep it, if there are any."""
    ran = []
    for number, layer in enumerate(layers):
        chosen = list(range(x.shape[1]))
        decides = layer.router if layer.predictor is None else layer.predictor
        if decides is not None:
            chosen = [at for at in chosen if decides(x[:, at]).item() > 0]
        ran.append([first + at for at in chosen])
        if chosen:
            kept = {} if caches is None else {"cache": caches[number]}
            update = layer.block.update(x[:, chosen], positions=torch.tensor(chosen) + first, **kept)
            after = x.clone()
            for rank, at in enumerate(chosen):
                weight = 1.0 if layer.router is None else layer.router(x[:, at])
                after[:, at] = x[:, at] + weight * update[:, rank]
            x = after
    return x, ran


# ---- task 6: predict, then measure

WORDS = {"a longer window": ("falls", "rises", "stays"), "looks ahead": ("top_k", "threshold", "predictor")}
WINDOW, CAPACITY, DEPTH = 192, 1 / 8, 8
ODDS = torch.tensor([[2.0, -1.0, 0.3, 0.2, -3.0, 1.1], [-0.6, 0.9, 0.1, 1.4, -2.0, -0.4]], dtype=torch.float64)
# The rule says yes to 0, 2, 3, 5 of the first row and 1, 2, 3 of the second: seven, of which three are among the four.
RULES = ((ODDS, marked(6, (0, 1, 2), (1,))), (torch.tensor([[0.0, 0.0, 1.0]]), marked(3, (0, 2))))


def predict(
    check: Task,
    answer: Callable[[], dict[str, Any]],
    agreement: Callable[[Tensor, Tensor], tuple[float, float]],
    *,
    rules: Iterable[tuple[Tensor, Tensor]] = RULES,
    seed: int = 21,
) -> None:
    """Task 6: predictions, measured on models of this seed; then log-odds and masks for ``agreement``."""
    check.prediction(
        answer(),
        _measured(seed),
        tested="eight layers, four of which route 12.5 % of 192 tokens",
        words=WORDS,
        slips=_PREDICTED,
        likely=_USUALLY,
    )
    for log_odds, mask in rules:
        _agreement(check, agreement, log_odds.clone(), mask.clone())


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """What comes out, counted on a small model of eight layers and tried on one that reads other endings."""
    torch.manual_seed(seed)
    with torch.no_grad():
        dense, gathered = _flops(WINDOW, "dense"), _flops(WINDOW, "gathered")
        shares = [
            sum(_flops(window, "gathered")[:2]) / sum(_flops(window, "dense")[:2])
            for window in (WINDOW // 3, WINDOW, WINDOW * 7 // 3)
        ]
        falls, rises = shares == sorted(shares, reverse=True), shares == sorted(shares)
        return {
            "tokens that run": gathered[2],
            "FLOPs of the linear layers": gathered[0] / dense[0],
            "FLOPs of attention": gathered[1] / dense[1],
            "FLOPs masked": _flops(WINDOW, "masked")[0] / dense[0],
            "a longer window": "falls" if falls else "rises" if rises else "stays",
            "accuracy of always no": 1 - gathered[2] / WINDOW,
            "looks ahead": " and ".join(routing for routing in WORDS["looks ahead"] if _changes(routing, seed)),
        }


def _flops(window: int, execution: Literal["dense", "gathered", "masked"]) -> tuple[int, int, int]:
    """Of eight blocks: FLOPs of linear layers, FLOPs of attention, and the tokens that run in the second block."""
    layers: list[nn.Module] = [Block(16, 2, causal=True, rotary=True) for _ in range(DEPTH)]
    linear = [part for block in layers for part in block.modules() if isinstance(part, nn.Linear)]
    given: list[Tensor] = []
    for part in linear:
        part.register_forward_hook(lambda part, inputs, result: given.append(inputs[0]))
    x, routers = torch.randn(1, window, 16), 0
    if execution != "dense":
        for number in range(1, DEPTH, 2):
            layers[number] = routed = MixtureOfDepths(layers[number], CAPACITY, execution=execution)
            routers += count(routed.router, x).flops
    every = count(nn.Sequential(*layers), x).flops - routers
    seen = given[: len(linear)]
    parts = sum(count(part, some).flops for part, some in zip(linear, seen, strict=True))
    return parts, every - parts, seen[len(linear) // DEPTH].shape[-2]


def _changes(routing: Any, seed: int) -> bool:
    """Whether other tokens after the sixth change the logits of the first six, in a model that routes so."""
    generator = torch.Generator().manual_seed(seed)
    model = language_model(routing=routing)
    texts = torch.randint(7, (16, 12), generator=generator)
    others = torch.cat([texts[:, :6], torch.randint(7, (16, 6), generator=generator)], dim=1)
    return not torch.equal(model(texts)[:, :6], model(others)[:, :6])


_LINEAR = "add up the eight layers: four in which all tokens run, four in which an eighth of them does"
_ROUTED = "one routed layer and one window: an eighth of 192 tokens runs, and the rest pass by"
_USUALLY = {
    "tokens that run": _ROUTED,
    "FLOPs of the linear layers": _LINEAR,
    "FLOPs of attention": _LINEAR,
    "FLOPs masked": _LINEAR,
    "a longer window": "attention's share of the dense FLOPs is the smaller one, and attention grows with the square",
    "accuracy of always no": _ROUTED,
    "looks ahead": "whether a token is among the k largest of the text depends on those that follow; whether its own "
    "number is above 0 does not",
}
_PREDICTED: dict[str, dict[str, float | int | str]] = {
    "tokens that run": {
        "those pass by: 12.5 % run": 168,
        "12.5 % is an eighth": 192 / 12.5,
        "all four routed layers together: in one of them": 96,
        "a number of tokens, not a share": 0.125,
        "an eighth of the lecture's 128 tokens: here the window has 192": 16,
    },
    "FLOPs of the linear layers": {
        "every other layer is dense, and runs for all tokens": 1 / 8,
        "the routed layers run for an eighth of the tokens, not for none": 4 / 8,
        "that is attention's: linear layers grow with the number of tokens, not with its square": 0.5078125,
        "the routed layers leave seven eighths out, not one": (4 + 4 * 7 / 8) / 8,
        "what is saved: asked is what is still computed": 3.5 / 8,
        "a share of eight layers' FLOPs, not a number of layers": 4.5,
        "a share, not in percent": 56.25,
        "what is routed computes nothing for those who pass by: masked computes all": 1.0,
    },
    "FLOPs of attention": {
        "an eighth of the queries meets an eighth of the keys: unrouted tokens are no keys": (4 + 4 / 8) / 8,
        "the routed layers run for an eighth of the tokens, not for none": 4 / 8,
        "every other layer is dense, and runs for all tokens": 1 / 64,
        "a share of eight layers' FLOPs, not a number of layers": 4.0625,
        "the square of an eighth is a sixty-fourth": (4 + 4 / 16) / 8,
        "what is saved: asked is what is still computed": (4 - 4 / 64) / 8,
        "a share, not in percent": 50.78125,
    },
    "FLOPs masked": {
        "masked computes every token and throws most of it away": (4 + 4 / 8) / 8,
        "masked computes every token in the routed layers too": 4 / 8,
        "each block runs once, for all tokens, and nothing runs besides": 1.5,
        "a share, not in percent": 100,
    },
    "accuracy of always no": {
        "it is wrong about the eighth that is among the k, and right about the rest": 1 / 8,
        "a coin would be right half of the time; most tokens are not among the k": 1 / 2,
        "it finds nobody among the k, but is right about all others": 0,
        "a share, not in percent": 87.5,
        "a share, not in percent, and that of those whom it gets wrong": 12.5,
        "it misses an eighth": 1,
    },
}


def _agreement(
    check: Task, answer: Callable[[Tensor, Tensor], tuple[float, float]], log_odds: Tensor, mask: Tensor
) -> None:
    kinds = [
        (number > 0, among) for number, among in zip(log_odds.flatten().tolist(), mask.flatten().tolist(), strict=True)
    ]
    total, ahead, said = len(kinds), sum(among for _, among in kinds), sum(yes for yes, _ in kinds)
    right, hit = sum(yes == among for yes, among in kinds), sum(yes and among for yes, among in kinds)
    on = (
        f"{total} tokens {list(mask.shape)}; the rule says yes to {said}, {hit} of which are among the {ahead} that are"
    )
    with check.untouched(tested=on, log_odds=log_odds, mask=mask):
        found = answer(log_odds, mask)
    check.true(
        "two floats",
        isinstance(found, tuple | list) and len(found) == 2 and all(type(share) in (float, int) for share in found),
        tested=on,
        expected="two plain numbers",
        got=found,
        likely=".item() makes a number of a tensor",
    )
    rows = [
        sum(float(log_odds[at, place]) > 0 for place in row) / len(row) for at, row in enumerate(_routed(mask)) if row
    ]
    exactly = " Log-odds of 0 are a no." if bool((log_odds == 0).any()) else ""
    check.close(
        "log-odds of 0" if exactly else "accuracy",
        found[0],
        right / total,
        tested=on + exactly,
        likely=f"right are its yes to {hit}, and its no to {right - hit}: {right} of {total}",
        mistakes={
            "above 0 is yes: 0 itself is a no": ((log_odds >= 0) == mask).double().mean().item(),
            "yes to all: log-odds above 0 say yes, while a probability is always above 0": ahead / total,
            "the share that it is wrong about": 1 - right / total,
            "the tokens that it finds, of all tokens: a right no counts too": hit / total,
            "the share of its yes that is right: of all tokens, yes or no": hit / max(said, 1),
            "a number of tokens: a share of all": float(right),
            "in percent: a share": 100 * right / total,
            "that is the second one: give the share of all tokens first": hit / ahead,
            "log-odds above 1/2 are not probabilities above 1/2: compare with 0": ((log_odds > 0.5) == mask)
            .double()
            .mean()
            .item(),
        },
    )
    check.close(
        "log-odds of 0" if exactly else "found of the k",
        found[1],
        hit / ahead,
        tested=on + exactly,
        likely=f"among the k are {ahead}; the rule says yes to {hit} of them",
        mistakes={
            "above 0 is yes: 0 itself is a no": (log_odds >= 0)[mask].double().mean().item(),
            "over all rows together: a mean of the rows' shares counts a token of a row with few more": _mean(rows),
            "over all rows together: a mean of the rows' shares counts a token of a row with few more, and a row that "
            "has nobody among the k as 0": sum(rows) / len(mask),
            "the share of its yes that is right: of those among the k, how many did it find": hit / max(said, 1),
            "of all tokens: of those among the k": hit / total,
            "the share that it misses": 1 - hit / ahead,
            "a number of tokens: a share of those among the k": float(hit),
            "that is the first one, the accuracy": right / total,
            "in percent: a share": 100 * hit / ahead,
        },
    )
