"""The checks of unit 02. Random answers are held against their law, which is written down or integrated."""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from dynlib import checks
from dynlib.checks import Task

DRAWS = 20_000
EDGES = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).logit()
"""Where relaxed samples are counted: below σ of the first, between it and the next, and so on."""


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that nothing else changes its numbers."""
    return torch.Generator().manual_seed(seed)


# ---- what every function that draws must keep to


def _own_randomness(check: Task, draw: Callable[..., Tensor], on: str) -> None:
    """``draw(generator=...)``, hundreds of numbers: from the generator alone, which goes on, else from torch's own."""
    first, again = (draw(generator=seeded(5)) for _ in range(2))
    check.equal(
        "generator",
        again,
        first,
        tested=f"{on}: two calls with generators of the same seed",
        likely="the noise does not come from the generator that was given",
    )
    torch.rand(1)  # a state that no seed has just set
    before = torch.get_rng_state()
    draw(generator=seeded(5))
    check.true(
        "global generator",
        torch.equal(before, torch.get_rng_state()),
        tested=f"{on}: torch's global generator, before and after a call with another one",
        expected="its state untouched",
        likely="some of the noise still comes from the global generator, or the function seeds it",
    )
    one = seeded(11)
    for name, pair, likely in (
        (
            "the generator goes on",
            (draw(generator=one), draw(generator=one)),
            "use the generator itself, not a fresh one with its seed",
        ),
        (
            "another seed",
            (draw(generator=seeded(21)), draw(generator=seeded(22))),
            "the generator that is given has to make the noise",
        ),
        (
            "without a generator",
            (draw(), draw()),
            "torch.manual_seed inside the function makes every call the same, and so do draws that are kept for the "
            "next call: draw anew",
        ),
    ):
        check.true(
            name,
            not torch.equal(*pair),
            tested=f"{on}: two calls, {name}",
            expected="different draws",
            got="the same",
            likely=likely,
        )
    again = []
    for _ in range(2):
        torch.manual_seed(7)
        again.append(draw())
    check.equal(
        "torch's own generator",
        again[1],
        again[0],
        tested=f"{on}: two calls without a generator, each after torch.manual_seed(7)",
        likely="without a generator the noise is torch's: not Python's, not NumPy's, and no generator of your own",
    )


