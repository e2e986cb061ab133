"""Can a task be done by pasting? Every function of the unit's lecture is tried as its answer, under the task's name.

A lecture shows the formula, the slow version, the wrong version or a sibling: what a task asks for is not there.
"""

import ast
import copy
from collections.abc import Iterator
from functools import cache
from itertools import product

from tests.graders.harness import run, source_of, stopped_by
from tools.notebooks import LECTURES, read


@cache
def lecture_functions(unit: str) -> tuple[str, dict[str, ast.FunctionDef]]:
    """What a lecture's code defines: the imports, functions and classes of all its cells, and the functions by name.

    A function that a later cell defines again is there under its last definition, and under ``name, before``.
    """
    support: list[ast.stmt] = []
    functions: dict[str, ast.FunctionDef] = {}
    for cell in read(LECTURES / f"{unit}.ipynb").cells:
        if cell.cell_type != "code":
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef) or _is_constant(node):
                support.append(node)
            if isinstance(node, ast.FunctionDef):
                if node.name in functions:
                    functions[f"{node.name}, before"] = functions[node.name]
                functions[node.name] = node
    return ast.unparse(ast.Module(support, [])), functions


def pasted(unit: str, task: str) -> Iterator[tuple[str, str]]:
    """The lecture's functions as answers to a task: which they are, and the code."""
    asked = [node for node in ast.parse(source_of(unit, task, released=True)).body if isinstance(node, ast.FunctionDef)]
    support, functions = lecture_functions(unit)
    fitting = [[name for name, node in functions.items() if _fits(node, wanted)] for wanted in asked]
    for names in product(*fitting):
        renamed = []
        for name, wanted in zip(names, asked, strict=True):
            node = copy.deepcopy(functions[name])
            node.name = wanted.name
            renamed.append(ast.unparse(node))
        yield ", ".join(names), "\n\n\n".join([support, *renamed])


def passing(unit: str, task: str) -> list[str]:
    """The functions of the lecture that pass all checks of a task."""
    return [names for names, code in pasted(unit, task) if stopped_by(run(unit, task, code)) is None]


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)


def _fits(node: ast.FunctionDef, wanted: ast.FunctionDef) -> bool:
    """Whether a call with the positional arguments of the one can reach the other."""
    given = len(wanted.args.args)
    names, defaults = node.args.posonlyargs + node.args.args, node.args.defaults
    keywords = [default for default in node.args.kw_defaults if default is None]
    return not keywords and (len(names) - len(defaults) <= given <= len(names) or node.args.vararg is not None)
