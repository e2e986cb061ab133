"""What in a learner's text a person should read before it gets points: no honest answer needs it.

The kernel's own watch does not see an answer that gives an object which calls itself equal to everything, nor one that
changes the checks while they call it and puts them back. Their text shows it, as long as it is not put together letter
by letter.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType

from nbformat import NotebookNode

from tools.grade.room import points
from tools.notebooks import grade_id, is_answer, is_check, read, solution
from tools.progress import grader, parsed

EQUAL = {f"__{name}__" for name in "eq ne lt le gt ge bool float instancecheck class torch_function".split()} | {  # noqa: SIM905
    *("__torch_dispatch__", "__array_interface__", "TorchFunctionMode", "TorchDispatchMode"),
}
MACHINERY = {"_getframe", "f_back", "f_locals", "tb_frame", "gi_frame", "settrace", "setprofile", "get_referrers"} | {
    *("get_objects", "__closure__", "__globals__", "__code__", "cell_contents", "_room", "ast_transformers"),
    *("input_transformers_post", "input_transformers_cleanup", "showtraceback", "addaudithook", "meta_path"),
    *("input_hist_raw", "history_manager", "linecache", "user_module", "display_pub", "iopub_socket", "dup2"),
    *("IPython.utils.frame", "extract_module_locals", "extract_vars", "extract_vars_above", "currentframe", "walk_tb"),
    *("walk_stack", "findCaller", "_current_frames", "getouterframes", "getinnerframes", "torch.library", "ctypes"),
}
CHECKS = "checks_"
"""How the names of the files of checks begin: an answer may call a check, and reach for nothing else in them."""
JUDGES = ("torch", "builtins", "math", "dynlib.checks", "dynlib.honest", "checks_")
"""Modules that judge, by how their names begin."""
DEEP = "it is nested so deeply that it cannot be looked at"


def tree(source: str) -> ast.Module | None:
    """A cell's syntax tree, empty if it is no Python; None if it is nested too deeply for one."""
    try:
        return parsed(source)[1]
    except (RecursionError, MemoryError):
        return None


def found(cells: Sequence[NotebookNode], unit: str) -> dict[str, list[str]]:
    """For each task, what of this its answer holds; what stands in a cell without a task is all tasks'."""
    told: dict[str, list[str]] = {}
    every = list(dict.fromkeys(task for task, _ in points(unit).values()))
    part_of = grader()["part_of"]
    theirs = [cell for cell in cells if cell.cell_type == "code" and (not grade_id(cell) or is_answer(cell))]
    theirs = [cell for cell in theirs if not is_check(cell)]
    known = {name: file for cell in theirs for name, file in _called_checks(cell.source).items()}
    usual = _usual(unit) | {f"in {name}" for name in _may_be_called(unit)}
    for cell in theirs:
        task = part_of(cell).removesuffix("-answer")
        for says in sorted({*_said(_names(cell.source, known) - usual)}):
            for each in [task] if task in every else every:
                told.setdefault(each, []).append(says)
    return told


def _said(names: Sequence[str] | set[str]) -> Iterator[str]:
    for name in names:
        if name in EQUAL:
            yield f"its objects say themselves what they equal: {name}"
        elif name in MACHINERY:
            yield f"it reaches into the machinery: {name}"
        elif name.startswith("to "):
            yield f"it writes: {name}"
        elif name.startswith(f"in {CHECKS}"):
            yield f"it reaches into the machinery: {name.removeprefix('in ')}"
        elif name == DEEP:
            yield name


def _names(source: str, known: Mapping[str, str] = MappingProxyType({})) -> set[str]:
    """Names, attributes, texts and what is written to in a cell, and in texts that it runs.

    Args:
        source: of the cell.
        known: what names of it stand for a file of checks, by an import in this cell or another.
    """
    whole = tree(source)
    if whole is None:
        return {DEEP}
    try:
        return _within(whole, known)
    except RecursionError:
        return {DEEP}


