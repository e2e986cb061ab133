"""The checks of unit 01. What is right is counted on a real layer or model, or simulated tick by tick."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynlib import checks
from dynlib.backbone import Block, CausalLM
from dynlib.checks import Task
from dynlib.cost import count


def an_int(check: Task, *found: object) -> None:
    """All of them are whole numbers of Python's own."""
    for got in found:
        check.true(
            "an int",
            type(got) is int,
            tested="the type of the result",
            expected="int",
            got=type(got).__name__,
            likely="// divides whole numbers and gives one, / gives a float; .item() makes a number of a tensor",
        )


# ---- task 1: block_flops

Sizes = tuple[int, int, int, int, int]
"""batch, tokens, dim, heads, hidden"""


def block_flops(
    check: Task,
    answer: Callable[..., int],
    *,
    base: tuple[int, int, int, int] = (5, 12, 2, 20),
    heads: Iterable[int] = (2, 3),
    sizes: Iterable[Sizes] = (),
) -> None:
    """Task 1: the parts of a block of ``base`` (tokens, dim, heads, hidden) one by one, then whole blocks."""
    tokens, dim, number, hidden = base

    def yours(*block: int) -> int:
        return answer(**dict(zip(("batch", "tokens", "dim", "heads", "hidden"), block, strict=True)))

    an_int(check, yours(1, *base))
    # Each part alone, as the difference of two blocks that differ in one size.
    one, wider = (1, tokens, dim, number, hidden), (1, tokens, dim, number, hidden + 1)
    expected = _counted(*wider) - _counted(*one)
    check.equal(
        "feed-forward",
        yours(*wider) - yours(*one),
        expected,
        tested=f"what one more hidden feature adds ({tokens} tokens, dim {dim})",
        likely="the feed-forward part is two products, dim to hidden and hidden back to dim",
        mistakes={
            "a multiply-add is two FLOPs, one for the product and one for the sum": expected // 2,
            "hidden is a size of its own: nothing here may assume a multiple of dim": 0,
        },
    )
    longer = (1, 2 * tokens, dim, number, hidden)
    expected = _counted(*longer) - 2 * _counted(*one)
    check.equal(
        "attention",
        yours(*longer) - 2 * yours(*one),
        expected,
        tested=f"{2 * tokens} tokens in one sequence against {tokens} and {tokens} (dim {dim}, {number} heads): what "
        "grows with the square of the tokens",
        likely="attention multiplies twice: queries with keys, then weights with values, tokens² · dim each",
        mistakes={
            "the products inside attention are missing: every token meets every token": 0,
            "half of it: attention multiplies twice, queries with keys and weights with values, "
            "and each token with every other, since this block is not causal": expected // 2,
            "each head works on dim / heads features, so that all heads together cost as one of size dim": number
            * expected,
        },
    )
    attention, x = Block(dim, number).attention, torch.zeros(1, tokens, dim)
    with torch.no_grad():
        packed, out = count(attention.query_key_value, x).flops, count(attention.output, x).flops
    expected = _counted(*one)
    check.equal(
        "projections",
        yours(*one),
        expected,
        tested=f"the whole block ({tokens} tokens, dim {dim}, {number} heads, hidden {hidden})",
        likely="attention and feed-forward part are right; look at the projections, dim to dim each",
        mistakes={
            "queries, keys and values are three projections": expected - 2 * packed // 3,
            "the projection behind the heads is missing": expected - out,
        },
    )
    check.equal(
        "batch",
        yours(3, *one[1:]),
        _counted(3, *one[1:]),
        tested="a batch of 3",
        likely="samples do not meet in a block: three cost three times one",
        mistakes={
            "one sample counted, and the batch has 3": _counted(*one),
            "tokens of different samples do not attend to each other": _counted(1, 3 * tokens, *one[2:]),
        },
    )
    for several in heads:
        check.equal(
            "heads",
            yours(1, tokens, dim, several, hidden),
            _counted(1, tokens, dim, several, hidden),
            tested=f"dim {dim} in {several} heads",
            likely="the heads share the features, and so the cost",
        )
    for block in sizes:
        tested = "batch {}, tokens {}, dim {}, heads {}, hidden {}".format(*block)
        check.equal("sizes", yours(*block), _counted(*block), tested=tested)


