"""The house as a whole: who may import whom, what every part must have, and what no file may say."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dynlib"

GROUND = {
    "inputs",
    "transforms",
    "deciding",
    "choice",
    "cost",
    "data",
    "backbone",
    "causes",
    "checks",
    "honest",
    "ways",
    "training",
    "plotting",
    "page",
}
ROOMS = {"depth", "tokens", "width"}
ABOVE = {"__main__", "edge", "kernels", "mechanisms", "pretrained", "zoo"}


# Floors


def sources() -> dict[str, str]:
    """Module name to source, for all of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(module: str, is_package: bool, source: str, modules: set[str]) -> set[str]:
    """The modules of the house that a module imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") + ([""] if is_package else [])
                base = ".".join([*here[: len(here) - node.level], *([base] if base else [])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            names = list((whole & modules) or {base})
            if len(whole & modules) < len(whole):
                names.append(base)
        else:
            continue
        found |= {name for name in names if name == "dynlib" or name.startswith("dynlib.")}
    return found - {module}


def graph(given: dict[str, str]) -> dict[str, set[str]]:
    modules = set(given)
    packages = {module for module in modules if any(other.startswith(f"{module}.") for other in modules)}
    return {module: imports(module, module in packages, source, modules) for module, source in given.items()}


def trespasses(given: dict[str, str]) -> list[str]:
    """Every import that goes up a floor, from room to room, or round in a circle."""
    found = []
    for module, used in graph(given).items():
        for other in sorted(used):
            here, there = ([*name.split("."), ""][1] for name in (module, other))
            if here in GROUND:
                allowed = GROUND
            elif here in ROOMS:
                allowed = GROUND | {here}
            elif here in ABOVE:
                allowed = GROUND | ROOMS | ABOVE
            else:
                allowed = GROUND | ROOMS | ABOVE if here == "" else set()
            if there not in allowed:
                found.append(f"{module} imports {other}")
    try:
        TopologicalSorter(graph(given)).prepare()
    except CycleError as error:
        found.append(f"circle: {' -> '.join(error.args[1])}")
    return found


def test_the_floors_of_the_house_hold() -> None:
    assert trespasses(sources()) == []


def test_every_module_stands_on_a_floor() -> None:
    rooms = {name.split(".")[1] for name in sources() if "." in name}
    assert rooms <= GROUND | ROOMS | ABOVE
    assert rooms >= {"choice", "cost", "data", "backbone", "checks", "zoo"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dynlib.choice.gumbel": "from dynlib.zoo import load", "dynlib.zoo": ""}, "choice.gumbel imports dynlib.zoo"),
        ({"dynlib.cost.count": "def f():\n    import dynlib.depth.calm"}, "cost.count imports dynlib.depth.calm"),
        ({"dynlib.depth.calm": "from ..tokens import avit", "dynlib.tokens.avit": ""}, "imports dynlib.tokens.avit"),
        ({"dynlib.width": "from dynlib import tokens", "dynlib.tokens": ""}, "dynlib.width imports dynlib.tokens"),
        ({"dynlib.depth": "from dynlib.kernels.acm import x"}, "imports dynlib.kernels.acm"),
        ({"dynlib.attic": "from dynlib.cost import count"}, "dynlib.attic imports"),
        ({"dynlib.cost": "from dynlib.data import a", "dynlib.data": "from dynlib.cost import b"}, "circle"),
        (
            {
                "dynlib.data": "from .topics import x",
                "dynlib.data.topics": "from . import digits",
                "dynlib.data.digits": "",
            }
            | {"dynlib.data.digits": "from dynlib import data"},
            "circle",
        ),
    ],
)
def test_a_trespass_is_found(given: dict[str, str], says: str) -> None:
    assert any(says in trespass for trespass in trespasses(given))


def test_what_is_allowed_is_no_trespass() -> None:
    given = {
        "dynlib.cost": "",
        "dynlib.backbone": "import torch\nfrom torch import nn",
        "dynlib.data": "from dynlib.data.topics import x\nfrom .digits import y",
        "dynlib.data.topics": "",
        "dynlib.data.digits": "from . import topics",
        "dynlib.depth.calm": "from dynlib.depth.exit import a\nfrom ..backbone import Block",
        "dynlib.depth.exit": "from dynlib import cost",
        "dynlib.zoo": "from dynlib.depth.calm import b",
    }
    assert trespasses(given) == []


# What every part must have


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions, classes and methods whose name does not begin with an underscore."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list):
            continue  # the function itself says it for all of its overloads
        yield node.name, node
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
                yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("module", sorted(sources()))
def test_everything_public_says_what_it_is(module: str) -> None:
    tree = ast.parse(sources()[module])
    if tree.body:
        assert ast.get_docstring(tree), f"{module} does not say what it is"
    silent = [name for name, node in public(tree) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert silent == []


def test_all_that_a_module_promises_is_there() -> None:
    for name in sources():
        if name.endswith("__main__"):
            continue
        module = import_module(name)
        for promised in getattr(module, "__all__", ()):
            assert hasattr(module, promised), f"{name}.{promised}"


FIXED = {
    "dynlib.choice": "gumbel_noise gumbel_max gumbel_softmax gumbel_sigmoid straight_through softmax_ste",
    "dynlib.cost": "Cost count timed estimate_energy machine_peak interval learn_then_test",
    "dynlib.deciding": "record setting",
    "dynlib.depth": "MultiExit exit_loss learn_then_test calm_generate skip middle_repeat reverse shuffle parallel"
    " Looped TinyRecursiveModel deep_supervision stablemax_cross_entropy EMA",
    "dynlib.tokens": "ConditionalFeedForward ConditionalAttention MixtureOfDepths AdaptiveViT",
    "dynlib.width": "MixtureOfExperts load_balancing_loss MatFormerFeedForward extract mix_and_match"
    " AdaptiveComputationModule acmize distill pretrain_gates",
    "dynlib.kernels": "acm_forward",
    "dynlib.backbone": "Attention FeedForward GatedFeedForward RMSNorm Block ViT CausalLM Encoder LayerCache",
    "dynlib.data": "digits cluttered_digits topics text sudoku mazes",
    "dynlib.pretrained": "from_transformers",
    "dynlib.edge": "AWGNChannel TokenTransmitter LyapunovController SplitClient SplitServer double_compress",
    "dynlib.zoo": "load names card",
    "dynlib.training": "train",
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in FIXED.items() for name in names.split()]
)
def test_the_names_that_others_rely_on_are_where_they_expect_them(module: str, name: str) -> None:
    assert callable(getattr(import_module(module), name))


# What no file may say

FOLDERS = (
    ".ci .devcontainer .github benchmarks classroom dynlib exercises lectures solutions tests tools web".split()  # noqa: SIM905
)
FORBIDDEN = {  # written so that this page does not hold them itself; Ada is nobody
    "a path of some machine": r"/wor[k]/(main|shared|\.)|/roo[t]/\.|/(User[s]|hom[e])/(?!jovyan|vscode|ada)\w"
    r"|/tm[p]/ipykernel",
    "a folder beside the repository": r"\.\./share[d]\b",
    "the host of a package registry": r"\bpyp[i]\.org|pythonhoste[d]\.org|/op[t]/(wheels|pypi)|localhost:\d+/simpl[e]",
    "work left for later": r"\b(TO[D]O|FIXM[E]|XX[X])\b",
}


def texts() -> Iterator[tuple[str, str]]:
    """Every text of the repository; of a notebook, what a reader sees of it, without the pictures."""
    tops = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    inner = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(tops + inner):
        if "__pycache__" in path.parts or path.suffix in {".pyc", ".safetensors", ".png", ".gif", ".jpg", ".webp"}:
            continue
        text = path.read_text(encoding="utf-8")
        yield str(path.relative_to(ROOT)), "\n".join(seen(json.loads(text))) if path.suffix == ".ipynb" else text


def seen(part: object, key: str = "") -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if not name.startswith("image/"):
                yield from seen(value, name)
    elif isinstance(part, list):
        if all(isinstance(line, str) for line in part):
            yield "".join(part)
        else:
            for value in part:
                yield from seen(value, key)
    elif isinstance(part, str):
        yield part


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_says_what_none_may_say(what: str) -> None:
    found = [
        f"{name}: {line.strip()[:160]}"
        for name, text in texts()
        for line in text.splitlines()
        if re.search(FORBIDDEN[what], line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of some machine", "see /hom" + "e/anna/course"),
        ("a path of some machine", "File /tm" + "p/ipykernel_12/3.py"),
        ("a folder beside the repository", "as ../share" + "d/notes says"),
        ("the host of a package registry", "https://pyp" + "i.org/simple"),
        ("work left for later", "# TO" + "DO: think"),
    ],
)
def test_the_forbidden_is_found_where_it_is(what: str, line: str) -> None:
    assert re.search(FORBIDDEN[what], line)


def test_a_notebook_is_read_but_for_its_pictures() -> None:
    cell = {
        "source": ["a\n", "b"],
        "outputs": [{"data": {"image/png": "picture", "text/plain": ["told"]}, "text": "c"}],
    }
    assert list(seen({"cells": [cell]})) == ["a\nb", "told", "c"]


def test_the_pages_that_must_be_read_are_read() -> None:
    names = {name for name, _ in texts()}
    assert {"README.md", "pyproject.toml", "dynlib/backbone/layers.py", "tests/test_house.py", ".ci/run"} <= names


# What a user needs


MODULES = "dynlib dynlib.backbone dynlib.checks dynlib.choice dynlib.cost dynlib.data dynlib.training dynlib.zoo"

BLOCK = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.split(".")[0] in {missing} else find(name, *rest))
"""