def _within(whole: ast.Module, known: Mapping[str, str]) -> set[str]:
    names, judges = {f"in {name}" for name in _inside_checks(whole, known)}, _judges(whole)
    for node in ast.walk(whole):
        if isinstance(node, ast.Attribute):
            # to ask for a class is no lie about it
            names.update([] if node.attr == "__class__" and isinstance(node.ctx, ast.Load) else [node.attr])
            names.update(name for name in MACHINERY if "." in name and _dotted(node) == name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.name for alias in node.names)
            names.update([node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and _runs(node.func):
            for text in node.args:
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    names |= _names(text.value, known)
        for place in _written(node):
            if _judge(place, judges):
                names.add(f"to {ast.unparse(place)[:80]}")
    return names


RUN = {"exec", "eval", "run_cell", "run_cell_magic", "run_line_magic", "ex", "ev", "run_code", "runcode"}
"""Functions that run a text: ``%%time`` hands the whole cell to one of them."""


def _runs(called: ast.expr) -> bool:
    return getattr(called, "attr", getattr(called, "id", "")) in RUN


def _inside_checks(whole: ast.Module, known: Mapping[str, str]) -> Iterator[str]:
    """What of the file of the checks a text names: ``checks_x.name``, or ``checks_x`` where that is all it says."""
    owned = set[ast.AST]()
    for node in ast.walk(whole):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and _file(node.value, known):
            owned.add(node.value)
            yield f"{_file(node.value, known)}.{node.attr}"
    for node in ast.walk(whole):
        if isinstance(node, ast.Name) and node not in owned and (file := _file(node, known)):
            yield file
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(CHECKS):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(rf"{CHECKS}\w+(\.\w+)?", str(node.value)):
            yield str(node.value)


def _file(name: ast.Name, known: Mapping[str, str]) -> str:
    """The file of checks that a name stands for, or nothing."""
    return known.get(name.id, name.id if name.id.startswith(CHECKS) else "")


def _called_checks(source: str) -> dict[str, str]:
    """The names that files of checks have in a cell, which others may use."""
    imports = [node for node in ast.walk(tree(source) or ast.Module([], [])) if isinstance(node, ast.Import)]
    every = [alias for node in imports for alias in node.names if alias.name.startswith(CHECKS)]
    return {alias.asname or alias.name: alias.name for alias in every}


@cache
def _may_be_called(unit: str) -> frozenset[str]:
    """What of the file of the checks the unit's own cells name."""
    cells = [cell.source for cell in read(solution(unit)).cells if cell.cell_type == "code"]
    known = {name: file for source in cells for name, file in _called_checks(source).items()}
    trees = [tree(source) for source in cells]
    return frozenset(name for one in trees if one for name in _inside_checks(one, known) if "." in name)


def _judges(whole: ast.Module) -> dict[str, str]:
    """The names in a cell that stand for a module that judges, or for a part of one, and what they stand for."""
    known = {"torch": "torch", "math": "math", "checks": "dynlib.checks", "builtins": "builtins"}
    known |= {name: f"dynlib.checks.{name}" for name in ("Task", "CheckFailed", "Unfilled")}
    for node in ast.walk(whole):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
            known |= {alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names if not alias.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(whole):
        imported = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _imports(node.value)
        plain = isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call)
        if isinstance(node, ast.Assign) and (imported or plain) and _judge(node.value, known):
            known |= {target.id: "torch" for target in node.targets if isinstance(target, ast.Name)}
    return known


def _written(node: ast.AST) -> Iterator[ast.expr]:
    """What a node writes to: ``place.name = …``, ``place["name"] = …``, ``setattr(place, …)``, ``patch.object(place)``.

    ``vars(place)`` and ``place.__dict__`` are the place itself.
    """
    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
        yield node
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        if (inner := _space(node.value)) is not None:
            yield inner
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("setattr", "delattr", "__setattr__", "__delattr__", "object") and node.args:
            yield node.args[0]
        changes = called in ("update", "setdefault", "pop", "__setitem__") and isinstance(node.func, ast.Attribute)
        if isinstance(node.func, ast.Attribute) and changes and (inner := _space(node.func.value)) is not None:
            yield inner


def _space(node: ast.expr) -> ast.expr | None:
    """Whose names these are: of ``vars(place)`` and ``place.__dict__``, the place; None if it is no such thing."""
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars" and node.args:
        return node.args[0]
    return node if _modules(node) else None


def _modules(node: ast.expr) -> bool:
    named = isinstance(node, ast.Attribute) and node.attr == "modules" and isinstance(node.value, ast.Name)
    return named and ast.unparse(node) == "sys.modules"


SETTINGS = re.compile(r"torch\.backends(\.(?!torch\b|sys\b|os\b)[a-z]\w*)+")
"""What everybody sets who wants the same numbers twice: ``torch.backends.cudnn.deterministic``."""


def _dotted(place: ast.expr) -> str:
    """``a.b.c`` as it is written; nothing for what is no such chain of names."""
    parts = []
    while isinstance(place, ast.Attribute):
        parts.append(place.attr)
        place = place.value
    return ".".join([place.id, *reversed(parts)]) if isinstance(place, ast.Name) else ""


def _imports(call: ast.Call) -> bool:
    return getattr(call.func, "attr", getattr(call.func, "id", "")) in ("import_module", "__import__")


def _judge(place: ast.expr, judges: dict[str, str]) -> bool:
    """Whether a place is a module that judges, or in one; ``sys.modules[…]`` and ``import_module(…)`` count as such."""
    root, _, rest = _dotted(place).partition(".")
    if SETTINGS.fullmatch(f"{judges.get(root, root)}.{rest}"):
        return False
    while True:
        if isinstance(place, ast.Attribute):
            if place.attr in ("Task", "CheckFailed") or _modules(place):
                return True
            if place.attr == "checks" and isinstance(place.value, ast.Name) and place.value.id == "dynlib":
                return True
            place = place.value
        elif isinstance(place, ast.Subscript):
            place = place.value
        elif isinstance(place, ast.Call):
            called = place.func.attr if isinstance(place.func, ast.Attribute) else getattr(place.func, "id", "")
            if _imports(place):
                which = place.args[0].value if place.args and isinstance(place.args[0], ast.Constant) else "torch"
                return str(which).startswith((*JUDGES, "IPython", "dynlib", "sys"))
            if called in ("getattr", "vars", "type") and place.args:
                place = place.args[0]
            else:
                return False
        else:
            return isinstance(place, ast.Name) and judges.get(place.id, "").startswith(JUDGES)


@cache
def _usual(unit: str) -> frozenset[str]:
    """What the teacher's own cells use."""
    return frozenset().union(*(_names(cell.source) for cell in read(solution(unit)).cells if is_answer(cell)))
