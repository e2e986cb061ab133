"""Words that the code of a page chooses, and whether what they are chosen by is measured while the reader watches.

Live is what comes, through assignments, loops, functions and their arguments, from a clock or a meter, and what a
widget moves. It is followed cell by cell; within a cell the order of lines does not count.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

SOURCES = {"timed", "machine_peak", "perf_counter", "estimate_energy"}
WIDGETS = ("interact", "interactive", "interactive_output")

STYLES = ("color", "colour", "fmt", "marker", "linestyle", "ha", "va", "cmap")
"""Arguments whose words are no prose."""

Name = tuple[str, str]
"""The function that a name is local to ('' for the notebook, 'outer.inner' within another), and the name."""


def chosen_words(cells: Sequence[ast.Module]) -> list[list[str]]:
    """For each cell of a notebook, what it chooses words by that is not live."""
    found = []
    for tree, live in zip(cells, live_names(cells), strict=True):
        scopes = _scopes(tree)
        styles = {keyword.value for keyword in scopes if isinstance(keyword, ast.keyword) and keyword.arg in STYLES}
        tests = ((_chooses_words(node), scope) for node, scope in scopes.items() if node not in styles)
        found.append(
            [
                ast.unparse(test)
                for test, scope in tests
                if test and not _is_setting(test) and not _reads(test, scope, live)
            ]
        )
    return found


# Choices between words


def _chooses_words(node: ast.AST) -> ast.expr | None:
    """What the choice between words looks at; nothing where a node makes no such choice."""
    match node:
        case ast.IfExp(test, body, orelse) if _is_words(body, orelse):
            return test
        case ast.If(test) if (said := _said([node])) and _is_words(*said):
            return test
        case ast.Subscript(ast.Dict(values=options) | ast.Tuple(options) | ast.List(options), test):
            return test if _compares(test) and _is_words(*options) else None
        case ast.BinOp(left, ast.Mult(), right):
            for words, test in ((left, right), (right, left)):
                if _compares(test) and _is_words(words):
                    return test
        case ast.Call(func, [test, *_]) if _last(func) == "verdict":
            return test
    return None


def _is_words(*options: ast.expr) -> bool:
    """Each is text, and one at least holds a word."""
    return all(map(_is_text, options)) and any(
        isinstance(part, ast.Constant) and isinstance(part.value, str) and re.search(r"[^\W\d_]{3}", part.value)
        for option in options
        for part in ast.walk(option)
    )


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.IfExp():
            return _is_text(node.body) and _is_text(node.orelse)
        case ast.BinOp():
            return _is_text(node.left) or _is_text(node.right)
        case ast.JoinedStr() | ast.Constant(str()):
            return True
    return False


def _said(body: list[ast.stmt]) -> list[ast.expr]:
    """The text that the last of these statements keeps, shows or hands on; nothing where it does not."""
    match body[-1]:
        case ast.If(_, then, [_, *_] as orelse):
            both = _said(then), _said(orelse)
            return both[0] + both[1] if all(both) else []
        case ast.Expr(ast.Call(args=arguments)):
            return [argument for argument in arguments if _is_text(argument)]
        case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.Return(value) | ast.Expr(ast.Yield(value)):
            return [value] if value is not None and _is_text(value) else []
    return []


def _compares(test: ast.expr) -> bool:
    return any(isinstance(part, ast.Compare | ast.Not) for part in ast.walk(test))


def _is_setting(test: ast.expr) -> bool:
    """It asks which of several named things this is: it compares with texts or None alone."""
    match test:
        case ast.BoolOp(values=values):
            return all(map(_is_setting, values))
        case ast.UnaryOp(operand=operand):
            return _is_setting(operand)
        case ast.Call(ast.Attribute(attr="startswith" | "endswith")):
            return True
        case ast.Compare(left, [ast.Eq() | ast.NotEq() | ast.In() | ast.NotIn() | ast.Is() | ast.IsNot()], [right]):
            sides = [part for side in (left, right) for part in (getattr(side, "elts", None) or [side])]
            named = [side.value for side in sides if isinstance(side, ast.Constant)]
            return bool(named) and all(value is None or isinstance(value, str) for value in named)
    return False


# What is live


def live_names(cells: Sequence[ast.Module]) -> list[set[Name]]:
    """For each cell, the names that are live in it."""
    functions = {
        node.name: (_within(scope, node.name), node)
        for tree in cells
        for node, scope in _scopes(tree).items()
        if isinstance(node, ast.FunctionDef)
    }
    measuring: set[Name] = set()  # functions that hand back what they measured themselves
    arguments: set[Name] = set()  # parameters that are given something live in some call
    for kept in (measuring, arguments):
        before = -1
        while len(kept) > before:
            before = len(kept)
            found = _pass(cells, measuring | arguments)
            for tree, live in zip(cells, found, strict=True):
                kept |= _returning(tree, live) if kept is measuring else _given(tree, live, functions)
    return found


def _pass(cells: Sequence[ast.Module], known: set[Name]) -> list[set[Name]]:
    """From top to bottom: what a cell assigns anew is live only if it is so there."""
    found: list[set[Name]] = []
    carried: set[Name] = set()
    for tree in cells:
        assigned = [
            (scope, target, value) for node, scope in _scopes(tree).items() for target, value in _assignments(node)
        ]
        live = carried - {("", name) for scope, target, _ in assigned if not scope for name in _names(target)}
        live |= known | {("", name) for name in SOURCES}
        before = -1
        while len(live) > before:
            before = len(live)
            for scope, target, value in assigned:
                if _reads(value, scope, live):
                    live |= {(scope, name) for name in _names(target)}
        found.append(live)
        carried = live
    return found


def _assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The pairs of a target and what it gets, as far apart as the syntax tells them."""
    match node:
        case ast.Assign(targets, value):
            for target in targets:
                yield from _paired(target, value)
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target, value):
            yield target, value
        case ast.AugAssign(target, _, value):
            yield target, ast.Tuple([target, value], ast.Load())
        case ast.For(target, source) | ast.comprehension(target, source):
            yield from _looped(target, source)
        case ast.withitem(context, ast.expr() as target):
            yield target, context
        case ast.Call(ast.Attribute(kept, "append" | "extend" | "update"), arguments):
            yield kept, ast.Tuple([kept, *arguments], ast.Load())


