"""The one table of all benchmarks: a row of it, and how it is printed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mechanism against one peer at one size. What does not apply is left out.

    Attributes:
        mechanism, size, peer: what was measured, on what, against what.
        flops_share: FLOPs that ran, over those of the peer.
        time_share: seconds taken, over those of the peer: a median of ratios within one run.
        interval: the 95 % interval of ``time_share``.
        matmul_share, peer_matmul_share: FLOP/s of each side, over this machine's best in a matrix product.
        note: what else should be known, in a few words.
    """

    mechanism: str
    size: str
    peer: str = ""
    flops_share: float | None = None
    time_share: float | None = None
    interval: tuple[float, float] | None = None
    matmul_share: float | None = None
    peer_matmul_share: float | None = None
    note: str = ""

    @property
    def efficiency(self) -> float | None:
        """Share of the FLOPs over share of the time; 1 where every saved operation is saved time."""
        if self.flops_share is None or self.time_share is None:
            return None
        return self.flops_share / self.time_share


Case = tuple[str, Callable[[], Row]]  # a name for the progress bar, and the measurement

HEADINGS = (
    "mechanism",
    "size",
    "against",
    "share of FLOPs",
    "share of time",
    "95 % interval",
    "efficiency",
    "matmul rate",
    "its peer's",
    "note",
)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, in the order given."""
    lines = [HEADINGS, ("---", "---", "---", *["--:"] * 6, "---"), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _text(row.mechanism),
        _text(row.size),
        _text(row.peer),
        _number(row.flops_share),
        _number(row.time_share),
        "–" if row.interval is None else f"{row.interval[0]:.2f} … {row.interval[1]:.2f}",
        _number(row.efficiency),
        _percent(row.matmul_share),
        _percent(row.peer_matmul_share),
        _text(row.note),
    )


def _text(words: str) -> str:
    return words.replace("|", r"\|").replace("\n", " ") or "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