def _unrelated(check: Task, drawn: Tensor, on: str) -> None:
    """Zeros and ones of as many rows [n], each with the same chance: none knows of another, however far away. Of all
    distances at once the largest correlation, in standard deviations; and so of all mirrored pairs."""
    centred = drawn.double() - drawn.double().mean()
    spectrum, size = torch.fft.fft(centred), len(centred)
    scale = centred.square().sum()
    shifted = torch.fft.ifft(spectrum.abs() ** 2).real[1 : size // 2 + 1] / scale * size**0.5
    shifted[-1] /= 2**0.5  # half way round each pair counts twice, as where they are mirrored
    mirrored = torch.fft.ifft(spectrum**2).real / scale * (size / 2) ** 0.5
    # 30,000 nearly normal numbers of which one passes 8 with a probability below 1e-10
    found = max(float(shifted.abs().max()), float(mirrored.abs().max()))
    check.true(
        "far rows",
        found < 8,
        tested=f"{on}: how much one row's choice tells of another's, over all distances and mirrored pairs",
        expected="at most 8 standard deviations of chance",
        got=found,
        likely="some rows share their noise, or have it turned round (U and 1 - U): one new number for every logit",
    )


WITHOUT = ("dynlib", "torch.nn.functional.gumbel_softmax", "random", "numpy", "scipy")


def _by_hand(check: Task, answer: Callable[..., Any]) -> None:
    check.by_hand(
        "by hand",
        answer,
        without=WITHOUT,
        tested="the code of your function, and of those of yours that it calls",
        likely="with torch's tensors alone: the noise, the sum and the argmax are yours to write",
    )


def _independent(check: Task, name: str, pairs: Tensor, laws: tuple[Tensor, Tensor], on: str, likely: str) -> None:
    """Two choices of one call, [draws, 2], each with its own law, and neither knows of the other."""
    check.frequencies(
        name,
        pairs[:, 0] * len(laws[1]) + pairs[:, 1],
        torch.outer(*laws).flatten(),
        tested=f"{len(pairs)} {on}: how often each pair comes (χ² test)",
        likely=likely,
    )


def _along(logits: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """The logits [k] along one dimension of a shape, the same in every row."""
    spread = [1] * len(shape)
    spread[dim] = len(logits)
    return logits.view(spread).expand(*shape)


def _one_hot(places: Tensor, size: int, like: Tensor, dim: int) -> Tensor:
    """Rows of an identity matrix along ``dim``, in the dtype of ``like``."""
    return torch.eye(size, dtype=like.dtype)[places].movedim(-1, dim)


def _between(below: Tensor) -> Tensor:
    """Shares between the edges, from the shares below each."""
    return torch.cat([torch.zeros(1), below, torch.ones(1)]).diff()


def _tempered(gap: float, tau: float, noise: str) -> dict[str, Tensor]:
    """What known mistakes do to the law of y = σ((gap + logistic noise) / τ): P(y ≤ x) = σ(τ · logit(x) − gap)."""
    at = EDGES
    return {
        "you multiply by tau: divide": _between((at / tau - gap).sigmoid()),
        "you divide only the logits by tau: the noise has to be divided too": _between((at - gap / tau).sigmoid()),
        "you divide only the noise by tau: the logits have to be divided too": _between((tau * (at - gap)).sigmoid()),
        "tau makes no difference in your samples": _between((at - gap).sigmoid()),
        noise: _between((tau * at > gap).float()),
    }


def _twin_gradients(
    check: Task, draw: Callable[..., Tensor], logits: Tensor, tau: float, on: str, *, many: bool, dim: int = -1
) -> None:
    """A soft sample and a hard one of the same noise, of many choices a row or of yes and no: the choices agree, and
    both have the soft one's gradient."""
    leaf, arriving = logits.clone().requires_grad_(), checks.normal(*logits.shape, seed=3, dtype=logits.dtype)
    given: dict[str, Any] = {"dim": dim} if many else {}
    # times 1, so that the gradient has to come through what made the logits
    soft, picked = (draw(leaf * 1.0, tau, hard=hard, generator=seeded(9), **given) for hard in (False, True))
    check.true(
        "hard has a gradient",
        picked.requires_grad,
        tested="whether a gradient can flow through a sample with hard=True",
        expected="requires_grad=True",
        got=picked.requires_grad,
        likely="zeros and ones alone have no gradient: use straight_through",
    )
    y = soft.detach()
    check.equal(
        "the same noise",
        picked.detach() > 0.5,
        y == y.amax(dim, keepdim=True) if many else y > 0.5,
        tested=f"{on}: hard and soft with generators of the same seed, where the choice is",
        likely="the hard sample is the argmax of the soft one, drawn from the generator"
        if many
        else "yes is where the soft sample is above 1/2, drawn from the generator",
    )
    mean = (y * arriving).sum(dim, keepdim=True) if many else y * arriving
    right = y * (arriving - mean) / tau
    for name, sample in (("gradient of soft", soft), ("gradient of hard", picked)):
        (found,) = torch.autograd.grad((sample * arriving).sum(), leaf, allow_unused=True)
        check.close(
            name,
            torch.zeros_like(y) if found is None else found,
            right,
            tested=f"{on}: the {name}",
            tolerance=1e-5,
            likely="the gradient is that of the soft sample with the same noise",
            mistakes={"the factor 1 / tau is missing": right * tau, "no gradient at all": torch.zeros_like(y)},
        )


# ---- task 1: gumbel_max

LAW = torch.tensor([1.5, 0.0, -1.0, 0.5, -math.inf])


def _cut(logits: Tensor, cut: Sequence[int]) -> Iterator[Tensor]:
    """Logits in chunks of these sizes along the last dimension; they can be gone through once."""
    return iter([part.clone() for part in logits.split(list(cut), -1)])


def gumbel_max(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    sizes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = (((2, 3), (2, 2, 1)), ((4,), (3, 1)), ((), (4,))),
    laws: Iterable[tuple[Tensor, tuple[int, ...], tuple[int, ...]]] = ((LAW, (DRAWS,), (2, 1, 2)),),
) -> None:
    """Task 1: batch shapes with sizes of chunks, then logits [k] in every row of a shape, in chunks, against
    softmax(logits)."""
    for shape, cut in sizes:
        parts, on = (
            list(_cut(checks.normal(*shape, sum(cut), seed=1), cut)),
            f"chunks of {[*cut]} choices, rows {[*shape]}",
        )
        with check.untouched(tested=on, **{f"chunk {number}": part for number, part in enumerate(parts)}):
            found = answer(iter(parts))
        check.equal(
            "shape",
            tuple(found.shape),
            shape,
            tested=on,
            likely="one choice for each row, counted through all chunks",
            mistakes={
                "that is one choice for each chunk; it is one of all chunks together": (len(cut), *shape),
                "you give one-hot vectors or weights; give the number of the choice": (*shape, sum(cut)),
            },
        )
        check.equal(
            "whole numbers",
            found.dtype,
            torch.int64,
            tested="the dtype of the indices",
            likely="argmax, and indices of max, are int64",
        )

    # A right answer leaves out one of five equal choices in 500 rows with probability 5 · 0.8^500 < 1e-47.
    check.equal(
        "every row draws",
        answer(_cut(torch.zeros(500, 5), (2, 3))).unique().tolist(),
        [0, 1, 2, 3, 4],
        tested="500 rows of five equal logits, in chunks of 2 and 3: the choices that occur",
        likely="there must be one number of noise for every logit: not one for a row, a chunk or the batch",
        mistakes={
            "what is carried along and compared is logit + noise, not the logit alone": [0, 1],
            "that is the place within its chunk: add how many choices came before it": [0, 1, 2],
            "that is the last chunk's choice, whatever came before": [2, 3, 4],
            "one number of noise for a whole chunk: one for every logit": [0, 2],
        },
    )
    for logits, shape, cut in laws:
        check.frequencies(
            "law",
            answer(_cut(logits.expand(*shape, len(logits)), cut)).flatten(),
            logits.softmax(0),
            tested=f"draws for the logits {logits.tolist()}, {logits.dtype}, in chunks of {[*cut]} (χ² test)",
            likely="the largest of logits + Gumbel noise, one independent number for each logit, drawn once",
            mistakes=_mistaken_laws(logits, cut),
        )
    for shape, cut in sizes:
        table = 1e6 * checks.normal(*shape, sum(cut), seed=1)  # so far apart that noise changes no choice
        rows = table.view(-1, sum(cut)).tolist()
        likely = (
            "each row takes over the largest so far on its own; and no exponential of a large logit, which no float "
        )
        check.equal(
            "each its own row",
            answer(_cut(table, cut)).flatten(),
            torch.tensor([row.index(max(row)) for row in rows]),
            tested=f"chunks of {[*cut]} choices, rows {[*shape]}; logits so far apart that the largest always wins",
            likely=likely + "holds",
            mistakes={
                "the largest so far begins at -inf, or with the first chunk, not at 0": torch.tensor(
                    [row.index(max(row)) if max(row) > 0 else 0 for row in rows]
                ),
                "that is the place within its chunk: add how many choices came before it": torch.tensor(
                    [_within(row.index(max(row)), cut) for row in rows]
                ),
                "that is the largest of the last chunk: it is to be the largest of all": torch.tensor(
                    [row.index(max(row[-cut[-1] :]), len(row) - cut[-1]) for row in rows]
                ),
            },
        )
    never = [-math.inf] * 2
    barred = torch.tensor([[*never, *never, 1.0, 2.0, *never], [0.0, -1.0, *never, *never, *never]])
    found = answer(_cut(barred.expand(200, 2, 8), (2, 2, 2, 2)))
    check.true(
        "impossible chunks",
        bool(((found[:, 0] // 2 == 2) & (found[:, 1] // 2 == 0)).all()),
        tested="four chunks of two choices; in one row the third alone has finite logits, in another the first alone",
        expected="choices of that chunk, 4 and 5 or 0 and 1",
        got=found.unique(),
        likely="a chunk without a finite logit changes nothing for that row; and -inf minus -inf is NaN",
    )
    logits = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.5, -1.0]])
    _independent(
        check,
        "independent rows",
        answer(_cut(logits.expand(DRAWS, 2, 3), (1, 2))),
        (logits[0].softmax(0), logits[1].softmax(0)),
        "pairs of rows of one call",
        "the rows share noise, or logits: draw one number for every logit",
    )
    equal = torch.zeros(40, 500, 4)
    _unrelated(check, answer(_cut(equal, (1, 3))).flatten() < 2, f"{DRAWS} rows [40, 500] of four equal logits")
    _own_randomness(
        check, lambda **given: answer(_cut(torch.zeros(200, 4), (3, 1)), **given), "200 rows of four equal logits"
    )
    _by_hand(check, answer)
    alive: list[weakref.ref[Tensor]] = []
    held = [0]

    def one_by_one() -> Iterator[Tensor]:
        for _ in range(6):
            held.append(sum(made() is not None for made in alive[:-1]))
            yield _remembered(torch.zeros(3, 2), alive)
        held.append(sum(made() is not None for made in alive[:-1]))

    answer(one_by_one())
    check.equal(
        "one chunk at a time",
        max(held),
        0,
        tested="six chunks: how many but the last are still held when the next one is asked for",
        likely="list(chunks), torch.cat and a list of all noise keep every chunk: carry along the largest so far and "
        "where it stood, and nothing else",
    )


def _remembered(made: Tensor, alive: list[weakref.ref[Tensor]]) -> Tensor:
    alive.append(weakref.ref(made))
    return made


def _within(place: int, cut: Sequence[int]) -> int:
    """A choice's place in its own chunk."""
    for size in cut:
        if place < size:
            return place
        place -= size
    raise ValueError(place)


def _mistaken_laws(logits: Tensor, cut: Sequence[int]) -> dict[str, Tensor]:
    size = len(logits)
    exponential = torch.empty(400_000, size).exponential_()
    drawn = {
        "that is the law with normal noise: Gumbel noise it has to be": logits + torch.randn(400_000, size),
        "that is the law with the noise of the wrong sign: u = -log(-log U)": logits + exponential.log(),
        "that is the law with noise -log U: one logarithm is missing": logits + exponential,
        "that is the law with noise -log(1 - log U): log, not log1p": logits - torch.log1p(exponential),
    }
    law = logits.softmax(0)
    folded, evenly = torch.zeros_like(law), torch.cat([part.softmax(0) for part in logits.split(list(cut))]) / len(cut)
    for place, share in enumerate(law.tolist()):
        folded[_within(place, cut)] += share
    return {
        "the noise is added after the softmax: add it to the logits": law.softmax(0),
        "that is the place within its chunk: add how many choices came before it": folded,
        "that is a fair draw of a chunk, and a draw in it: a chunk counts for as much as it weighs": evenly,
        "the one carried along is given new noise with every chunk, or has lost its own: keep logit + noise": (
            _again(logits, cut)
        ),
        **{says: torch.bincount(sums.argmax(-1), minlength=size) / 400_000 for says, sums in drawn.items()},
    }


def _again(logits: Tensor, cut: Sequence[int]) -> Tensor:
    """The law if the best so far meets each chunk with its logit and new noise."""
    draws, before = 400_000, 0
    carried, choice = torch.full((draws,), -math.inf), torch.zeros(draws, dtype=torch.int64)
    for part in logits.float().split(list(cut)):
        among = torch.cat([carried[:, None], part.expand(draws, -1)], dim=1)
        place = (among - torch.empty_like(among).exponential_().log()).argmax(1)
        carried = among.gather(1, place[:, None])[:, 0]
        choice = torch.where(place > 0, before + place - 1, choice)
        before += len(part)
    return torch.bincount(choice, minlength=len(logits)) / draws


# ---- task 2: straight_through

PAIRS = (
    (torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.3, 0.6, 0.1]])),
    (
        (torch.rand(100_000, generator=seeded(2)) < 0.5).float(),
        torch.rand(100_000, generator=seeded(1)),
    ),
    (torch.tensor([[0.0, 1.0, 0.0, 1.0]]), torch.tensor([[-3.0, -1023.7, 12.7, 1000.3]])),
    (torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.3, 2.0, -math.inf]])),
)


