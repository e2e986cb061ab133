"""Release: make exercises/ from solutions/ with nbgrader, answers and hidden tests taken out."""

import argparse
import logging
import shutil
import tempfile
from pathlib import Path

from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from tools.notebooks import EXERCISES, ROOT, units


def release(unit: str, folder: Path) -> Path:
    """The student's notebook of one unit, made in ``folder``; the same bytes every time."""
    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT)).load_config()
    config.CourseDirectory.root = str(ROOT)
    config.CourseDirectory.release_directory = str(folder)
    config.CourseDirectory.assignment_id = unit
    # A release needs no gradebook; a teacher's course folder has its own.
    config.SaveCells.enabled = False
    config.GenerateAssignment.no_database = True
    config.GenerateAssignment.force = True
    converter = GenerateAssignment(coursedir=CourseDirectory(config=config), config=config)
    converter.log.setLevel(logging.ERROR)
    converter.start()
    return folder / unit / f"{unit}.ipynb"


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("units", nargs="*", help="all of them if none is named")
    for unit in parser.parse_args().units or units():
        with tempfile.TemporaryDirectory() as folder:  # a release that fails leaves the old one in its place
            made = release(unit, Path(folder)).parent
            shutil.rmtree(EXERCISES / unit, ignore_errors=True)
            shutil.copytree(made, EXERCISES / unit)
        print((EXERCISES / unit / f"{unit}.ipynb").relative_to(ROOT))


if __name__ == "__main__":
    main()