def _counted(batch: int, tokens: int, dim: int, heads: int, hidden: int) -> int:
    with torch.no_grad():
        return count(Block(dim, heads, hidden=hidden), torch.zeros(batch, tokens, dim)).flops


# ---- task 2: linear_bytes


def linear_bytes(
    check: Task,
    answer: Callable[..., int],
    *,
    inputs: int = 30,
    outputs: int = 20,
    dtype: torch.dtype = torch.float32,
    sizes: Iterable[tuple[int, int, int, bool]] = (),
) -> None:
    """Task 2: activations, weight and bias of one layer apart, then whole layers (rows, inputs, outputs, bias)."""
    on, item = f"{inputs} inputs, {outputs} outputs, {dtype}", dtype.itemsize
    weight, _, activations = _tensors(2, inputs, outputs, dtype, False)
    one, two, three = (answer(rows, inputs, outputs, dtype, bias=False) for rows in (1, 2, 3))
    an_int(check, one, two, three)
    check.equal(
        "activations",
        three - two,
        activations // 2,
        tested=f"what a third row adds ({on}, no bias)",
        likely="a row of input is read and a row of output is written",
        mistakes={
            "the output is written too": inputs * item,
            "the input is read too": outputs * item,
            "these are numbers, not bytes: ask dtype.itemsize for the bytes of one": inputs + outputs,
            "the weight is read once, whatever the number of rows": activations // 2 + weight,
            "a number has dtype.itemsize bytes, which need not be four": 4 * (inputs + outputs) if item != 4 else -1,
        },
    )
    check.equal(
        "weights",
        2 * one - two,
        weight,
        tested=f"what does not depend on the rows ({on}, no bias)",
        likely="the weight is [outputs, inputs], read once",
    )
    check.equal(
        "bias",
        answer(2, inputs, outputs, dtype, bias=True) - two,
        _tensors(2, inputs, outputs, dtype, True)[1],
        tested=f"what the bias adds ({on})",
        likely="the bias has one number per output, read once",
        mistakes={
            "the bias was forgotten": 0,
            "the bias is added to every row, but read once": 2 * outputs * item,
        },
    )
    for rows, into, out, bias in ((5, inputs, outputs, True), *sizes):
        check.equal(
            "as counted",
            answer(rows, into, out, dtype, bias=bias),
            sum(_tensors(rows, into, out, dtype, bias)),
            tested=f"{rows} rows, {into} inputs, {out} outputs, bias={bias}, {dtype}",
        )


def _tensors(rows: int, inputs: int, outputs: int, dtype: torch.dtype, bias: bool) -> tuple[int, int, int]:
    """The bytes of a real layer's weight, of its bias, and of what goes in and comes out."""
    layer, x = nn.Linear(inputs, outputs, bias=bias, dtype=dtype), torch.zeros(rows, inputs, dtype=dtype)
    with torch.no_grad():
        return layer.weight.nbytes, layer.bias.nbytes if bias else 0, x.nbytes + layer(x).nbytes


# ---- task 3: roofline

WORK = (("much arithmetic", 6 * 10**9, 2 * 10**8), ("little arithmetic", 3 * 10**8, 10**9))


