"""Grade a class of honest, strange and hostile submissions, and say what was not graded as it must be.

    python -m tests.classroom FOLDER [UNIT…] [--jobs 2]

The folder becomes a course folder, and can be looked at afterwards; what was graded in it before is kept.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.classroom.hostile import WRONG, Case, attacks, tidy
from tools.grade import batch
from tools.grade.exports import safe_name
from tools.notebooks import ROOT


def hand_in(course: Path, unit: str, cases: list[Case]) -> None:
    """Put the cases where nbgrader would."""
    for case in cases:
        path = course / "submitted" / safe_name(case.name) / unit / f"{unit}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.make())


def amiss(course: Path, unit: str, case: Case) -> str:
    """What is wrong with how a case was graded; nothing if it is as it must be."""
    result = batch.load(course / "graded", unit, safe_name(case.name))
    if result is None:
        return "not graded"
    points = {task: (found["got"], found["most"]) for task, found in result["tasks"].items()}
    if case.outcome == "unread":
        return "" if result["state"] == "unread" else f"must not be read, got {points}"
    if result["state"] == "unread":
        return f"unread: {result['why']}"
    if case.outcome == "full":
        return "" if all(got == most for got, most in points.values()) else f"must be full, got {points}"
    if case.outcome == "none":
        return "" if not any(got for got, _ in points.values()) else f"must be nothing, got {points}"
    task = next(iter(WRONG[unit]))
    return "" if not points[task][0] else f"{task} was not earned, and got {points[task]} unmarked"


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.classroom", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("units", nargs="*", default=list(WRONG))
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    cases = {unit: tidy(unit) + attacks(unit) for unit in asked.units}
    for unit, its in cases.items():
        hand_in(asked.folder, unit, its)
    began = time.monotonic()
    command = [sys.executable, "-m", "tools.grade", str(asked.folder), *asked.units, f"--jobs={asked.jobs}"]
    done = subprocess.run([*command, "--cell-seconds=90", "--seconds=900"], cwd=ROOT)
    wrong = 0
    for unit, its in cases.items():
        for case in its:
            if says := amiss(asked.folder, unit, case):
                wrong += 1
                print(f"AMISS: {unit}: {case.name}: {says}")
    number = sum(len(its) for its in cases.values())
    print(f"{number} submissions, {time.monotonic() - began:.0f} s, {wrong} not graded as they must be")
    return done.returncode or (1 if wrong else 0)


if __name__ == "__main__":
    sys.exit(main())
