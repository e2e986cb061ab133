"""Each side in the fastest way that it can be run, and from which size on a mechanism pays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.table import Row
from dynlib.cost import count, machine_peak, timed

Ways = dict[str, Callable[[], Any]]
"""How a side can be run, by what that way is called: all of them compute the same."""


@dataclass(frozen=True)
class Race:
    """Two sides, each in its fastest way, timed in turns."""

    ours: str
    peer: str
    flops: tuple[int, int]
    seconds: tuple[float, float]
    time_share: float
    interval: tuple[float, float]

    @property
    def flops_share(self) -> float:
        """FLOPs of ours over those of the peer."""
        return self.flops[0] / self.flops[1]

    @property
    def efficiency(self) -> float:
        """Share of the FLOPs over share of the time."""
        return self.flops_share / self.time_share

    @property
    def milliseconds(self) -> str:
        """Both times, for a note."""
        return " and ".join(f"{1e3 * seconds:.3g} ms" for seconds in self.seconds)

    def row(self, mechanism: str, size: str, *, note: str = "") -> Row:
        """A line of the table: which ways were the fastest, all shares, and both times at the end of the note."""
        rate = machine_peak().flops_per_second
        ours, peer = (flops / seconds / rate for flops, seconds in zip(self.flops, self.seconds, strict=True))
        return Row(
            mechanism=f"{mechanism}, {self.ours}",
            size=size,
            peer=f"dense, {self.peer}",
            flops_share=self.flops_share,
            time_share=self.time_share,
            interval=self.interval,
            matmul_share=ours,
            peer_matmul_share=peer,
            note=f"{note}; {self.milliseconds}" if note else self.milliseconds,
        )


def race(ours: Ways, peer: Ways, *, repeats: int = 15) -> Race:
    """Choose the fastest way of each side in a heat, then time these two alone, so that the choice does not flatter.

    FLOPs are those of the chosen ways, counted.
    """
    heat = timed(*ours.values(), *peer.values(), repeats=3, warmup=1)
    first = min(range(len(ours)), key=heat.seconds.__getitem__)
    second = min(range(len(peer)), key=heat.seconds[len(ours) :].__getitem__)
    names = list(ours)[first], list(peer)[second]
    runs = ours[names[0]], peer[names[1]]
    timing = timed(*runs, repeats=repeats, warmup=0)
    share, low, high = timing.ratio(0, 1)
    few, all_ = (count(run).flops for run in runs)
    return Race(*names, (few, all_), (timing.seconds[0], timing.seconds[1]), share, (low, high))


def pays(mechanism: str, size: str, what: str, sizes: Sequence[int], measure: Callable[[int], Race]) -> Row:
    """The line that says from which of the sizes on a mechanism is faster than its peer, and efficient."""
    return Row(
        mechanism=f"{mechanism}: where it pays",
        size=size,
        peer="dense, each in its fastest way",
        note=where_it_pays(what, sizes, measure),
    )


def transformer(dim: object, layers: int, batch: int, tokens: int) -> str:
    """A size, in words."""
    return f"dim {dim}, {layers} layers, batch {batch}, {tokens} tokens"


def where_it_pays(what: str, sizes: Sequence[int], measure: Callable[[int], Race]) -> str:
    """From which of the sizes on, smallest first, a mechanism is faster than its peer, and efficient, in words."""
    races = [measure(size) for size in sizes]
    faster = _from(sizes, [run.time_share < 1 for run in races])
    efficient = _from(sizes, [run.efficiency >= 1 for run in races])
    tried = "; ".join(
        f"{size}: {run.time_share:.2f} of the time, efficiency {run.efficiency:.2f}"
        for size, run in zip(sizes, races, strict=True)
    )
    return f"by {what}: faster than dense {faster}, efficiency of 1 and more {efficient} ({tried})"


def _from(sizes: Sequence[int], good: Sequence[bool]) -> str:
    """From where on it is good throughout."""
    last_bad = max((place for place, fine in enumerate(good) if not fine), default=-1)
    if last_bad == len(sizes) - 1:
        return f"at none up to {sizes[-1]}"
    return f"from {sizes[last_bad + 1]} on" if last_bad >= 0 else f"at all from {sizes[0]} on"
