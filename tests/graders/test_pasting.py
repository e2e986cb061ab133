"""No task is done by pasting a function of its lecture."""

import ast

import pytest

from tests.graders.harness import teacher
from tests.graders.pasting import lecture_functions, passing, pasted
from tools.notebooks import lacking, tasks, units

TASKS = [(unit, task) for unit in units() for task in tasks(teacher(unit))]
HERE = [unit for unit in units() if not lacking(teacher(unit))]

EXCEPTIONS: dict[tuple[str, str], dict[str, str]] = {}
"""Tasks that a function of the lecture solves, with the reason why that may be."""


@pytest.mark.parametrize(("unit", "task"), TASKS)
def test_no_function_of_the_lecture_passes_under_the_name_of_a_task(unit: str, task: str) -> None:
    excused = EXCEPTIONS.get((unit, task), {})
    assert set(passing(unit, task)) == set(excused), "a task that the lecture solves, or an excuse that is not needed"


def test_every_excuse_is_for_a_task_that_is_there() -> None:
    assert set(EXCEPTIONS) <= set(TASKS)


def test_functions_are_tried() -> None:
    assert len({unit for unit, task in TASKS if unit in HERE and list(pasted(unit, task))}) >= len(HERE) - 1


def test_a_pasted_answer_that_is_right_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    support, functions = lecture_functions("00_start_here")
    answer = next(cell for cell in tasks(teacher("00_start_here"))["blank-share"]).source
    node = next(node for node in ast.parse(answer).body if isinstance(node, ast.FunctionDef))
    monkeypatch.setattr("tests.graders.pasting.lecture_functions", lambda unit: (support, {**functions, "shown": node}))
    assert passing("00_start_here", "blank-share") == ["shown as blank_share"]


def test_a_wrong_version_that_lacks_a_line_and_an_end_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    code = '''
def short(z, k, W, b, V, *, each):
    """Wrong: ends before the last learner."""
    y = z.new_zeros(len(z), V.shape[1])
    for n in range(1, int(k.max())):
        some, rows = k >= n, slice((n - 1) * each, n * each)
        y[some] += F.gelu(z[some] @ W[rows].T + b[rows]) @ V[rows]
    return y
'''
    node = next(node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    monkeypatch.setattr("tests.graders.pasting.lecture_functions", lambda unit: ("", {"short": node}))
    assert set(passing("13_acm", "run-learners")) == {"short as run_learners"}
