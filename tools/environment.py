"""Builds the environment of the course in .venv, mends one that was moved or left half-made, and brings it up to date.

`make` calls it whenever the stamp in .venv does not say what :func:`state` says, or is older than the lists of
packages. What is there is kept: nothing is downloaded that is there already, and without network an environment that
is complete stays so. It runs before any package is there, with the standard library alone.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".ready"
NEEDS = "This course needs Python 3.11, 3.12 or 3.13"
ANEW = "`make clean` takes it away (your work/ stays), then `make lab` builds it"

REST = "0.4 GB to download, 1.8 GB on disk"

# Variables that send packages elsewhere, or a Python to other packages. What names an index or a proxy stays.
ELSEWHERE = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"),
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PIP_REQUIRE_HASHES"),
    *("PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_IGNORE_INSTALLED", "PIP_EDITABLE", "PIP_REQUIREMENT"),
)


def clean_environment() -> dict[str, str]:
    """The environment variables for pip and Python, without those that lead out of .venv."""
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    return kept | {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command without such variables."""
    return subprocess.run([str(part) for part in command], env=clean_environment(), text=True, check=False, **options)


def state() -> str:
    """What a stamp says: the folder of the environment that runs this, its Python, and whether pip is there."""
    pip = "pip" if importlib.util.find_spec("pip") else "no pip"
    return f"{sys.prefix} | {sys.version_info.major}.{sys.version_info.minor} | {pip}"


def supported(version: str) -> bool:
    """Whether the course takes this Python, such as "3.12"."""
    return version in ("3.11", "3.12", "3.13")


# What is missing.


def missing(torch: str, extras: str) -> list[str]:
    """Packages of the course that the environment which runs this lacks, or has at another version.

    Each is a line, such as "numpy 2.4.6 (2.3.0 is here)"; "dynlib" is last, if it is not the one of this folder.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError:  # as long as only pip is there
        from pip._vendor.packaging.requirements import Requirement
        from pip._vendor.packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    pins = {canonicalize_name(pin.name): pin for line in lines if line and _holds(pin := Requirement(line), "")}
    pins["torch"] = Requirement(f"torch=={torch}")
    wanted = [*project["dependencies"], *(line for name in extras.split(",") for line in _extra(project, name))]

    found, seen = dict[str, str](), set[tuple[str, str]]()
    todo = [(Requirement(line), "") for line in wanted]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if not _holds(requirement, extra):
            continue
        try:
            here = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            here = None
        pin = pins.get(name, requirement)
        if here is None or not here.version:  # what an interrupted installation leaves has no version
            found[name] = f"{name} {str(pin.specifier).removeprefix('==')}".rstrip()
            continue
        if not pin.specifier.contains(here.version, prereleases=True):
            found[name] = f"{name} {str(pin.specifier).removeprefix('==')} ({here.version} is here)"
        for asked in ("", *requirement.extras):
            if (name, asked) not in seen:
                seen.add((name, asked))
                todo += [(Requirement(line), asked) for line in here.requires or ()]
    ours = importlib.util.find_spec("dynlib")
    where = Path(ours.origin).resolve().parent if ours and ours.origin else None
    version = next((d.version for d in importlib.metadata.distributions(name=project["name"])), "")
    return [*sorted(found.values()), *(["dynlib"] if where != ROOT / "dynlib" or version != project["version"] else [])]


def _extra(project: dict[str, Any], name: str) -> list[str]:
    return list(project["optional-dependencies"][name])


def _holds(requirement: Any, extra: str) -> bool:
    return requirement.marker is None or bool(requirement.marker.evaluate({"extra": extra}))


# The environment itself.


def ask(python: Path) -> tuple[str, bool] | None:
    """The version of a Python, such as "3.11", and whether it has a pip that runs; None if it does not run."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = run(python, "-I", "-c", "import sys; print(*sys.version_info[:2], sep='.')", capture_output=True)
        if told.returncode == 0:
            pip = run(python, "-I", "-m", "pip", "--version", capture_output=True)
            return told.stdout.strip(), pip.returncode == 0
    return None


