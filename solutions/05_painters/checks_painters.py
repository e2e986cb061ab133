"""The checks of unit 05. Plans are judged place by place, layers by hand-made ones whose work is plain arithmetic."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib import checks, depth
from dynlib.backbone import Block
from dynlib.checks import Task
from dynlib.cost import count
from dynlib.data import encode, text, windows
from dynlib.zoo import load


class Painter(nn.Module):
    """A layer whose work is easy to check by hand: its number times the canvas, plus 1, plus the colour that it is
    handed, if any. It counts its calls."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number, self.calls = number, 0

    def forward(self, canvas: Tensor, *, colour: float = 0.0) -> Tensor:
        self.calls += 1
        return self.number * canvas + 1 + colour

    def update(self, *_: Any, **__: Any) -> Tensor:
        """What the course's own blocks have, and these layers do not."""
        raise AttributeError(NO_UPDATE, name="update()", obj=self)


NO_UPDATE = "a layer need not have update(): call it, layer(hidden, **kwargs); what it adds is that minus hidden"


class Step(nn.Module):
    """A layer that adds the same, whatever it gets. It counts its calls."""

    def __init__(self, adds: Tensor) -> None:
        super().__init__()
        self.adds, self.calls = adds, 0

    def forward(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden + self.adds

    update = Painter.update


class Turn(nn.Module):
    """A layer that turns every state, and leaves its length as it is."""

    def __init__(self, dim: int, *, seed: int) -> None:
        super().__init__()
        self.turn = torch.linalg.qr(checks.normal(dim, dim, seed=seed, dtype=torch.float64))[0]

    def forward(self, hidden: Tensor) -> Tensor:
        return (hidden.double() @ self.turn).to(hidden.dtype)


WITHOUT = ("dynlib", "random", "numpy", "scipy")


def _by_hand(check: Task, answer: Callable[..., Any]) -> None:
    check.by_hand(
        "by hand",
        answer,
        without=WITHOUT,
        tested="the code of your function, and of those of yours that it calls",
        likely="Python's lists and torch's tensors are all that it takes",
    )


def _same_mode(check: Task, layers: nn.ModuleList) -> None:
    check.true(
        "the layers' mode",
        all(layer.training for layer in layers),
        tested="whether the layers are in training mode after the call, as they were before",
        expected="yes, all of them",
        likely="leave eval() and train() to the caller",
    )


def blocks(number: int, *, seed: int, dtype: torch.dtype = torch.float64) -> nn.ModuleList:
    """Transformer layers of 6 features, each with large random weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.ModuleList(Block(6, 2, hidden=8, causal=True) for _ in range(number)).to(dtype).requires_grad_(False)
    for weights in made.parameters():
        weights.normal_(std=0.5, generator=generator)
    return made


# ---- task 1: plans

PLANS = ("skip", "middle_repeat", "reverse", "shuffle")
STACKS = ((10, 2, 6),)
BOUNDS = ((4, 2, 5), (4, -2, 3), (4, 2, 2), (4, 3, 1))


def order(
    check: Task,
    answer: Callable[..., list[int]],
    *,
    stacks: Iterable[tuple[int, int, int]] = STACKS,
    bounds: Iterable[tuple[int, int, int]] = BOUNDS,
    names: Iterable[str] = ("sideways",),
    draws: int = 1200,
) -> None:
    """Task 1: every plan on stacks (layers, first, last), bad bounds and names, and how often each order is drawn."""
    for layers, first, last in stacks:
        on = f"{layers} layers, first={first}, last={last}: the middle is {', '.join(map(str, range(first, last)))}"
        for plan in PLANS[:3]:
            found = answer(plan, layers, first, last)
            _numbers(check, found, f"the result of {plan} on {on}")
            check.equal(
                plan,
                found,
                [*_by_place(plan, layers, first, last)],
                tested=on,
                likely=_LIKELY[plan],
                mistakes=_mistaken_plans(plan, layers, first, last),
            )
        _shuffled(check, answer, layers, first, last, on)
    for layers, first, last in bounds:
        for plan in PLANS:
            check.raises(
                "bounds",
                ValueError,
                lambda plan=plan, layers=layers, first=first, last=last: answer(plan, layers, first, last),
                tested=f"{plan}: {layers} layers, 0 … {layers - 1}, first={first}, last={last}",
                likely="ranges and slices clip in silence: raise ValueError unless 0 <= first < last <= layers",
            )
    for name in names:
        check.raises(
            "the name",
            ValueError,
            lambda name=name: answer(name, 4, 1, 3),
            tested=f"plan={name!r}",
            likely="raise ValueError where none of the four names fits",
        )
    kept = answer("skip", 6, 1, 3)
    kept.append(99)
    check.equal(
        "a new list",
        answer("skip", 6, 1, 3),
        [0, 3, 4, 5],
        tested="the same call twice; in between the list of the first was changed by its owner",
        likely="make a new list in every call: one that is kept belongs to the caller too",
    )
    again = []
    for _ in range(2):
        torch.manual_seed(7)
        again.append(answer("shuffle", 10, 1, 9))
    check.equal(
        "torch's own generator",
        again[1],
        again[0],
        tested="two draws without a generator, each after torch.manual_seed(7)",
        likely="without a generator the randomness is torch's: torch.randperm takes generator=None",
    )
    one = torch.Generator().manual_seed(2)
    check.true(
        "the generator goes on",
        len({tuple(answer("shuffle", 10, 1, 9, generator=one)) for _ in range(3)}) > 1,
        tested="three draws from one generator, of a middle of eight",
        expected="several different orders",
        got="the same",
        likely="use the generator itself, not a fresh one with its seed",
    )
    orders = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)]
    generator, before = torch.Generator().manual_seed(3), torch.get_rng_state()
    for given in (generator, None):
        drawn = [tuple(answer("shuffle", 5, 1, 4, generator=given)[1:4]) for _ in range(draws)]
        if given is not None:
            check.true(
                "no other randomness",
                torch.equal(before, torch.get_rng_state()),
                tested="torch's global generator, while yours was given another",
                expected="as it was",
                likely="hand generator on to torch.randperm",
            )
        check.frequencies(
            "every order",
            torch.tensor([orders.index(one) for one in drawn]),
            torch.full((6,), 1 / 6),
            tested=f"the six orders of a middle of three, {draws} draws, {'a' if given else 'no'} generator given",
            likely="torch.randperm makes every order equally likely; swapping places at random, in general, does not"
            if len(set(drawn)) > 1
            else "that is the same order every time: is there a seed of your own in your function? Hand generator on "
            "to torch.randperm as it is, None too",
        )
    _by_hand(check, answer)


_LIKELY = {
    "skip": "range(first), then what the plan makes of the middle, then range(last, layers)",
    "middle_repeat": "before and after the middle as in order; between, layer (first + last) // 2, last - first times",
    "reverse": "before and after the middle as in order; between them last - 1, ..., first",
}


def _numbers(check: Task, found: object, tested: str) -> None:
    check.true(
        "a list of int",
        type(found) is list and all(type(number) is int for number in found),
        tested=tested,
        expected="a list of plain numbers",
        got=found,
        likely=".tolist() makes plain numbers of a tensor, list() a list of a range; / gives a float, // does not",
    )


def _by_place(plan: str, layers: int, first: int, last: int) -> Iterable[int]:
    """Who stands at each place, one place after the other."""
    for place in range(layers):
        inside = first <= place <= last - 1
        if not inside:
            yield place
        elif plan == "reverse":
            yield first + last - 1 - place
        elif plan == "middle_repeat":
            within = sorted(range(first, last))
            yield within[len(within) // 2]


def _mistaken_plans(plan: str, layers: int, first: int, last: int) -> dict[str, list[int]]:
    """What known mistakes give; none of them where it would be the right answer too."""
    every = list(range(layers))
    before, middle, after, size = every[:first], every[first:last], every[last:], last - first
    longer, rest = every[first : last + 1], every[last + 1 :]
    centre = _centre(first, last)
    if plan == "skip":
        wrong = {
            "last is not part of the middle: layer last stays": before + rest,
            "these are the layers to leave out: give the ones that run": middle,
            "first is part of the middle: layer first goes": [*before, first, *after],
            "the middle ends with last - 1: that layer goes too": [*before, last - 1, *after],
            "counted from 0, the first layer is 0": [number + 1 for number in before + after],
            "the layers before the middle run too": after,
            "the layers after the middle run too": before,
            "all the layers: the middle has to go": every,
        }
    elif plan == "middle_repeat":
        wrong = {
            "the centre runs in place of each layer of the middle": [*before, centre, *after],
            "of an even number the centre is the later one: (first + last) // 2": before
            + [(first + last - 1) // 2] * size
            + after,
            "(last - first) // 2 counts from the middle's beginning: add first": before + [size // 2] * size + after,
            "the centre of the middle, not of the whole stack": before + [layers // 2] * size + after,
            "last is not part of the middle: layer last stays": before + [centre] * (size + 1) + rest,
            "one too many: the middle has last - first layers": before + [centre] * (size + 1) + after,
            "one too few: the middle has last - first layers": before + [centre] * (size - 1) + after,
            "the layers before and after the middle run too, each as itself": [centre] * layers,
            "the layers before and after the middle run too": [centre] * size,
        }
    else:
        wrong = {
            "the middle alone is reversed: what stands before and after it stays": every[::-1],
            "last is not part of the middle: layer last stays where it is": before + longer[::-1] + rest,
            "first is part of the middle: range(last - 1, first, -1) stops before it": before + middle[:0:-1] + after,
            "range(last, first, -1) gives last, ..., first + 1: one too high": before + longer[:0:-1] + after,
            "the layers before the middle keep their order": before[::-1] + middle[::-1] + after,
            "the layers before and after the middle keep their order": before[::-1] + middle[::-1] + after[::-1],
            "the layers before and after the middle run too": middle[::-1],
            "the parts are swapped: the layers before the middle run first": after + middle[::-1] + before,
            "nothing is reversed: list.reverse() and sort() change the list and return None": every,
        }
    return wrong


def _centre(first: int, last: int) -> int:
    return list(range(first, last))[(last - first) // 2]


def _shuffled(
    check: Task, answer: Callable[..., list[int]], layers: int, first: int, last: int, on: str, seeds: int = 20
) -> None:
    draws = [
        answer("shuffle", layers, first, last, generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)
    ]
    for drawn in draws:
        _numbers(check, drawn, f"the result of shuffle on {on}")
        check.equal(
            "shuffled ends",
            [*drawn[:first], *drawn[last:]],
            [*range(first), *range(last, layers)],
            tested=f"what stands before and after the middle in {drawn}, drawn on {on}",
            likely="shuffle the middle alone",
        )
        check.equal(
            "shuffled middle",
            sorted(drawn[first:last]),
            [*range(first, last)],
            tested=f"the middle of {drawn}, sorted, on {on}",
            likely="torch.randperm(n) gives 0 ... n - 1 in random order: these are places in the middle, and a layer's "
            "number is its place plus first; torch.randint may draw one of them twice",
        )
    check.equal(
        "generator",
        answer("shuffle", layers, first, last, generator=torch.Generator().manual_seed(seeds - 1)),
        draws[-1],
        tested="two generators with the same seed",
        likely="hand generator on to torch.randperm",
    )
    check.true(
        "at random",
        last - first < 4 or len(set(map(tuple, draws))) > 1,
        tested=f"{seeds} draws from generators with {seeds} different seeds",
        expected=f"several different orders, not {seeds} times the same",
        got=draws[0],
        likely="the order comes from the generator: do not seed it in your function",
    )


# ---- tasks 2 and 3: side by side


def parallel(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    numbers: Sequence[float] = (2, 3, 10),
    stacks: Iterable[tuple[int, tuple[int, int, int]]] = ((3, (2, 4, 6)),),
    masked: bool = False,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Task 2: painters with these numbers on x = 5, then transformer layers, stacks (layers, shape)."""
    row, x = nn.ModuleList(Painter(number) for number in numbers), torch.full((1, 1, 1), 5.0)
    outputs = [number * 5.0 + 1 for number in numbers]
    mean, updates = sum(outputs) / len(row), sum(outputs) - 5.0 * len(row)
    in_turn = share = added = 5.0
    ran, gathered = [], []
    for number in numbers:
        in_turn = number * in_turn + 1
        ran.append(in_turn)
        share = share + (number * share + 1 - share) / len(row)
        gathered.append(number * added + 1)
        added += gathered[-1]
    with check.untouched(
        "hidden stays",
        tested="the hidden states that you were given, after the call",
        likely="+= changes what you were given: it is the caller's",
        hidden=x,
    ):
        found = answer(row, x)
    check.close(
        "mean",
        found,
        torch.full((1, 1, 1), mean),
        tested=f"x = 5, of which {len(row)} layers make {', '.join(f'{output:g}' for output in outputs)}",
        likely="add the outputs, divide by their number; shape and dtype stay as they are",
        mistakes=_filled(
            {
                "x plus the sum of what they add: take the mean": 5 + updates,
                "the mean of what they add, without x: the outputs contain it": updates / len(row),
                "one after the other: here all get the same x": in_turn,
                "one after the other, each with its share: the second gets x too, not what the first made of it": share,
                "each layer gets the same x: the second got x plus the first's output": added,
                "each layer gets the same x: the second got x plus the first's output; mean of these": sum(gathered)
                / len(row),
                "each layer gets the same x: the second got the first's output; these are added": sum(ran),
                "each layer gets the same x: the second got the first's output; of these the mean is taken": sum(ran)
                / len(row),
                "each layer gets the same x: the second got the first's output; these are added to x": 5 + sum(ran),
                "the sum of the outputs: divide by the number of layers": sum(outputs),
                "x counts twice: it is in the outputs already": 5 + mean,
                "the sum of what they add: take the mean of the outputs": updates,
                "x plus the sum of the outputs: the mean of the outputs, which contain x": 5 + sum(outputs),
                "the last layer's output alone": outputs[-1],
                "the first layer's output alone": outputs[0],
                "the median: take the mean": sorted(outputs)[(len(outputs) - 1) // 2],
                "the mean of x and the outputs: x is no output": (5 + sum(outputs)) / (len(outputs) + 1),
                "nothing has happened to x": 5.0,
                "divided by three: by the number of layers, len(layers)": sum(outputs) / 3,
            },
            x,
            mean,
        ),
    )
    check.equal(
        "each once",
        [painter.calls for painter in row],
        [1] * len(row),
        tested="how often each layer was called",
        likely="a layer is expensive: keep its output",
    )
    check.close(
        "what else it needs",
        answer(row, x, colour=1000.0),
        torch.full((1, 1, 1), mean + 1000),
        tested="the same with colour=1000.0, which each layer adds",
        likely="call layer(hidden, **kwargs)",
        mistakes=_filled(
            {
                "the keyword arguments reach no layer: call layer(hidden, **kwargs)": mean,
                "the keyword arguments reach one layer alone": mean + 1000 / len(row),
            },
            x,
            mean + 1000,
        ),
    )
    for number, shape in stacks:
        layers, hidden = blocks(number, seed=number, dtype=dtype), checks.normal(*shape, seed=9, dtype=dtype)
        for options in _options(hidden, masked):
            total = torch.zeros_like(hidden)
            for layer in layers:
                total = total + layer(hidden, **options)
            check.close(
                "transformer layers",
                answer(layers, hidden, **options),
                total / number,
                tested=f"{number} transformer layers, hidden states {list(shape)}, {_told(options)}",
                tolerance=_tolerance(dtype),
                likely="the mean is over the layers, number by number: not over tokens or features",
                mistakes={
                    "one after the other: here all get the same hidden states": _in_turn(layers, hidden, **options),
                    "the mask reached no layer": sum(layer(hidden) for layer in layers) / number,
                }
                if number > 1
                else {},
            )
        _same_mode(check, layers)
    idle = torch.full((1, 2, 3), 4.0)
    with check.untouched(
        "hidden stays",
        tested="the hidden states, after a call with two layers that return what they were given",
        likely="a layer's output may be the very tensor that it got: do not add into it with +=",
        hidden=idle,
    ):
        found = answer([nn.Identity(), nn.Identity()], idle)
    check.close(
        "idle layers",
        found,
        torch.full((1, 2, 3), 4.0),
        tested="two layers that return what they get",
        likely="divide by the number of layers, len(layers)",
    )
    _weighted(check, answer, numbers, stacks, dtype, masked)
    _by_hand(check, answer)


def _weighted(
    check: Task,
    answer: Callable[..., Tensor],
    numbers: Sequence[float],
    stacks: Iterable[tuple[int, tuple[int, int, int]]],
    dtype: torch.dtype,
    masked: bool,
) -> None:
    """Task 2 with weights that do not add up to 1, and some that are 0."""
    x, updates = torch.full((1, 1, 1), 5.0), [number * 5.0 + 1 - 5.0 for number in numbers]
    for weights in ([0.5, 0.25, 2.0], [0.0, 1.5, -0.5]):
        weights, row = weights[: len(numbers)], nn.ModuleList(Painter(number) for number in numbers)
        added = sum(weight * update for weight, update in zip(weights, updates, strict=True))
        total, size, in_turn = sum(weights), len(row), 5.0
        for weight, number in zip(weights, numbers, strict=True):
            in_turn = in_turn + weight * (number * in_turn + 1 - in_turn)
        above = sum(max(weight, 0) * update for weight, update in zip(weights, updates, strict=True))
        apart = sum(abs(weight) * update for weight, update in zip(weights, updates, strict=True))
        told = f"x = 5, to which {size} layers add {', '.join(f'{update:g}' for update in updates)}; weights={weights}"
        with check.untouched(
            "hidden stays",
            tested="the hidden states that you were given, after the call",
            likely="+= changes what you were given: it is the caller's",
            hidden=x,
        ):
            found = answer(row, x, weights=list(weights))
        check.close(
            "weights",
            found,
            torch.full((1, 1, 1), 5 + added),
            tested=told,
            likely="x, and of each layer its weight times what it adds, its output minus x",
            mistakes=_filled(
                {
                    "the outputs were weighted: they contain x, which comes out as often as the weights add up to": 5
                    * total
                    + added,
                    "weighted outputs on top of x, which they contain already": 5 + 5 * total + added,
                    "the weights are no shares: do not divide by their sum": 5 + added / (total or 1),
                    "the weighted outputs, divided by the number of layers": (5 * total + added) / size,
                    "the weights stand in place of the mean: do not divide by the number of layers too": 5
                    + added / size,
                    "the weights were not used: that is the mean of the outputs": 5 + sum(updates) / size,
                    "the weights were not used: that is x plus the sum of what the layers add": 5 + sum(updates),
                    "x is missing: weighted updates are added to it": added,
                    "each layer gets the same x, not what the one before made of it": in_turn,
                    "a weight may be negative: leave out the layers of weight 0 alone": 5 + above,
                    "a weight may be negative: its sign counts": 5 + apart,
                    "the weights came in reverse": 5
                    + sum(weight * update for weight, update in zip(weights[::-1], updates, strict=True)),
                },
                x,
                5 + added,
            ),
        )
        check.equal(
            "weight 0",
            [painter.calls for painter in row],
            [int(weight != 0) for weight in weights],
            tested=f"how often each layer was called; weights={weights}",
            likely="a layer of weight 0 adds nothing, and would only cost; each other runs once",
        )
        check.close(
            "weights and the rest",
            answer(row, x, weights=list(weights), colour=1000.0),
            torch.full((1, 1, 1), 5 + added + 1000 * total),
            tested=f"weights={weights}, and colour=1000.0, which each layer adds",
            likely="call layer(hidden, **kwargs)",
            mistakes=_filled(
                {"with weights the keyword arguments reach no layer: call layer(hidden, **kwargs)": 5 + added},
                x,
                5 + added + 1000 * total,
            ),
        )
    for number, shape in stacks:
        layers, hidden = blocks(number, seed=number, dtype=dtype), checks.normal(*shape, seed=9, dtype=dtype)
        weights = [(place - 1) / 4 for place in range(number)]
        for options in _options(hidden, masked):
            right = hidden.clone()
            for layer, weight in zip(layers, weights, strict=True):
                right += weight * layer(hidden, **options) - weight * hidden
            check.close(
                "weighted layers",
                answer(layers, hidden, weights=list(weights), **options),
                right,
                tested=f"{number} transformer layers, hidden states {list(shape)}, {_told(options)}, weights={weights}",
                tolerance=_tolerance(dtype),
                likely="one weight for each layer, for all its tokens and features",
            )


def looped_parallel(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    numbers: Sequence[float] = (3, 2, 4, 9, 7, 5),
    middle: tuple[int, int] = (1, 4),
    iterations: Iterable[int] = (3, 1),
    stacks: Iterable[tuple[int, int, int, int]] = ((4, 1, 3, 2),),
    shape: tuple[int, int, int] = (2, 3, 6),
    masked: bool = False,
) -> None:
    """Task 3: painters on x = 2, then transformer layers, stacks (layers, first, last, iterations)."""
    first, last = middle
    before, inside, after = numbers[:first], numbers[first:last], numbers[last:]
    for turns in iterations:
        row, x = [Painter(number) for number in numbers], torch.full((1, 1, 1), 2.0, dtype=torch.float64)
        right = _in_numbers(2, turns, before, inside, after)
        tested = f"{len(row)} layers, first={first}, last={last}, iterations={turns}; x = 2"
        with check.untouched(
            "hidden stays",
            tested="the hidden states that you were given, after the call",
            likely="+= changes what you were given: it is the caller's",
            hidden=x,
        ):
            found = answer(row, x, first, last, turns)
        check.close(
            "value" if turns > 1 else "once",
            found,
            torch.full_like(x, right),
            tested=tested,
            likely="the layers before, one by one; then the mean of the middle's outputs, fed back; then the rest",
            mistakes=_filled(_mistaken_loops(turns, before, inside, after), x, right),
        )
        check.equal(
            "calls",
            [painter.calls for painter in row],
            [turns if first <= place < last else 1 for place in range(len(row))],
            tested=f"how often each layer was called; {tested}",
            likely="once outside the middle, `iterations` times inside",
        )
        dyed = _in_numbers(2, turns, before, inside, after, colour=(1000, 1000, 1000))
        reached = {
            "the keyword arguments reach no layer": (0, 0, 0),
            "the keyword arguments do not reach the layers before and after the middle": (0, 1000, 0),
            "the keyword arguments do not reach the layers before the middle": (0, 1000, 1000),
            "the keyword arguments do not reach the layers after the middle": (1000, 1000, 0),
            "the keyword arguments do not reach the middle": (1000, 0, 1000),
        }
        check.close(
            "what else it needs",
            answer(row, x, first, last, turns, colour=1000.0),
            torch.full_like(x, dyed),
            tested="the same with colour=1000.0, which each layer adds when it runs",
            likely="call layer(hidden, **kwargs), before, in and after the middle",
            mistakes=_filled(
                {says: _in_numbers(2, turns, before, inside, after, dye) for says, dye in reached.items()},
                x,
                dyed,
            ),
        )
    for number, first, last, turns in stacks:
        layers, hidden = blocks(number, seed=number), checks.normal(*shape, seed=4, dtype=torch.float64)
        for options in _options(hidden, masked):
            for given in (layers, list(layers)):
                check.close(
                    "transformer layers",
                    answer(given, hidden, first, last, turns, **options),
                    _by_layers(layers, hidden, first, last, turns, **options),
                    tested=f"{number} transformer layers in a {type(given).__name__}, first={first}, last={last}, "
                    f"iterations={turns}, hidden states {list(shape)}, {_told(options)}",
                    tolerance=1e-10,
                    likely="the parts before and after the middle may be empty; and layers[-0:] is everything",
                )
        _same_mode(check, layers)
    _by_hand(check, answer)


def _in_numbers(
    x: float,
    turns: int,
    before: Sequence[float] = (),
    middle: Sequence[float] = (),
    after: Sequence[float] = (),
    colour: tuple[float, float, float] = (0, 0, 0),
) -> float:
    """The stack in plain numbers: a layer makes its number times x, plus 1, plus the colour, of x."""
    for number in before:
        x = number * x + 1 + colour[0]
    for _ in range(turns):
        x = sum(number * x + 1 + colour[1] for number in middle) / len(middle)
    for number in after:
        x = number * x + 1 + colour[2]
    return x


def _mistaken_loops(
    turns: int, before: Sequence[float], middle: Sequence[float], after: Sequence[float]
) -> dict[str, float]:
    size, entry = len(middle), _in_numbers(2, 0, before)

    def rest(x: float) -> float:
        return _in_numbers(x, 0, after=after)

    def again(x: float, before: Sequence[float], after: Sequence[float]) -> float:
        for _ in range(turns):
            x = _in_numbers(x, 1, before, middle, after)
        return x

    def fed_back(step: Callable[[float, list[float]], float]) -> float:
        """The stack with this in place of the mean of the outputs."""
        x = entry
        for _ in range(turns):
            x = step(x, [number * x + 1 for number in middle])
        return rest(x)

    in_turn = _in_numbers(2, 0, (*before, *list(middle) * turns, *after))
    share = entry
    for number in list(middle) * turns:
        share = share + (number * share + 1 - share) / size
    each_alone = [_in_numbers(entry, turns, middle=(number,)) for number in middle]
    by_turn = [_in_numbers(2, turn, before, middle) for turn in range(1, turns + 1)]
    return {
        "the mean is not fed back: each iteration must start from the one before": _in_numbers(
            2, 1, before, middle, after
        ),
        "one iteration too many: the middle runs `iterations` times in all": _in_numbers(
            2, turns + 1, before, middle, after
        ),
        "one iteration too few: the middle runs `iterations` times in all": _in_numbers(
            2, turns - 1, before, middle, after
        ),
        "that is three iterations: `iterations` says how many": _in_numbers(2, 3, before, middle, after),
        "the middle did not run": _in_numbers(2, 0, before, middle, after),
        "the whole stack goes round: the layers before and after the middle run once": again(2, before, after),
        "the layers before the middle go round too: they run once": rest(again(2, before, ())),
        "the layers after the middle go round too: they run once": again(entry, (), after),
        "the middle runs one layer after the other: it stands side by side": in_turn,
        "the middle runs one layer after the other, each with its share: all of it gets the same": rest(share),
        "the layers before and after the middle run too": _in_numbers(2, turns, (), middle),
        "the layers before the middle run too": _in_numbers(2, turns, (), middle, after),
        "the layers after the middle run too": _in_numbers(2, turns, before, middle),
        "the middle is layers[first:last]: layer last ran in it, and after it once more": _in_numbers(
            2, turns, before, (*middle, *after[:1]), after
        ),
        "last is not part of the middle": _in_numbers(2, turns, before, (*middle, *after[:1]), after[1:]),
        "layer last comes after the middle, and must run": _in_numbers(2, turns, before, middle, after[1:]),
        "first is part of the middle": _in_numbers(2, turns, (*before, middle[0]), middle[1:] or middle, after),
        "the mean is added to what it came from, which it contains already": fed_back(
            lambda x, outputs: x + sum(outputs) / size
        ),
        "what the middle first got is added in every iteration: the mean alone is fed back": fed_back(
            lambda x, outputs: entry + sum(outputs) / size
        ),
        "the sum of the outputs is fed back: take the mean": fed_back(lambda x, outputs: sum(outputs)),
        "x plus the sum of the updates is fed back: take the mean of the outputs": fed_back(
            lambda x, outputs: x + sum(outputs) - size * x
        ),
        "the mean of the updates is fed back, without x: take the mean of the outputs": fed_back(
            lambda x, outputs: sum(outputs) / size - x
        ),
        "the mean over the iterations: the last one counts": rest(sum(by_turn) / turns),
        "every layer of the middle loops on its own, and then the mean is taken: take it in every iteration": rest(
            sum(each_alone) / size
        ),
    }


def _by_layers(layers: nn.ModuleList, x: Tensor, first: int, last: int, turns: int, **options: Any) -> Tensor:
    """The looped stack, layer by layer."""
    number = 0
    while number < len(layers):
        if first <= number < last:
            for _ in range(turns):
                total = torch.zeros_like(x)
                for inside in range(first, last):
                    total = total + layers[inside](x, **options)
                x = total / (last - first)
            number = last
        else:
            x = layers[number](x, **options)
            number += 1
    return x


def _in_turn(layers: Iterable[nn.Module], x: Tensor, **options: Any) -> Tensor:
    for layer in layers:
        x = layer(x, **options)
    return x


def _filled(wrong: dict[str, float], like: Tensor, right: float) -> dict[str, Tensor]:
    """Numbers as tensors; a mistake that gives the right number here is none."""
    return {says: torch.full_like(like, number) for says, number in wrong.items() if number != right}


def _options(hidden: Tensor, masked: bool) -> list[dict[str, Tensor]]:
    """Nothing; then, if asked for, a mask over the keys, and a mask with positions."""
    batch, tokens, _ = hidden.shape
    mask = checks.normal(batch, tokens, seed=32) > -0.3
    mask[:, 0] = True
    places = torch.arange(tokens).roll(2)
    return [{}, {"key_mask": mask}, {"key_mask": mask, "positions": places}] if masked else [{}]


def _told(options: dict[str, Tensor]) -> str:
    return f"with {' and '.join(options)}" if options else "without a mask"


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-10 if dtype == torch.float64 else 1e-5


# ---- task 4: similarity

STATES = torch.tensor(  # of two tokens: what the first layer gets, and what is there after each of three layers
    [[[[0.0, 5.0], [2.0, 1.0]]], [[[3.0, 4.0], [1.0, 0.0]]], [[[4.0, 3.0], [0.0, 2.0]]], [[[5.0, 0.0], [0.0, -3.0]]]],
    dtype=torch.float64,
)


def similarity(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    stacks: Iterable[tuple[int, tuple[int, int, int]]] = ((4, (2, 3, 6)),),
    dtype: torch.dtype = torch.float64,
) -> None:
    """Task 4: states whose cosines are known, then states a thousandfold apart in length, and transformer
    layers."""
    steps = [Step(later - before) for before, later in pairwise(STATES)]
    given = STATES[0].clone()
    with check.untouched(
        "hidden stays",
        tested="the hidden states that you were given, after the call",
        likely="+= and /= change what you were given: it is the caller's",
        hidden=given,
    ):
        found = answer(steps, given)
    check.true(
        "a matrix",
        isinstance(found, Tensor),
        tested="the type of the result",
        expected="a tensor",
        got=type(found).__name__,
        likely="your function gives None: is the return missing?"
        if found is None
        else "torch.stack makes a tensor of tensors, torch.tensor one of numbers",
    )
    check.equal(
        "shape",
        tuple(found.shape),
        (3, 3),
        tested="three layers, hidden states [1, 2, 2]",
        likely="one row and one column a layer: a cosine for each pair of layers, mean over the tokens",
        mistakes={
            "what the first layer gets has no row: begin after layer 0": (4, 4),
            "one matrix for each token: take their mean": (2, 3, 3),
            "one matrix for each token: take their mean over all tokens of all samples": (1, 2, 3, 3),
            "give the cosine of every two layers, not of neighbours": (2,),
            "that is a matrix of tokens, or of features: compare the states of the same token after two layers": (2, 2),
            "one number for all: keep a row and a column a layer": (),
            "one number a layer: compare every layer with every other": (3,),
        },
    )
    check.close(
        "value",
        found,
        _by_angle(STATES[1:]),
        tested="two tokens; after layer 0 they are (3, 4), (1, 0), after layer 1 (4, 3), (0, 2), then (5, 0), (0, -3)",
        tolerance=1e-5,
        likely="a cosine is a dot product divided by both lengths, for each token; then the mean over the tokens"
        if not found.isnan().any()
        else "a length of 0, and 0 / 0 is nan: take the lengths along the features, dim=-1. With the layers stacked in "
        "front, [layers, batch, tokens, dim], dim=1 is the batch",
        mistakes=_mistaken_similarities(steps),
    )
    for number, shape in stacks:
        layers = blocks(number, seed=number + 20, dtype=dtype)
        hidden = checks.normal(*shape, seed=6, dtype=dtype)
        for options in _options(hidden, masked=True)[:2]:
            kept, unmasked = _kept(layers, hidden, **options), _kept(layers, hidden)
            check.close(
                "what else it needs" if options else "transformer layers",
                answer(layers, hidden, **options),
                _by_angle(kept).to(dtype),
                tested=f"{number} transformer layers, hidden states {list(shape)}, {_told(options)}",
                tolerance=1e-5 if dtype == torch.float64 else 1e-4,
                likely="call layer(hidden, **kwargs); the mean is over all tokens, the mask for the layers alone"
                if options
                else "the mean is over all tokens of all samples; a matrix also for one layer, one token, one sample",
                mistakes={"the keyword arguments reach no layer: call layer(hidden, **kwargs)": _by_angle(unmasked)}
                if options and number > 1
                else {},
            )
        turns = nn.ModuleList(Turn(shape[2], seed=place) for place in range(number))
        spread = 10 * torch.logspace(-1, 1, shape[1], base=1000**0.5, dtype=dtype)[:, None]
        hidden = checks.normal(*shape, seed=7, dtype=dtype)
        hidden = hidden / hidden.norm(dim=-1, keepdim=True) * spread
        kept = _kept(turns, hidden)
        lengths = kept[0].norm(dim=-1)
        on = f"{number} layers that turn the states and keep their lengths, {lengths.min():.2g} to {lengths.max():.2g}"
        check.close(
            "unequal lengths",
            answer(turns, hidden),
            _by_angle(kept).to(dtype),
            tested=f"{on}; hidden states {list(shape)}",
            tolerance=1e-5,
            likely="every token counts alike: divide by both lengths token by token, before any sum over tokens",
            mistakes={
                "all tokens as one long vector, so that long states count for more": _cosines(kept.flatten(1)).to(dtype)
            }
            if number > 1 and shape[1] > 1
            else {},
        )
        _same_mode(check, layers)
    _by_hand(check, answer)


def _kept(layers: nn.ModuleList, x: Tensor, **options: Any) -> Tensor:
    kept = []
    for layer in layers:
        x = layer(x, **options)
        kept.append(x)
    return torch.stack(kept).double()


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """By the law of cosines: from the lengths of two states, and how far apart they are."""
    one, other, apart = math.hypot(*a), math.hypot(*b), math.dist(a, b)
    return (one**2 + other**2 - apart**2) / (2 * one * other)


def _cosines(vectors: Tensor) -> Tensor:
    """Of every two of n vectors [n, parts], as a matrix."""
    rows = vectors.tolist()
    return torch.tensor([[_cosine(a, b) for b in rows] for a in rows], dtype=torch.float64)


def _by_angle(states: Tensor) -> Tensor:
    """The mean of one such matrix for each token; states [n, batch, tokens, dim]."""
    tokens = states.flatten(1, 2)
    return torch.stack([_cosines(tokens[:, place]) for place in range(tokens.shape[1])]).mean(0)


def _mistaken_similarities(steps: list[Step]) -> dict[str, Tensor]:
    after, right = STATES[1:], _by_angle(STATES[1:])
    products = torch.einsum("ibtd,jbtd->ij", after, after)
    halved = (torch.einsum("ibtd,jbtd->ijbt", after, after) / after.norm(dim=-1)).mean((-1, -2))
    alone = torch.stack([STATES[0] + step.adds for step in steps])
    divided, state = [], STATES[0]
    for step in steps:
        state = F.normalize(step(state), dim=-1)
        divided.append(state)

    def scaled_by(length: Tensor) -> Tensor:
        return torch.einsum("ibtd,jbtd->ij", after / length, after / length) / 2

    return {
        "dot products: divide by the lengths of both states": products / 2,
        "the sum over the tokens: take the mean": 2 * right,
        "the cosine of the mean states: first the cosine of each token, then the mean": _cosines(after.mean((1, 2))),
        "all tokens as one long vector, so that long states count for more: a cosine for each token, then the mean": (
            _cosines(after.flatten(1))
        ),
        "these are the states before each layer, h0 among them: take those after it": _by_angle(STATES[:-1]),
        "that compares what the layers add: compare the states themselves": _by_angle(after - STATES[:-1]),
        "that is 1 - cosine, a distance: give the cosine": 1 - right,
        "no absolute value: two states may point in opposite directions": torch.stack(
            [_cosines(after[:, 0, t]).abs() for t in range(2)]
        ).mean(0),
        "the next layer got the state divided by its length: it gets the state itself": _by_angle(torch.stack(divided)),
        "every layer got h0: each one gets what the one before it gave": _by_angle(alone),
        "divided by the length of one of the two states: by both": halved,
        "divided by the length of one of the two states, and not by that of the other": halved.T,
        "divided by the square of the lengths: the length is the root of the sum of squares": scaled_by(
            (after**2).sum(-1, keepdim=True)
        ),
        "lengths of other tokens: norm(dim=-1, keepdim=True) keeps each length in its token's place": (
            scaled_by(after.norm(dim=-1).unsqueeze(-2))
        ),
        "the length is along the features, dim=-1, not along the tokens": scaled_by(after.norm(dim=-2, keepdim=True)),
    }


# ---- task 5: predict, then measure

NAMES = ("skip", "middle_repeat", "reverse", "parallel", "looped_parallel")
ORDERS = {
    "0 and 1 swapped": (1, 0, 2, 3, 4, 5, 6, 7),
    "1 to 7 reversed": (0, 7, 6, 5, 4, 3, 2, 1),
    "1 to 3 last": (0, 4, 5, 6, 7, 1, 2, 3),
    "4 and 5 swapped": (0, 1, 2, 3, 5, 4, 6, 7),
    "5 in place of 4": (0, 1, 2, 3, 5, 5, 6, 7),
    "without 4 and 5": (0, 1, 2, 3, 6, 7),
}


def predict(
    check: Task,
    said: Callable[[], Any],
    bits: Callable[..., float],
    *,
    seed: int = 0,
    shapes: Iterable[tuple[int, int, int]] = ((2, 5, 4),),
) -> None:
    """Task 5: the predictions beside what the model costs and says; bits of known probabilities, then of random logits
    of these shapes, [batch, tokens, vocabulary]."""
    check.by_hand(
        "foretold",
        said,
        without=("dynlib", "torch.nn", "__main__.load", "__main__.count"),
        tested="the code of predict",
        likely="predict from what you know: the last cell measures",
    )
    check.prediction(
        said(),
        _measured(seed),
        tested="topics_lm, eight equal layers",
        words={"most bits": tuple(ORDERS), "fewest bits": tuple(ORDERS)},
        slips=_SLIPS,
        likely={
            "FLOPs of parallel": _COUNT,
            "FLOPs of looped_parallel": _COUNT,
            "weights of middle_repeat": _COUNT,
            "plans that change nothing": "write down for each of the five which layers run, and how often",
            "most bits": "how unlike the one that it knows is the canvas that a layer gets? Not: how many layers move",
            "fewest bits": "which order keeps every update, and hands each layer nearly the canvas that it knows?",
        },
    )
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25, 0.125, 0.125, 0.5], [0.125, 0.5, 0.125, 0.25], [0.25] * 4])
    logits = p.log()[None] + torch.tensor([0.3, -1.0, 2.0, 0.0])[:, None]  # softmax gives p again
    tokens = torch.tensor([[0, 1, 2, 0]])  # of which 1, 2, 0 have the probabilities 1/4, 1/8, 1/8
    with check.untouched(tested="the logits and the tokens", logits=logits, tokens=tokens):
        found = bits(logits, tokens)
    check.close(
        "bits",
        found,
        8 / 3,
        tested="four tokens in one row; the last three had the probabilities 1/4, 1/8, 1/8",
        likely="the mean of -log2 of the probabilities of those three, (2 + 3 + 3) / 3",
        mistakes=_mistaken_bits(p, logits, tokens),
    )
    check.true(
        "a plain number",
        type(found) is float,
        tested="the type of the result",
        expected="float",
        got=type(found).__name__,
        likely=".item() makes a number of a tensor",
    )
    for batch, length, vocabulary in shapes:
        logits = 2 * checks.normal(batch, length, vocabulary, seed=length, dtype=torch.float64)
        tokens = torch.randint(vocabulary, (batch, length))
        total = 0.0
        for row, came in zip(logits.tolist(), tokens.tolist(), strict=True):
            for place in range(length - 1):
                odds = [math.exp(number) for number in row[place]]
                total += math.log2(math.fsum(odds) / odds[came[place + 1]])
        check.close(
            "other logits",
            bits(logits, tokens),
            total / (batch * (length - 1)),
            tested=f"logits [{batch}, {length}, {vocabulary}]",
            likely="the mean is over all predicted tokens of all rows",
        )
    large = torch.tensor([[[300.0, 0.0, -300.0], [0.0, 0.0, 0.0]]])
    check.close(
        "large logits",
        bits(large, torch.tensor([[0, 2]])),
        600 / math.log(2),
        tested="logits 300, 0, -300 in float32, and the last of the three came",
        tolerance=1e-5,
        likely="log_softmax, not the logarithm of a softmax: the probability is 0 in float32",
    )