def straight_through(
    check: Task, answer: Callable[..., Tensor], *, pairs: Iterable[tuple[Tensor, Tensor]] = PAIRS
) -> None:
    """Task 2: pairs of hard and soft: the value, both gradients, and the value again to the last bit."""
    _by_hand(check, answer)
    for given, relaxed in pairs:
        hard, soft = given.clone().requires_grad_(), relaxed.clone().requires_grad_()
        dtype, finite, scores = soft.dtype, relaxed.isfinite(), bool(relaxed.abs().max() > 1)
        near = 1e-6 if dtype in (torch.float32, torch.float64) else 2e-2
        on = f"hard and soft {list(soft.shape)} in {dtype}"
        on += f": hard {given.flatten().tolist()}, soft {relaxed.flatten().tolist()}" if soft.numel() <= 4 else ""
        with check.untouched(tested=on, hard=hard, soft=soft):
            out = answer(hard, soft)
        check.close(
            "scores" if scores else "value",
            out.detach(),
            given,
            tested=on + ", allowing for rounding",
            tolerance=near,
            likely="the value has to be that of hard"
            if finite.all()
            else "-inf minus -inf is NaN: put a number in its place before you take soft off itself",
            mistakes={
                "that is soft: the value has to be that of hard": relaxed,
                "hard - soft is rounded where soft is large: what is to be added to hard is a 0 that has soft's "
                "gradient": (given - relaxed) + relaxed,
            },
        )
        check.true(
            "has a gradient",
            out.requires_grad,
            tested="whether a gradient can flow through the result",
            expected="requires_grad=True",
            got=out.requires_grad,
            likely="the result has to contain soft itself, not only soft.detach()",
        )
        arriving = checks.normal(*soft.shape, seed=4, dtype=dtype)
        to_hard, to_soft = torch.autograd.grad((out * arriving).sum(), (hard, soft), allow_unused=True)
        to_soft = torch.zeros_like(arriving) if to_soft is None else to_soft
        check.close(
            "gradient of soft",
            torch.where(finite | ~to_soft.isfinite(), to_soft, 0.0),
            torch.where(finite, arriving, 0.0),
            tested=f"{on}: the gradient that reaches soft when random numbers arrive from behind",
            tolerance=near,
            likely="soft has to pass with the factor 1: add and subtract, do not scale",
            mistakes={
                "no gradient reaches soft: it has to stand in the result once without detach()": (
                    torch.zeros_like(arriving)
                )
            },
        )
        check.true(
            "no gradient of hard",
            to_hard is None or not to_hard.any(),
            tested="the gradient that reaches hard",
            expected="none",
            got=to_hard,
            likely="hard.detach() too: here hard comes with a gradient of its own, which is not to be used",
        )
        check.equal(
            "to the last bit",
            out.detach(),
            given,
            tested=f"{on}, to the last bit",
            likely="hard + soft is rounded before soft is taken away again, and so is a detour through another dtype: "
            "mind the brackets",
        )


# ---- task 3: gumbel_softmax

BARRED = torch.tensor([[0.3, -math.inf, 1.0, -1e4], [-math.inf, 0.0, -math.inf, -math.inf]])


