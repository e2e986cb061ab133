"""Print the kill matrix: every wrong answer, the check that should stop it, and the check that did."""

import argparse
import sys

from tqdm import tqdm

from tests.graders.harness import Answer, answers, run, stopped_by, teacher
from tools.notebooks import lacking, units


def matrix(chosen: list[str]) -> tuple[list[str], int]:
    """The table's lines, and how many answers were judged wrongly."""
    rows: list[tuple[Answer, str | None]] = []
    for answer in tqdm([answer for unit in chosen for answer in answers(unit)], desc="answers", leave=False):
        rows.append((answer, stopped_by(run(answer.unit, answer.task, answer.code, to_the_end=False))))
    lines = ["| unit | task | answer | should be stopped by | was stopped by | |", "|---|---|---|---|---|---|"]
    amiss = 0
    for answer, check in rows:
        good = check == answer.check
        amiss += not good
        what = answer.says if not answer.right else f"right: {answer.says}"
        cells = [answer.unit, answer.task, what, answer.check or "–", check or "–", "" if good else "AMISS"]
        lines.append(f"| {' | '.join(cells)} |")
    wrong = sum(not answer.right for answer, _ in rows)
    survived = sum(not answer.right and check is None for answer, check in rows)
    refused = sum(answer.right and check is not None for answer, check in rows)
    lines.append(
        f"\n{wrong} wrong answers, {survived} survived; {len(rows) - wrong} right answers, {refused} refused; "
        f"{amiss} judged otherwise than written down."
    )
    return lines, amiss


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.graders", description=__doc__)
    parser.add_argument("units", nargs="*", help="all of them if none is named")
    chosen = parser.parse_args().units or units()
    for unit in chosen:
        if reason := lacking(teacher(unit)):
            print(f"{unit} is left out: {reason}")
    lines, amiss = matrix([unit for unit in chosen if not lacking(teacher(unit))])
    print("\n".join(lines))
    sys.exit(1 if amiss else 0)


if __name__ == "__main__":
    main()