def roofline(
    check: Task,
    answer: Callable[..., tuple[float, str]],
    *,
    work: Iterable[tuple[str, int, int]] = WORK,
    per_tick: tuple[int, int] = (10**8, 10**7),
) -> None:
    """Task 3: pieces of work (name, FLOPs, bytes) on a machine that does ``per_tick`` of both in a millisecond."""
    peak, bandwidth = 1000.0 * per_tick[0], 1000.0 * per_tick[1]
    for name, flops, moved in work:
        seconds, bound = answer(float(flops), float(moved), peak=peak, bandwidth=bandwidth)
        ticks, waits_for = _simulated(flops, moved, *per_tick)
        together = flops / peak + moved / bandwidth
        wrong = {
            "they work at the same time, not one after the other": together,
            "the work is done when arithmetic and memory are both done": together - ticks / 1000,
            "a time is work divided by a rate": max(peak / max(flops, 1), bandwidth / max(moved, 1)),
        }
        check.close(
            name,
            seconds,
            ticks / 1000,
            tested=f"{flops:.0e} FLOPs and {moved:.0e} bytes at {peak:.0e} FLOP/s and {bandwidth:.0e} bytes/s",
            likely="arithmetic and memory work at the same time: the slower of the two decides",
            mistakes={says: value for says, value in wrong.items() if value != ticks / 1000},
        )
        even = flops * per_tick[1] == moved * per_tick[0]
        check.equal(
            "ridge" if even else "bound",
            bound,
            waits_for,
            tested=f"{flops / moved:.3g} FLOPs per byte, on a machine that does {peak / bandwidth:.3g} per byte",
            likely="equal times are called compute-bound by the contract"
            if even
            else "many FLOPs per byte are bound by compute, few by memory",
        )


def _simulated(flops: int, moved: int, flops_a_tick: int, bytes_a_tick: int) -> tuple[int, str]:
    """The ticks until both are done, and what worked last."""
    ticks, last = 0, ""
    while flops > 0 or moved > 0:
        last = "compute" if flops > 0 else "memory"
        flops, moved, ticks = flops - flops_a_tick, moved - bytes_a_tick, ticks + 1
    return ticks, last


# ---- task 4: decode_flops

TOKENS = {"per_token": 1, "per_pair": 0}
"""With these, the function counts the tokens that are read."""
PAIRS = {"per_token": 0, "per_pair": 1}
"""And with these, the pairs that are compared."""


def decode_flops(
    check: Task,
    answer: Callable[..., int],
    *,
    prompt: int = 6,
    new: int = 4,
    models: Iterable[dict[str, int]] = (),
    texts: Iterable[tuple[int, int]] = (),
) -> None:
    """Task 4: tokens and pairs of one generation apart, then models of these sizes on texts (prompt, new)."""
    squares = prompt * prompt
    an_int(check, *(answer(prompt, new, per_token=7, per_pair=3, cache=cache) for cache in (True, False)))
    check.equal(
        "first pass",
        [answer(prompt, 1, **kind, cache=True) for kind in (TOKENS, PAIRS)],
        list(_watched(prompt, 1, True)),
        tested=f"1 new token after a prompt of {prompt}, with cache: [tokens read, pairs]",
        likely="the first pass reads the whole prompt, compares each token with all of it, and gives a token",
        mistakes={
            "the first pass reads the prompt and gives the first token; a second one is not needed": [
                prompt + 1,
                squares + prompt + 1,
            ],
            "every token of the prompt is compared with all of it": [prompt, prompt],
            f"nothing is saved in the causal triangle: {prompt} tokens are compared with {prompt}": [
                prompt,
                prompt * (prompt + 1) // 2,
            ],
            "the prompt has to be read too": [1, prompt],
        },
    )
    read, pairs = _watched(prompt, new, True)
    read_all, pairs_all = _watched(prompt, new, False)
    told = f"{new} new tokens after a prompt of {prompt}"
    for name, kind, cache, expected, likely, wrong in (
        (
            "tokens with cache",
            TOKENS,
            True,
            read,
            "the prompt, then one token a pass; the last new token is never read",
            {
                "the last new token is never read": read + 1,
                "with the cache, a pass reads only the token that came last": read_all,
            },
        ),
        (
            "pairs with cache",
            PAIRS,
            True,
            pairs,
            "each new token is compared with the prompt and all new ones before it, and with itself",
            {
                "the cache grows: a later token is compared with more": squares + (new - 1) * prompt,
                "a token is compared with itself too": pairs - (new - 1),
            },
        ),
        (
            "tokens no cache",
            TOKENS,
            False,
            read_all,
            "each pass reads the whole sequence so far",
            {
                "without the cache, each pass reads the whole sequence, not the last token alone": prompt + new - 1,
                "the sequence grows from pass to pass": new * prompt,
            },
        ),
        ("pairs no cache", PAIRS, False, pairs_all, "in a pass over n tokens, n are compared with n", {}),
    ):
        check.equal(
            name, answer(prompt, new, **kind, cache=cache), expected, tested=told, likely=likely, mistakes=wrong
        )
    for cache in (True, False):
        check.equal(
            "nothing new",
            answer(prompt, 0, per_token=7, per_pair=3, cache=cache),
            0,
            tested=f"0 new tokens, cache={cache}",
            likely="without a token to make, there is no pass",
        )
    for sizes in models:
        model = CausalLM(vocabulary=13, **sizes)
        per_token, per_pair = _prices(model)
        for length, more in texts:
            for cache in (True, False):
                counted = count(model.generate, torch.ones(1, length, dtype=torch.int64), more, use_cache=cache).flops
                check.equal(
                    "a real model",
                    answer(length, more, per_token=per_token, per_pair=per_pair, cache=cache),
                    counted,
                    tested=f"count on a model of {sizes}, prompt {length}, {more} new tokens, cache={cache}",
                )


