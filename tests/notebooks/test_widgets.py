"""What a widget of a lecture moves is there, and moves once when the mouse is let go."""

import ast
from pathlib import Path

import ipywidgets
import pytest
from nbformat import NotebookNode

from tests.notebooks import toys
from tools.notebooks import lectures, read


def misfits(notebook: NotebookNode) -> list[str]:
    """Widgets whose function is not in the lecture, or does not take what the widget gives it."""
    functions: dict[str, ast.FunctionDef] = {}
    wrong = []
    for cell in notebook.cells:
        tree = ast.parse(cell.source if cell.cell_type == "code" else "")
        functions |= {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func).split(".")[-1] not in ("interact", "interactive", "interactive_output"):
                continue
            called = ast.unparse(call.args[0]) if call.args else "nothing"
            given = {keyword.arg for keyword in call.keywords if keyword.arg}
            if ast.unparse(call.func).endswith("interactive_output") and isinstance(call.args[1], ast.Dict):
                given = {key.value for key in call.args[1].keys if isinstance(key, ast.Constant)}
            if called not in functions:
                wrong.append(f"{cell.id}: {called} is no function of this lecture")
                continue
            taken = functions[called].args
            names = {argument.arg for argument in taken.args + taken.kwonlyargs}
            needed = {argument.arg for argument in taken.args[: len(taken.args) - len(taken.defaults)]}
            if not needed <= given <= names:
                wrong.append(f"{cell.id}: {called} takes {sorted(names)} and is given {sorted(given)}")
    return wrong


@pytest.mark.parametrize("path", lectures(), ids=lambda path: path.stem)
def test_a_widget_gives_its_function_what_it_takes(path: Path) -> None:
    assert misfits(read(path)) == []


@pytest.mark.parametrize(
    ("widget", "fits"),
    [
        ("widgets.interact(show, k=widgets.IntSlider())", True),
        ("widgets.interact(show, k=widgets.IntSlider(), size=widgets.fixed(3))", True),
        ("widgets.interactive_output(show, {'k': slider})", True),
        ("widgets.interact(show, j=widgets.IntSlider())", False),
        ("widgets.interact(show)", False),
        ("widgets.interact(draw, k=widgets.IntSlider())", False),
        ("widgets.interactive_output(show, {'j': slider})", False),
    ],
)
def test_a_widget_that_does_not_fit_is_found(widget: str, fits: bool) -> None:
    notebook = toys.lecture("def show(k, size=2):\n    print(k, size)", widget)
    assert (misfits(notebook) == []) == fits


def test_moving_a_slider_calls_the_function_with_the_new_value() -> None:
    seen: list[int] = []
    slider = ipywidgets.SelectionSlider(options=[1, 2, 4], value=1, continuous_update=False)
    box = ipywidgets.interactive(lambda k: seen.append(k), k=slider)
    box.update()
    slider.value = 4
    assert seen.count(4) == 1
    assert seen[-1] == 4
    assert set(seen) == {1, 4}
    assert box.children[0] is slider
