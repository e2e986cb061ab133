"""The plugin that times the notebooks turns a run red when it should, and only then."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.notebooks import toys
from tests.notebooks.budget import declared, over
from tools.notebooks import ROOT


def run(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """The command of the Makefile over a folder of toy notebooks."""
    options = ["-p", "tests.notebooks.budget", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-rA"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={folder}", *(str(folder / name) for name in names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )


def write(notebook: NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def test_only_notebooks_that_keep_what_they_declare_pass(tmp_path: Path) -> None:
    undeclared = toys.lecture()
    del undeclared.metadata["dynlib"]["mib"]
    lectures = {
        "good": toys.lecture("print(1 + 1)"),
        "slow": toys.lecture("import time", "time.sleep(0.5)", seconds=0.1),
        "hungry": toys.lecture("held = bytearray(60 * 2**20)", "del held", mib=20),
        "greedy": toys.lecture(seconds=100),
        "undeclared": undeclared,
        "failing": toys.lecture("1 / 0", "import time; time.sleep(0.5)", seconds=0.1),
    }
    for name, notebook in lectures.items():
        write(notebook, tmp_path / "lectures" / f"{name}.ipynb")
    write(toys.unit(voice=False), tmp_path / "solutions" / "toys" / "toys.ipynb")
    ran = run(tmp_path, "lectures", "solutions")
    assert ran.returncode == 1, ran.stdout
    failed = sorted(
        {line.split("/")[-1].split(".")[0] for line in ran.stdout.splitlines() if line.startswith("FAILED")}
    )
    assert failed == ["failing", "greedy", "hungry", "slow", "undeclared"], ran.stdout
    table = {line.split()[0]: line for line in ran.stdout.split("budget of the notebooks")[1].splitlines()[2:] if line}
    assert "more than 2 times the 0.1 s declared" in table["lectures/slow.ipynb"]
    assert "more than 2 times the 20 MiB declared" in table["lectures/hungry.ipynb"]
    assert float(table["lectures/hungry.ipynb"].split()[3]) > 80, "60 MiB were held, and let go before the last cell"
    assert "declares seconds = 100, and may declare 60 at most" in table["lectures/greedy.ipynb"]
    assert "declares no mib" in table["lectures/undeclared.ipynb"]
    assert table["lectures/good.ipynb"].split()[2::2] == ["10", "500"]
    assert table["toys/toys.ipynb"].split()[2::2] == ["30", "2048"]
    assert "ZeroDivisionError" in ran.stdout


def test_a_run_without_cells_is_red(tmp_path: Path) -> None:
    (tmp_path / "lectures").mkdir()
    ran = run(tmp_path, "lectures")
    assert ran.returncode != 0, ran.stdout
    assert "no notebook ran" in ran.stdout


def test_a_notebook_without_code_is_red_beside_one_that_passes(tmp_path: Path) -> None:
    silent = toys.lecture()
    silent.cells = silent.cells[:1]
    write(silent, tmp_path / "lectures" / "silent.ipynb")
    write(toys.lecture(), tmp_path / "lectures" / "good.ipynb")
    ran = run(tmp_path, "lectures")
    assert ran.returncode == 1, ran.stdout
    assert "silent.ipynb: no cell of it ran" in ran.stdout
    assert "1 passed" in ran.stdout


@pytest.mark.parametrize("value", [None, 0, -1, "10", True])
@pytest.mark.parametrize("name", ["seconds", "mib", "minutes"])
def test_a_declaration_is_a_positive_number(name: str, value: object) -> None:
    told = {"seconds": 10, "mib": 100, "minutes": 5, name: value}
    assert declared(Path("lectures/toys.ipynb"), {"dynlib": told})[1], value
    assert not declared(Path("lectures/toys.ipynb"), {"dynlib": told | {name: 1}})[1]


def test_up_to_twice_the_declaration_is_drift() -> None:
    assert over({"seconds": 20.0, "mib": 200.0}, {"seconds": 10, "mib": 100}) == []
    assert len(over({"seconds": 20.1, "mib": 200.1}, {"seconds": 10, "mib": 100})) == 2
