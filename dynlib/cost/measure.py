"""Time on this machine: functions against each other, and the machine against itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import comb
from statistics import median
from typing import Any, NamedTuple

import torch

from dynlib.cost.count import Cost, readable


class Ratio(NamedTuple):
    """A ratio of two times, and the interval that holds its median with at least 95 %."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timing:
    """Times of several functions that were measured in turn.

    ``samples[f][r]`` are the seconds that one call of function f took in round r. Machines drift, and the functions of
    one round drift together: compare with :meth:`ratio`, not with times of another run.
    """

    samples: tuple[tuple[float, ...], ...]
    calls: tuple[int, ...]
    """How often each function was called for one sample."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """The median seconds of one call, function by function."""
        return tuple(median(sample) for sample in self.samples)

    def ratio(self, a: int = 0, b: int = 1) -> Ratio:
        """Time of function ``a`` over time of function ``b``: the median over rounds of the ratio within a round.

        The interval is that of order statistics: the median of what the ratios are drawn from lies between the j-th
        smallest and the j-th largest of n with probability 1 − 2 P(Binomial(n, ½) < j), whatever their law. Fewer
        than 6 rounds say nothing at 95 %: the interval is then 0 … ∞.

        Raises:
            ValueError: if there is no such function.
        """
        for which in (a, b):
            if not -len(self.samples) <= which < len(self.samples):
                raise ValueError(f"there is no function {which}: {len(self.samples)} were timed, counted from 0")
        ratios = sorted(x / y for x, y in zip(self.samples[a], self.samples[b], strict=True))
        rank = _rank(len(ratios))
        low, high = (ratios[rank - 1], ratios[-rank]) if rank else (0.0, float("inf"))
        return Ratio(median(ratios), low, high)


def _rank(n: int) -> int:
    # the largest j with P(Binomial(n, ½) < j) ≤ 2.5 %; 0 if there is none
    rank, below = 0, comb(n, 0)
    while below <= 0.025 * 2**n:
        rank += 1
        below += comb(n, rank)
    return rank


def timed(
    *functions: Callable[[], Any],
    repeats: int = 25,
    warmup: int = 2,
    least_seconds: float = 1e-3,
    each: Callable[[], Any] | None = None,
) -> Timing:
    """Time functions in turn: A B C, then B C A, then C A B, …, so that a drift of the machine meets them all alike.

    Work on a GPU is waited for. The gradient mode is the caller's.

    Args:
        functions: called without arguments.
        repeats: number of rounds; each gives one sample of every function.
        warmup: calls of each function before the first round.
        least_seconds: a function that is faster is called several times for one sample, so that it lasts about this
            long and the clock's grain does not matter. 0 calls each function once.
        each: called after the warm-up of each function and after each sample, while no clock runs: it may move a bar.

    Raises:
        TypeError: if something given is no function.
        ValueError: if there is no function, ``repeats`` is below 1, or ``warmup`` or ``least_seconds`` is negative.
    """
    if not functions:
        raise ValueError("there is nothing to time: give at least one function to call")
    for function in functions:
        if not callable(function):
            raise TypeError(
                f"timed calls functions without arguments; got {type(function).__name__}: wrap it in a lambda"
            )
    if repeats < 1 or warmup < 0 or least_seconds < 0:
        raise ValueError(
            "repeats must be at least 1, warmup and least_seconds not negative; "
            f"got repeats={repeats}, warmup={warmup}, least_seconds={least_seconds}"
        )
    calls = []
    for function in functions:
        for _ in range(warmup):
            function()
        calls.append(_calls_for(function, least_seconds))
        if each is not None:
            each()
    samples: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats):
        for place in range(len(functions)):
            which = (place + turn) % len(functions)
            samples[which].append(_seconds(functions[which], calls[which]) / calls[which])
            if each is not None:
                each()
    return Timing(tuple(tuple(sample) for sample in samples), tuple(calls))


def _calls_for(function: Callable[[], Any], least_seconds: float) -> int:
    calls = 1
    while least_seconds > 0:
        # twice, since one interruption would make a handful of calls look long enough
        took = min(_seconds(function, calls) for _ in range(2))
        if took >= least_seconds:
            break
        # towards the goal with a tenth to spare, but at most tenfold: the first calls may be slow or lucky
        calls = max(calls + 1, min(10 * calls, round(1.1 * calls * least_seconds / max(took, 1e-9))))
    return calls


def _seconds(function: Callable[[], Any], calls: int) -> float:
    synchronise()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    """Wait until every GPU that this process uses has finished what it was given."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            if torch.cuda.memory_reserved(device):
                torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Peak:
    """What a machine can do at best: the two limits of its roofline (Williams et al., CACM 52(4), 2009)."""

    flops_per_second: float
    bytes_per_second: float

    @property
    def ridge(self) -> float:
        """FLOPs per byte from which on arithmetic is the limit; below it is memory."""
        return self.flops_per_second / self.bytes_per_second

    def bound(self, cost: Cost) -> float:
        """The least seconds a cost takes on this machine, max(FLOPs / peak, bytes / bandwidth).

        The bytes are those of :func:`dynlib.cost.count`. What stays in a cache between two operators can be faster
        than memory, so that a small model may beat this bound.
        """
        return max(cost.flops / self.flops_per_second, cost.bytes / self.bytes_per_second)

    def __str__(self) -> str:
        return f"{readable(self.flops_per_second, 'FLOP/s')} · {readable(self.bytes_per_second, 'B/s')}"


def machine_peak(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Peak:
    """Measure a machine's matmul rate and memory bandwidth; takes about a second, once per process.

    The rate is the best of several products of square matrices, grown until one lasts 5 ms. The bandwidth is the
    best of several copies of a buffer larger than the caches, what is read and what is written both counted. On a CPU
    both are for the number of threads that PyTorch uses at the time.

    Args:
        device: where to measure.
        dtype: of the matrices.

    Raises:
        ValueError: if there is no such device, or ``dtype`` is not a floating-point type.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, such as torch.float32; got {dtype}")
    try:
        place = torch.zeros((), device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"there is no device {str(device)!r} here ({str(error).splitlines()[0]}); use 'cpu'"
        ) from error
    return _machine_peak(str(place), dtype, torch.get_num_threads())


@cache
def _machine_peak(device: str, dtype: torch.dtype, threads: int) -> Peak:
    with torch.no_grad():
        size, took = 256, 0.0
        while True:
            a = torch.ones(size, size, device=device, dtype=dtype)
            product = torch.empty_like(a)
            took = _best(partial(torch.mm, a, a, out=product), seconds=0.0)
            if took >= 5e-3 or size >= 16384:
                break
            size *= 2
        took = min(took, _best(partial(torch.mm, a, a, out=product), seconds=0.3))
        elements = 2**25 if device == "cpu" else 2**27  # 128 MiB or 512 MiB of float32
        source = torch.ones(elements, device=device)
        target = torch.empty_like(source)
        copied = _best(lambda: target.copy_(source), seconds=0.25)
    return Peak(2 * size**3 / took, 2 * source.numel() * source.element_size() / copied)


def _best(function: Callable[[], Any], *, seconds: float) -> float:
    _seconds(function, 1)  # the first call may allocate, compile or choose
    best, end = float("inf"), time.perf_counter() + seconds
    runs = 0
    while runs < 2 or time.perf_counter() < end:
        best = min(best, _seconds(function, 1))
        runs += 1
    return best
