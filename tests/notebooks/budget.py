"""Hold the notebooks to the seconds and the memory that they declare; a pytest plugin beside nbval.

Loaded with ``pytest -p tests.notebooks.budget --nbval-lax … lectures solutions``. The seconds are those of a notebook's
code cells, the memory is the highest that its kernel's process ever held. A notebook's last cell fails when

- a lecture does not declare ``metadata.dynlib = {"seconds": …, "mib": …, "minutes": …}``,
- it declares more than 60 s or 2048 MiB (a solution declares nothing: it is given 30 s and 2048 MiB),
- it takes more than twice what is declared: machines drift by that much, and a change that matters is larger.

A notebook without a single code cell fails the run, and so does a run without notebooks.
"""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tools.notebooks import lacking

SECONDS, MIB = 60, 2048
"""The most that a lecture may declare."""
SOLUTION_SECONDS = 30
DRIFT = 2
"""A machine may be this much slower, or hold this much more, than the one that the declaration was made on."""


def declared(path: Path, metadata: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """What a notebook may take, and what is wrong with its declaration."""
    if path.parent.name != "lectures":
        return {"seconds": SOLUTION_SECONDS, "mib": MIB}, []
    told, wrong = dict(metadata.get("dynlib", {})), []
    for name, most in (("seconds", SECONDS), ("mib", MIB), ("minutes", 60)):
        value = told.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            wrong.append(f'declares no {name}: its metadata need "dynlib": {{"seconds": …, "mib": …, "minutes": …}}')
        elif value > most:
            wrong.append(f"declares {name} = {value:g}, and may declare {most} at most")
    return {name: told[name] for name in ("seconds", "mib") if isinstance(told.get(name), int | float)}, wrong


def over(taken: dict[str, float], allowed: dict[str, float]) -> list[str]:
    """In what a notebook took more than it may."""
    return [
        f"took {taken[name]:.1f} {unit}, more than {DRIFT} times the {allowed[name]:g} {unit} declared"
        for name, unit in (("seconds", "s"), ("mib", "MiB"))
        if name in allowed and taken[name] > DRIFT * allowed[name]
    ]


def peak_mib(pid: int) -> float:
    """The most memory that a process has held so far; where the system does not tell, what it holds now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return psutil.Process(pid).memory_info().rss / 2**20


class Budget:
    """Measures while nbval runs, and judges."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.taken: dict[Path, dict[str, float]] = {}
        self.rows: dict[str, dict[str, Any]] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A notebook that needs what is not installed here is skipped, with a sentence, and stands in the table."""
        reason = lacking(item.parent.nb) if hasattr(item, "cell") and hasattr(item.parent, "nb") else None
        if reason:
            row = {"notebook": str(item.path), "taken": {"seconds": 0.0, "mib": 0.0}, "allowed": {}, "wrong": [reason]}
            item.user_properties.append(("budget", row))
            pytest.skip(reason)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Time a cell; after a notebook's last one, compare."""
        if not (hasattr(item, "cell") and hasattr(item.parent, "kernel")):
            return (yield)
        error, start = None, time.perf_counter()
        try:
            yield
        except BaseException as raised:
            error = raised
        taken = self.taken.setdefault(item.path, {"seconds": 0.0, "mib": 0.0})
        taken["seconds"] += time.perf_counter() - start
        manager = getattr(item.parent.kernel, "km", None)
        if manager is not None and manager.is_alive():
            taken["mib"] = max(taken["mib"], peak_mib(manager.provisioner.pid))
        if item is [other for other in item.session.items if other.parent is item.parent][-1]:
            allowed, wrong = declared(item.path, item.parent.nb.metadata)
            wrong += over(taken, allowed)
            row = {"notebook": str(item.path), "taken": taken, "allowed": allowed, "wrong": wrong}
            item.user_properties.append(("budget", row))
            if wrong and error is None:
                error = AssertionError(f"{item.path.name} {'; it '.join(wrong)}")
        if error is not None:
            raise error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the rows, from this process or from xdist's workers."""
        if report.when == "call" or report.skipped:
            self.rows |= {row["notebook"]: row for name, row in report.user_properties if name == "budget"}

    def unmeasured(self) -> list[str]:
        """Notebooks that the command line names, directly or by their folder, and that did not run."""
        if self.config.option.keyword or self.config.option.markexpr:
            return []
        expected: set[Path] = set()
        for argument in self.config.args:
            path = Path(self.config.invocation_params.dir, argument.split("::")[0])
            expected |= set(path.rglob("*.ipynb")) if path.is_dir() else {path} & set(path.parent.glob("*.ipynb"))
        return sorted(
            str(path) for path in expected if ".ipynb_checkpoints" not in path.parts and str(path) not in self.rows
        )

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that measured nothing, or left a notebook out, is red."""
        if not hasattr(self.config, "workerinput") and (not self.rows or self.unmeasured()):
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table: what each notebook took, and what it may take."""
        terminalreporter.section("budget of the notebooks")
        line = "{:<40} {:>9} {:>9} {:>9} {:>9}".format
        terminalreporter.write_line(line("notebook", "seconds", "declared", "MiB", "declared"))
        for name, row in sorted(self.rows.items()):
            taken, allowed = row["taken"], {key: f"{value:g}" for key, value in row["allowed"].items()}
            told = line(
                str(Path(*Path(name).parts[-2:])),
                f"{taken['seconds']:.1f}",
                allowed.get("seconds", "none"),
                f"{taken['mib']:.0f}",
                allowed.get("mib", "none"),
            )
            terminalreporter.write_line("  ".join([told, *row["wrong"]]))
        for name in self.unmeasured():
            terminalreporter.write_line(f"{name}: no cell of it ran")
        if not self.rows:
            terminalreporter.write_line("no notebook ran")


def pytest_configure(config: pytest.Config) -> None:
    """Start with nothing measured."""
    if not config.option.collectonly:
        config.pluginmanager.register(Budget(config), "notebook-budget")