def _paired(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    match target, value:
        case ast.Tuple(targets), ast.Tuple(values) if len(targets) == len(values):
            for each in zip(targets, values, strict=True):
                yield from _paired(*each)
        case ast.Subscript(kept) | ast.Attribute(kept), _:  # the rest of it stays what it was
            yield kept, ast.Tuple([kept, value], ast.Load())
        case _:
            yield target, value


def _looped(target: ast.expr, source: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a loop hands to its names: the parts of a zip apart, and no number or key for something live."""
    match target, source:
        case ast.Tuple(targets), ast.Call(ast.Name("zip"), sources) if len(targets) == len(sources):
            for each in zip(targets, sources, strict=True):
                yield from _looped(*each)
        case ast.Tuple([_, rest]), ast.Call(ast.Name("enumerate"), [inner, *_]):
            yield from _looped(rest, inner)
        case ast.Tuple([_, rest]), ast.Call(ast.Attribute(inner, "items"), []):
            yield rest, inner
        case _:
            yield target, source


def _returning(tree: ast.Module, live: set[Name]) -> set[Name]:
    return {
        (scope.rpartition(".")[0], scope.rpartition(".")[2])
        for node, scope in _scopes(tree).items()
        if isinstance(node, ast.Return | ast.Yield) and node.value and _reads(node.value, scope, live)
    }


def _given(tree: ast.Module, live: set[Name], functions: dict[str, tuple[str, ast.FunctionDef]]) -> Iterable[Name]:
    """The parameters that a cell gives something live, or a widget."""
    found = set()
    for node, scope in _scopes(tree).items():
        if not isinstance(node, ast.Call):
            continue
        moved = _last(node.func) in WIDGETS and bool(node.args)
        name = ast.unparse(node.args[0]) if moved else _last(node.func)
        if name not in functions:
            continue
        inside, function = functions[name]
        taken = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        if moved:
            found |= {(inside, argument) for argument in (*taken, *(a.arg for a in function.args.kwonlyargs))}
        given = [*zip(taken, node.args, strict=False), *((k.arg, k.value) for k in node.keywords if k.arg)]
        found |= {(inside, argument) for argument, value in given if _reads(value, scope, live)}
    return found


def _reads(node: ast.expr, scope: str, live: set[Name]) -> bool:
    """Whether something live is read in an expression that stands in this scope."""
    parts = scope.split(".") if scope else []
    outward = {".".join(parts[:depth]) for depth in range(len(parts) + 1)}
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and any((place, part.id) in live for place in outward):
            return True
        if isinstance(part, ast.Attribute) and part.attr in SOURCES:
            return True
    return False


def _scopes(tree: ast.Module) -> dict[ast.AST, str]:
    """Every node with the function that it stands in."""
    found: dict[ast.AST, str] = {}

    def walk(node: ast.AST, scope: str) -> None:
        found[node] = scope
        inner = _within(scope, node.name) if isinstance(node, ast.FunctionDef) else scope
        for child in ast.iter_child_nodes(node):
            walk(child, inner)

    walk(tree, "")
    return found


def _within(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _names(target: ast.expr) -> set[str]:
    match target:
        case ast.Tuple(parts) | ast.List(parts):
            return set().union(*map(_names, parts))
        case ast.Subscript(value) | ast.Attribute(value) | ast.Starred(value):
            return _names(value)
        case ast.Name(name):
            return {name}
    return set()


def _last(function: ast.expr) -> str:
    return ast.unparse(function).rsplit(".", 1)[-1]