def build(asked: bool) -> None:
    """See to it that .venv is an environment of this folder, with a Python that the course takes, and pip.

    Args:
        asked: the Python that runs this was asked for by name.
    """
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    if VENV.is_symlink() or (VENV.exists() and not VENV.is_dir()):
        what = f"a link to {os.readlink(VENV)}" if VENV.is_symlink() else "a file"
        sys.exit(f".venv is {what}, not an environment of this folder: {ANEW}.")
    found = ask(PYTHON) if os.path.lexists(PYTHON) else None
    if found is None:
        if any(VENV.glob("*")):
            print("The Python of .venv does not run (removed, or the set-up was interrupted): building .venv anew.")
        create(mine)
        found = ask(PYTHON)
    if found is None:
        sys.exit(f"The Python in .venv does not run: {ANEW}.")
    version, pip = found
    if not supported(version):
        sys.exit(f"{NEEDS}, and .venv was made with Python {version}: {ANEW}.")
    if asked and version != mine:
        sys.exit(
            f"You asked for Python {mine}, and .venv was made with {version}: {ANEW} with PYTHON={sys.executable}."
        )
    relocate()
    if not pip:
        print("There is no pip in .venv: adding it.")
        if run(PYTHON, "-I", "-m", "ensurepip", "--upgrade", capture_output=True).returncode or not ask(PYTHON)[1]:
            sys.exit(f"pip cannot be added to .venv, which something else has made: {ANEW}.")


def create(version: str) -> None:
    """A new environment in .venv, in place of what is there."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(f"{sys.executable} cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv")
    print(f"[1/3] An environment in .venv, with Python {version}: seconds.", flush=True)
    base = getattr(sys, "_base_executable", sys.executable)
    if VENV.exists():
        shutil.rmtree(VENV)
    made = run(base, "-I", "-m", "venv", VENV, capture_output=True)
    if made.returncode:
        print(made.stdout, made.stderr, sep="")
        sys.exit(f"{base} could not make .venv: is the folder writable, and the disk not full?")


def relocate() -> None:
    """After the folder was moved or renamed: put the new place where the scripts of .venv name the old one."""
    try:
        text = (VENV / "bin" / "activate").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # a conda environment has none
    old = next((place for place in re.findall(r"""VIRTUAL_ENV=['"]?([^'"\n]+)""", text) if "$" not in place), "")
    new = str(Path.cwd() / VENV)
    if not old or old == new or not Path(old).is_absolute():
        return
    print(f"This folder was moved: .venv was made in {Path(old).parent}, and is put right.")
    before, after = os.fsencode(old), os.fsencode(new)
    for file in [VENV / "pyvenv.cfg", *(VENV / "bin").iterdir()]:
        if file.is_file() and not file.is_symlink():
            data = file.read_bytes()
            if b"\0" not in data and before in data:
                file.write_bytes(data.replace(before, after))


# The packages in it.


def install(torch: str, index: str, extras: str) -> None:
    """Install what is missing."""
    lacks = _missing(torch, extras)
    if not lacks:
        return
    once_complete = STAMP.exists() and all("is here)" in line or line == "dynlib" for line in lacks)
    good = True
    if any(line.startswith("torch ") for line in lacks):
        good = _torch(torch, index)
    others = [line for line in lacks if line != "dynlib" and not line.startswith("torch ")]
    if good and others:
        first = any(line.startswith("jupyterlab ") for line in others)
        few = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        what = f"JupyterLab and what else the course uses: {REST}" if first else f"What is new: {few}"
        print(f"[3/3] {what}, {'a minute or two' if first else 'a moment'}.", flush=True)
        good = _pip("-c", "constraints.txt", "-e", f".[{extras}]")
    elif good and "dynlib" in lacks:
        # setuptools is there, so that nothing has to be fetched
        good = _pip("--no-deps", "--no-build-isolation", "-e", ".") or _pip("--no-deps", "-e", ".")
    lacks = _missing(torch, extras) if good else lacks
    if good and not lacks:
        _forget("dynlib")
        return
    if once_complete and "dynlib" not in lacks:
        print(
            f"Not brought up to date, as it seems without network: {', '.join(lacks)}. "
            "The packages of before are used; the next `make lab` tries again."
        )
        sys.exit(0)
    if good:
        sys.exit(
            f"pip is done, but this is not in .venv: {', '.join(lacks[:5])}. Does its configuration send packages "
            f"elsewhere? `.venv/bin/python -m pip config list` shows it. Else {ANEW}."
        )
    sys.exit(
        "pip could not install all packages: what it says stands above. Without network the set-up cannot be done; "
        f"`make setup` goes on where it stopped. If it stops there again: {ANEW}."
    )


