"""Time the grading of a class, and grade it again with kill -9 on the way: the tables must be the same.

    python -m tests.classroom.killed FOLDER [--unit 00_start_here] [--number 200] [--jobs 1 2] [--kills 3]

The class is graded undisturbed with the first number of jobs, and killed on the way with the second. The folder must be
new. Seconds are those that the machine's load allows; it is printed with them.
"""

import argparse
import itertools
import os
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
        path.parent.mkdir(parents=True)
        path.write_bytes(raw(solved(unit, **{answer.task.replace("-", "_"): answer.code})))


def start(course: Path, unit: str, *options: str) -> subprocess.Popen[bytes]:
    """The command, running."""
    command = [sys.executable, "-m", "tools.grade", str(course), unit, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def done(course: Path, unit: str) -> dict[str, int]:
    """The results that lie there, and when they were written."""
    return {path.stem: path.stat().st_mtime_ns for path in (course / "graded" / unit).glob("*.json")}


def tables(course: Path) -> dict[str, bytes]:
    """All tables of a class, by name."""
    return {path.name: path.read_bytes() for path in sorted((course / "grades").glob("*.csv"))}


def say(what: str, number: int, jobs: int, seconds: float) -> None:
    """A line with the time of each submission."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{what}: {number} submissions, --jobs {jobs}: {seconds / number:.2f} s each "
        f"({os.cpu_count()} cores, load {load})",
        flush=True,
    )


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.classroom.killed", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unit", default="00_start_here")
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--jobs", type=int, nargs=2, default=(1, 2))
    parser.add_argument("--kills", type=int, default=3)
    asked = parser.parse_args()
    unit, number, (first, second) = asked.unit, asked.number, asked.jobs
    whole, killed = asked.folder / "whole", asked.folder / "killed"
    for course in (whole, killed):
        hand_in(course, unit, number)
        if start(course, unit, "--count").wait():  # what is worked out once is nobody's time
            return 1
    began = time.monotonic()
    if start(whole, unit, f"--jobs={first}").wait():
        return 1
    seconds = time.monotonic() - began
    say("undisturbed", number, first, seconds)

    chance = random.Random(0)
    kept: dict[str, int] = {}
    spent = 0.0
    for kill in range(asked.kills):
        wanted = number * (kill + 1) // (asked.kills + 1)
        began = time.monotonic()
        process = start(killed, unit, f"--jobs={second}")
        while len(done(killed, unit)) < wanted and process.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.random() * seconds / number)  # anywhere within a submission
        process.send_signal(signal.SIGKILL)
        process.wait()
        spent += time.monotonic() - began
        time.sleep(1)
        now = done(killed, unit)
        again = [name for name, at in kept.items() if now.get(name) != at]
        print(f"kill -9 with {len(now)} done; {len(again)} of the {len(kept)} before it were graded again", flush=True)
        if again or any(batch.load(killed / "graded", unit, name) is None for name in now):
            print("WHAT WAS DONE IS NOT KEPT")
            return 1
        kept = now
    began = time.monotonic()
    if start(killed, unit, f"--jobs={second}").wait():
        return 1
    say(f"killed {asked.kills} times", number, second, spent + time.monotonic() - began)
    once = tables(killed)
    if start(killed, unit).wait():
        return 1
    same = tables(whole) == once == tables(killed) and len(once) > 0
    print("the same grades, to the byte; and once more" if same else "OTHER GRADES")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
