"""What the studies share: the mean of a few seeds, who made a file of results, and the file itself, short to read.

A study trains or measures for longer than a reader would wait. It is a module with a ``main``, run by
``python -m benchmarks.NAME_study``, and leaves a JSON file beside it, which a lecture reads.
"""

import json
import math
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

# the 97.5 % points of Student's t, for the mean of as many
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval.

    Raises:
        ValueError: if there are fewer than two values, or more than ten.
    """
    if len(values) not in STUDENT:
        raise ValueError(f"an interval needs 2 to 10 values; got {len(values)}")
    return mean(values), STUDENT[len(values)] * stdev(values) / math.sqrt(len(values))


def head(study: str, *packages: str) -> dict[str, Any]:
    """The first entries of a file: the command that makes it, and the versions that it was made with."""
    versions = {name: version(name) for name in ("torch", *packages)}
    return {"made by": f"python -m benchmarks.{study}", "versions": {"python": platform.python_version(), **versions}}


def rounded(results: Any, *, digits: int = 4) -> Any:
    """The same as it will be read from a file: floats rounded, tuples as lists."""
    return json.loads(json.dumps(results), parse_float=lambda number: round(float(number), digits))


def write(path: Path, results: dict[str, Any], *, digits: int = 4) -> None:
    """Write results, rounded; a list or a dictionary of plain values takes one line."""
    text = json.dumps(rounded(results, digits=digits), indent=1)
    flat = re.sub(r"[\[{][^][{}]+[]}]", lambda part: " ".join(part[0].split()), text)
    path.write_text(flat + "\n", encoding="utf-8")
