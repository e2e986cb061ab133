"""Who wrote the same as another is shown where chance would hardly make it so."""

from tools.grade.similar import form, pairs

ONE = (
    'def mean(x, dim):\n    """The mean."""\n    total = x.sum(dim)  # all\n    count = x.shape[dim]\n'
    "    return total / count\n"
)
RENAMED = "def mean(a, d):\n    s = a.sum(d)\n    n = a.shape[d]\n    return s / n\n"
OTHER = "def mean(x, dim):\n    count = x.shape[dim]\n    return x.sum(dim) / (count + 0 * count)\n"


def test_names_comments_and_docstrings_do_not_count() -> None:
    assert form(ONE) == form(RENAMED) != ""
    assert form(ONE) != form(OTHER)
    assert form("def f(:") == form("x = 1") == "", "too short, or no Python"


def test_a_pair_that_alone_writes_so_is_shown_and_a_class_that_all_write_so_is_not() -> None:
    tasks = ("a", "b", "c", "d")

    def numbered(text: str, number: int) -> dict[str, str]:
        return {task: text.replace("return ", f"return {number} + ") for task in tasks}

    answers = {f"s{number:02}": numbered(ONE, number) for number in range(30)}
    assert pairs(answers) == [], "all different"
    answers["s07"] = {task: text.replace("total", "t").replace("count", "n") for task, text in answers["s03"].items()}
    (pair,) = pairs(answers)
    assert (pair.first, pair.second, pair.tasks) == ("s03", "s07", list(tasks))
    assert pairs({student: numbered(ONE, 1) for student in answers}) == [], "all the same"


def test_one_short_task_in_common_is_not_enough() -> None:
    answers = {f"s{number:02}": {"a": ONE.replace("return ", f"return {number} + ")} for number in range(30)}
    answers["s07"] = answers["s03"]
    assert pairs(answers) == []
