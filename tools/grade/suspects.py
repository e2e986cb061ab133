"""What in a learner's text a person should read before it gets points: no honest answer needs it.

The kernel's own watch does not see an answer that gives an object which calls itself equal to everything, nor one that
changes the checks while they call it and puts them back. Their text shows it, as long as it is not put together letter
by letter.
"""

import ast
from collections.abc import Sequence
from functools import cache

from nbformat import NotebookNode

from tools.grade.room import points
from tools.notebooks import grade_id, is_answer, is_check, read, solution
from tools.progress import grader, parsed

EQUAL = {f"__{name}__" for name in "eq ne lt le gt ge bool float instancecheck class torch_function".split()} | {  # noqa: SIM905
    "__torch_dispatch__"
}
MACHINERY = {"_getframe", "f_back", "f_locals", "tb_frame", "gi_frame", "settrace", "setprofile", "get_referrers"} | {
    *("get_objects", "__closure__", "__globals__", "__code__", "cell_contents", "_room", "ast_transformers"),
    *("input_transformers_post", "input_transformers_cleanup", "showtraceback", "addaudithook", "meta_path"),
}
JUDGES = {"checks", "Task", "CheckFailed", "Unfilled"}


def found(cells: Sequence[NotebookNode], unit: str) -> dict[str, list[str]]:
    """For each task, what of this its answer holds; what stands in a cell without a task is all tasks'."""
    told: dict[str, list[str]] = {}
    every = list(dict.fromkeys(task for task, _ in points(unit).values()))
    part_of = grader()["part_of"]
    for cell in cells:
        own = not grade_id(cell) or is_answer(cell)
        if cell.cell_type != "code" or not own or is_check(cell):
            continue
        task = part_of(cell).removesuffix("-answer")
        for name in sorted(_names(cell.source) - _usual(unit)):
            what = _what(name)
            for each in [task] if task in every else every:
                if what:
                    told.setdefault(each, []).append(f"{what}: {name}")
    return told


def _what(name: str) -> str:
    if name in EQUAL:
        return "its objects say themselves what they equal"
    if name in MACHINERY:
        return "it reaches into the machinery"
    if name.startswith("to "):
        return "it writes"
    return ""


def _names(source: str) -> set[str]:
    """Names, attributes, texts and targets of assignment in a cell."""
    names = set[str]()
    for node in ast.walk(parsed(source)[1]):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
            if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name | ast.Attribute):
                whole = ast.unparse(node)
                if {*whole.split(".")[:-1]} & {*JUDGES, "torch", "builtins", "math"}:
                    names.add(f"to {whole}")
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


@cache
def _usual(unit: str) -> frozenset[str]:
    """What the teacher's own cells use."""
    return frozenset().union(*(_names(cell.source) for cell in read(solution(unit)).cells if is_answer(cell)))
