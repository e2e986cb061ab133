"""How answers are written down as edits of others, and what a check leaves behind in a notebook."""

import ast

import pytest

from tests.graders.harness import answers, edited, left_behind, source_of, teacher
from tools.notebooks import checks_file, tasks, units

BASE = "def f(x):\n    y = x + 1\n\n    return y\n    y = x + 1\n"


def test_an_edit_takes_lines_out_and_puts_lines_in() -> None:
    assert edited(BASE, "# -    return y\n# +    return -y\n# +    # never", "t") == BASE.replace(
        "return y", "return -y\n    # never"
    )


def test_a_line_without_a_sign_says_where() -> None:
    hunk = "#  def f(x):\n# -    y = x + 1\n# +    y = x + 2"
    assert edited(BASE, hunk, "t") == BASE.replace("x + 1", "x + 2", 1)


def test_hunks_follow_each_other() -> None:
    hunks = "# -    return y\n# …\n#  def f(x):\n# -    y = x + 1"
    assert edited(BASE, hunks, "t") == "def f(x):\n\n    y = x + 1\n"


@pytest.mark.parametrize(
    ("hunks", "says"),
    [
        ("# -    return z\n# +    return y", "found 0 times"),
        ("# -    y = x + 1\n# +    y = x", "found 2 times"),
        ("# +    y = x", "found 0 times"),
        ("#      return y", "found once and changed"),
        ("# *    return y", "begin with"),
        ("#-    return y", "begin with"),
    ],
)
def test_an_edit_that_does_not_fit_is_an_error(hunks: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        edited(BASE, hunks, "t")


def test_every_edit_is_python_and_differs_from_its_base() -> None:
    found = 0
    for unit in units():
        for answer in answers(unit):
            found += 1
            if "syntax" not in answer.says:
                ast.parse(answer.code)
            assert answer.right or answer.code.strip() != source_of(unit, answer.task).strip(), answer
    assert found > 1000


@pytest.mark.parametrize("unit", units())
def test_a_check_leaves_no_name_in_the_learners_notebook(unit: str) -> None:
    allowed = {"check", "checks", checks_file(unit).stem}
    for task in tasks(teacher(unit)):
        assert left_behind(unit, task) <= allowed, task
