"""Pairs of students whose answers are the same beyond renaming, where chance would hardly make them so.

An answer's form is its syntax tree without docstrings, with its own names replaced by numbers. A form that c of n
students have tells log₂(n / c) bits: nothing where it is everybody's, much where two share it alone. If all had written
on their own, a given pair would share b bits with a chance of about 2⁻ᵇ; of P pairs fewer than one in eight classes
would have one with log₂ P + 3 bits. That is the threshold, and the class itself sets it. It is a hint for a person.
"""

import ast
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from tools.grade.room import points
from tools.grade.suspects import tree as tree_of
from tools.notebooks import exercise, grade_id, is_answer, read, task_of

SMALLEST = 25
"""Nodes of a syntax tree below which there is only one way to write it."""
MARGIN = 3
"""Bits beyond those that one pair of the class would share by chance."""


class Pair(NamedTuple):
    """Two students, the bits that their answers share, and the tasks that are alike."""

    bits: float
    first: str
    second: str
    tasks: list[str]


def form(source: str) -> str:
    """What is left of an answer without its names, comments and docstrings; nothing if it is too short to tell."""
    tree = tree_of(source)
    if tree is None or sum(1 for _ in ast.walk(tree)) < SMALLEST:
        return ""
    own: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            own.setdefault(node.arg, f"v{len(own)}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.setdefault(node.id, f"v{len(own)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = own[node.arg], None
        elif isinstance(node, ast.Name):
            node.id = own.get(node.id, node.id)
    try:
        return ast.dump(tree)
    except RecursionError:
        return ""


def pairs(answers: Mapping[str, Mapping[str, str]]) -> list[Pair]:
    """The pairs beyond the threshold, the most alike first.

    Args:
        answers: for each student the text of each task's answer.
    """
    shared: dict[tuple[str, str], float] = defaultdict(float)
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task in dict.fromkeys(task for given in answers.values() for task in given):
        forms = {student: form(given[task]) for student, given in answers.items() if task in given}
        forms = {student: one for student, one in forms.items() if one}
        count = Counter(forms.values())
        holders: dict[str, list[str]] = defaultdict(list)
        for student, one in sorted(forms.items()):
            holders[one].append(student)
        for one, students in holders.items():
            bits = math.log2(len(answers) / count[one])
            for pair in combinations(students, 2) if bits else ():
                shared[pair] += bits
                alike[pair].append(task)
    threshold = math.log2(max(1, math.comb(len(answers), 2))) + MARGIN
    found = [Pair(bits, *pair, alike[pair]) for pair, bits in shared.items() if bits >= threshold]
    return sorted(found, key=lambda pair: (-pair.bits, pair.first, pair.second))


def of_unit(place: Path, unit: str) -> list[Pair]:
    """The pairs among the notebooks that were graded."""
    stubs = {task_of(cell): cell.source.strip() for cell in read(exercise(unit)).cells if is_answer(cell)}
    tasks = {task for task, _ in points(unit).values()}
    answers: dict[str, dict[str, str]] = {}
    for path in sorted((place / unit).glob("*.ipynb")):
        given: dict[str, str] = {}
        for cell in read(path).cells:
            task = grade_id(cell).removesuffix("-answer")
            if task in tasks and grade_id(cell).endswith("-answer") and cell.source.strip() != stubs.get(task):
                given[task] = cell.source
        answers[path.stem] = given
    return pairs(answers)