def gumbel_softmax(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    sizes: Iterable[tuple[tuple[int, ...], int, float]] = (((3, 4), 0, 1.0),),
    weights: Iterable[tuple[float, float]] = ((1.5, 0.7),),
    choices: Iterable[tuple[Tensor, tuple[int, ...], int, float]] = (
        (torch.tensor([0.5, 2.0, 0.0, -1.0]), (DRAWS, 4), -1, 0.5),
    ),
    temperatures: Iterable[float] = (0.7,),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Task 3: shapes with a dim and a tau; the law of one weight of two, for a logit and a tau; the law of choices,
    logits [k] spread along a dim of a shape, at a tau; gradients at some temperatures, impossible choices too."""
    for shape, dim, tau in sizes:
        logits = checks.normal(*shape, seed=1, dtype=dtype)
        with check.untouched(tested=f"logits {list(shape)}, dim={dim}, tau={tau:g}", logits=logits):
            found = answer(logits, tau, dim=dim)
        check.equal("shape", tuple(found.shape), shape, tested=f"logits {list(shape)}, dim={dim}")
        check.close(
            "sums to one",
            found.sum(dim),
            torch.ones_like(logits.sum(dim)),
            tested=f"logits {list(shape)} in {dtype}, dim={dim}, tau={tau:g}: the sums along dim",
            tolerance=1e-5,
            likely="the softmax runs along another dimension than dim, or noise comes after it; if it is NaN, an exp() "
            "overflowed: use softmax",
        )
    for logit, tau in weights:
        _law_of_weights(check, answer, logit, tau)
    for dim in (0, 1, -1):
        _own_rows(check, answer, 1e6 * checks.normal(3, 4, 5, seed=12, dtype=dtype), dim)
    for logits, shape, dim, tau in choices:
        _law_of_choices(check, answer, logits, shape, dim, tau)
    for tau in temperatures:
        on = f"logits [6, 4] at tau {tau:g}"
        _twin_gradients(check, answer, checks.normal(6, 4, seed=2, dtype=dtype), tau, on, many=True)
        for hard in (False, True):
            _impossible(check, answer, BARRED.to(dtype), tau, hard=hard)
    for dim in (0, 1, -1):
        on = f"logits [3, 4, 5] along dim={dim} at tau 0.8"
        _twin_gradients(check, answer, checks.normal(3, 4, 5, seed=12, dtype=dtype), 0.8, on, many=True, dim=dim)
    for tau in (0.05, 1.0):
        _large(check, answer, LARGE.to(dtype), tau)
    logits = torch.tensor([[1.0, -0.5, 0.3], [0.0, 0.5, -1.0]])
    _independent(
        check,
        "independent rows",
        answer(logits.expand(DRAWS, 2, 3), 1.0).argmax(-1),
        (logits[0].softmax(0), logits[1].softmax(0)),
        "pairs of rows of one call",
        "the rows share noise: draw one number for every logit",
    )
    ones = answer(torch.zeros(200_000, 3), 1e3, hard=True).detach()
    check.equal(
        "one choice",
        (ones == 1).sum(-1).unique().tolist(),
        [1],
        tested="200,000 rows of three equal logits at tau 1000, with hard=True: the numbers of ones in a row",
        likely="two weights may be equal to the last bit: argmax takes one of them, == the largest takes both",
    )
    many = answer(torch.zeros(40, 500, 4), 1.0, hard=True).detach().argmax(-1)
    _unrelated(check, many.flatten() < 2, f"{DRAWS} rows [40, 500] of four equal logits")
    _own_randomness(check, lambda **given: answer(torch.zeros(200, 4), **given), "200 rows of four equal logits")
    _by_hand(check, answer)


ALONG = (
    "the weights, and the one-hot vectors, run along dim: F.one_hot puts the classes last, and movedim(-1, dim) brings "
    "them to their place"
)


def _placed(check: Task, draw: Callable[[], Tensor], on: str, *, hard: bool) -> Tensor:
    """The sample; that one-hot vectors and weights do not fit each other is told as what it is."""
    try:
        return draw()
    except RuntimeError as error:
        if not hard or "size of tensor" not in str(error):
            raise
        told = f"RuntimeError: {error}"
    check.true("hard", False, tested=on, expected="one-hot vectors along dim", got=told, likely=ALONG)
    raise AssertionError("a check that fails does not come back")


def _own_rows(check: Task, answer: Callable[..., Tensor], logits: Tensor, dim: int) -> None:
    """Logits so far apart that noise changes no choice, also where the tensor is not contiguous."""
    right = _one_hot(logits.argmax(dim), logits.shape[dim], logits, dim)
    for what, given in (("", logits), (", not contiguous", logits.movedim(0, -1).contiguous().movedim(-1, 0))):
        for hard in (False, True):
            on = f"logits {list(logits.shape)}{what}, dim={dim}, hard={hard}, so far apart that the largest has all "
            on += "the weight"
            found = _placed(check, partial(answer, given, 0.5, hard=hard, dim=dim), on, hard=hard).detach()
            check.finite("large logits", found, tested=on, likely="exp() of a large number overflows: use softmax")
            check.close(
                "hard" if hard else "sums to one",
                found.sum(dim),
                right.sum(dim),
                tested=f"{on}: the sums along dim",
                likely=ALONG,
            )
            check.close(
                "each its own row",
                found,
                right,
                tested=on,
                likely="each row draws by its own logits, as they are, and stands where it stood: movedim, not "
                "transpose",
            )


LARGE = torch.tensor([[200.0, 199.0, 198.0], [-200.0, -201.0, -199.5], [200.0, -200.0, 0.0], [1e-3, 0.0, 2e-3]])


def _large(check: Task, answer: Callable[..., Tensor], table: Tensor, tau: float) -> None:
    """Logits of some hundreds: finite, and the gradient is the softmax's own."""
    leaf, arriving = table.clone().requires_grad_(), checks.normal(*table.shape, seed=8, dtype=table.dtype)
    sample, on = answer(leaf, tau), f"logits {table.tolist()} in {table.dtype}, tau {tau:g}"
    (found,) = torch.autograd.grad((sample * arriving).sum(), leaf)
    likely = "exp() of a large number overflows, and log() of a weight that is 0 is -inf: softmax of the sum as it is"
    check.finite("large logits", sample.detach(), found, tested=f"{on}: the sample and its gradient", likely=likely)
    y = sample.detach()
    check.close(
        "gradient of large logits",
        found,
        y * (arriving - (y * arriving).sum(-1, keepdim=True)) / tau,
        tested=f"{on}: the gradient, against y (arriving - mean) / tau",
        tolerance=1e-4,
        likely=likely,
    )


def _law_of_weights(check: Task, answer: Callable[..., Tensor], logit: float, tau: float) -> None:
    """Of two choices the first gets the weight σ((logit + logistic noise) / τ)."""
    at, gap = EDGES, torch.tensor(logit)
    after = gap.sigmoid() - (-gap).sigmoid()  # between the two probabilities
    check.frequencies(
        "law of the weights",
        torch.bucketize(answer(torch.tensor([logit, 0.0]).expand(DRAWS, 2), tau)[:, 0], at.sigmoid()),
        _between((tau * at - gap).sigmoid()),
        tested=f"{DRAWS} samples for the logits {logit:g}, 0 at tau {tau:g}: how often the first weight is below 0.1, "
        "0.3, …, 0.9",
        likely="softmax((logits + noise) / tau) with a Gumbel number for every logit",
        mistakes={
            **_tempered(logit, tau, "there is no noise, or the same for all the logits of a row"),
            "the noise comes after a softmax: add it to the logits": _between((tau * at - after).sigmoid()),
            "that is normal noise: Gumbel noise it has to be": _between(
                torch.special.ndtr((tau * at - gap) / math.sqrt(2))
            ),
        },
    )


def _law_of_choices(
    check: Task, answer: Callable[..., Tensor], logits: Tensor, shape: tuple[int, ...], dim: int, tau: float
) -> None:
    rows, law, size = _along(logits, shape, dim), logits.softmax(0), len(logits)
    mistakes = {
        "you choose the largest logit: choose the largest of logits + noise": torch.eye(size)[int(logits.argmax())],
        "that is the law softmax(logits / tau): the noise is not divided by tau": (logits / tau).softmax(0),
    }
    on = f"for the logits {logits.tolist()} in {logits.dtype} along dim={dim} of {list(shape)} at tau {tau:g}"
    soft = answer(rows, tau, dim=dim)
    check.equal("dtype", soft.dtype, logits.dtype, tested=f"samples {on}")
    check.frequencies(
        "law of the largest",
        soft.argmax(dim),
        law,
        tested=f"which weight is the largest in soft samples {on} (χ² test)",
        likely="temperature does not change which weight is the largest: divide logits and noise alike",
        mistakes=mistakes,
    )
    chosen = answer(rows, tau, hard=True, dim=dim).detach()
    one_hot = _one_hot(chosen.argmax(dim), size, logits, dim)
    check.close(
        "hard",
        chosen,
        one_hot,
        tested=f"samples with hard=True {on}, allowing for rounding",
        tolerance=1e-3,
        likely="with hard=True the result is one-hot along dim: 1 for the choice, 0 for all others",
    )
    check.equal(
        "exactly one-hot",
        chosen,
        one_hot,
        tested="the same samples to the last bit",
        likely="the order of the straight-through sum: see task 2",
    )
    check.frequencies(
        "law of the choices",
        chosen.argmax(dim),
        law,
        tested=f"choices with hard=True {on} (χ² test)",
        likely="temperature does not change the law of the choice",
        mistakes=mistakes,
    )


def _impossible(check: Task, answer: Callable[..., Tensor], table: Tensor, tau: float, *, hard: bool) -> None:
    leaf, barred = table.clone().requires_grad_(), table.isinf()
    on = f"logits {table.tolist()}, tau {tau:g}, hard={hard}"
    sample = answer(leaf, tau, hard=hard)
    check.equal(
        "impossible choices",
        sample.detach()[barred],
        torch.zeros_like(table[barred]),
        tested=f"{on}: the weights of -inf",
        likely="-inf plus noise is -inf, and softmax makes 0 of it: use the logits as they are",
    )
    found = checks.gradient(sample, leaf)
    check.true(
        "gradient of impossible choices",
        found.isfinite().all() and not found[barred].any(),
        tested=f"{on}: the gradient",
        expected="finite everywhere, 0 where the logit is -inf",
        got=found,
        likely="a logarithm of a probability that is 0, or -inf minus -inf: use the logits as they are",
    )


# ---- task 4: gumbel_sigmoid


def gumbel_sigmoid(
    check: Task,
    pair: Callable[..., tuple[Tensor, Tensor]],
    *,
    shapes: Iterable[tuple[int, ...]] = ((2, 3),),
    laws: Iterable[tuple[float, float]] = ((0.5, 0.6),),
    shares: Iterable[tuple[float, float]] = ((0.0, 0.6),),
    temperatures: Iterable[float] = (0.7,),
    large: float = 1e4,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Task 4: shapes; the law of soft samples and of hard ones, for a logit and a tau; gradients at some temperatures;
    logits so large that the answer is certain; and the density at the same temperatures."""

    def answer(*given: Any, **how: Any) -> Tensor:
        """The sample alone."""
        return pair(*given, **how)[0]

    for shape in shapes:
        both = pair(torch.zeros(shape, dtype=dtype))
        check.true(
            "a pair",
            isinstance(both, tuple | list) and len(both) == 2 and all(isinstance(part, Tensor) for part in both),
            tested=f"logits {list(shape)}",
            expected="two tensors, the sample and the logarithm of a density",
            got=type(both).__name__,
            likely="return sample, log_density",
        )
        for what, found in zip(("sample", "log-density"), both, strict=True):
            check.equal("shape", tuple(found.shape), shape, tested=f"the {what} of logits {list(shape)}")
            check.equal("dtype", found.dtype, dtype, tested=f"the {what} of logits {list(shape)} in {dtype}")
    for logit, tau in laws:
        _law_of_yes(check, answer, logit, tau)
    for logit, tau in shares:
        decided = answer(torch.full((DRAWS,), logit, dtype=dtype), tau, hard=True)
        check.true(
            "hard",
            ((decided == 0) | (decided == 1)).all(),
            tested=f"{DRAWS} samples with hard=True",
            expected="0 or 1, to the last bit",
            got=decided.unique()[:6],
            likely="with hard=True the result is a straight-through sum, with the brackets of task 2",
        )
        check.frequencies(
            "share of yes",
            decided.long(),
            _no_yes(logit),
            tested=f"{DRAWS} samples with hard=True for the logit {logit:g} at tau {tau:g}: how many are yes",
            likely="temperature does not change P(yes) = sigmoid(logit)",
            mistakes={
                "every sample is a yes: compare the relaxed sample with 1/2, not with 0": torch.tensor([0.0, 1.0]),
                "every sample is a no: compare logit + noise, not the logit, with 0": torch.tensor([1.0, 0.0]),
                "that is sigmoid(logit / tau): divide the noise by tau as well": _no_yes(logit / tau),
            },
        )
    for tau in temperatures:
        on = f"logits [5, 3] at tau {tau:g}"
        _twin_gradients(check, answer, checks.normal(5, 3, seed=2, dtype=dtype), tau, on, many=False)
    _independent(
        check,
        "independent neighbours",
        answer(torch.tensor([0.5, -0.5]).expand(DRAWS, 2), hard=True).long(),
        (_no_yes(0.5), _no_yes(-0.5)),
        "rows of the logits 0.5, -0.5",
        "the logits of a row share noise: draw for each of them",
    )
    for hard in (False, True):
        leaf = torch.tensor([[large, -large]], dtype=dtype, requires_grad=True)
        sample, on = answer(leaf, 0.1, hard=hard), f"logits ±{large:g} at tau 0.1, hard={hard}"
        check.equal(
            "certain",
            sample.detach(),
            torch.tensor([[1.0, 0.0]], dtype=dtype),
            tested=on,
            likely="noise cannot change it: if it is NaN, an exp() overflowed",
        )
        check.equal(
            "gradient where certain",
            checks.gradient(sample, leaf),
            torch.zeros_like(leaf),
            tested=on,
            likely="a logarithm of a probability that has become 0: use the logits as they are",
        )
    table = 1e6 * checks.normal(3, 4, 5, seed=12, dtype=dtype)
    for what, given in (("", table), (", not contiguous", table.movedim(0, -1).contiguous().movedim(-1, 0))):
        for hard in (False, True):
            check.close(
                "each its own",
                answer(given, 0.5, hard=hard),
                (table > 0).to(dtype),
                tested=f"logits [3, 4, 5]{what}, hard={hard}, so large that noise changes nothing",
                likely="each decides by its own logit, and stands where it stood",
            )
    _unrelated(check, answer(torch.zeros(40, 500), hard=True).detach().flatten(), f"{DRAWS} logits of 0, [40, 500]")
    _own_randomness(check, lambda **given: answer(torch.zeros(200), **given), "200 logits of 0")
    _by_hand(check, pair)
    for tau in temperatures:
        _density(check, pair, checks.normal(50, 3, seed=4), tau)
    soft, density = pair(torch.zeros(DRAWS), 4.0, generator=seeded(13))  # at tau 4, x is small where the noise is large
    check.close(
        "density in float32",
        density.double(),
        _log_slope(soft.double().logit(), torch.zeros(DRAWS).double(), 4.0),
        tested=f"{DRAWS} logits of 0 in float32 at tau 4: the log-density, against differences of P(x <= t)",
        tolerance=2e-5,
        likely="1 - sigmoid(a) has lost its digits where sigmoid(a) is nearly 1: F.logsigmoid(a) + F.logsigmoid(-a)",
    )
    for hard in (False, True):
        leaf = torch.tensor([[large, -large, 0.0]], dtype=dtype, requires_grad=True)
        density = pair(leaf, 0.1, hard=hard)[1]
        check.finite(
            "density where certain",
            density,
            checks.gradient(density, leaf),
            tested=f"the log-density and its gradient, logits ±{large:g} and 0 at tau 0.1, hard={hard}",
            likely="the density is that of the log-odds x, not of sigma(x), which is 0 or 1 here; and its logarithm is "
            "written with F.logsigmoid, not with log(sigmoid(...))",
        )


def _no_yes(logit: float) -> Tensor:
    return torch.tensor([-logit, logit]).sigmoid()


def _law_of_yes(check: Task, answer: Callable[..., Tensor], logit: float, tau: float) -> None:
    at, gap = EDGES, torch.tensor(logit)
    check.frequencies(
        "law",
        torch.bucketize(answer(gap.expand(DRAWS), tau), at.sigmoid()),
        _between((tau * at - gap).sigmoid()),
        tested=f"{DRAWS} samples for the logit {logit:g} at tau {tau:g}: how often they are below 0.1, 0.3, …, 0.9 (χ² "
        "test)",
        likely="sigmoid((logit + noise) / tau), with a difference of two new Gumbel numbers for every logit",
        mistakes={
            "that is one Gumbel number: it takes the difference of two": _between((-(gap - tau * at).exp()).exp()),
            "that is minus one Gumbel number: it takes the difference of two": _between(
                1 - (-(tau * at - gap).exp()).exp()
            ),
            "that is normal noise: it takes the difference of two Gumbel numbers": _between(
                torch.special.ndtr(tau * at - gap)
            ),
            **_tempered(logit, tau, "there is no noise, or one number for all"),
            "the noise comes after a sigmoid: add it to the logit": _between((tau * at - gap.sigmoid()).sigmoid()),
        },
    )


def _log_slope(at: Tensor, logits: Tensor, tau: float, step: float = 1e-4) -> Tensor:
    """The logarithm of how steeply P(x <= t) = sigma(tau t - l) rises, by differences; on the side where they are small
    numbers, which floats tell apart best."""
    gap = tau * at - logits
    side = torch.where(gap > 0, -1.0, 1.0)
    above, below = (torch.sigmoid(side * (gap + way * tau * step)) for way in (1, -1))
    return ((above - below).abs() / (2 * step)).log()


def _density(check: Task, pair: Callable[..., tuple[Tensor, Tensor]], logits: Tensor, tau: float) -> None:
    """The density of the log-odds against the slope of P(x <= t) = sigma(tau t - l), of samples in float64."""
    logits = logits.double()
    leaf = logits.clone().requires_grad_()
    soft, density = pair(leaf * 1.0, tau, generator=seeded(13))
    hard_density = pair(leaf * 1.0, tau, hard=True, generator=seeded(13))[1].detach()
    y, on = soft.detach(), f"logits {list(logits.shape)} at tau {tau:g}, in float64"
    clear = (y > 1e-6) & (y < 1 - 1e-6)  # elsewhere y does not tell x well
    x, certain = y.clamp(1e-6, 1 - 1e-6).logit(), torch.zeros_like(y)
    right, step = _log_slope(x, logits, tau), 1e-4
    gap = tau * x - logits
    slips = {
        "log tau is missing: x is the noise, moved and divided by tau, which makes its density tau times as large": (
            right - math.log(tau)
        ),
        "log tau has the wrong sign: dividing by tau makes the density tau times as large": right - 2 * math.log(tau),
        "the density, not its logarithm": right.exp(),
        "that is the density of the sample sigma(x): it is asked of x": right - y.log() - (-y).log1p(),
        "that is the logarithm of the probability of the decision, not of the density of x": (
            torch.where(y > 0.5, logits, -logits).double().sigmoid().log()
        ),
        "that is the density of a Gumbel number: the noise is a difference of two, and logistic": (
            math.log(tau) - gap - (-gap).exp()
        ),
        "that is log P(x <= t): the density is its slope": gap.sigmoid().log(),
        "the logits are missing: it is tau x - l that is logistic": _log_slope(x, 0 * logits, tau),
        "it is tau x - l that is logistic, not x": _log_slope(x, 0 * logits, 1.0),
    }
    for what, found in (("", density.detach()), (" of a hard sample of the same noise", hard_density)):
        check.close(
            "density",
            torch.where(clear, found, certain),
            torch.where(clear, right, certain),
            tested=f"{on}: the log-density{what}, against differences of P(x <= t) at the x of the relaxed sample",
            tolerance=1e-5,
            likely="P(x <= t) = sigma(tau t - l): its slope with respect to t, and the logarithm of that; hard changes "
            "the sample, not x",
            mistakes={says: torch.where(clear, slip, certain) for says, slip in slips.items()},
        )
    check.true(
        "density has a gradient",
        density.requires_grad,
        tested="whether a gradient flows from the log-density to the logits",
        expected="requires_grad=True",
        got=density.requires_grad,
        likely="x is held fixed, the logits are not",
    )
    slope = (_log_slope(x, logits + step, tau) - _log_slope(x, logits - step, tau)) / (2 * step)
    found = checks.gradient(density, leaf)
    loss = torch.linspace(-1, 2, leaf.numel(), dtype=torch.float64).view_as(leaf)
    check.close(
        "gradient of the density",
        torch.where(clear, found, certain),
        torch.where(clear, slope * loss, certain),
        tested=f"{on}: the gradient of a sum of log-densities, each times a number of its own",
        tolerance=1e-5,
        likely="a = tau x - l with x detached: it moves against the logits",
        mistakes={
            "none: x moved with the logits, so that tau x - l stayed the noise; hold x fixed": certain,
            "the wrong sign: with x held fixed, a falls where a logit rises": torch.where(
                clear, -slope * loss, certain
            ),
            "1 / tau too much: with respect to l, not to x": torch.where(clear, slope * loss / tau, certain),
        },
    )


# ---- task 5: exact_gradient


class Loss:
    """A loss of one-hot rows that is a lookup, with or without a gradient of its own."""

    def __init__(self, losses: Sequence[float], says: str, *, smooth: bool = True) -> None:
        self.losses, self.says, self.smooth = losses, says, smooth
        self.seen: list[Tensor] = []
        self.weights = torch.tensor(losses, dtype=torch.float64).requires_grad_(smooth)

    def __call__(self, z: Tensor) -> Tensor:
        self.seen.append(z.detach().clone())
        if self.smooth:  # squared, so that the loss of a mixture is another than the mixture of the losses
            return (z**2) @ self.weights.to(z.dtype)
        return self.weights.to(z.dtype)[z.argmax(-1)]


THREE = torch.tensor([0.2, 1.0, -0.7], dtype=torch.float64)
LOSSES = (
    (Loss([0.5, 2.5, 8.5], "f(z) = 0.5 z₁² + 2.5 z₂² + 8.5 z₃²"), THREE),
    (Loss([0.0, 1.0, 4.0], "f(z) = (number of the choice)²: 0, 1, 4", smooth=False), THREE),
)


def exact_gradient(
    check: Task, answer: Callable[..., Tensor], *, cases: Iterable[tuple[Loss, Tensor]] = LOSSES
) -> None:
    """Task 5: losses with logits [k], against central differences of the expected loss; also without gradients."""
    _by_hand(check, answer)
    for f, logits in cases:
        dtype, barred = logits.dtype, bool(logits.isinf().any())
        on = f"{f.says}, {len(logits)} choices in {dtype}" + (", one of them impossible" if barred else "")
        leaf, f.weights.grad, f.seen = logits.clone().requires_grad_(), None, []
        with check.untouched(tested=on, logits=leaf):
            found = answer(f, leaf)
        check.close(
            "impossible choices" if barred else "gradient" if f.smooth else "a loss without a gradient",
            found.detach(),
            torch.tensor(_slopes(f.losses, logits.tolist()), dtype=dtype),
            tested=f"{on}, against central differences of the expected loss",
            tolerance=1e-6 if dtype == torch.float64 else 1e-5,
            likely="p log p, or log p, of a probability that is 0"
            if barred
            else "the sum over all k one-hot vectors: nothing is drawn, nothing is relaxed; if it is NaN, an exp() "
            "overflowed: use softmax"
            if f.smooth
            else "f may be anything: only its values may enter, not its gradient",
            mistakes=_mistaken_gradients(f, logits),
        )
        strange = next((z for z in f.seen if not _rows_of_one(z, logits)), None)
        check.true(
            "what f gets",
            strange is None,
            tested=f"{on}: what f was called with",
            expected=f"one-hot rows [n, {len(logits)}] of {dtype}",
            got=None if strange is None else f"{list(strange.shape)} of {strange.dtype}: {strange.tolist()}",
            likely="torch.eye(k, dtype=logits.dtype) holds all of them; a single one is a row too, z[None]",
        )
        check.true(
            "no graph",
            not found.requires_grad,
            tested="the result for logits that require a gradient",
            expected="requires_grad=False",
            got=found.requires_grad,
            likely="detach what you give",
        )
        check.true(
            "the caller's gradients",
            leaf.grad is None and f.weights.grad is None,
            tested="logits.grad, and the .grad of a parameter inside f, after a call",
            expected="None, as before",
            got=[leaf.grad, f.weights.grad],
            likely="backward() fills .grad of every leaf: use torch.autograd.grad, and detach the losses",
        )
        for name, tested, within in (
            ("logits without a gradient", "called with logits that require no gradient", torch.enable_grad()),
            ("under no_grad", "called under torch.no_grad()", torch.no_grad()),
        ):
            with within:
                other = _without_a_graph(check, name, answer, f, logits.clone(), f"{on}: {tested}")
            check.close(
                name,
                other.detach(),
                found.detach(),
                tested=f"{on}: {tested}",
                likely=GRAPH,
            )


GRAPH = (
    "autograd needs a copy of the logits that requires a gradient, logits.detach().clone().requires_grad_(), and "
    "with torch.enable_grad(): around softmax and grad, since the caller may have switched gradients off"
)


def _without_a_graph(
    check: Task, name: str, answer: Callable[..., Tensor], f: Loss, logits: Tensor, tested: str
) -> Tensor:
    """The answer where nothing given has a graph; that autograd finds none is told as what it is."""
    try:
        return answer(f, logits)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        told = f"RuntimeError: {error}"
    check.true(name, False, tested=tested, expected="the same gradient as before", got=told, likely=GRAPH)
    raise AssertionError("a check that fails does not come back")


def _rows_of_one(z: Tensor, logits: Tensor) -> bool:
    """Whether these are one-hot rows, as f is told that it gets."""
    if z.ndim != 2 or z.shape[1] != len(logits) or z.dtype != logits.dtype:
        return False
    return bool(((z == 0) | (z == 1)).all() and (z.sum(1) == 1).all())


def _slopes(losses: Sequence[float], logits: Sequence[float], step: float = 1e-5) -> list[float]:
    """Central differences of the expected loss, in plain numbers."""

    def expected(scores: Sequence[float]) -> float:
        weights = [math.exp(score - max(scores)) for score in scores]
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)

    found = []
    for place in range(len(logits)):
        up, down = ([score + sign * step * (j == place) for j, score in enumerate(logits)] for sign in (1, -1))
        found.append((expected(up) - expected(down)) / (2 * step))
    return found


def _mistaken_gradients(f: Loss, logits: Tensor) -> dict[str, Tensor]:
    p = logits.softmax(0)
    losses = torch.tensor(f.losses, dtype=logits.dtype)
    through = logits.clone().requires_grad_()
    (mixture,) = torch.autograd.grad(Loss(f.losses, "")(through.softmax(0)[None]).sum(), through)
    return {
        "that is the gradient of f(softmax(logits)), the loss of the mixture: f is to see one-hot vectors": mixture,
        "the factor p_j is missing: dp_i/ds_j = p_i (1[i = j] - p_j)": losses - p @ losses,
        "that is the gradient with respect to p: go on to the logits": losses,
        "the mean of f is taken with equal weights: weigh with p": p * (losses - losses.mean()),
        "p_j f_j alone: all the other p_i depend on the logit j too": p * losses,
        "the sign is turned": -torch.tensor(_slopes(f.losses, logits.tolist()), dtype=logits.dtype),
    }


# ---- task 6: predict, then measure

WORDS = ("rises", "falls", "stays")
ODDS = (1.0, 2.0, 5.0)
FOUR = (torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 4.0], [3.0, 4.0]]), torch.tensor([6.0, -1.0]))
"""Variances 2 and 3, so that the sum, its root, the mean and those divided by n - 1 are all different numbers."""


def predict(
    check: Task,
    said: Callable[[], Any],
    bias_variance: Callable[..., tuple[float, float]],
    *,
    seed: int = 7,
    estimates: Iterable[tuple[Tensor, Tensor]] = (FOUR,),
) -> None:
    """Task 6: the predictions, beside integrals over the noise and measured samples; then ``bias_variance`` of
    estimates [n, k] and an exact gradient [k]."""
    names = [f"third largest at tau {tau:g}" for tau in (0.1, 10)]
    thirds = {name: _third_largest(float(name.split()[-1])) for name in names}
    odds = torch.tensor(ODDS)
    why = "is the third number the largest more often when all are divided by tau?"
    check.by_hand(
        "foretold",
        said,
        without=("dynlib", *(f"__main__.{name}" for name in ("gumbel_softmax", "gumbel_max", "exact_gradient"))),
        tested="the code of predict",
        likely="predict from the formulas: the last cell measures",
    )
    check.prediction(
        said(),
        {**thirds, **_directions(seed)},
        tested="logits 0, log 2 and log 5; probabilities to three digits, and tau falls from 10 to 0.1",
        words={f"{what} as tau falls": WORDS for what in ("bias", "variance")},
        slips={
            name: {
                "right to two digits: give three": 0.63,
                "right to two digits, cut off: give three": 0.62,
                "that is softmax(logits / tau): but the noise is divided by tau as well": (
                    (odds.log() / float(name.split()[-1])).softmax(0)[2].item()
                ),
                "that is the probability of the second choice": (odds / odds.sum())[1].item(),
                "that all weights become nearly equal does not make their order random in equal shares": 1 / 3,
                "that the sample becomes one-hot does not say which one-hot": 1.0,
            }
            for name in names
        },
        likely={
            **dict.fromkeys(names, why),
            "bias as tau falls": "is what f sees, as tau falls, closer to the one-hot vectors that it will see?",
            "variance as tau falls": "the gradient carries y (1 - y) / tau: do estimates scatter more as tau falls?",
        },
        tolerance=1e-3,
    )
    for rows, exact in estimates:
        _two_numbers(check, bias_variance, rows.clone(), exact.clone())


@cache
def _third_largest(tau: float) -> float:
    """P(the third weight is the largest), integrated over the third perturbed logit divided by τ."""
    at = torch.linspace(-12.0, 40.0, 20_001, dtype=torch.float64) / tau
    logits = torch.tensor(ODDS, dtype=torch.float64).log()
    below = (-(logits[:, None] - tau * at).exp()).exp()  # P((s + u) / τ ≤ x)
    density = tau * (logits[2] - tau * at).exp() * below[2]
    return torch.trapezoid(density * below[0] * below[1], at).item()


@cache
def _directions(seed: int) -> dict[str, str]:
    """Which way bias and variance go as τ falls from 10 to 0.1, in 50,000 samples of the last cell's problem."""
    places = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, -1.0]])

    def f(z: Tensor) -> Tensor:
        return ((z @ places - 0.5) ** 2).sum(-1)

    exact = torch.tensor(_slopes(f(torch.eye(3)).tolist(), [math.log(odds) for odds in ODDS]))
    measured = []
    for tau in (10.0, 0.1):
        # a race: the weights are the odds over exponential numbers, to the power of 1 / τ
        times = torch.empty(50_000, 3, dtype=torch.float64).exponential_(generator=seeded(seed))
        pace = (torch.tensor(ODDS) / times) ** (1 / tau)
        y = (pace / pace.sum(-1, keepdim=True)).float().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(f(y).sum(), y)
        samples = y.detach() * (slope - (y.detach() * slope).sum(-1, keepdim=True)) / tau
        centre = samples.double().mean(0)
        measured.append(((centre - exact).norm().item(), samples.double().var(0).sum().item()))
    return {
        f"{name} as tau falls": "rises" if low > 1.1 * high else "falls" if high > 1.1 * low else "stays"
        for name, high, low in zip(("bias", "variance"), *measured, strict=True)
    }


