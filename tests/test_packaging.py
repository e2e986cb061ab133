"""What is handed to others: a source archive, the wheel that it gives, and that wheel in a folder of its own."""

import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tools.package import archives, attempt

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source archive gives, where nothing of this checkout is in sight."""
    return archives(sys.executable, tmp_path_factory.mktemp("packaging"))[1]


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


def test_it_works_from_another_folder(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("installed", "elsewhere", "other"):
        (tmp_path / name).mkdir()
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    # an environment without dynlib, whose other packages are those of this one
    monkeypatch.setattr("tools.environment.ELSEWHERE", ())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    assert attempt(sys.executable, tmp_path / "installed", tmp_path / "elsewhere") == PROJECT["version"]
    with pytest.raises(SystemExit, match="another dynlib"):
        attempt(sys.executable, tmp_path / "other", tmp_path / "elsewhere")