def _forget(name: str) -> None:
    """Take away what the course was installed as before it had its name of today; its files are those of the folder."""
    if any(VENV.glob(f"lib/python*/site-packages/{name}-*.dist-info")):
        run(PYTHON, "-I", "-m", "pip", "uninstall", "--quiet", "--yes", name)


def _missing(torch: str, extras: str) -> list[str]:
    command = (PYTHON, "-I", __file__, "--missing", "--torch", torch, "--extras", extras)
    told = run(*command, stdout=subprocess.PIPE)
    if told.returncode:
        sys.exit(f"The packages in .venv cannot be looked at: {ANEW}.")
    return told.stdout.split("\n")[:-1]


def _torch(version: str, index: str) -> bool:
    # first and alone, so that no other package can draw in a build with CUDA
    with_gpu = shutil.which("nvidia-smi") and run("nvidia-smi", "-L", capture_output=True).returncode == 0
    if platform.system() == "Linux" and not with_gpu:
        print(f"[2/3] PyTorch {version} without CUDA, since no NVIDIA GPU is in sight: 0.2 GB to download, 0.8 GB on")
        print("      disk, a minute or two.", flush=True)
        quick = ("--retries", "0", "--timeout", "30", "--extra-index-url", index)
        if _pip(*quick, f"torch=={version}", quiet=True):
            return True
        print(f"      {index} does not answer: from the usual index.", flush=True)
    else:
        size = "3 GB to download, 6 GB on disk" if with_gpu else "0.1 GB to download, 0.5 GB on disk"
        print(f"[2/3] PyTorch {version}: {size}, some minutes.", flush=True)
    return _pip(f"torch=={version}")


def _pip(*arguments: str, quiet: bool = False) -> bool:
    """Let pip install; its errors are shown, unless ``quiet``."""
    options = {"capture_output": True} if quiet else {}
    return run(PYTHON, "-I", "-m", "pip", "install", "--quiet", *arguments, **options).returncode == 0


FROM_WITHIN = """# `jupyter lab` from a folder within the course shows all of it: the links of a lecture lead to work/.
import sys
from pathlib import Path

course, here = Path(sys.prefix).resolve().parent, Path.cwd().resolve()
if course in here.parents:
    c.ServerApp.root_dir = str(course)
    c.FileContentsManager.preferred_dir = str(here)
"""


def settle() -> None:
    """Settings that a learner wants from the start, and the stamp."""
    # JupyterLab would greet every learner with a pop-up that asks whether to fetch news, and each kernel would print
    # to the terminal that it talks to JupyterLab without encryption, within this machine
    news = {"checkForUpdates": False, "doNotDisturbMode": True, "fetchNews": "false"}
    for name, settings in {
        "share/jupyter/lab/settings/overrides.json": {"@jupyterlab/apputils-extension:notification": news},
        "etc/ipython/ipython_kernel_config.json": {"IPKernelApp": {"log_level": "ERROR"}},
    }.items():
        (VENV / name).parent.mkdir(parents=True, exist_ok=True)
        (VENV / name).write_text(json.dumps(settings) + "\n", encoding="utf-8")
    (VENV / "etc" / "jupyter").mkdir(parents=True, exist_ok=True)
    (VENV / "etc" / "jupyter" / "jupyter_server_config.py").write_text(FROM_WITHIN, encoding="utf-8")
    STAMP.write_text(run(PYTHON, "-I", __file__, "--state", stdout=subprocess.PIPE).stdout)


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", action="store_true", help="print what a stamp says of this Python's environment")
    parser.add_argument("--missing", action="store_true", help="print what this Python's environment lacks")
    parser.add_argument("--asked", action="store_true", help="this Python was asked for by name")
    parser.add_argument("--torch", help="its version")
    parser.add_argument("--index", help="where PyTorch's wheels without CUDA are")
    parser.add_argument("--extras", help="of dynlib, with commas between them")
    given = parser.parse_args()
    if given.state:
        print(state())
    elif given.missing:
        print(*(f"{line}\n" for line in missing(given.torch, given.extras)), sep="", end="")
    else:
        os.chdir(ROOT)
        try:
            build(given.asked)
            install(given.torch, given.index, given.extras)
            settle()
        except KeyboardInterrupt:
            sys.exit("Stopped. `make lab` goes on where it stopped.")


if __name__ == "__main__":
    main()
