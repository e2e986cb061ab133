"""What a course's own ``course.toml`` says: when a unit is due, how many late days there are, what lateness costs.

::

    [due]
    02_gumbel = 2026-11-20T23:59:00+01:00

    [late]
    free_days = 3        # that each student has over the whole course, taken in the order of the deadlines
    off_per_day = 0.1    # of the points that were got, for each day begun beyond
"""

import math
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DAY = 86_400


def moment(text: str) -> datetime | None:
    """The time in nbgrader's timestamp.txt, or in ISO form; None if there is none. Without a zone it is UTC.

    Of the zones that have names UTC and GMT are read: the others' names are those of several.
    """
    text = text.strip().removesuffix(" UTC").removesuffix(" GMT")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not 1970 < at.year < 9000:  # near the ends of the calendar no zone can be counted in
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


class Late:
    """How late each submission was, and what that costs.

    Args:
        course: the course folder.
        results: of all units that were graded, since late days are shared among them.

    Raises:
        ValueError: if course.toml cannot be read, or says something else than the above.
    """

    def __init__(self, course: Path, results: Sequence[dict[str, Any]]) -> None:
        path = course / "course.toml"
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from None
        due, late = said.get("due", {}), said.get("late", {})
        strange = sorted({*said} - {"due", "late"} | {*late} - {"free_days", "off_per_day"})
        if strange:
            raise ValueError(
                f"{path}: nobody knows {', '.join(strange)}; there are [due] and [late] free_days, off_per_day"
            )
        for unit, at in due.items():
            if not isinstance(at, datetime):
                raise ValueError(f"{path}: {unit} must be due at a time such as 2026-11-20T23:59:00+01:00, got {at!r}")
        self.due: dict[str, datetime] = {unit: at if at.tzinfo else at.replace(tzinfo=UTC) for unit, at in due.items()}
        self.free, self.rate = int(late.get("free_days", 0)), float(late.get("off_per_day", 0.0))
        self._days: dict[tuple[str, str], tuple[int, int]] = {}
        used: dict[str, int] = {}
        for unit in sorted(self.due, key=lambda unit: (self.due[unit], unit)):
            for result in results:
                if result["unit"] != unit:
                    continue
                student, days = result["student"], self._late(result)
                free = min(days, self.free - used.get(student, 0))
                used[student] = used.get(student, 0) + free
                self._days[unit, student] = days, free

    def _late(self, result: dict[str, Any]) -> int:
        at = moment(result["when"])
        if at is None or result["state"] == "unread":
            return 0
        return max(0, math.ceil((at - self.due[result["unit"]]).total_seconds() / DAY))

    def days(self, result: dict[str, Any]) -> tuple[int, int]:
        """Days begun after the deadline, and how many of them were free."""
        return self._days.get((result["unit"], result["student"]), (0, 0))

    def off(self, result: dict[str, Any], got: float) -> float:
        """Points taken off from those that were got."""
        days, free = self.days(result)
        return round(min(1.0, (days - free) * self.rate) * got, 2)

    def says(self, result: dict[str, Any]) -> str:
        """A sentence about it, or nothing."""
        days, free = self.days(result)
        if days:
            some = f"{days} day{'s' if days > 1 else ''} late, {free} of them free"
            return f"{some}; {self.off(result, 100):g} % of the points off" if days > free else some
        if result["late"] and not result["when"]:
            return "marked as late, by how much is not known"
        return ""