_COUNT = "write the order of the layers down, with every run of a layer, and count"
_SLIPS: dict[str, dict[str, float]] = {
    "FLOPs of parallel": {
        "that is skip: side by side every layer still runs": 5 / 8,
        "three layers side by side are not one layer: each does its own products": 6 / 8,
        "the five layers outside the middle run too": 3 / 8,
        "layers[4:7] are three layers, and all of them run": 4 / 8,
        "the same input three times does not make the work less: each layer has its own weights": 1 / 3,
        "one layer's worth: all eight run": 1 / 8,
        "that is looped_parallel with three iterations": 14 / 8,
        "a factor of the FLOPs of all eight in order, not a number of layers": 8,
        "each of the three runs once, whatever the others do": 3,
        "a factor, not in percent": 100,
    },
    "FLOPs of looped_parallel": {
        "the layers outside the middle run once": 3,
        "the five layers outside the middle run too": 9 / 8,
        "three iterations of three layers are nine runs of a layer, not three": 1,
        "a factor of the FLOPs of all eight in order, not a number of layers: divide by eight": 14,
        "layers[4:7] are three layers: last is not one of them": 16 / 8,
        "layers[4:7] are three layers, so that five are outside, not four": 13 / 8,
        "layers[4:7] are three layers, not two": 12 / 8,
        "three iterations in all, not one and three more": 17 / 8,
        "three in all, not two": 11 / 8,
        "divide by eight layers, not by the three of the middle": 14 / 3,
        "a factor, not in percent": 175,
    },
    "weights of middle_repeat": {
        "it runs eight layers, but three of these runs read the weights of one": 1,
        "that is skip: the centre is read too": 5 / 8,
        "layers[4:7] are three layers, so that five are outside, not six": 7 / 8,
        "layers[4:7] are three layers, so that five are outside, not three": 4 / 8,
        "the five layers outside the middle are read too": 1 / 8,
        "a share of the weights of all eight, not a number of layers: divide by eight": 6,
        "one layer in place of three, and five outside: of eight": 1 / 3,
        "a share, not in percent": 75,
    },
    "plans that change nothing": {
        "looped parallel runs the layer three times, on what it gave before": 4,
        "skip leaves the layer out, and looped parallel runs it three times": 5,
        "a single layer is its own centre, its own reverse and its own mean: how many plans are these?": 2,
        "the mean of one layer's output, the reverse of one layer: are they not that layer?": 1,
        "a single layer, reversed, is that layer": 0,
    },
}


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """What counting gives, and what the orders make of 8 stretches of text that no layer was trained on."""
    model = load("topics_lm")
    tokens = windows(encode(text("test")), 8, 129, generator=torch.Generator().manual_seed(seed))
    made = {name: getattr(depth, name)(model.blocks, 4, 7) for name in NAMES}
    with torch.inference_mode():
        embedded = model.embed(tokens)
        bits = {}
        for name, numbers in ORDERS.items():
            states = _in_turn([model.blocks[number] for number in numbers], embedded)
            bits[name] = F.cross_entropy(model.readout(states)[:, :-1].mT, tokens[:, 1:]).item()
        few = embedded[:1, :16]  # the layers are equal, so that their share is the same for any text
        in_order = _in_turn(model.blocks, few)
        whole = count(nn.Sequential(*model.blocks), few)
        alone = [getattr(depth, name)(model.blocks, 3, 4)(few) for name in NAMES]
        return {
            "FLOPs of parallel": count(made["parallel"], few).flops / whole.flops,
            "FLOPs of looped_parallel": count(made["looped_parallel"], few).flops / whole.flops,
            "weights of middle_repeat": count(made["middle_repeat"], few).params / whole.params,
            "plans that change nothing": sum(torch.allclose(states, in_order, atol=1e-4) for states in alone),
            "most bits": max(bits, key=lambda name: bits[name]),
            "fewest bits": min(bits, key=lambda name: bits[name]),
        }


