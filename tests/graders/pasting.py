"""Can a task be done by pasting? Every function of the unit's lecture is tried as its answer, under the task's name,
and one that the lecture calls wrong is tried repaired, too: with a keyword worked out, with another end of a loop.

A lecture shows the formula, the slow version, the wrong version or a sibling: what a task asks for is not there.
"""

import ast
import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.graders.harness import interpreting, run, source_of, stopped_by
from tools.notebooks import LECTURES, read


@cache
def lecture_functions(unit: str) -> tuple[str, dict[str, ast.FunctionDef]]:
    """What a lecture's code defines: the imports, functions and classes of all its cells, and the functions by name.

    A function that a later cell defines again is there under its last definition, and under ``name, before``.
    """
    support: list[ast.stmt] = []
    functions: dict[str, ast.FunctionDef] = {}
    space: dict[str, Any] = {}
    for cell in read(LECTURES / f"{unit}.ipynb").cells:
        if cell.cell_type != "code":
            continue
        for node in ast.parse(cell.source).body:
            if not (
                isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef) or _is_constant(node)
            ):
                continue
            try:
                _define(node, space)
            except NameError:  # a default that is computed on the page, which is not run here
                node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
                node.args.kw_defaults = [default and ast.Constant(None) for default in node.args.kw_defaults]
                _define(node, space)
            support.append(node)
            if isinstance(node, ast.FunctionDef):
                if node.name in functions:
                    functions[f"{node.name}, before"] = functions[node.name]
                functions[node.name] = node
    return ast.unparse(ast.Module(support, [])), functions


def _define(node: ast.stmt, space: dict[str, Any]) -> None:
    with interpreting():
        exec(compile(ast.unparse(node), "<lecture>", "exec"), space)


def pasted(unit: str, task: str) -> Iterator[tuple[str, str]]:
    """The lecture's functions as answers to a task: which they are, and the code.

    Where a task asks for several functions, each is tried beside the teacher's others: what solves none of the parts so
    cannot solve all of them.
    """
    right = source_of(unit, task)
    asked = [node for node in ast.parse(right).body if isinstance(node, ast.FunctionDef)]
    support, functions = lecture_functions(unit)
    for wanted in asked:
        for name, shown in functions.items():
            for node in (shown, *repaired(shown, wanted)):
                if _fits(node, wanted):
                    renamed = copy.deepcopy(node)
                    renamed.name = wanted.name
                    yield f"{name} as {wanted.name}", "\n\n\n".join([support, right, ast.unparse(renamed)])


def repaired(node: ast.FunctionDef, wanted: ast.FunctionDef) -> Iterator[ast.FunctionDef]:
    """What a lecture calls wrong, in its docstring, as a reader would mend it.

    It takes what the task gives, and works out its keywords as the teacher's answer does. Then a loop over a range goes
    one further, or up to any of the task's arguments.
    """
    if not (ast.get_docstring(node) or "").startswith("Wrong"):
        return
    made = copy.deepcopy(node)
    names = {
        given.arg for given, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if not default
    }
    lines = [
        line for line in wanted.body if isinstance(line, ast.Assign) and {*map(ast.unparse, line.targets)} <= names
    ]
    own = [given.arg for given in node.args.args]
    renamed = {theirs.arg: mine for theirs, mine in zip(wanted.args.args, own, strict=False)}
    made.body[1:1] = copy.deepcopy(lines)
    for part in (part for line in made.body[1 : 1 + len(lines)] for part in ast.walk(line)):
        if isinstance(part, ast.Name):
            part.id = renamed.get(part.id, part.id)
    made.args.args += copy.deepcopy(wanted.args.args[len(own) :])
    if lines:
        made.args.kwonlyargs, made.args.kw_defaults = [], []
    yield made
    for place, loop in enumerate(ast.walk(made)):
        if isinstance(loop, ast.Call) and ast.unparse(loop.func) == "range" and len(loop.args) == 2:
            for end in (ast.unparse(loop.args[1]), *(given.arg for given in made.args.args)):
                other = copy.deepcopy(made)
                call = next(part for number, part in enumerate(ast.walk(other)) if number == place)
                assert isinstance(call, ast.Call)
                call.args[1] = ast.parse(f"{end} + 1", mode="eval").body
                yield other


def passing(unit: str, task: str) -> list[str]:
    """The functions of the lecture that pass all checks of a task, or of a part of it."""
    tried = ((name, run(unit, task, code, to_the_end=False)) for name, code in pasted(unit, task))
    return [name for name, outcomes in tried if stopped_by(outcomes) is None]


def _is_constant(node: ast.stmt) -> bool:
    names = isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets)
    return names and isinstance(node.value, ast.Constant)


def _fits(node: ast.FunctionDef, wanted: ast.FunctionDef) -> bool:
    """Whether a call with the positional arguments of the one can reach the other."""
    given = len(wanted.args.args)
    names, defaults = node.args.posonlyargs + node.args.args, node.args.defaults
    keywords = [default for default in node.args.kw_defaults if default is None]
    return not keywords and (len(names) - len(defaults) <= given <= len(names) or node.args.vararg is not None)
