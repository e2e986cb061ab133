"""The ways to set the course up agree with each other and with what is installed, and `make lab` serves it."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.environment import NEEDS, supported
from tools.notebooks import EXERCISES, ROOT, units

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
VARIABLES = dict(re.findall(r"^(\w+)\s*[:?]?=\s*(.*)$", MAKEFILE, re.MULTILINE))
SUPPORTED = ("3.11", "3.12", "3.13")


# What `make pretrained` brings, and nobody needs otherwise.
ONLY_PRETRAINED = {
    *(
        "annotated-doc",
        "annotated-types",
        "click",
        "hf-xet",
        "httpcore2",
        "httpx2",
        "huggingface-hub",
        "markdown-it-py",
    ),
    *("mdurl", "pydantic", "pydantic-core", "regex", "rich", "shellingham", "tokenizers", "transformers", "truststore"),
    *("typer", "typing-inspection"),
}


def pins() -> dict[str, Requirement]:
    """constraints.txt, by package."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = [Requirement(line) for line in lines if line]
    assert len({canonicalize_name(pin.name) for pin in found}) == len(found), "a package is there twice"
    return {canonicalize_name(pin.name): pin for pin in found}


def pinned(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not an exact version"
    return specifier.version


def environment() -> tuple[str, list[str], dict[str, Any]]:
    """environment.yml: the conda spec of Python, pip's lines, and all of it."""
    told = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [line for line in told["dependencies"] if isinstance(line, str) and line.startswith("python=")]
    (pip,) = [line["pip"] for line in told["dependencies"] if isinstance(line, dict)]
    return python.removeprefix("python="), pip, told


def make(*arguments: str, folder: Path = ROOT, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, **options)


def bare(folder: Path) -> Path:
    """A folder with what the set-up needs, and no environment."""
    (folder / "tools").mkdir()
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "tools/environment.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_what_is_installed_is_what_the_constraints_say() -> None:
    different = []
    for name, pin in pins().items():
        if pin.marker is None or pin.marker.evaluate():
            try:
                there = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                if name in ONLY_PRETRAINED:
                    continue
                there = "missing"
            if there != pinned(pin):
                different.append(f"{name}: {pinned(pin)} in constraints.txt, {there} here")
    assert different == []


@pytest.mark.parametrize("extra", [None, "course", "test", "oracles", "pretrained"])
def test_every_dependency_is_pinned_to_a_version_that_it_allows(extra: str | None) -> None:
    wanted = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    there = pins()
    for text in wanted:
        requirement = Requirement(text)
        version = (
            VARIABLES["TORCH"] if requirement.name == "torch" else pinned(there[canonicalize_name(requirement.name)])
        )
        assert requirement.specifier.contains(version), f"{text} does not allow {version}"


def test_torch_and_what_comes_with_it_are_not_among_the_constraints() -> None:
    # They differ between machines with and without a GPU, and are pinned in the Makefile.
    assert [name for name in pins() if name.startswith(("torch", "triton", "nvidia", "cuda"))] == []
    assert importlib.metadata.version("torch").split("+")[0] == VARIABLES["TORCH"]
    (triton,) = [Requirement(text) for text in PROJECT["optional-dependencies"]["kernels"] if "triton" in text]
    assert triton.specifier.contains(VARIABLES["TRITON"])


def test_conda_gets_the_same_environment_as_make() -> None:
    python, pip, told = environment()
    assert python in SUPPORTED
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert told["name"] == PROJECT["name"]
    assert told["channels"] == ["conda-forge", "nodefaults"]
    assert [line for line in pip if line.startswith("torch")] == [f"torch=={VARIABLES['TORCH']}"]
    assert f"--extra-index-url {VARIABLES['TORCH_CPU_INDEX']}" in pip
    assert "-c constraints.txt" in pip
    (ours,) = [line for line in pip if line.startswith("-e ")]
    (added,) = re.findall(r"pip install .*-e '([^']+)'", MAKEFILE)
    assert added == ".[pretrained]"
    assert ours == f"-e .[{VARIABLES['EXTRAS']}]"
    extras = set(VARIABLES["EXTRAS"].split(","))
    assert extras == set(PROJECT["optional-dependencies"]) - {"kernels", "pretrained"}
    assert len(pip) == 4, "what else does conda install that make does not?"


def test_the_makefile_takes_the_pythons_that_the_project_takes() -> None:
    least, most = (
        re.search(pattern, VARIABLES["FITS"]) for pattern in (r"not \((\d+), (\d+)\)", r"<= \((\d+), (\d+)\)\)")
    )
    assert least is not None
    assert most is not None
    assert f">={'.'.join(least.groups())}" == PROJECT["requires-python"]
    assert (".".join(least.groups()), ".".join(most.groups())) == (SUPPORTED[0], SUPPORTED[-1])
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in SUPPORTED
    assert [version for version in ("3.10", *SUPPORTED, "3.14") if supported(version)] == list(SUPPORTED)
    assert "3.11, 3.12 or 3.13" in NEEDS


def test_make_alone_lists_every_target_with_a_line() -> None:
    listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", make().stdout, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(listed) == set(phony.split())
    assert {"setup", "lab", "test", "lectures", "exercises", "progress", "kill-matrix", "bench"} <= set(listed)
    assert all(len(line) > 10 for line in listed.values())


def test_make_test_is_made_of_targets_that_run_every_tool() -> None:
    # A stamp that is there is not made again, so this only prints.
    told = make("-n", "-o", ".venv/.ready", "test").stdout
    for command in (
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "tests.notebooks.budget",
        "--nbval-lax",
        "-n 2 tests",
    ):
        assert command in told


def test_without_a_python_that_fits_make_says_which_one_to_get(tmp_path: Path) -> None:
    ran = make("setup", "PYTHON=", folder=bare(tmp_path))
    assert ran.returncode != 0
    assert "This course needs Python 3.11, 3.12 or 3.13" in ran.stdout
    assert not (tmp_path / ".venv").exists()


def test_continuous_integration_runs_make_test(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    fake = tmp_path / "make"
    fake.write_text(f'#!/bin/sh\necho "$PWD $*" > {tmp_path}/called\nexit 7\n')
    fake.chmod(0o755)
    ran = subprocess.run(
        [script], cwd=tmp_path, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, timeout=60
    )
    assert (tmp_path / "called").read_text() == f"{ROOT} test\n"
    assert ran.returncode == 7, "a failure is passed on"


def test_the_container_of_codespaces_builds_the_same_way() -> None:
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert told["postCreateCommand"] == "make setup"
    assert re.search(r"^python:(3\.\d+)-", told["image"])[1] in SUPPORTED
    assert [name for name in told["customizations"]["codespaces"]["openFiles"] if not (ROOT / name).exists()] == []


def test_the_version_is_the_same_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = PROJECT["version"]
    assert str(cited["version"]) == version == importlib.metadata.version("dynlib")
    assert {"cff-version", "message", "title", "authors", "license"} <= set(cited)
    assert cited["license"] == PROJECT["license"]
    assert Version(version).release
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text().splitlines()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_page_names_commands_and_files_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    assert re.match(r"# \S", text)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    commands = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert set(commands) <= set(phony.split())
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    links += re.findall(r"src=\"([^\"]+)\"", text)
    assert [link for link in links if link and not re.match(r"[a-z]+:", link) and not (ROOT / link).exists()] == []


def test_git_keeps_away_from_the_learners_work_and_the_classrooms_files() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {".venv/", "work/", "gradebook.db*", "submitted/", "autograded/", "feedback/"} <= set(ignored)


TOKEN = "a-token-for-the-tests"


@contextmanager
def lab(folder: Path) -> Iterator[tuple[str, float]]:
    """`make lab` on a free port, with its settings in a folder of its own: its address, and the seconds it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    settings = {f"JUPYTER_{name}": str(folder / name) for name in places} | {"IPYTHONDIR": str(folder / "ipython")}
    arguments = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.port_retries=0 --IdentityProvider.token={TOKEN}"
    address, start = f"http://127.0.0.1:{port}", time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["make", "-o", ".venv/.ready", "lab", f"ARGS={arguments}"],  # the environment stands, and is not built here
            cwd=ROOT,
            env={**os.environ, **settings, "HOME": str(folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while get(f"{address}/api/status")[0] != 200:
                if process.poll() is not None or time.monotonic() - start > 60:
                    pytest.fail(f"make lab does not answer\n{(folder / 'log').read_text()}")
                time.sleep(0.1)
            yield address, time.monotonic() - start
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)
                raise


def get(url: str, token: str = TOKEN) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (urllib.error.URLError, OSError):
        return 0, ""


def test_make_lab_serves_the_course_within_ten_seconds(tmp_path: Path) -> None:
    seconds = []
    for attempt in range(2):  # the better of two: the machine may have been busy with something else
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with lab(folder) as (address, took):
            seconds.append(took)
            assert get(f"{address}/api/status", token="")[0] == 403
            assert get(f"{address}/lab/tree/lectures/00_start_here.ipynb")[0] == 200
            for path in ("lectures/00_start_here.ipynb", *(f"work/{unit}/{unit}.ipynb" for unit in units())):
                status, text = get(f"{address}/api/contents/{path}?content=0")
                assert status == 200, f"{path} cannot be opened from where JupyterLab is"
                assert json.loads(text)["type"] == "notebook"
        assert get(f"{address}/api/status")[0] == 0, "the server is gone"
        assert "Traceback" not in (folder / "log").read_text()
        if min(seconds) < 10:
            break
    assert min(seconds) < 10
    assert all((ROOT / "work" / path.relative_to(EXERCISES)).exists() for path in EXERCISES.rglob("*.ipynb"))
