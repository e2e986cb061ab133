"""Execute the lectures whose code changed since they were last executed, and keep their outputs in the file."""

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from tools.notebooks import LECTURES, ROOT, code_digest, lectures, read

TIMEOUT = 120  # seconds for a cell


def execute(path: Path) -> float:
    """Run one lecture from top to bottom and write it back with its outputs; the seconds it took."""
    notebook = read(path)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    start = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT / "lectures")}},
        record_timing=False,
        store_widget_state=False,
    ).execute()
    seconds = time.perf_counter() - start
    notebook.metadata.setdefault("dynlib", {})["executed"] = code_digest(notebook)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)
    return seconds


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="lectures to look at, such as 02_gumbel; all if none is named")
    parser.add_argument("--all", action="store_true", help="also those whose code did not change")
    options = parser.parse_args()
    chosen = [LECTURES / f"{name}.ipynb" for name in options.names] or lectures()
    for path in tqdm(chosen, desc="lectures"):
        if options.all or read(path).metadata.get("dynlib", {}).get("executed") != code_digest(read(path)):
            tqdm.write(f"{path.relative_to(ROOT)}: {execute(path):.0f} s")


if __name__ == "__main__":
    main()
