"""The maps of lecture 00, as they stand in the file, say of each unit what the tree says."""

import re

import pytest

from tests.notebooks.test_lectures import COURSE
from tools.notebooks import LECTURES, lectures, read

UNITS = [f"{number:02d}_{name}" for number, name in enumerate(COURSE)]


def shown(cell_id: str) -> str:
    """The table that a cell of lecture 00 left in the committed file."""
    (cell,) = (cell for cell in read(LECTURES / "00_start_here.ipynb").cells if cell.id == cell_id)
    return "".join(str(output.get("data", {}).get("text/markdown", "")) for output in cell.outputs)


def said_to_come(table: str) -> set[str]:
    return set(re.findall(r"^\| (\w+) \*\(to come\)\*", table, re.MULTILINE))


def linked(table: str) -> set[str]:
    return {
        name for name, target in re.findall(r"^\| \[(\w+)\]\((\w+)\.ipynb\)", table, re.MULTILINE) if name == target
    }


@pytest.mark.parametrize("cell_id", ["map", "field"])
def test_a_map_links_every_lecture_that_is_there_and_no_other(cell_id: str) -> None:
    there = {path.stem for path in lectures()}
    again = "the tree has changed since: `python -m tools.lectures --all 00_start_here`"
    assert linked(shown(cell_id)) == there, again
    assert said_to_come(shown(cell_id)) == set(UNITS) - there, again


def test_a_table_that_says_less_than_the_tree_would_be_seen() -> None:
    table = "| [00_start_here](00_start_here.ipynb) | a |\n| 01_cost *(to come)* | b |"
    assert (linked(table), said_to_come(table)) == ({"00_start_here"}, {"01_cost"})
