"""The checks of unit 01. What is right is counted on a real layer or model, packed bit by bit, or tried out."""

import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import cache as kept
from functools import partial
from itertools import accumulate, product
from typing import Any

import torch
from torch import Tensor, nn

from dynlib import checks
from dynlib.backbone import CausalLM
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


def by_formula(check: Task, answer: Callable[..., Any]) -> None:
    """Nothing is run and nothing is counted."""
    check.by_hand(
        "by formula",
        answer,
        without=("dynlib", "torch.nn", "torch.utils.flop_counter"),
        tested="what your code uses",
        likely="the task asks for a formula of the sizes: run no layer and count none",
    )


EXACTLY = "whole numbers of Python are exact at any size; a float has 53 bits, a float32 24, and a rounded one is wrong"


# ---- task 1: block_flops

Sizes = tuple[int, int, int, int, int, int, bool]
"""batch, tokens, dim, heads, kv_heads, hidden, gated"""


def block_flops(
    check: Task,
    answer: Callable[..., int],
    *,
    base: tuple[int, int, int, int, int] = (5, 12, 6, 2, 20),
    sizes: Iterable[Sizes] = (),
) -> None:
    """Task 1: the parts of a block of ``base`` (tokens, dim, heads, kv_heads, hidden) one by one, then whole blocks."""
    tokens, dim, heads, groups, hidden = base
    names = ("batch", "tokens", "dim", "heads", "kv_heads", "hidden", "gated")

    def yours(*block: Any) -> int:
        return answer(**dict(zip(names, block, strict=True)))

    an_int(check, yours(1, *base, False), yours(1, *base, True))
    by_formula(check, answer)
    # Each part alone, as the difference of two blocks that differ in one size.
    for gated in (False, True):
        one, wider = (1, *base, gated), (1, tokens, dim, heads, groups, hidden + 1, gated)
        expected = _counted(*wider) - _counted(*one)
        check.equal(
            "gated" if gated else "feed-forward",
            yours(*wider) - yours(*one),
            expected,
            tested=f"what one more hidden feature adds ({tokens} tokens, dim {dim}, gated={gated})",
            likely="gated, dim to hidden twice, and hidden back to dim"
            if gated
            else "the feed-forward part is two products, dim to hidden and hidden back to dim",
            mistakes={
                "a multiply-add is two FLOPs, one for the product and one for the sum": expected // 2,
                "hidden is a size of its own: nothing here may assume a multiple of dim": 0,
                "gated, the feed-forward part has one product more": 2 * expected // 3 if gated else -1,
                "without the gate there are two products, not three": 3 * expected // 2 if not gated else -1,
            },
        )
    plain, longer = (1, *base, False), (1, 2 * tokens, *base[1:], False)
    expected = _counted(*longer) - 2 * _counted(*plain)
    check.equal(
        "attention",
        yours(*longer) - 2 * yours(*plain),
        expected,
        tested=f"{2 * tokens} tokens in one sequence against {tokens} and {tokens} (dim {dim}, {heads} heads, {groups} "
        "of them with keys): what grows with the square of the tokens",
        likely="attention multiplies twice: queries with keys, then weights with values, tokens² · dim each",
        mistakes={
            "the products inside attention are missing: every token meets every token": 0,
            "half of it: attention multiplies twice, queries with keys and weights with values, "
            "and each token with every other, since this block is not causal": expected // 2,
            "each head works on dim / heads features, so that all heads together cost as one of size dim": heads
            * expected,
            "keys are shared, comparisons are not: each of the query heads compares for itself": expected
            * groups
            // heads,
        },
    )
    fewer = (1, tokens, dim, heads, 1, hidden, False)
    expected = _counted(*plain) - _counted(*fewer)
    check.equal(
        "keys and values",
        yours(*plain) - yours(*fewer),
        expected,
        tested=f"{groups} heads with keys and values against 1 (dim {dim}, {heads} heads)",
        likely="a head has dim / heads features, and fewer of the heads have keys and values to be made",
        mistakes={
            "the projections to keys and values make kv_heads heads, not as many as there are queries": 0,
            "keys and values: two projections": expected // 2,
        },
    )
    expected = _counted(*plain)
    check.equal(
        "projections",
        yours(*plain),
        expected,
        tested=f"the whole block ({tokens} tokens, dim {dim}, {heads} heads, {groups} with keys, hidden {hidden})",
        likely="what grows with the square, with hidden and with kv_heads is right; queries and output are dim to dim",
        mistakes={
            "one projection of dim to dim is missing: there are the queries' and the output's": expected
            - 2 * tokens * dim * dim,
        },
    )
    check.equal(
        "batch",
        yours(3, *base, False),
        _counted(3, *base, False),
        tested="a batch of 3",
        likely="samples do not meet in a block: three cost three times one",
        mistakes={
            "one sample counted, and the batch has 3": expected,
            "tokens of different samples do not attend to each other": _counted(1, 3 * tokens, *base[1:], False),
        },
    )
    many = 10**18 + 1
    check.equal(
        "to the last FLOP",
        yours(many, *base, False),
        many * expected,
        tested=f"a batch of {many:,}",
        likely=EXACTLY,
    )
    for block in sizes:
        check.equal("sizes", yours(*block), _counted(*block), tested=", ".join(map("{} {}".format, names, block)))


