"""The known wrong answers of a unit: what each check says to them, worked out once and kept in the course folder.

They serve twice. After a learner's answer some of them are put to the same checks in the same kernel, which must refuse
them. And what a check says to a learner is compared with what it says to each of them, which names the misconception.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.grade.files import write
from tools.grade.room import Probe, plain
from tools.notebooks import ROOT, checks_file, solution

EACH = 2
"""Wrong answers that each check is asked about."""


class Mistake(NamedTuple):
    """A wrong answer that the course knows.

    Attributes:
        task: that it answers.
        says: what is wrong with it.
        check: the check that stops it.
        code: the answer.
        refused: what each check cell says to it, of those that refuse it.
        seconds: that the checks took.
    """

    task: str
    says: str
    check: str
    code: str
    refused: dict[str, str]
    seconds: float


def answers_file(unit: str) -> Path:
    """Where the wrong answers of a unit stand."""
    return ROOT / "tests" / "graders" / "answers" / f"{unit}.py"


def known(unit: str, place: Path) -> list[Mistake]:
    """The wrong answers of a unit, from ``place`` if they were worked out before, with today's checks.

    Raises:
        RuntimeError: if they cannot be worked out; with the last line of why.
    """
    if not answers_file(unit).exists():
        return []
    digest = hashlib.sha256()
    for path in (solution(unit), checks_file(unit), answers_file(unit)):
        digest.update(path.read_bytes() if path.exists() else b"")
    file = place / f"mistakes-{unit}-{digest.hexdigest()[:16]}.json"
    if not file.exists():
        print(f"{unit}: putting the known wrong answers to its checks, once", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "tools.grade.mistakes", unit, str(file)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(
                f"the wrong answers of {unit} cannot be tried: {(done.stderr.strip() or '?').splitlines()[-1]}"
            )
    return [Mistake(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def probes(mistakes: Sequence[Mistake]) -> list[Probe]:
    """For each check cell a few wrong answers that it refuses, the quick ones, stopped by different checks."""
    chosen: dict[tuple[str, str], Mistake] = {}
    count: dict[str, int] = {}
    for fresh in (True, False):
        seen: set[tuple[str, str]] = set()
        for mistake in sorted(mistakes, key=lambda mistake: (round(mistake.seconds, 1), mistake.says)):
            for cell, said in mistake.refused.items():
                stop = (cell, named(said))
                if count.get(cell, 0) >= EACH or (fresh and stop in seen) or (mistake.task, mistake.says) in chosen:
                    continue
                if " the check '" not in said.split("\n")[0]:
                    continue
                seen.add(stop)
                chosen[mistake.task, mistake.says] = mistake
                for also in mistake.refused:
                    count[also] = count.get(also, 0) + 1
    return [Probe(m.task, m.says, m.code, tuple(m.refused)) for m in chosen.values()]


def named(said: str) -> str:
    """The name of the check that said this."""
    first = said.split("\n", 1)[0]
    return first.split(" the check '", 1)[1].rsplit("' did not pass", 1)[0] if " the check '" in first else ""


def name_of(mistakes: Sequence[Mistake], task: str, cell: str, said: str) -> str:
    """The misconception behind what a check said; nothing if none is known or several could be."""
    same = [mistake.says for mistake in mistakes if mistake.task == task and mistake.refused.get(cell) == said]
    if same:
        return same[0]
    stopped = [mistake.says for mistake in mistakes if mistake.task == task and mistake.check == named(said)]
    return stopped[0] if len(stopped) == 1 else ""


def _work_out(unit: str) -> list[dict[str, Any]]:
    from tests.graders.harness import answers, run

    rows = []
    for answer in answers(unit):
        if answer.right:
            continue
        try:
            compile(answer.code, "<answer>", "exec")
        except (SyntaxError, ValueError):
            continue
        began = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            outcomes = run(unit, answer.task, answer.code)
        refused = {outcome.cell: plain(outcome.message) for outcome in outcomes if outcome.stopped_by is not None}
        seconds = time.perf_counter() - began
        rows.append(Mistake(answer.task, answer.says, answer.check or "", answer.code, refused, seconds)._asdict())
    return rows


if __name__ == "__main__":
    write(Path(sys.argv[2]), json.dumps(_work_out(sys.argv[1]), indent=1))
