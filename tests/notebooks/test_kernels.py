"""The Triton kernels of the notebooks are kernels for a GPU, too: they compile for one that need not be here."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import NotebookNode

import tools.notebooks
from tools.notebooks import LECTURES, ROOT, exercise, lacking, read, solution

UNIT = "14_kernel"
COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
WHOLE = ("n", "rows", "columns", "inner", "stride", "tokens", "dim", "neurons", "each", "features")
KINDS = dict.fromkeys(WHOLE, "i32") | dict.fromkeys(("order", "k", "width"), "*i64")
for name, kernel in list(globals().items()):
    if hasattr(kernel, "arg_names"):
        blocks = {part: 16 for part in kernel.arg_names if part.isupper()}
        signature = {part: "constexpr" if part in blocks else KINDS.get(part, "*fp32") for part in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=blocks)
        made = compile(source, target=GPUTarget("cuda", 90, 32))
        print(name, "ptx" in made.asm and len(made.asm["cubin"]) > 0)
"""


def kernels(notebook: NotebookNode) -> dict[str, str]:
    """The functions under @triton.jit, by name."""
    trees = (ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code")
    return {
        node.name: ast.unparse(node)
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and "triton.jit" in map(ast.unparse, node.decorator_list)
    }


def test_the_kernels_of_the_lecture_and_of_the_solution_compile_for_a_gpu(tmp_path: Path) -> None:
    notebooks = [read(LECTURES / f"{UNIT}.ipynb"), read(solution(UNIT))]
    if reason := lacking(notebooks[0]):
        pytest.skip(reason)
    found = kernels(notebooks[0]) | kernels(notebooks[1])
    assert len(found) >= 10
    file = tmp_path / "kernels.py"
    file.write_text("\n\n".join(["import triton\nimport triton.language as tl", *found.values(), COMPILE]))
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} True" for name in found]


def test_without_triton_a_notebook_that_needs_it_says_so_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.notebooks, "find_spec", lambda name: None)
    for path in (LECTURES / f"{UNIT}.ipynb", solution(UNIT), exercise(UNIT)):
        assert str(lacking(read(path))).startswith("Triton is not installed here")
    assert lacking(read(solution("00_start_here"))) is None
