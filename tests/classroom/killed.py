"""Time the grading of a class, and grade it again with kill -9 on the way: the tables must be the same.

python -m tests.classroom.killed FOLDER [--unit 00_start_here] [--number 200] [--jobs 1] [--kills 3]
"""

import argparse
import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.classroom.hostile import raw, solved
from tests.graders.harness import answers
from tools.grade import batch
from tools.notebooks import ROOT


def hand_in(course: Path, unit: str, number: int) -> None:
    """So many submissions, with right answers and known wrong ones in turn."""
    given = itertools.cycle([answer for answer in answers(unit) if answer.right or "syntax" not in answer.says])
    for at in range(number):
        answer = next(given)
        path = course / "submitted" / f"student-{at:03}" / unit / f"{unit}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw(solved(unit, **{answer.task.replace("-", "_"): answer.code})))


def start(course: Path, unit: str, jobs: int) -> subprocess.Popen[bytes]:
    """The command, running."""
    command = [sys.executable, "-m", "tools.grade", str(course), unit, f"--jobs={jobs}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def done(course: Path, unit: str) -> dict[str, int]:
    """The results that lie there, and when they were written."""
    return {path.stem: path.stat().st_mtime_ns for path in (course / "graded" / unit).glob("*.json")}


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.classroom.killed", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unit", default="00_start_here")
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3)
    asked = parser.parse_args()
    whole, killed = asked.folder / "whole", asked.folder / "killed"
    for course in (whole, killed):
        hand_in(course, asked.unit, asked.number)
    began = time.monotonic()
    if start(whole, asked.unit, asked.jobs).wait():
        return 1
    seconds = time.monotonic() - began
    print(f"{asked.number} submissions, {asked.jobs} jobs: {seconds / asked.number:.2f} s each", flush=True)

    chance = random.Random(0)
    kept: dict[str, int] = {}
    for kill in range(asked.kills):
        wanted = asked.number * (kill + 1) // (asked.kills + 1)
        process = start(killed, asked.unit, asked.jobs)
        while len(done(killed, asked.unit)) < wanted and process.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.random() * seconds / asked.number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)
        now = done(killed, asked.unit)
        again = [name for name, at in kept.items() if now.get(name) != at]
        print(f"kill -9 with {len(now)} done; {len(again)} of the {len(kept)} before it were graded again", flush=True)
        if again or any(batch.load(killed / "graded", asked.unit, name) is None for name in now):
            return 1
        kept = now
    if start(killed, asked.unit, asked.jobs).wait():
        return 1
    same = all(
        (whole / "grades" / name).read_bytes() == (killed / "grades" / name).read_bytes()
        for name in (f"{asked.unit}.csv",)
    )
    print("the same grades, to the byte" if same else "OTHER GRADES")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
