"""What must hold for every notebook of the course: each gate looks at one thing and lists what is wrong with it.

``python -m tests.notebooks.gates > tests/notebooks/grade_ids.txt`` writes down the grade ids. Learners' copies, grade
books and the answers of the graders are tied to them: run it when an id is to change, and say so in CHANGELOG.md.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from tests.notebooks.live import chosen_words
from tools.notebooks import (
    EXERCISES,
    ROOT,
    SOLUTIONS,
    WORK,
    checks_file,
    code_digest,
    exercise,
    grade_id,
    is_answer,
    is_check,
    read,
    solution,
    task_of,
    tasks,
    units,
)


class Unit(NamedTuple):
    """The two notebooks of a unit, and the file of its checks."""

    name: str
    source: NotebookNode
    released: NotebookNode
    checks: str = ""


class Lecture(NamedTuple):
    """A lecture, where it lies and how large its file is."""

    path: Path
    notebook: NotebookNode
    size: int


@cache
def unit_of(name: str) -> Unit:
    """A unit of the course; not to be changed."""
    file = checks_file(name)
    return Unit(name, read(solution(name)), read(exercise(name)), file.read_text() if file.exists() else "")


@cache
def lecture_of(path: Path) -> Lecture:
    """A lecture of the course; not to be changed."""
    return Lecture(path, read(path), path.stat().st_size)


def grade_ids(name: str, notebook: NotebookNode) -> list[str]:
    """The ids of a unit, as grade_ids.txt has them."""
    return [f"{name}/{grade_id(cell)}" for cell in notebook.cells if is_answer(cell) or is_check(cell)]


# What holds for every notebook.


def well_formed(notebook: NotebookNode) -> list[str]:
    """A valid notebook for the kernel python3."""
    wrong = [] if notebook.nbformat_minor >= 5 else ["the format is older than 4.5, and its cells have no ids"]
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        wrong.append(f"not a valid notebook: {error}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        wrong.append("the kernelspec is not python3")
    if notebook.metadata.get("language_info") != {"name": "python"}:
        wrong.append("language_info holds more, or less, than the name of the language")
    return wrong


def speaking_ids(notebook: NotebookNode) -> list[str]:
    """Cell ids are unique words, not random digits."""
    ids = [cell.get("id", "") for cell in notebook.cells]
    wrong = [f"the cell id {name!r} is there twice" for name, times in Counter(ids).items() if times > 1]
    for name in ids:
        if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
            wrong.append(f"the cell id {name!r} is not made of a-z, 0-9 and -")
        elif not re.search(r"[a-z]{3}", name) or re.fullmatch(r"(?=.*\d)[0-9a-f-]{6,}|(cell|code|markdown)-?\d*", name):
            wrong.append(f"the cell id {name!r} says nothing")
    return wrong


def plain_python(notebook: NotebookNode) -> list[str]:
    """Code cells run in any Python: no magics, no shell, nothing installed."""
    wrong = []
    for cell in _code(notebook):
        if _tree(cell.source) is None:
            wrong.append(f"{cell.id}: not plain Python (a magic or a shell line?)")
        found = re.search(r"get_ipython|pip3? install|os\.system|\bsubprocess\b|run_line_magic", cell.source)
        if found:
            wrong.append(f"{cell.id}: {found[0]}")
    return wrong


def nothing_of_this_machine(notebook: NotebookNode) -> list[str]:
    """No absolute path of the machine that a notebook was written on."""
    path = re.compile(r"(?<![\w.:/~-])/(?:work|root|home|tmp|Users|private|mnt)/[\w.-]|[A-Z]:\\Users\\")
    wrong = []
    for cell in notebook.cells:
        texts = [("source", cell.source), *(("output", text) for text in _output_texts(cell))]
        wrong += [f"{cell.id}: a path of one machine in the {where}" for where, text in texts if path.search(text)]
    return wrong


def links_lead_somewhere(notebook: NotebookNode, folder: Path) -> list[str]:
    """Links to files of the course lead to files that are there, from the folder of the notebook."""
    wrong = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=[\"']([^\"']+)[\"']", cell.source):
                target = (link[0] or link[1]).split("#")[0]
                if not target or re.match(r"[a-z]+:", target):
                    continue
                path = (folder / target).resolve()
                if path.is_relative_to(WORK):  # `make lab` copies it there
                    path = EXERCISES / path.relative_to(WORK)
                if not path.is_relative_to(ROOT) or not path.exists():
                    wrong.append(f"{cell.id}: the link to {target} leads nowhere")
    return wrong


def portable_prose(notebook: NotebookNode) -> list[str]:
    """Prose that plain Jupyter shows as it is meant: no directives, no heading that jumps a level."""
    wrong, level = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            if re.search(r"^:::|^\{(note|math|figure|admonition)\}", prose, re.MULTILINE):
                wrong.append(f"{cell.id}: a directive, which plain Jupyter shows raw")
            for marks in re.findall(r"^(#+) ", prose, re.MULTILINE):
                if len(marks) > level + 1:
                    wrong.append(f"{cell.id}: the heading jumps from level {level} to {len(marks)}")
                level = len(marks)
    return wrong


# What holds for an exercise and its solution.


def both(look: Callable[[NotebookNode], list[str]]) -> Callable[[Unit], list[str]]:
    """A gate that looks at the solution and at the exercise."""

    def gate(unit: Unit) -> list[str]:
        return [f"solution: {text}" for text in look(unit.source)] + [
            f"exercise: {text}" for text in look(unit.released)
        ]

    gate.__doc__ = look.__doc__
    return gate


def no_outputs(notebook: NotebookNode) -> list[str]:
    """Nothing of an earlier run."""
    return [
        f"{cell.id}: outputs or an execution count"
        for cell in _code(notebook)
        if cell.outputs or cell.execution_count is not None
    ]


def graded_as_agreed(notebook: NotebookNode) -> list[str]:
    """nbgrader's marks: ids, flags, whole points; the cell's own id is the same."""
    wrong = []
    for cell in notebook.cells:
        mark = cell.metadata.get("nbgrader")
        if mark is None:
            continue
        name = mark.get("grade_id", "")
        if cell.id != name:
            wrong.append(f"{cell.id}: the grade id is {name!r}, and the cell id must be the same")
        if mark.get("schema_version") != 3:
            wrong.append(f"{cell.id}: schema_version is {mark.get('schema_version')}, not 3")
        grade, answer = mark.get("grade"), mark.get("solution")
        if (grade, answer, mark.get("locked")) not in {
            (False, True, False),
            (True, False, True),
            (False, False, True),
        } or mark.get("task"):
            wrong.append(f"{cell.id}: neither an answer, nor a check, nor a cell that stays as it is")
        points = mark.get("points")
        if grade and not (isinstance(points, int) and not isinstance(points, bool) and points > 0):
            wrong.append(f"{cell.id}: points must be a whole number above 0, and are {points!r}")
        if not grade and points is not None:
            wrong.append(f"{cell.id}: points on a cell that is not graded")
        ends = "answer" if answer else "(check|hidden[2-9]?)" if grade else "(?!answer$|check$|hidden[2-9]?$)[a-z0-9]+"
        if not re.fullmatch(rf"(?:[a-z0-9-]+-)?{ends}", name):
            wrong.append(f"{cell.id}: the grade id must end in {ends}")
    return wrong


def one_of_each(notebook: NotebookNode) -> list[str]:
    """Each task has one answer, one check and one hidden cell, in this order; more hidden ones for points in steps."""
    steps = ["hidden", *(f"hidden{step}" for step in range(2, 10))]
    return [
        f"{task}: has {', '.join(grade_id(cell) for cell in cells)}"
        for task, cells in tasks(notebook).items()
        if [grade_id(cell) for cell in cells]
        != [f"{task}-{part}" for part in ("answer", "check", *steps[: max(1, len(cells) - 2)])]
    ]


def told_beforehand(notebook: NotebookNode) -> list[str]:
    """A task says its difficulty, minutes and points above the answer; the points are those that it brings."""
    wrong, most = [], 0
    for task, cells in tasks(notebook).items():
        text = _prose_before(notebook, f"{task}-answer")
        if not re.search(r"^#+ Task \d+ · \S", text, re.MULTILINE):
            wrong.append(f"{task}: no heading like 'Task 1 · {task}'")
        if not re.search(r"difficulty\W{0,4}[1-5]\b", text, re.IGNORECASE):
            wrong.append(f"{task}: no difficulty from 1 to 5")
        if not re.search(r"\b[1-9]\d* minutes?\b", text):
            wrong.append(f"{task}: no minutes")
        told = [int(number) for number in re.findall(r"\b(\d+) points?\b", text)][:1]
        brings = sum(cell.metadata.nbgrader.get("points", 0) for cell in cells if is_check(cell))
        most += brings
        if told != [brings]:
            wrong.append(f"{task}: speaks of {told or 'no'} points and brings {brings}")
    for told_sum in re.findall(r"\b(\d+) points\b", notebook.cells[0].source):
        if int(told_sum) != most:
            wrong.append(f"the first cell speaks of {told_sum} points, and the tasks bring {most}")
    return wrong


def hints(notebook: NotebookNode) -> list[str]:
    """Each task has closed hints; the last is for those who pass one check but fail another."""
    wrong = []
    for task in tasks(notebook):
        text = _prose_after(notebook, f"{task}-answer")
        titles = [" ".join(title.split()) for title in re.findall(r"<summary>(.*?)</summary>", text, re.DOTALL)]
        if len(titles) < 2:
            wrong.append(f"{task}: {len(titles)} hints, and there should be two at least")
        elif "I pass" not in titles[-1] or "but fail" not in titles[-1]:
            wrong.append(f"{task}: the last hint is {titles[-1]!r}, not one like 'I pass … but fail …'")
        if text.count("<details>") != len(titles) or text.count("</details>") != len(titles) or "<details open" in text:
            wrong.append(f"{task}: each hint is one closed <details> with a <summary>")
        for closing in re.findall(r"</summary>(.*?)</details>", text, re.DOTALL):
            if not closing.startswith("\n\n") or not closing.strip():
                wrong.append(f"{task}: Markdown inside <details> needs an empty line above it")
    return wrong


def answers_between_markers(unit: Unit) -> list[str]:
    """The answer lies between the markers inside a documented function; the stub in its place names the task."""
    wrong = []
    released = {grade_id(cell): cell.source for cell in unit.released.cells}
    for cell in filter(is_answer, unit.source.cells):
        inside = _split(cell.source, "SOLUTION")[1]
        stub = released.get(grade_id(cell), "")
        tree = _tree(stub)
        marks = [line.strip() for line in cell.source.split("\n") if "SOLUTION" in line]
        if marks != ["### BEGIN SOLUTION", "### END SOLUTION"] * max(1, len(marks) // 2):
            wrong.append(f"{cell.id}: the markers are ### BEGIN SOLUTION and ### END SOLUTION")
        if not any(line.strip() and not line.strip().startswith("#") for line in inside):
            wrong.append(f"{cell.id}: no answer between the markers")
        functions = [node for node in ast.walk(tree or ast.Module([], [])) if isinstance(node, ast.FunctionDef)]
        if not functions or not any(ast.get_docstring(function) for function in functions):
            wrong.append(f"{cell.id}: no function with a docstring that says what it gives")
        raised = re.findall(r"^( +)raise NotImplementedError\(\"([^\"]+)\"\)$", stub, re.MULTILINE)
        if not raised or not all(says.startswith(f"{task_of(cell)}: ") for _, says in raised):
            wrong.append(f"{cell.id}: the stub does not raise a NotImplementedError that names the task")
        if tree is None:
            wrong.append(f"{cell.id}: the stub is not valid Python")
    return wrong


def hidden_is_hidden(notebook: NotebookNode) -> list[str]:
    """A hidden cell is one comment that says what it looks at, and the checks between the markers."""
    wrong = []
    for cell in notebook.cells:
        outside, inside = _split(cell.source, "HIDDEN TESTS")
        if not re.search(r"-hidden[2-9]?$", grade_id(cell)):
            if inside:
                wrong.append(f"{cell.id}: hidden tests outside a hidden cell")
        elif not any("checks.task" in line for line in inside):
            wrong.append(f"{cell.id}: no checks between the markers")
        elif len([line for line in outside if line.strip()]) != 1 or not outside[0].startswith("# "):
            wrong.append(f"{cell.id}: outside the markers there must be one line, a comment")
    return wrong


def checks_speak(notebook: NotebookNode) -> list[str]:
    """A graded cell ends in a block of checks for its own task, and shows no value, which would be partial credit."""
    wrong = []
    for cell in filter(is_check, notebook.cells):
        tree = _tree(cell.source)
        if tree is None or not tree.body:
            wrong.append(f"{cell.id}: nothing to run")
            continue
        blocks = [node for node in tree.body if isinstance(node, ast.With) and "checks.task" in ast.unparse(node)]
        if not blocks or tree.body[-1] is not blocks[-1]:
            wrong.append(f"{cell.id}: does not end in `with checks.task(…) as check:`")
        for block in blocks:
            call = block.items[0].context_expr
            if not (isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant)):
                wrong.append(f"{cell.id}: the block does not name its task")
                continue
            if call.args[0].value != task_of(cell):
                wrong.append(f"{cell.id}: the block is for {call.args[0].value!r}")
            if "read" not in {keyword.arg for keyword in call.keywords}:
                wrong.append(f"{cell.id}: the block does not say where to read")
    return wrong


def nothing_swallowed(notebook: NotebookNode) -> list[str]:
    """No graded cell hides an error of any kind."""
    wrong, broad = [], {"Exception", "BaseException"}
    for cell in filter(is_check, notebook.cells):
        for node in ast.walk(_tree(cell.source) or ast.Module([], [])):
            if isinstance(node, ast.ExceptHandler):
                names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else broad
                if names & broad:
                    wrong.append(f"{cell.id}: an except that takes every error")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("suppress", "raises"):
                welcome = {arg.id for arg in node.args if isinstance(arg, ast.Name)} & broad
                wrong += [f"{cell.id}: every {name} is welcome" for name in sorted(welcome)]
    return wrong


def nothing_leaks(unit: Unit) -> list[str]:
    """No line of an answer and no hidden test in what a learner gets."""
    told = [line.strip() for cell in unit.released.cells for line in cell.source.split("\n")]
    wrong = [
        f"the released notebook holds {line!r}"
        for line in told
        if re.search(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS)", line)
    ]
    open_lines = {
        line.strip() for cell in unit.source.cells for line in _split(cell.source, "SOLUTION|HIDDEN TESTS")[0]
    }
    for cell in unit.source.cells:
        for line in _split(cell.source, "SOLUTION")[1]:
            if _gives_away(line) and line.strip() in told:
                wrong.append(f"{cell.id}: the released notebook holds the answer's line {line.strip()!r}")
        for line in _split(cell.source, "HIDDEN TESTS")[1]:
            if _gives_away(line) and line.strip() in told and line.strip() not in open_lines:
                wrong.append(f"{cell.id}: the released notebook holds the hidden line {line.strip()!r}")
    return wrong


MOST_LINES = 450
"""Source lines of an exercise, prose and all."""
MOST_CHECK_LINES = 6
"""Lines of a cell of visible checks."""


def short(unit: Unit) -> list[str]:
    """What a learner scrolls past: the whole exercise, and each check cell."""
    total = sum(len(cell.source.split("\n")) for cell in unit.released.cells)
    wrong = [f"{total} lines, and {MOST_LINES} are allowed"] if total > MOST_LINES else []
    for cell in filter(is_check, unit.released.cells):
        lines = len(cell.source.split("\n"))
        if lines > MOST_CHECK_LINES:
            wrong.append(f"{cell.id}: {lines} lines, and {MOST_CHECK_LINES} are allowed")
    return wrong


def hints_first(unit: Unit) -> list[str]:
    """Text, stub, hints, check: help stands where one is stuck, not below what says so."""
    wrong = []
    for task in tasks(unit.source):
        names = [cell.id for cell in unit.source.cells]
        order = [f"{task}-{part}" for part in ("task", "answer", "hints", "check", "hidden")]
        places = [names.index(name) for name in order if name in names]
        if len(places) < len(order) or places != sorted(places):
            wrong.append(f"{task}: the order must be {', '.join(order)}")
    return wrong


def checks_beside(unit: Unit) -> list[str]:
    """The checks stand in the file beside the notebook, and cells do nothing but call the function of their task."""
    tree = _tree(unit.checks)
    if tree is None or not tree.body:
        return ["there is no file of checks beside the notebook, or it is not plain Python"]
    module = checks_file(unit.name).stem
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    wrong, used = [], dict[str, str]()
    for cell in filter(is_check, unit.source.cells):
        body = (_tree(cell.source) or ast.Module([], [])).body
        imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        if not {f"import {module}", "from dynlib import checks"} <= set(imports):
            wrong.append(
                f"{cell.id}: must import {module} and checks itself, whatever a cell above made of these names"
            )
        blocks = [node for node in body if isinstance(node, ast.With)]
        calls = [
            node.func.attr
            for block in blocks
            for node in ast.walk(block)
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(f"{module}.")
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.args[0] if node.args else node) == "check"
        ]
        if cell.id.endswith("-check") and (len(body) != 3 or len(blocks) != 1 or len(blocks[0].body) != 1):
            wrong.append(f"{cell.id}: must be two imports and one block of one call")
        if len(set(calls)) != 1 or calls[0] not in functions:
            wrong.append(f"{cell.id}: must call one function of {module}, with check first; it calls {calls or 'none'}")
        elif used.setdefault(task_of(cell), calls[0]) != calls[0]:
            wrong.append(f"{cell.id}: calls {calls[0]}, and the visible check {used[task_of(cell)]}")
    for name in used.values():
        if not ast.get_docstring(functions[name]):
            wrong.append(f"{module}.{name}: no docstring that says what it looks at")
    return wrong


def checks_keep_quiet(unit: Unit) -> list[str]:
    """The file of checks, which learners get: no line of an answer, no hidden case, no error swallowed."""
    told = {line.strip() for line in unit.checks.split("\n")}
    wrong = []
    for cell in unit.source.cells:
        for what in ("SOLUTION", "HIDDEN TESTS"):
            for line in _split(cell.source, what)[1]:
                if _gives_away(line) and line.strip() in told:
                    wrong.append(f"{cell.id}: the file of checks holds {line.strip()!r}")
    for node in ast.walk(_tree(unit.checks) or ast.Module([], [])):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or "Exception" in ast.unparse(node.type)):
            wrong.append(f"line {node.lineno}: an except that takes every error")
    return wrong


def enough_tasks(unit: Unit) -> list[str]:
    """Three to six tasks, one of which asks to predict and then measure; the warm-up has two."""
    least, most = (2, 2) if unit.name.startswith("00") else (3, 6)
    found = list(tasks(unit.source))
    wrong = [] if least <= len(found) <= most else [f"{len(found)} tasks, and there should be {least} to {most}"]
    texts = [_prose_before(unit.source, f"{task}-answer").lower() + task for task in found]
    if most > 2 and not any("predict" in text and re.search("measur|count|run", text) for text in texts):
        wrong.append("no task asks to predict, then to measure")
    return wrong


UNIT_GATES: dict[str, Callable[[Unit], list[str]]] = {
    "well formed": both(well_formed),
    "speaking ids": both(speaking_ids),
    "plain python": both(plain_python),
    "nothing of this machine": both(nothing_of_this_machine),
    "links lead somewhere": lambda unit: links_lead_somewhere(unit.source, SOLUTIONS / unit.name),
    "portable prose": both(portable_prose),
    "no outputs": both(no_outputs),
    "graded as agreed": both(graded_as_agreed),
    "one of each": both(one_of_each),
    "told beforehand": both(told_beforehand),
    "hints": both(hints),
    "answers between markers": answers_between_markers,
    "hidden is hidden": lambda unit: hidden_is_hidden(unit.source),
    "checks speak": lambda unit: checks_speak(unit.source),
    "nothing swallowed": lambda unit: nothing_swallowed(unit.source),
    "nothing leaks": nothing_leaks,
    "enough tasks": enough_tasks,
    "short": short,
    "hints first": hints_first,
    "checks beside": checks_beside,
    "checks keep quiet": checks_keep_quiet,
}


# What holds for a lecture.


def executed(lecture: Lecture) -> list[str]:
    """The outputs in the file belong to the code in the file."""
    if lecture.notebook.metadata.get("dynlib", {}).get("executed") != code_digest(lecture.notebook):
        return ["the code changed since it was executed: `make lectures`"]
    return [f"{cell.id}: was not executed" for cell in _code(lecture.notebook) if cell.execution_count is None]


def no_errors(lecture: Lecture) -> list[str]:
    """No error is shown but where the lecture means to show one, and no warning anywhere."""
    wrong = []
    for cell in _code(lecture.notebook):
        meant = "raises-exception" in cell.metadata.get("tags", [])
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed and not meant:
            wrong.append(f"{cell.id}: an error")
        if meant and not failed:
            wrong.append(f"{cell.id}: is tagged raises-exception and raises none")
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                wrong.append(f"{cell.id}: text on stderr")
    return wrong


def pictures_in_words(lecture: Lecture) -> list[str]:
    """Every picture has an alternative text of a sentence or more in its output's metadata."""
    return [
        f"{cell.id}: a picture without alternative text: draw it with plotting.figure"
        for cell in _code(lecture.notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
        and len(output.get("metadata", {}).get("image/png", {}).get("alt", "").split()) < 4
    ]


def small_enough(lecture: Lecture) -> list[str]:
    """A file that a browser shows."""
    return [] if lecture.size <= 600_000 else [f"{lecture.size / 1000:.0f} kB, and 600 kB are allowed"]


def declared(lecture: Lecture) -> list[str]:
    """Seconds, MiB and minutes are declared, and within the limits."""
    told, wrong = lecture.notebook.metadata.get("dynlib", {}), []
    for name, most in (("seconds", 60), ("mib", 2048), ("minutes", 60)):
        value = told.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
            wrong.append(f"{name} must be declared, above 0 and at most {most}; it is {value!r}")
    return wrong


def first_screen(lecture: Lecture) -> list[str]:
    """Title, what the reader will be able to do, minutes to read, seconds to run, as declared."""
    cells, told = lecture.notebook.cells, lecture.notebook.metadata.get("dynlib", {})
    text = cells[0].source if cells and cells[0].cell_type == "markdown" else ""
    wrong = []
    if not re.match(r"# \S", text):
        wrong.append("the first cell does not begin with a title")
    if not re.search(r"\byou will\b|\byou can\b", text):
        wrong.append("the first cell does not say what the reader will be able to do")
    minutes = [int(number) for number in re.findall(r"(\d+) minutes?", text)]
    if told.get("minutes") not in minutes:
        wrong.append(f"the first cell speaks of {minutes} minutes, and {told.get('minutes')} are declared")
    seconds = [int(number) for number in re.findall(r"(\d+) s(?:econds?)?\b", text)]
    within_a_minute = "under a minute" in text and told.get("seconds", 0) < 60
    if not within_a_minute and (not seconds or seconds[0] > told.get("seconds", 0)):
        wrong.append(f"the first cell speaks of {seconds} seconds, and {told.get('seconds')} are declared")
    return wrong


def one_style(lecture: Lecture) -> list[str]:
    """Figures are drawn by dynlib.plotting, whose figures cannot go without a caption."""
    return [
        f"{cell.id}: {found[0]} makes a figure without a caption"
        for cell in _code(lecture.notebook)
        if (found := re.search(r"\bplt\.(figure|subplots|plot|imshow|show|subplot_mosaic)\b", cell.source))
    ]


def widgets_with_twins(lecture: Lecture) -> list[str]:
    """One widget at least; every slider waits for the mouse to be let go; there are pictures without it too."""
    wrong, sliders, interactive = [], 0, 0
    for cell in _code(lecture.notebook):
        for node in ast.walk(_tree(cell.source) or ast.Module([], [])):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).split(".")[-1]
            interactive += name in ("interact", "interactive", "interactive_output", "observe")
            if name.endswith("Slider"):
                sliders += 1
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if options.get("continuous_update") != "False":
                    wrong.append(f"{cell.id}: {name} without continuous_update=False")
            elif name == "interact" and any(
                isinstance(keyword.value, ast.Tuple | ast.List | ast.Constant) for keyword in node.keywords
            ):
                wrong.append(f"{cell.id}: interact makes a slider of its own, which does not wait")
    if not sliders or not interactive:
        wrong.append("no widget that moves something")
    pictures = [
        cell.id
        for cell in _code(lecture.notebook)
        if "interact" not in cell.source and any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    if not pictures:
        wrong.append("no picture for readers of the page, who cannot move a widget")
    return wrong


def folded(cell: NotebookNode) -> bool:
    """Jupyter shows a bar in place of the code."""
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def folded_alike(notebook: NotebookNode) -> list[str]:
    """A folded cell says so to Jupyter (source_hidden) and to what makes web pages (the tag hide-input)."""
    return [
        f"{cell.id}: source_hidden and the tag hide-input come together"
        for cell in _code(notebook)
        if folded(cell) != ("hide-input" in cell.metadata.get("tags", []))
    ]


OPEN_LINES, OPEN_LINES_OF_A_CELL = 250, 30


def mostly_mechanism(notebook: NotebookNode) -> list[str]:
    """What stands open is the mechanism: little code, none before the first picture, none that draws or tabulates."""
    wrong, lines, seen = [], 0, False
    for cell in _code(notebook):
        seen = seen or any("image/png" in output.get("data", {}) for output in cell.outputs)
        if folded(cell):
            continue
        own = len(cell.source.strip().split("\n"))
        lines += own
        if not seen:
            wrong.append(f"{cell.id}: open code before the first picture")
        if own > OPEN_LINES_OF_A_CELL:
            wrong.append(f"{cell.id}: {own} open lines, and a cell may have {OPEN_LINES_OF_A_CELL}")
        shown = re.search(
            r"\bplotting\.(figure|show_images)\b|\bpage\.(table|say)\b|\bMarkdown\(|\bwidgets\.", cell.source
        )
        if shown:
            wrong.append(f"{cell.id}: {shown[0]} shows something, and such cells are folded")
    if lines > OPEN_LINES:
        wrong.append(f"{lines} open lines, and a lecture may have {OPEN_LINES}")
    return wrong


STANDS_ONCE = {
    r"\bdef (interval|wilson|table|verdict|seeded|study|bare)\(": "dynlib.cost, page and plotting have it",
    r"\bjson\.loads?\(": "page.study reads results",
    r"join\(topics\(": "data.text joins the topics",
    r"[\"']\|[ :]?-": "page.table makes tables",
    r"\bxticks=\[\]": "plotting.bare takes the ticks away",
}


def stands_once(notebook: NotebookNode) -> list[str]:
    """What several lectures need is taken from dynlib."""
    return [
        f"{cell.id}: {found[0]!r}, and {instead}"
        for cell in _code(notebook)
        for pattern, instead in STANDS_ONCE.items()
        if (found := re.search(pattern, cell.source))
    ]


def words_follow_numbers(notebook: NotebookNode) -> list[str]:
    """No words are chosen by code where the numbers are fixed: there a sentence is prose, and an assertion holds it.

    Live is what is measured while the reader watches, what a widget moves, and what cells tagged ``live`` hold.
    """
    cells = list(_code(notebook))
    found = chosen_words([_tree(cell.source) or ast.Module([], []) for cell in cells])
    return [
        f"{cell.id}: chooses words by {test!r}, which is not measured in this run"
        for cell, tests in zip(cells, found, strict=True)
        for test in tests
        if "live" not in cell.metadata.get("tags", [])
    ]


def whole(look: Callable[[NotebookNode], list[str]]) -> Callable[[Lecture], list[str]]:
    """A gate that looks at the notebook alone."""
    return lambda lecture: look(lecture.notebook)


LECTURE_GATES: dict[str, Callable[[Lecture], list[str]]] = {
    "pictures in words": pictures_in_words,
    "well formed": whole(well_formed),
    "speaking ids": whole(speaking_ids),
    "plain python": whole(plain_python),
    "nothing of this machine": whole(nothing_of_this_machine),
    "links lead somewhere": lambda lecture: links_lead_somewhere(lecture.notebook, lecture.path.parent),
    "portable prose": whole(portable_prose),
    "executed": executed,
    "no errors": no_errors,
    "small enough": small_enough,
    "declared": declared,
    "first screen": first_screen,
    "one style": one_style,
    "widgets with twins": widgets_with_twins,
    "folded alike": whole(folded_alike),
    "mostly mechanism": whole(mostly_mechanism),
    "words follow numbers": whole(words_follow_numbers),
    "stands once": whole(stands_once),
}


def _code(notebook: NotebookNode) -> Iterator[NotebookNode]:
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def _split(source: str, what: str) -> tuple[list[str], list[str]]:
    """The lines outside and inside the regions between markers."""
    outside: list[str] = []
    inside: list[str] = []
    within = False
    for line in source.split("\n"):
        if re.search(rf"BEGIN ({what})", line):
            within = True
        elif re.search(rf"END ({what})", line):
            within = False
        else:
            (inside if within else outside).append(line)
    return outside, inside


def _gives_away(line: str) -> bool:
    """A line that says something about an answer: not an import, not a bare loop, not a word or two."""
    return len(line.strip()) >= 24 and not re.match(
        r"\s*(#|import |from |for |with |def |if |elif |else:|raise |\"\"\")", line
    )


def _prose_before(notebook: NotebookNode, answer: str) -> str:
    """The markdown between the previous task's heading and an answer: what follows the last heading of a task."""
    prose = ""
    for cell in notebook.cells:
        if grade_id(cell) == answer:
            break
        prose = "" if is_answer(cell) else f"{prose}\n{cell.source}" if cell.cell_type == "markdown" else prose
    start = [found.start() for found in re.finditer(r"^#+ Task ", prose, re.MULTILINE)]
    return prose[start[-1] :] if start else prose


def _prose_after(notebook: NotebookNode, answer: str) -> str:
    """The markdown between an answer and the heading of the next task."""
    after, prose = False, ""
    for cell in notebook.cells:
        if after and (is_answer(cell) or re.search(r"^#+ Task ", cell.source, re.MULTILINE)):
            break
        if after and cell.cell_type == "markdown":
            prose += f"\n{cell.source}"
        after = after or grade_id(cell) == answer
    return prose


def _output_texts(cell: NotebookNode) -> Iterator[str]:
    for output in cell.get("outputs", []):
        yield from (output.get(name, "") for name in ("text", "evalue"))
        yield "\n".join(output.get("traceback", []))
        yield from (
            text for kind, text in output.get("data", {}).items() if kind.startswith("text/") and isinstance(text, str)
        )


if __name__ == "__main__":
    for name in units():
        print(*grade_ids(name, read(solution(name))), sep="\n")
