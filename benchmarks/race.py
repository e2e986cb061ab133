"""A mechanism at some budgets against a peer, each side in the fastest way that it can be run, all in one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.table import Row
from dynlib.cost import Timing, count, machine_peak, timed

Step = Callable[[], Any]
Ways = Mapping[str, Step]
"""How a side can be run, by what that way is called: all of them compute the same."""

PRODUCTS = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "dot_product", "conv", "mkldnn")


@dataclass(frozen=True)
class Race:
    """Two sides, each in its fastest way, timed in turns."""

    ours: str
    peer: str
    flops: tuple[int, int]
    seconds: tuple[float, float]
    time_share: float
    interval: tuple[float, float]
    masked: tuple[float, float] | None = None
    """FLOPs and time of the masked execution, over those of the peer."""
    inside: tuple[float, float] | None = None
    """The share of the time of each side that goes into matrix products and attention."""

    @property
    def flops_share(self) -> float:
        """FLOPs of ours over those of the peer."""
        return self.flops[0] / self.flops[1]

    @property
    def efficiency(self) -> float:
        """Share of the FLOPs over share of the time."""
        return self.flops_share / self.time_share

    def row(
        self,
        mechanism: str,
        size: str,
        *,
        peer: str = "dense",
        aim: float | None = None,
        quality: str = "",
        note: str = "",
    ) -> Row:
        """A line of the table.

        Args:
            mechanism, size, peer, quality: as in :class:`~benchmarks.table.Row`.
            aim: at the efficiency, if this size has one: what is missing is explained.
            note: more to take from it.
        """
        place = str(torch.get_default_device())
        rate = machine_peak(place).flops_per_second
        ours, theirs = (flops / seconds / rate for flops, seconds in zip(self.flops, self.seconds, strict=True))
        return Row(
            mechanism=mechanism,
            size=size,
            peer=peer,
            flops_share=self.flops_share,
            time_share=self.time_share,
            interval=self.interval,
            masked=self.masked,
            quality=quality,
            matmul_share=ours,
            peer_matmul_share=theirs,
            aim=aim,
            note=sentences(self.saves(), self.says(aim), note),
        )

    def saves(self) -> str:
        """What is saved, and both times."""
        times = " against ".join(milliseconds(seconds) for seconds in self.seconds)
        if self.interval[0] > 1:
            return f"slower: {self.time_share:.2f} × the time ({times})"
        if self.interval[1] >= 1:
            return f"no clear difference in time ({times})"
        return f"{100 * (1 - self.time_share):.0f} % of the time saved ({times})"

    def says(self, aim: float | None) -> str:
        """Whether the aim at the efficiency is met, and where the rest is lost; nothing without an aim."""
        if aim is None:
            return ""
        if self.efficiency >= aim:
            return f"at or above the aim, an efficiency of {aim:g}"
        least = "not clearly below" if self.flops_share >= aim * self.interval[0] else "below"
        return f"{least} the aim of {aim:g}{self._lost()}"

    def _lost(self) -> str:
        if self.inside is None:
            return ""
        # the FLOPs per second of a product, and the time that is spent with none
        rate = self.flops_share * self.inside[1] / (self.inside[0] * self.time_share)
        ours, theirs = (f"{100 * (1 - inside):.0f} %" for inside in self.inside)
        return (
            f": its products run at {rate:.2f} of the peer's rate, and {ours} of its time goes elsewhere "
            f"(peer's: {theirs})"
        )


def contest(
    ours: Mapping[str, Ways], peer: Ways, *, masked: Mapping[str, Step] | None = None, repeats: int = 9
) -> dict[str, Race]:
    """One race for each budget, all against the same peer and in turns with it.

    The fastest way of each side is chosen in a heat, and only then timed, so that the choice does not flatter. FLOPs
    are those of the chosen ways, counted.

    Args:
        ours: the ways of each budget, by what it is called.
        peer: the ways of what they are compared with.
        masked: the same as the gathered ways, everything computed; of some or all budgets.
        repeats: rounds.
    """
    sides, masked = [*ours.values(), peer], masked or {}
    heats = timed(*(step for ways in sides for step in ways.values()), repeats=2, warmup=1, least_seconds=0.0)
    seconds = iter(heats.seconds)
    best = [min((next(seconds), name) for name in ways)[1] for ways in sides]
    steps = [ways[name] for ways, name in zip(sides, best, strict=True)]
    timing = timed(*steps, *masked.values(), repeats=repeats, warmup=0)
    flops = [count(step).flops for step in steps]
    inside = [_inside_products(step, took) for step, took in zip(steps, timing.seconds, strict=False)]
    races = {}
    for place, name in enumerate(ours):
        share, low, high = timing.ratio(place, len(ours))
        its, peers = inside[place], inside[-1]
        races[name] = Race(
            best[place],
            best[-1],
            (flops[place], flops[-1]),
            (timing.seconds[place], timing.seconds[len(ours)]),
            share,
            (low, high),
            inside=None if its is None or peers is None else (its, peers),
        )
    return races | {name: _with_masked(races[name], timing, masked, name, len(ours), flops[-1]) for name in masked}


def _with_masked(race: Race, timing: Timing, masked: Mapping[str, Step], name: str, peer: int, flops: int) -> Race:
    place = peer + 1 + list(masked).index(name)
    return replace(race, masked=(count(masked[name]).flops / flops, timing.ratio(place, peer).median))


def race(ours: Ways, peer: Ways, *, repeats: int = 7) -> Race:
    """A contest of one."""
    return contest({"": ours}, peer, repeats=repeats)[""]


def against(
    mechanism: str,
    size: str,
    peer: str,
    ours: Step,
    theirs: Step,
    *,
    slower: str = "",
    note: str = "",
    flops: bool = True,
    repeats: int = 15,
) -> Row:
    """The line of a mechanism against a package that does the same.

    Args:
        mechanism, size, peer: as in :class:`~benchmarks.table.Row`.
        ours, theirs: the two.
        slower: why, if theirs is faster.
        note: what else is to be known.
        flops: whether their number says something.
        repeats: rounds.
    """
    timing = timed(ours, theirs, repeats=repeats, warmup=1)
    share, low, high = timing.ratio(0, 1)
    times = " against ".join(milliseconds(seconds) for seconds in timing.seconds)
    few, all_ = (count(step).flops for step in (ours, theirs)) if flops else (0, 0)
    if high < 1:
        says = f"{1 / share:.3g} times as fast as the package ({times})"
    elif low <= 1:
        says = f"as fast as the package, as far as this run can tell ({times})"
    else:
        slower = slower or (f"ours runs {few / all_:.2f} × its FLOPs" if all_ and few > 1.02 * all_ else "")
        says = f"the package is faster ({times}){': ' + slower if slower else ''}"
    return Row(
        mechanism=mechanism,
        size=size,
        peer=peer,
        flops_share=few / all_ if all_ else None,
        time_share=share,
        interval=(low, high),
        note=sentences(says, note),
    )


def pays(mechanism: str, size: str, what: str, sizes: Sequence[int], measure: Callable[[int], Race]) -> Row:
    """From which of the sizes on, smallest first, a mechanism is faster than dense, and efficient: a line that says."""
    races = [measure(size) for size in sizes]
    faster = _from(sizes, [run.time_share < 1 for run in races])
    efficient = _from(sizes, [run.efficiency >= 1 for run in races])
    tried = ", ".join(f"{size}: {run.time_share:.2f}" for size, run in zip(sizes, races, strict=True))
    best = max(races, key=lambda run: run.efficiency)
    rest = "" if "none" not in efficient else f"; the best is {best.efficiency:.2f}"
    return Row(
        mechanism=f"{mechanism}: where it breaks even",
        size=size,
        peer="dense",
        note=f"by {what}: faster than dense {faster} (share of its time {tried}); efficiency of 1 and more "
        f"{efficient}{rest}.",
    )


def _from(sizes: Sequence[int], good: Sequence[bool]) -> str:
    """From where on it is good throughout."""
    last_bad = max((place for place, fine in enumerate(good) if not fine), default=-1)
    if last_bad == len(sizes) - 1:
        return f"at none up to {sizes[-1]}"
    return f"from {sizes[last_bad + 1]} on" if last_bad >= 0 else f"at all from {sizes[0]} on"


def _inside_products(step: Step, seconds: float) -> float | None:
    """The share of a call's time, which is given, that goes into products and attention; None on a GPU."""
    if torch.get_default_device().type != "cpu":
        return None
    with _Products() as products:
        step()
    return min(max(products.seconds / seconds, 0.01), 0.99)


class _Products(TorchDispatchMode):
    """A clock that runs in matrix products and attention alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = perf_counter()
        out = func(*args, **(kwargs or {}))
        if any(product in func.name() for product in PRODUCTS):
            self.seconds += perf_counter() - begin
        return out


def compared(what: str, ours: float, peer: float, *, digits: int = 3) -> str:
    """A quality, and the peer's."""
    return f"{what} {ours:.{digits}f} (its peer's {peer:.{digits}f})"


def transformer(dim: object, layers: int, batch: int, tokens: int) -> str:
    """A size, in words."""
    return f"dim {dim}, {layers} layers, {batch} × {tokens} tokens"


def milliseconds(seconds: float) -> str:
    """A time, in three digits."""
    return f"{1e3 * seconds:.0f} ms" if seconds >= 0.9995 else f"{1e3 * seconds:.3g} ms"


def sentences(*parts: str) -> str:
    """What is there of them, in one line."""
    return "; ".join(part.rstrip(".") for part in parts if part) + "."
