"""What is handed to others: a source archive, the wheel that it gives, and that wheel in a folder of its own."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source archive gives, where nothing of this checkout is in sight."""
    folder = tmp_path_factory.mktemp("packaging")
    checkout = folder / "checkout"
    checkout.mkdir()
    shutil.copytree(ROOT / "dynlib", checkout / "dynlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    archive = run("-c", BUILD, "build_sdist", str(folder), cwd=checkout).splitlines()[-1]
    with tarfile.open(folder / archive) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return folder / run("-c", BUILD, "build_wheel", str(folder), cwd=unpacked).splitlines()[-1]


def test_it_bears_the_name_that_one_installs_and_holds_all_of_the_package(wheel: Path) -> None:
    assert wheel.name.startswith(f"dynlib_course-{PROJECT['version']}-py3-none-any")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(packed.read(about).decode())
    assert told["Name"] == PROJECT["name"] == "dynlib-course"
    assert set(PROJECT["optional-dependencies"]) == set(told.get_all("Provides-Extra"))
    meant = {".py", ".safetensors", ".typed", ".md"}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dynlib").rglob("*") if path.suffix in meant}
    ours.add("dynlib/zoo/SHA256SUMS")
    assert ours == {name for name in names if name.startswith("dynlib/")}
    assert {name.split("/")[0] for name in names} == {"dynlib", about.split("/")[0]}, "nothing else comes along"


def test_it_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    code = (
        "import sys, dynlib; print(dynlib.__file__); print('torch' in sys.modules)\n"
        "from importlib.metadata import version; print(version('dynlib-course') == dynlib.__version__)\n"
        "import torch; from dynlib import cost, zoo\n"
        "model = zoo.load('digits_vit'); x = torch.zeros(1, 1, 24, 24)\n"
        "print(tuple(model(x).shape), cost.count(model, x).flops > 1e6)"
    )
    where, early, version, *ran = run("-c", code, cwd=elsewhere, PYTHONPATH=str(installed)).splitlines()
    assert Path(where).is_relative_to(installed)
    assert (early, version) == ("False", "True")
    assert ran == ["(1, 10) True"]
    told = run("-m", "dynlib", "--help", cwd=elsewhere, PYTHONPATH=str(installed))
    assert "budget" in told