def _watched(prompt: int, new: int, cache: bool) -> tuple[int, int]:
    """The tokens that a real model reads, and the pairs that it compares, in all passes."""
    model, passes = CausalLM(vocabulary=11, dim=8, depth=1, heads=2), []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        read, past = inputs[0].shape[1], options["cache"]
        passes.append((read, read * (read + (past.length if past is not None else 0))))

    block: Any = model.blocks[0]
    block.attention.register_forward_pre_hook(note, with_kwargs=True)
    model.generate(torch.arange(prompt)[None] % 11, new, use_cache=cache)
    return sum(read for read, _ in passes), sum(pairs for _, pairs in passes)


def _prices(model: CausalLM) -> tuple[int, int]:
    """FLOPs per token and per pair: one token costs both, two cost 2 · per_token + 4 · per_pair."""
    with torch.no_grad():
        one, two = (count(model, torch.zeros(1, tokens, dtype=torch.int64)).flops for tokens in (1, 2))
    per_pair = (two - 2 * one) // 2
    return one - per_pair, per_pair


# ---- task 5: predict, then measure


def predict(
    check: Task,
    said: Callable[[], dict[str, Any]],
    doubling: Callable[..., Any],
    *,
    models: Iterable[tuple[int, int, int, int]] = ((2, 3, 6, 1), (1, 5, 2, 3)),
) -> None:
    """Task 5: the measurement on models (depth, prompt, new, batch), then the bands beside what is counted."""
    for depth, length, new, batch in models:
        small, prompt = CausalLM(vocabulary=17, dim=24, depth=depth, heads=3), torch.full((batch, length), 2)
        factors = {cache: _factor(small, length, new, cache) for cache in (True, False)}
        for cache in (True, False):
            wrong = {
                "the longer run is divided by the shorter one, not the other way round": 1 / factors[cache],
                "the cache is an option of generate: use_cache": factors[not cache],
            }
            check.close(
                "measured",
                doubling(small, prompt, new, cache=cache),
                factors[cache],
                tested=f"{new} and {2 * new} tokens after a prompt of {length}, batch {batch}, {depth} layers, "
                f"cache={cache}",
                likely="count model.generate for new and for 2 * new tokens, and divide the second by the first",
                mistakes={says: value for says, value in wrong.items() if value != factors[cache]},
            )
    bands = said()
    check.true(
        "a dict",
        isinstance(bands, dict) and set(bands) == {"with cache", "without cache"},
        tested="what predicted gives",
        expected="a dict with the keys 'with cache' and 'without cache'",
        got=bands,
    )
    model, rows = CausalLM(vocabulary=256, dim=128, depth=2, heads=4), []
    for cache, name in ((True, "with cache"), (False, "without cache")):
        low, high = bands[name]
        check.true(
            "a band that says something",
            0 < low <= high <= 1.3 * low,
            tested=f"the width of the band {name}",
            expected="0 < low <= high <= 1.3 · low",
            got=(low, high),
        )
        truth = _factor(model, 10, 60, cache)
        rows.append(f"{name:<14} {f'{low:g} to {high:g}':>15} {truth:>15.3f}")
        check.true(
            f"predicted {name}",
            low <= truth <= high,
            tested=f"the factor from 60 to 120 new tokens, {name}",
            expected=f"a band that holds what is counted, {truth:.2f}",
            got=(low, high),
            likely="with the cache, a token is read once"
            if cache
            else "without the cache, twice the passes, each over a longer sequence",
        )
    print(f"{'factor':<14} {'said':>15} {'came out':>15}", *rows, sep="\n")