def _two_numbers(check: Task, answer: Callable[..., tuple[float, float]], rows: Tensor, exact: Tensor) -> None:
    table, target = rows.double().tolist(), exact.double().tolist()
    n, columns = len(table), list(zip(*table, strict=True))
    mean = [math.fsum(column) / n for column in columns]
    parts = [abs(m - e) for m, e in zip(mean, target, strict=True)]
    spreads = [math.fsum((x - m) ** 2 for x in column) / n for column, m in zip(columns, mean, strict=True)]
    length, spread = math.hypot(*parts), math.fsum(spreads)
    tolerance = 1e-6 if rows.dtype == torch.float64 or n < 100 else 1e-4
    on = f"estimates {table}, exactly {target}" if rows.numel() <= 8 else f"{n} estimates {list(rows.shape)}"
    on += f"; their mean is ({', '.join(f'{m:.4g}' for m in mean)})"
    with check.untouched(tested=on, estimates=rows, exact=exact):
        found = answer(rows, exact)
    bias, variance = found
    check.close(
        "bias",
        bias,
        length,
        tested=on,
        tolerance=tolerance,
        likely="the length of (mean of the estimates - exact)",
        mistakes={
            "the mean distance of the single estimates: take their mean first": (
                (rows - exact).double().norm(dim=-1).mean().item()
            ),
            "the squared length: take the root": length**2,
            "the sum of the parts: take the Euclidean length": sum(parts),
            "the mean of the parts: take the Euclidean length": sum(parts) / len(parts),
            "the largest part: take the Euclidean length": max(parts),
            "relative to the length of the exact gradient, as in the lecture's picture: give the length itself": (
                length / (math.hypot(*target) or 1)
            ),
        },
    )
    unbiased = n / max(1, n - 1)
    check.close(
        "variance",
        variance,
        spread,
        tested=on + f"; the parts have the variances {', '.join(f'{part:.4g}' for part in spreads)}",
        tolerance=tolerance,
        likely="the mean over the estimates of their squared distance to their mean",
        mistakes={
            "the distances to the exact gradient: that is the variance plus the squared bias": spread + length**2,
            "the mean over estimates and parts: sum over the parts": spread / len(parts),
            "divided by n - 1: it is the mean over the n estimates": spread * unbiased,
            "the mean over the parts, divided by n - 1": spread * unbiased / len(parts),
            "the root: give the variance itself": math.sqrt(spread),
        },
    )
    check.true(
        "numbers",
        all(type(number) is float for number in found),
        tested="the type of both",
        expected="floats",
        got=found,
        likely=".item() makes a number of a tensor",
    )
