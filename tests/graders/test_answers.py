"""Right answers pass, wrong ones fail in the check that names the mistake, blank and broken ones fail everywhere."""

from collections import Counter

import pytest

from tests.graders.harness import Answer, answers, run, source_of, stopped_by, teacher
from tools.notebooks import tasks, units

ANSWERS = [answer for unit in units() for answer in answers(unit)]
TASKS = [(unit, task) for unit in units() for task in tasks(teacher(unit))]


def _name(answer: Answer) -> str:
    return f"{answer.unit}-{answer.task}-{answer.says}"


@pytest.mark.parametrize("answer", [a for a in ANSWERS if not a.right], ids=_name)
def test_a_wrong_answer_fails_in_the_check_that_names_it(answer: Answer) -> None:
    outcomes = run(answer.unit, answer.task, answer.code, to_the_end=False)
    assert stopped_by(outcomes) == answer.check, outcomes


@pytest.mark.parametrize("answer", [a for a in ANSWERS if a.right], ids=_name)
def test_a_right_answer_written_otherwise_passes(answer: Answer) -> None:
    outcomes = run(answer.unit, answer.task, answer.code)
    assert stopped_by(outcomes) is None, outcomes


@pytest.mark.parametrize(("unit", "task"), TASKS)
def test_the_solution_passes(unit: str, task: str) -> None:
    outcomes = run(unit, task, source_of(unit, task))
    assert outcomes
    assert stopped_by(outcomes) is None, outcomes


@pytest.mark.parametrize(("unit", "task"), TASKS)
@pytest.mark.parametrize("what", ["stub", "nothing", "syntax error"])
def test_a_blank_or_broken_answer_fails_in_every_check_cell(unit: str, task: str, what: str) -> None:
    code = {"stub": source_of(unit, task, released=True), "nothing": "", "syntax error": "def answer(:\n    pass\n"}[
        what
    ]
    outcomes = run(unit, task, code)
    assert outcomes
    assert all(outcome.stopped_by is not None for outcome in outcomes), outcomes


@pytest.mark.parametrize("unit", units())
def test_every_task_has_wrong_answers_and_two_more_right_ones(unit: str) -> None:
    wrong = Counter(answer.task for answer in answers(unit) if not answer.right)
    right = Counter(answer.task for answer in answers(unit) if answer.right)
    expected = set(tasks(teacher(unit)))
    assert set(wrong) == expected, "every task has wrong answers, and no answer is for a task that is not there"
    assert all(right[task] >= 2 for task in expected), right
    assert unit.startswith("00") or wrong.total() >= 6