def _factor(model: CausalLM, prompt: int, new: int, cache: bool) -> float:
    """From what a token and a pair cost, and how many of both a small model was seen to read and to compare."""
    prices = _prices(model)
    once, twice = (
        sum(price * number for price, number in zip(prices, _watched(prompt, many, cache), strict=True))
        for many in (new, 2 * new)
    )
    return twice / once


# ---- task 6: median_ratio

# The machine slows down by a half each round; the first program takes twice as long as the second in every round.
DRIFT = torch.tensor([1.0, 1.5, 2.25, 3.375, 5.0625])
DISTURBED = torch.tensor([2.9, 3.3, 90.0, 3.2, 3.6]), torch.tensor([1.3, 1.5, 2.0, 1.25, 1.2])


def median_ratio(
    check: Task, answer: Callable[..., float], *, rounds: Iterable[tuple[str, Tensor, Tensor]] = ()
) -> None:
    """Task 6: a machine that drifts, a round that was disturbed, then other rounds (name, first, second)."""
    for name, first, second in (("drift", 2 * DRIFT, DRIFT), ("a disturbed round", *DISTURBED), *rounds):
        first, second = first.clone(), second.clone()  # an answer may write into what it gets
        a, b = first.tolist(), second.tolist()
        paired = [x / y for x, y in zip(a, b, strict=True)]
        right = _middle(paired)
        wrong = {
            "first / second, not the other way round": 1 / right,
            "the ratio of the means: one disturbed round moves it": sum(a) / sum(b),
            "the mean of the ratios: one disturbed round moves it": sum(paired) / len(paired),
            "the ratio of the medians: it forgets which two times belong to one round": _middle(a) / _middle(b),
            "the least times may come from different rounds": min(a) / min(b),
            "the lower of the two in the middle: take their mean": sorted(paired)[(len(paired) - 1) // 2],
        }
        with check.untouched(tested="the seconds", first=first, second=second):
            got = answer(first, second)
        check.close(
            name,
            got,
            right,
            tested=f"{len(a)} rounds: first {_told(a)}, second {_told(b)}",
            likely="divide within each round first, then take the median",
            mistakes={says: value for says, value in wrong.items() if abs(value - right) > 1e-5},
        )


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _told(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values[:6]) + (", …" if len(values) > 6 else "")


def random_rounds(*numbers: int) -> list[tuple[str, Tensor, Tensor]]:
    """Random times, so many rounds each."""
    return [
        ("random times", checks.normal(rounds, seed=rounds).exp(), checks.normal(rounds, seed=rounds + 100).exp())
        for rounds in numbers
    ]