WORK = """
import torch
from dynlib.backbone import CausalLM, ViT
from dynlib.data import encode
from dynlib.training import train
lm = CausalLM(vocabulary=256, dim=8, depth=1, heads=2)
lm.generate(encode("abc")[None], 3)
vit = ViT(image_size=8, patch_size=4, classes=2, dim=8, depth=1, heads=2)
train(vit, lambda step: vit(torch.ones(2, 1, 8, 8)).square().mean(), steps=2, progress=False)
print("done")
"""


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_engineer_needs_nothing_of_the_course_and_nothing_of_the_tests() -> None:
    missing = {"matplotlib", "sklearn", "IPython", "ipykernel", "ipywidgets", "jupyterlab", "jupyter_core", "nbgrader"}
    missing |= {"beartype", "pytest", "hypothesis", "scipy", "networkx", "entmax", "transformers", "pynvml"}
    code = BLOCK.format(missing=sorted(missing))
    assert python(f"{code}\nimport {', '.join(MODULES.split())}\n{WORK}") == "done"


def test_the_block_of_that_test_blocks() -> None:
    code = BLOCK.format(missing=["sklearn"])
    said = python(
        f"{code}\nfrom dynlib.data import digits\n"
        "try:\n    digits()\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    assert "ship with scikit-learn" in said


def test_importing_the_package_takes_no_time_beside_that_of_torch() -> None:
    code = (
        "import time, torch, torch.utils.flop_counter, numpy, tqdm.auto, jaxtyping, safetensors.torch\n"
        f"start = time.perf_counter()\nimport {', '.join(MODULES.split())}\nprint(time.perf_counter() - start)"
    )
    assert float(python(code)) < 2  # a tenth of it where nothing else runs


def test_importing_the_bare_name_does_not_even_load_torch() -> None:
    assert python("import dynlib, sys; dir(dynlib); print('torch' in sys.modules)") == "False"


def test_the_bare_name_says_what_there_is_and_gives_it_when_asked() -> None:
    said = python(
        "import dynlib, sys; from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(); shell.user_ns['dynlib'] = dynlib\n"
        "from IPython.core.completer import provisionalcompleter\n"
        "with provisionalcompleter():\n    print(*(one.text for one in shell.Completer.completions('dynlib.', 7)))\n"
        "print(dynlib.__version__, dynlib.cost.count.__name__)\n"
        "try:\n    dynlib.chioce\nexcept AttributeError as error:\n    print(error)"
    )
    offered, told, error = said.split("\n")
    rooms = {name.split(".")[1] for name in sources() if "." in name} - {"__main__"}
    assert set(offered.split()) >= rooms
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert told == f"{version} count"
    assert error.startswith("dynlib has no 'chioce'; it has backbone, ")
    import dynlib

    assert all(f"``dynlib.{room}``" in dynlib.__doc__ for room in rooms - {"honest", "inputs", "transforms", "ways"})


def test_without_matplotlib_help_works_and_a_figure_says_what_to_install() -> None:
    said = python(
        BLOCK.format(missing=["matplotlib"])
        + "\nimport pydoc, dynlib\nprint(pydoc.plain(pydoc.render_doc(dynlib)).split(chr(10))[3])\n"
        "for line in ('from dynlib import plotting', 'from dynlib.plotting import figure'):\n"
        "    try:\n        exec(line)\n    except ModuleNotFoundError as error:\n        print(error)"
    )
    head, *told = said.split("\n")
    assert head.startswith("dynlib - Networks that spend only what is needed")
    brings = "pip install 'dynlib-course[course]' brings it"
    assert told == [f"dynlib.plotting is for notebooks and needs matplotlib: {brings}"] * 2
