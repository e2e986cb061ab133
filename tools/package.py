"""Build the source archive and the wheel, and try each from another folder, in an environment of its own.

It needs Python with pip alone, fetches PyTorch once for both, and leaves the two archives in ``dist``.
"""

import argparse
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.environment import ROOT, run

DIST = ROOT / "dist"

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

# What somebody does who installed it: it costs nothing to import, bears its name, has its weights, counts, and answers.
TRY = """\
import sys
from importlib.metadata import version
from pathlib import Path

import dynlib

assert Path(dynlib.__file__).is_relative_to(sys.argv[1]), f"another dynlib: {dynlib.__file__}"
assert "torch" not in sys.modules
assert version("dynlib-course") == dynlib.__version__

import torch
from dynlib import cost, zoo

model, x = zoo.load("digits_vit"), torch.zeros(1, 1, 24, 24)
assert tuple(model(x).shape) == (1, 10)
assert cost.count(model, x).flops > 1e6
print(dynlib.__version__)
"""


def output(*command: str | Path, cwd: Path) -> str:
    """What a command prints.

    Raises:
        SystemExit: if it fails, with its last words.
    """
    done = run(*command, cwd=cwd, capture_output=True, timeout=1200)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:4]))} …:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return str(done.stdout).strip()


def archives(python: str | Path, folder: Path) -> tuple[Path, Path]:
    """The source archive, and the wheel that it gives where nothing of this checkout is in sight.

    Args:
        python: one that has setuptools.
        folder: an empty one; both are left there.
    """
    checkout, unpacked = folder / "checkout", folder / "unpacked"
    checkout.mkdir()
    shutil.copytree(ROOT / "dynlib", checkout / "dynlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    source = folder / output(python, "-c", BUILD, "build_sdist", folder, cwd=checkout).splitlines()[-1]
    with tarfile.open(source) as packed:
        packed.extractall(unpacked, filter="data")
    (inside,) = unpacked.iterdir()
    return source, folder / output(python, "-c", BUILD, "build_wheel", folder, cwd=inside).splitlines()[-1]


def attempt(python: str | Path, installed: Path, elsewhere: Path) -> str:
    """Use the package of a Python from a folder that has nothing to do with it; its version.

    Raises:
        SystemExit: if something does not work, or if the package is not the one in the folder ``installed``.
    """
    version = output(python, "-c", TRY, installed, cwd=elsewhere)
    if "budget" not in output(python, "-m", "dynlib", "--help", cwd=elsewhere):
        raise SystemExit("`python -m dynlib --help` does not say what it can do")
    return version


def environment(folder: Path, torch: str, index: str) -> Path:
    """A new environment with PyTorch and with what builds archives; its Python."""
    output(sys.executable, "-I", "-m", "venv", folder, cwd=ROOT)
    python = folder / "bin" / "python"
    pins = re.findall(r"^setuptools==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    pip = (python, "-I", "-m", "pip", "install", "--quiet")
    output(*pip, *pins, cwd=ROOT)
    torch = f"torch=={torch}"
    if run(*pip, "--retries", "0", "--extra-index-url", index, torch, cwd=ROOT, capture_output=True).returncode:
        output(*pip, torch, cwd=ROOT)
    return python


def main() -> None:
    """Build both and try them, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", required=True, help="its version")
    parser.add_argument("--index", required=True, help="where PyTorch's wheels without CUDA are")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dynlib-package-") as place:
        folder = Path(place).resolve()
        for name in ("made", "elsewhere"):
            (folder / name).mkdir()
        python = environment(folder / "environment", given.torch, given.index)
        both = archives(python, folder / "made")
        for archive in both:
            pip = (python, "-I", "-m", "pip")
            output(*pip, "install", "--quiet", "--force-reinstall", "--no-deps", archive, cwd=folder / "elsewhere")
            output(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", archive, cwd=folder / "elsewhere")
            output(*pip, "check", cwd=folder / "elsewhere")
            version = attempt(python, folder / "environment", folder / "elsewhere")
            print(f"{archive.name}: version {version} works in an environment of its own")
        DIST.mkdir(exist_ok=True)
        for archive in both:
            shutil.copy(archive, DIST)


if __name__ == "__main__":
    main()
