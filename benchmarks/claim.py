"""One claim of a paper, and the number that a study of ours sets beside it.

Every number is turned so that the claim can be judged by where its 95 % interval lies: *above* a bound, or *within* a
distance from zero where the claim is that two things are alike. The bound is 0 unless the claim itself names another.
The claims stand in :mod:`benchmarks.claims`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any, Literal

from dynlib.cost import Interval, interval
from dynlib.page import in_words

FOLDER = Path(__file__).parent

Read = Literal["text", "abstract", "slides", "text not read here"]
"""Where the claim was read: in the paper, in its abstract, on the slides of the course; or it is common report."""

VERDICTS = ("yes", "not clear", "no", "one seed")
"""What the interval says of the claim; "no" is clear, too, and one seed says nothing."""


class ClaimError(ValueError):
    """A claim rests on something that its file does not hold."""


@dataclass(frozen=True)
class Study:
    """A file of results, and the claim for which it is read: errors name both."""

    name: str
    found: Mapping[str, Any]
    reader: str

    def fail(self, lacks: str) -> ClaimError:
        """The error, in a sentence."""
        return ClaimError(
            f"benchmarks/{self.name}.json has no {lacks}. The claim {self.reader!r} rests on it: finish the study with "
            f"`python -m benchmarks.{self.name}`, or change the claim in benchmarks/claims.py."
        )

    def rows(self, part: str, **where: Any) -> list[Mapping[str, Any]]:
        """The rows under a name of the file in which all of these stand.

        Raises:
            ClaimError: if there are none.
        """
        if not isinstance(self.found.get(part), list):
            raise self.fail(f"list {part!r}")
        rows = [row for row in self.found[part] if all(row.get(key) == value for key, value in where.items())]
        if not rows:
            told = " and ".join(f"{key} = {value!r}" for key, value in where.items())
            raise self.fail(f"row in {part!r} with {told}")
        return rows

    def one(self, part: str, **where: Any) -> Mapping[str, Any]:
        """The one row under a name of the file in which all of these stand.

        Raises:
            ClaimError: if there is none, or more than one.
        """
        rows = self.rows(part, **where)
        if len(rows) > 1:
            raise self.fail(f"single row in {part!r} with {where}, but {len(rows)}")
        return rows[0]

    def seeds(self, part: str, *keys: str | int, **where: Any) -> dict[int, float]:
        """A number for each seed: what stands under ``keys`` in the rows of :meth:`rows`, lists and rows averaged.

        Raises:
            ClaimError: if there is no such row.
            KeyError: if one of them has no such number; :func:`look_up` says so in a sentence.
        """
        found: dict[int, list[float]] = {}
        for row in sorted(self.rows(part, **where), key=lambda row: row["seed"]):
            value: Any = row
            for key in keys:
                value = value[key]
            found.setdefault(row["seed"], []).append(mean_of(value) if isinstance(value, list) else float(value))
        return {seed: mean_of(values) for seed, values in found.items()}


def mean_of(values: Iterable[float]) -> float:
    """Of one number or more."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and how a file of ours tests it."""

    unit: str
    """The lecture where it is told in full."""
    paper: str
    arxiv: str | None
    """None for the slides."""
    says: str
    read: Read
    measured: str
    """Our number in words, so that more of it speaks for the claim, and its unit."""
    study: str
    """The file in benchmarks/, without its ending."""
    values: Callable[[Study], list[float]]
    """One a seed, or a pair of texts."""
    why: str
    """What is different there: a sentence that holds whatever the number."""
    form: str = "+.1f"
    above: float | None = 0.0
    """The claim says that the number lies above it; None if it says that it lies within ``within`` of 0."""
    within: float = 0.0
    theirs: float | None = None
    """The paper's number, where it measures the same kind of thing in the same unit."""
    of: str = "seeds"
    """What the values are, one each."""
    also: Callable[[Study], list[float]] | None = None
    """The same over something else that varies, whose uncertainty comes on top."""


@dataclass(frozen=True)
class Row:
    """A claim with what came out."""

    claim: Claim
    values: tuple[float, ...]
    made_by: str
    also: tuple[float, ...] = ()

    @property
    def spread(self) -> Interval | None:
        """The mean with its 95 % interval; None if there is one value."""
        if len(self.values) < 2:
            return None
        half = hypot(interval(self.values).half, interval(self.also).half if self.also else 0.0)
        return Interval(self.mean, self.mean - half, self.mean + half)

    @property
    def mean(self) -> float:
        """Of the values."""
        return mean_of(self.values)

    @property
    def margin(self) -> Interval:
        """By how much the number keeps the claim's bound: above 0 it does. One value has no width."""
        low, mean, high = (self.mean,) * 3 if self.spread is None else (self.spread.low, self.mean, self.spread.high)
        if self.claim.above is not None:
            return Interval(*(number - self.claim.above for number in (mean, low, high)))
        room = self.claim.within
        least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        return Interval(room - abs(mean), room - max(abs(low), abs(high)), room - least)

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`."""
        if self.spread is None:
            return "one seed"
        return "yes" if self.margin.low > 0 else "no" if self.margin.high < 0 else "not clear"

    @property
    def share(self) -> Interval | None:
        """The number as a share of the paper's; None if the two cannot be compared."""
        theirs = self.claim.theirs
        if not theirs or self.spread is None:
            return None
        low, high = sorted((self.spread.low / theirs, self.spread.high / theirs))
        return Interval(self.mean / theirs, low, high)

    @property
    def told(self) -> str:
        """The number with its interval and the count behind it."""
        number = f"{self.mean:{self.claim.form}}" if self.spread is None else in_words(self.spread, self.claim.form)
        return f"{number}, {len(self.values)} {self.claim.of if len(self.values) > 1 else 'seed'}"


def load(name: str, folder: Path = FOLDER) -> Mapping[str, Any]:
    """A file of results.

    Raises:
        ClaimError: if it is not there.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        raise ClaimError(f"there is no benchmarks/{name}.json: make it with `python -m benchmarks.{name}`")
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def look_up(claim: Claim, folder: Path = FOLDER) -> Row:
    """A claim's row, from its file.

    Raises:
        ClaimError: if the file is not there, or lacks what the claim rests on.
    """
    study = Study(claim.study, load(claim.study, folder), claim.says)
    try:
        values = claim.values(study)
        also = claim.also(study) if claim.also is not None else []
        made_by = str(study.found["made by"])
    except (KeyError, IndexError) as error:
        raise study.fail(f"entry {error} where it is looked for") from error
    if not values:
        raise study.fail("seed that both sides of the comparison have")
    return Row(claim, tuple(values), made_by, tuple(also))
