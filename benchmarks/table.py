"""The one table of all benchmarks: a row of it, and how it is printed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mechanism at one budget against one peer at one size. What does not apply is left out.

    Attributes:
        mechanism: what was measured, and at which budget.
        size, peer: on what, against what.
        flops_share: FLOPs that ran, over those of the peer.
        time_share: seconds taken, over those of the peer: a median of ratios within one run.
        interval: the 95 % interval of ``time_share``.
        masked: the shares of FLOPs and of time of the same mechanism where it computes everything and masks.
        quality: of the mechanism and of its peer, in words; empty where the weights are random.
        matmul_share, peer_matmul_share: FLOP/s of each side, over this machine's best in a matrix product.
        aim: at the efficiency, where this size has one.
        note: what a reader should take from the row.
        skipped: that nothing was measured, and why stands in the note; tried again the next time.
    """

    mechanism: str
    size: str
    peer: str = ""
    flops_share: float | None = None
    time_share: float | None = None
    interval: tuple[float, float] | None = None
    masked: tuple[float, float] | None = None
    quality: str = ""
    matmul_share: float | None = None
    peer_matmul_share: float | None = None
    aim: float | None = None
    note: str = ""
    skipped: bool = False

    @property
    def efficiency(self) -> float | None:
        """Share of the FLOPs over share of the time; 1 where every saved operation is saved time."""
        if self.flops_share is None or self.time_share is None:
            return None
        return self.flops_share / self.time_share

    @property
    def key(self) -> tuple[str, str, str]:
        """What it has in common with the row of the same on another device."""
        return self.mechanism, self.size, self.peer


Rows = Row | list[Row]
Case = tuple[str, Callable[[], Rows]]  # a name for the progress bar and for what is kept, and the measurement

HEADINGS = (
    "mechanism",
    "size",
    "against",
    "FLOPs",
    "time",
    "efficiency",
    "masked",
    "quality",
    "matmul rate",
    "what to take from it",
)


def in_short(rows: Sequence[Row]) -> str:
    """How many of the rows that have an aim reach it."""
    aimed = [row for row in rows if row.aim is not None and row.efficiency is not None]
    reached = [row for row in aimed if row.efficiency >= row.aim]  # type: ignore[operator]
    open_ = [row for row in aimed if row not in reached and not _surely_below(row)]
    if not aimed:
        return ""
    below = len(aimed) - len(reached) - len(open_)
    return (
        f"Of {len(aimed)} rows with an aim at the efficiency (1 at dim 256, 0.9 below it), {len(reached)} reach it, "
        f"{len(open_)} are not clearly below it, and {below} are below it; each of these says where the time goes."
    )


def _surely_below(row: Row) -> bool:
    """Whether the whole interval of the efficiency is below the aim."""
    assert row.aim is not None
    if row.interval is None or row.flops_share is None:
        return True
    return row.flops_share < row.aim * row.interval[0]


def markdown(rows: Sequence[Row], elsewhere: Mapping[str, Sequence[Row]] | None = None) -> str:
    """The rows as a Markdown table, in the order given.

    Args:
        rows: on the CPU.
        elsewhere: rows of the same mechanisms on other devices, by the name of the device, which get a column each.
            A row that the CPU has not stands at the end.
    """
    others = {name: {row.key: row for row in found} for name, found in (elsewhere or {}).items()}
    known = {row.key for row in rows}
    more = [row for found in others.values() for row in found.values() if row.key not in known]
    head = (*HEADINGS[:-1], *(f"on {name}" for name in others), HEADINGS[-1])
    lines = [head, ("---", "---", "---", *["--:"] * 3, *["---"] * (len(head) - 6))]
    for row in [*rows, *more]:
        cells = _cells(row if row.key in known else Row(mechanism=row.mechanism, size=row.size, peer=row.peer))
        there = [_there(found.get(row.key)) for found in others.values()]
        lines.append((*cells, *there, _text(row.note)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _text(row.mechanism),
        _text(row.size),
        _text(row.peer),
        _number(row.flops_share),
        _time(row),
        _number(row.efficiency),
        "–" if row.masked is None else f"{row.masked[0]:.2f}, {row.masked[1]:.2f}",
        _text(row.quality),
        "–" if row.matmul_share is None else f"{_percent(row.matmul_share)} ({_percent(row.peer_matmul_share)})",
    )


def _there(row: Row | None) -> str:
    """On another device: the time, and the efficiency."""
    if row is None or row.time_share is None:
        return "–"
    return _time(row) if row.efficiency is None else f"{_time(row)}, efficiency {row.efficiency:.2f}"


def _time(row: Row) -> str:
    if row.interval is None:
        return _number(row.time_share)
    return f"{_number(row.time_share)} ({row.interval[0]:.2f} … {row.interval[1]:.2f})"


def _text(words: str) -> str:
    return words.replace("|", r"\|").replace("\n", " ") or "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