class _Grouped(nn.Module):
    """A block whose keys and values are shared among heads: each product written down, to be counted."""

    def __init__(self, dim: int, heads: int, groups: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.gated = heads, groups, dim // heads, gated
        self.query, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key, self.value = (nn.Linear(dim, groups * self.size) for _ in range(2))
        self.gate, self.expand, self.contract = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (k, v))
        x = x + self.output(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
        inside = self.expand(x).relu()
        return x + self.contract(self.gate(x) * inside if self.gated else inside)


@kept
def _counted(batch: int, tokens: int, dim: int, heads: int, groups: int, hidden: int, gated: bool) -> int:
    with torch.no_grad():
        return count(_Grouped(dim, heads, groups, hidden, gated), torch.zeros(batch, tokens, dim)).flops


# ---- task 2: linear_bytes


def linear_bytes(
    check: Task,
    answer: Callable[..., int],
    *,
    inputs: int = 48,
    outputs: int = 20,
    dtype: torch.dtype = torch.bfloat16,
    sizes: Iterable[tuple[int, int, int, int, int, bool]] = ((5, 32, 7, 4, 16, True),),
) -> None:
    """Task 2: the parts of one layer apart, then whole layers (rows, inputs, outputs, bits, group, bias)."""
    on, item = f"{inputs} inputs, {outputs} outputs, {dtype}", dtype.itemsize
    settings: dict[str, Any] = {"bits": 8, "group": inputs, "bias": False}
    one, two, three = (answer(rows, inputs, outputs, dtype, **settings) for rows in (1, 2, 3))
    an_int(check, one, two, three)
    by_formula(check, answer)
    both = _activations(1, inputs, outputs, dtype)
    check.equal(
        "activations",
        three - two,
        both,
        tested=f"what one more row adds ({on}, no bias)",
        likely="a row is read, inputs numbers, and a row is written, outputs numbers",
        mistakes={
            "the output is written too": inputs * item,
            "the input is read too": outputs * item,
            "these are numbers, not bytes: ask dtype.itemsize for the bytes of one": inputs + outputs,
            "the weight is read once, whatever the number of rows": both + inputs * outputs,
            "a number has dtype.itemsize bytes, which need not be four": 4 * (inputs + outputs) if item != 4 else -1,
        },
    )
    with_bias: dict[str, Any] = {"bits": 8, "group": inputs}
    check.equal(
        "bias",
        answer(2, inputs, outputs, dtype, **with_bias) - two,
        torch.zeros(outputs, dtype=dtype).nbytes,
        tested=f"what the bias adds ({on})",
        likely="the bias has one number per output, read once",
        mistakes={
            "the same with bias=True as with bias=False: a bias is read where there is one, and only there": 0,
            "the bias is added to every row, but read once": 2 * outputs * item,
            "only the weight is packed: the bias has the type of the activations": outputs,
        },
    )
    # What does not depend on the rows, for weights of several kinds.
    kinds = (
        ("weights", 8, inputs, outputs, "one byte a number, and a scale of two bytes a row"),
        ("packed", 4, inputs, outputs, "two numbers of four bits share a byte"),
        ("groups", 8, inputs // 3, outputs, "every group of a row has a scale of its own"),
        (
            "the last byte",
            7,
            inputs - 1,
            outputs,
            "a row begins with a byte of its own, so that its last one may be half empty",
        ),
        ("the last group", 8, inputs - 1, outputs, "the last group of a row may be shorter, and has its scale too"),
        ("one output", 5, 7, 1, "one row is packed as any other"),
    )
    for name, bits, group, out, why in kinds:
        settings = {"bits": bits, "group": group, "bias": False}
        shape = inputs - (name == "the last byte")
        both = _activations(1, shape, out, dtype)
        weight, scales = _packed(shape, out, bits, group)
        check.equal(
            name,
            answer(1, shape, out, dtype, **settings) - both,
            weight + scales,
            tested=f"what is read of the weight: {shape} inputs, {out} outputs, {bits} bits, groups of {group}",
            likely=why,
            mistakes={
                "the scales are read too, two bytes each": weight,
                "every row has its own scales": weight + scales // out if out > 1 else -1,
                "bits, not bytes: eight of them make one": shape * out * bits + scales,
                "each row is packed by itself: the next one does not use up its last byte": (
                    -(-shape * out * bits // 8) + scales
                )
                if shape * bits % 8
                else -1,
                "a last byte that is not full is read too": shape * bits // 8 * out + scales
                if shape * bits % 8
                else -1,
                "a last group that is shorter has a scale too": weight + 2 * out * (shape // group)
                if shape % group
                else -1,
                "only what is left over begins another group: where nothing is, there is none": weight
                + scales
                + 2 * out,
                "only what is left over begins another byte: where nothing is, there is none": weight + scales + out,
            },
        )
    rows = 10**18 + 1
    check.equal(
        "to the last byte",
        answer(rows, inputs, outputs, dtype, **with_bias) - answer(0, inputs, outputs, dtype, **with_bias),
        rows * _activations(1, inputs, outputs, dtype),
        tested=f"what {rows:,} rows add ({on})",
        likely=EXACTLY,
    )
    for (rows, into, out, bits, group, bias), kind in product(sizes, (dtype, torch.float32)):
        around = _activations(rows, into, out, kind) + bias * torch.zeros(out, dtype=kind).nbytes
        weight, scales = _packed(into, out, bits, group)
        check.equal(
            "whole layers",
            answer(rows, into, out, kind, bits=bits, group=group, bias=bias),
            around + weight + scales,
            tested=f"{rows} rows, {into} inputs, {out} outputs, {bits} bits, groups of {group}, bias={bias}, {kind}",
            likely="right in another dtype or for another layer: which number of bytes only happens to be right there?",
            mistakes={
                "a scale has two bytes, whatever the dtype": around + weight + scales // 2 * kind.itemsize,
                "a number has dtype.itemsize bytes, which need not be two": 2 * around // kind.itemsize
                + weight
                + scales,
            }
            if kind.itemsize != 2
            else None,
        )


def _activations(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> int:
    """The bytes of what goes in and comes out."""
    return torch.zeros(rows, inputs, dtype=dtype).nbytes + torch.zeros(rows, outputs, dtype=dtype).nbytes


def _packed(inputs: int, outputs: int, bits: int, group: int) -> tuple[int, int]:
    """The bytes of a weight and of its scales, put down one bit after the other."""
    used, scales = 0, 0
    for _ in range(outputs):
        free = 0  # bits of the byte that was begun last
        for place in range(inputs):
            scales += 2 * (place % group == 0)
            for _ in range(bits):
                used, free = (used, free - 1) if free else (used + 1, 7)
    return used, scales


# ---- task 3: roofline

Machine = tuple[str, int, int, torch.dtype, int, int]
"""a name, inputs, outputs, dtype, FLOP/s, bytes/s"""

MACHINES: tuple[Machine, ...] = (
    ("a laptop", 512, 256, torch.float32, 200, 30),
    ("half precision", 512, 256, torch.float16, 200, 30),
    ("a narrow layer", 3, 100, torch.float32, 10, 7),
    ("one row is enough", 256, 128, torch.float32, 1, 9),
    ("equal times", 6, 2, torch.float32, 3, 5),
    ("a hair beside", 32, 32, torch.float32, 32, 5),  # 66 rows; with floats, a little more than 66
    ("millions of rows", 4096, 4096, torch.float32, 1024 * 2000, 2001),
    ("closer than a float can tell", 512, 512, torch.float32, 128 * (10**12 + 8) - 7, 10**12 + 8),
)
NEVER: tuple[Machine, ...] = (
    ("never", 16, 24, torch.float32, 100, 1),
    ("never, though closer with each row", 16, 16, torch.float32, 4, 1),
)


def roofline(
    check: Task,
    answer: Callable[..., int | None],
    *,
    machines: Iterable[Machine] = MACHINES,
    never: Iterable[Machine] = NEVER,
) -> None:
    """Task 3: at the number of rows that was found arithmetic is the limit, with one row less it is memory."""
    for name, inputs, outputs, dtype, peak, bandwidth in machines:
        rows, took = _quickest(partial(answer, inputs, outputs, dtype, peak=peak, bandwidth=bandwidth))
        tested = f"{inputs} → {outputs}, {dtype}, a machine of {peak:,} FLOP/s and {bandwidth:,} bytes/s"
        check.true(
            "there is a number",
            rows is not None,
            tested=tested,
            expected="a number of rows",
            got=str(rows),
            likely="None is for layers whose intensity stays below the ridge however many rows there are, and that is "
            "seen from a row alone: a search that ends somewhere does not see it",
        )
        an_int(check, rows)
        assert rows is not None
        check.true(
            "no search",
            took < 0.1,
            tested=f"the processor's time: {tested}",
            expected="less than 0.1 s, as for ten rows",
            got=f"{took:.2f} s",
            likely="one row tried after the other; it may be billions: write the inequality down, and solve it for the "
            "rows",
        )
        account = _mistaken_account(answer, (name, inputs, outputs, dtype, peak, bandwidth), rows)
        check.true(
            "at least one row",
            rows >= 1,
            tested=tested,
            expected="1 or more",
            got=rows,
            likely="rows are counted from 1",
        )
        flops, moved = 2 * rows * inputs * outputs, _moved(rows, inputs, outputs, dtype)
        check.true(
            name,
            flops * bandwidth >= moved * peak,
            tested=tested,
            expected="so many rows that arithmetic takes as long as memory, or longer",
            got=f"{rows:,} rows: {flops:,} FLOPs take {flops / peak:.6g} s, {moved:,} bytes {moved / bandwidth:.6g} s",
            likely=account or "input, weight, bias and output move, each number dtype.itemsize bytes",
        )
        flops, moved = 2 * (rows - 1) * inputs * outputs, _moved(rows - 1, inputs, outputs, dtype)
        check.true(
            f"{name}, no row more",
            flops * bandwidth < moved * peak,
            tested=tested,
            expected="the smallest such number of rows",
            got=f"{rows:,}, and {rows - 1:,} would do: {flops:,} FLOPs take {flops / peak:.6g} s, "
            f"{moved:,} bytes {moved / bandwidth:.6g} s",
            likely=account or "input, weight, bias and output move once each, and a multiply-add is two FLOPs",
        )
    for name, inputs, outputs, dtype, peak, bandwidth in never:
        try:
            told = str(answer(inputs, outputs, dtype, peak=peak, bandwidth=bandwidth))
        except ZeroDivisionError:
            told = "ZeroDivisionError"
        check.true(
            name,
            told == "None",
            tested=f"{inputs} → {outputs}, {dtype}, a machine of {peak:,} FLOP/s and {bandwidth:,} bytes/s",
            expected="None",
            got=told,
            likely="each row moves its own input and output: what it computes must take longer than what it moves, and "
            "as long is not longer",
        )


Account = Callable[[int, int, int, int], tuple[int, int]]
"""FLOPs and bytes of so many rows, inputs, outputs, and bytes of a number."""

_ACCOUNTS: dict[str, Account] = {
    "a multiply-add is two FLOPs": lambda r, a, b, s: (r * a * b, s * (r * (a + b) + a * b + b)),
    "the output is written too": lambda r, a, b, s: (2 * r * a * b, s * (r * a + a * b + b)),
    "the input is read too": lambda r, a, b, s: (2 * r * a * b, s * (r * b + a * b + b)),
    "the bias is read too": lambda r, a, b, s: (2 * r * a * b, s * (r * (a + b) + a * b)),
    "the bias is read once, not for each row": lambda r, a, b, s: (2 * r * a * b, s * (r * (a + 2 * b) + a * b)),
    "the bias has a number for each output, not for each input": lambda r, a, b, s: (
        2 * r * a * b,
        s * (r * (a + b) + a * b + a),
    ),
    "the weight is read too": lambda r, a, b, s: (2 * r * a * b, s * (r * (a + b) + b)),
    "input and output move too, with each row": lambda r, a, b, s: (2 * r * a * b, s * (a * b + b)),
    "not the weight alone moves: input, bias and output do too": lambda r, a, b, s: (2 * r * a * b, s * a * b),
    "a number has dtype.itemsize bytes, which need not be four": lambda r, a, b, s: (
        2 * r * a * b,
        4 * (r * (a + b) + a * b + b),
    ),
    "a number has dtype.itemsize bytes, which need not be two": lambda r, a, b, s: (
        2 * r * a * b,
        2 * (r * (a + b) + a * b + b),
    ),
    "these are numbers, not bytes: dtype.itemsize are the bytes of one": lambda r, a, b, s: (
        2 * r * a * b,
        r * (a + b) + a * b + b,
    ),
    "by the lecture's count a bias has no FLOPs of its own": lambda r, a, b, s: (
        2 * r * (a + 1) * b,
        s * (r * (a + b) + a * b + b),
    ),
}
_PROBES: tuple[Machine, ...] = (
    ("", 3, 100, torch.float32, 10, 7),
    ("", 20, 12, torch.float32, 50, 16),
    ("", 20, 12, torch.float16, 50, 9),
    ("", 30, 7, torch.float64, 10, 16),
)


def _mistaken_account(answer: Callable[..., int | None], machine: Machine, rows: int) -> str | None:
    """What is wrong with a number of rows: how it was rounded, or the mistake whose account finds it here and the
    answer's numbers on other machines."""

    def ahead(of: Machine, r: int, account: Account | None = None, *, exchanged: bool = False) -> int:
        """By how much arithmetic is the limit: 0 for equal times."""
        _, a, b, dtype, peak, bandwidth = of
        flops, moved = account(r, a, b, dtype.itemsize) if account else (2 * r * a * b, _moved(r, a, b, dtype))
        return flops * peak - moved * bandwidth if exchanged else flops * bandwidth - moved * peak

    if ahead(machine, rows) >= 0 and (rows == 1 or ahead(machine, rows - 1) < 0):
        return None
    answers: list[tuple[Machine, Any]] = [(machine, rows)]
    for probe in _PROBES:
        try:
            answers.append((probe, answer(*probe[1:4], peak=probe[4], bandwidth=probe[5])))
        except ArithmeticError:
            return None

    def finds(account: Account | None, *, exchanged: bool = False) -> bool:
        for of, r in answers:
            if r is None:
                good = ahead(of, 10**15, account, exchanged=exchanged) <= 0
            else:
                good = ahead(of, r, account, exchanged=exchanged) >= 0 and (
                    r == 1 or ahead(of, r - 1, account, exchanged=exchanged) < 0
                )
            if not good:
                return False
        return True

    for says, account in _ACCOUNTS.items():
        if finds(account):
            return says
    if finds(None, exchanged=True):
        return "peak and bandwidth have changed places: FLOPs go by peak, bytes by bandwidth"
    if ahead(machine, rows - 1) == 0:
        return (
            "equal times are enough, and a quotient without a rest needs no rounding up; a float may lie a hair above "
            "a whole number: divide products of whole numbers"
        )
    some = rows // 10**9
    if some and ahead(machine, rows + some + 1) >= 0 > ahead(machine, rows - some - 1):
        return f"nearly: {EXACTLY}"
    if ahead(machine, rows) < 0 <= ahead(machine, rows + 1):
        return "one row too few: round up, never down"
    return None


def _moved(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> int:
    """Bytes of a real layer's tensors; each row of the activations has as many as the first."""
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, dtype=dtype)
    return rows * _activations(1, inputs, outputs, dtype) + sum(tensor.nbytes for tensor in layer.parameters())


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
    by_formula(check, answer)
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
    for long in (2 * 10**6, 2 * 10**7):
        for cache in (True, False):
            costs, seconds = _quickest(partial(_next, answer, prompt, long, cache))
            check.true(
                "closed form",
                seconds < 0.05,
                tested=f"the processor's time for {long:,} new tokens, cache={cache}",
                expected="less than 0.05 s, as for ten",
                got=f"{seconds:.2f} s",
                likely="a loop over the passes, or a sum over a range: 0 + 1 + … + (n - 1) is n (n - 1) / 2",
            )
            one = 1 if cache else prompt + long
            check.equal(
                "long answers",
                costs,
                7 * one + 3 * one * (prompt + long),
                tested=f"what one token more costs after {long:,}, cache={cache}: a pass that reads {one:,}",
                likely=f"right for few tokens: {EXACTLY}",
            )
    for cache in (True, False):
        one = 1 if cache else prompt + 10**12
        check.equal(
            "to the last FLOP",
            _next(answer, prompt, 10**12, cache),
            7 * one + 3 * one * (prompt + 10**12),
            tested=f"what one token more costs after {10**12:,}, cache={cache}: a pass that reads {one:,}",
            likely=EXACTLY,
        )
    for sizes in models:
        model = _made(*sizes.items())
        per_token, per_pair = _prices(model)
        for length, more in texts:
            for cache in (True, False):
                counted = _generating(model, length, more, cache)
                check.equal(
                    "a real model",
                    answer(length, more, per_token=per_token, per_pair=per_pair, cache=cache),
                    counted,
                    tested=f"count on a model of {sizes}, prompt {length}, {more} new tokens, cache={cache}",
                )


@kept
def _made(*sizes: tuple[str, int]) -> CausalLM:
    return CausalLM(vocabulary=13, **dict(sizes))


@kept
def _generating(model: CausalLM, length: int, more: int, cache: bool) -> int:
    return count(model.generate, torch.ones(1, length, dtype=torch.int64), more, use_cache=cache).flops


def _next(answer: Callable[..., int], prompt: int, new: int, cached: bool) -> int:
    costs = [answer(prompt, number, per_token=7, per_pair=3, cache=cached) for number in (new, new + 1)]
    return costs[1] - costs[0]


def _quickest(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the least seconds of the processor that it took in up to three tries."""
    least = float("inf")
    for _ in range(3):
        start = time.thread_time()
        got = call()
        least = min(least, time.thread_time() - start)
        if least < 0.02 or least > 0.2:
            break
    return got, least


@kept
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


@kept
def _prices(model: CausalLM) -> tuple[int, int]:
    """FLOPs per token and per pair: one token costs both, two cost 2 · per_token + 4 · per_pair."""
    with torch.no_grad():
        one, two = (count(model, torch.zeros(1, tokens, dtype=torch.int64)).flops for tokens in (1, 2))
    per_pair = (two - 2 * one) // 2
    return one - per_pair, per_pair


# ---- task 5: predict, then measure

SAID = {"dim": 64, "depth": 1, "heads": 4}
"""The model of the prediction, which has a vocabulary of 256."""


def predict(
    check: Task,
    said: Callable[[], dict[str, Any]],
    doubling: Callable[..., Any],
    *,
    models: Iterable[tuple[int, int, int, int]] = ((2, 3, 3, 1), (1, 5, 2, 3)),
    again: bool = False,
) -> None:
    """Task 5: the measurement on models (depth, prompt, new, batch), then the bands beside what it counts.

    `again`: the bands are held against the right factor, since the model of the prediction was measured already.
    """
    for depth, length, new, batch in models:
        small, prompt = CausalLM(vocabulary=17, dim=24, depth=depth, heads=3), torch.full((batch, length), 2)
        told = f"{new} and {2 * new} tokens after a prompt of {length}, batch {batch}, {depth} layers"
        for cache in (True, False):
            _measured(check, doubling, small, prompt, new, cache, told)
    check.by_hand(
        "on paper",
        said,
        without=("dynlib",),
        tested="what your predicted uses",
        likely="a prediction is made before anything is counted: by the formula of task 4, or in the head",
    )
    bands = said()
    check.true(
        "a dict",
        isinstance(bands, dict) and set(bands) == {"with cache", "without cache"},
        tested="what predicted gives",
        expected="a dict with the keys 'with cache' and 'without cache'",
        got=bands,
    )
    model, prompt, rows = CausalLM(vocabulary=256, **SAID), torch.full((1, 12), 2), []
    for cache, name in ((True, "with cache"), (False, "without cache")):
        try:
            low, high = map(float, bands[name])
        except (TypeError, ValueError):
            low = high = float("nan")
        check.true(
            "a band that says something",
            0 < low <= high <= 1.2 * low,
            tested=f"the width of the band {name}",
            expected="two numbers, 0 < low <= high <= 1.2 · low",
            got=bands[name],
        )
        counted = (
            _factor(model, 12, 12, cache)
            if again
            else _measured(check, doubling, model, prompt, 12, cache, "the model of the prediction")
        )
        rows.append(f"{name:<14} {f'{low:g} to {high:g}':>15} {counted:>15.3f}")
        check.true(
            f"predicted {name}",
            low <= counted <= high,
            tested=f"the factor from 12 to 24 new tokens, {name}",
            expected="a band that holds what your doubling counts",
            got=(low, high),
            likely="a token is read once, and both runs read the prompt: how many are read in all?"
            if cache
            else "each pass reads the prompt and all tokens after it: add up what 12 passes read, and what 24 do",
        )
    print(f"{'factor':<14} {'said':>15} {'came out':>15}", *rows, sep="\n")


def _measured(
    check: Task, doubling: Callable[..., Any], model: CausalLM, prompt: Tensor, new: int, cache: bool, told: str
) -> float:
    """What the learner's function counts on a model: right, and the prompt and the model are as they were."""
    right, other = (_factor(model, prompt.shape[1], new, way) for way in (cache, not cache))
    wrong = {
        "the longer run is divided by the shorter one, not the other way round": 1 / right,
        "the cache is an option of generate: use_cache": other,
    }
    with check.untouched(tested=told, prompt=prompt):
        got = doubling(model, prompt, new, cache=cache)
    check.close(
        "measured",
        got,
        right,
        tested=f"{told}, cache={cache}",
        likely="count model.generate for new and for 2 * new tokens, and divide the second by the first",
        mistakes={says: value for says, value in wrong.items() if abs(value - right) > 1e-6},
    )
    check.true(
        "the model as it was",
        model.training,
        tested=told,
        expected="a model in training mode, as it was given",
        got="a model in evaluation mode",
        likely="counting needs no .eval(), or put it back",
    )
    return float(got)


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
EVEN = torch.tensor([3.0, 1.0, 2.0, 8.0]), torch.tensor([2.0, 1.0, 1.0, 2.0])
DISTURBED = torch.tensor([2.9, 3.3, 90.0, 3.2, 3.6]), torch.tensor([1.3, 1.5, 2.0, 1.25, 1.2])


def median_ratio(
    check: Task,
    answer: Callable[..., Sequence[float]],
    *,
    rounds: Iterable[tuple[str, Tensor, Tensor]] = (("even", *EVEN),),
    numbers: Iterable[int] = (6, 9, 20, 2000),
) -> None:
    """Task 6: a machine that drifts, a round that was disturbed, other rounds (name, first, second), then intervals."""
    check.by_hand(
        "by hand",
        answer,
        without=("dynlib",),
        tested="what your code uses",
        likely="dynlib's Timing has this number: the task is to find it from the seconds",
    )
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
        tested = f"{len(a)} rounds: first {_told(a)}, second {_told(b)}"
        with check.untouched(tested="the seconds", first=first, second=second):
            got = answer(first, second)
        median, low, high = _three(check, got, tested)
        check.close(
            name,
            median,
            right,
            tested=tested,
            likely="divide within each round first, then take the median",
            mistakes={says: value for says, value in wrong.items() if abs(value - right) > 1e-5},
        )
        ends = [low, high]
        if len(a) < 6:
            check.true(
                "few rounds",
                [float(end) for end in ends] == [0.0, float("inf")],
                tested=tested,
                expected='the interval 0.0 … float("inf"): even j = 1 promises less than 95 %',
                got=ends,
            )
    for number in numbers:
        _, first, second = random_rounds(number)[0]
        ordered = sorted(x / y for x, y in zip(first.tolist(), second.tolist(), strict=True))
        tested = f"{number} rounds with random times"
        got, took = _quickest(partial(answer, first, second))
        check.true(
            "quick enough",
            took < 2,
            tested=f"the processor's time for {number:,} rounds",
            expected="less than 2 s",
            got=f"{took:.1f} s",
            likely="outcomes with fewer than j + 1 heads are those with fewer than j and those with j: add these "
            "to the sum that you have, and do not begin anew for each j",
        )
        _, low, high = _three(check, got, tested)
        shares = [Fraction(outcomes, 2**number) for outcomes in accumulate(_coins(number))]  # of 0, 1, … heads or fewer
        j = max(k for k in range(1, number) if shares[k - 1] <= Fraction(1, 40))
        for name, end, at, one_on, one_back in (
            ("the interval's low end", low, j - 1, j, j - 2),
            ("the interval's high end", high, number - j, number - j - 1, number - j + 1),
        ):
            wrong = {
                "one further out would be safe too: j is the largest that keeps the promise": _at(ordered, one_back),
                "one too far in: P(fewer than j heads) counts 0 to j - 1 heads": _at(ordered, one_on),
                "the j-th smallest and the j-th largest are counted from 1, a list from 0": _at(ordered, one_on),
            }
            check.close(
                name,
                end,
                ordered[at],
                tested=tested,
                tolerance=1e-5,
                likely=f"with {number} rounds j is {j}: P(fewer than {j} heads) is "
                f"{float(shares[j - 1]):.4f}, of fewer than {j + 1} {float(shares[j]):.4f}, which is above 0.025",
                mistakes=wrong,
            )


def _three(check: Task, got: Any, tested: str) -> Sequence[Any]:
    good = isinstance(got, tuple | list) or (isinstance(got, Tensor) and got.ndim == 1)
    check.true(
        "three numbers",
        good and len(got) == 3,
        tested=tested,
        expected="a tuple of three numbers: median, low, high",
        got=got,
    )
    three: Sequence[Any] = got.tolist() if isinstance(got, Tensor) else got
    return three


def _at(ordered: Sequence[float], place: int) -> float:
    return ordered[place] if 0 <= place < len(ordered) else float("nan")


@kept
def _coins(number: int) -> tuple[int, ...]:
    """In how many outcomes of so many coins there are 0, 1, … heads: one coin after the other."""
    outcomes = [1]
    for _ in range(number):
        outcomes = [tails + heads for tails, heads in zip([*outcomes, 0], [0, *outcomes], strict=True)]
    return tuple(outcomes)


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