def _mistaken_bits(p: Tensor, logits: Tensor, tokens: Tensor) -> dict[str, float]:
    log2, after = p.log2()[None], tokens[:, 1:, None]
    return {
        "that is in nats: divide by log 2": 8 / 3 * math.log(2),
        "multiplied by log 2: divide by it": 8 / 3 * math.log(2) ** 2,
        "the sum: take the mean over the tokens that were predicted": 8.0,
        "divided by all four tokens: the first has no prediction, so that three count": 2.0,
        "the logits at place t are about the token at place t + 1, not about the one at t": _mean(
            log2, tokens[..., None]
        ),
        "shifted the wrong way: the logits at place t are about the token at t + 1, not at t - 1": _mean(
            log2[:, 1:], tokens[:, :-1, None]
        ),
        "the sign: bits are positive": -8 / 3,
        "that is the perplexity: leave out the last power": 2 ** (8 / 3),
        "the logarithm of the mean probability: take the mean of the logarithms": -math.log2(0.5 / 3),
        "the logits are no log-probabilities yet: log_softmax over the vocabulary": _mean(logits[:, :-1], after)
        / math.log(2),
        "softmax over the vocabulary, the last dimension, not over the tokens": _mean(
            logits[:, :-1].log_softmax(1), after
        )
        / math.log(2),
    }


def _mean(values: Tensor, index: Tensor) -> float:
    return -values.gather(-1, index).mean().item()
