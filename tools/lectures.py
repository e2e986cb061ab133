"""Execute the lectures whose code changed since they were last executed, and keep their outputs in the file."""

import argparse
import base64
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from tqdm import tqdm

from tools import frames
from tools.notebooks import LECTURES, ROOT, code_digest, lectures, read

PICTURES = LECTURES / "pictures"
FRAMES = LECTURES / "frames"
TIMEOUT = 120  # seconds for a cell


def execute(path: Path, only_frames: bool = False) -> float:
    """Run one lecture from top to bottom and write it back with its outputs; the seconds it took.

    With ``only_frames`` the lecture stays as it is, and what its controls show is drawn anew.
    """
    notebook = frames.with_drawing(read(path))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    start = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT / "lectures")}},
        record_timing=False,
    ).execute()
    seconds = time.perf_counter() - start
    frames.keep(notebook, path.stem, FRAMES)
    if only_frames:
        return seconds
    notebook = frames.without_drawing(notebook)
    _still(notebook)
    notebook.metadata.setdefault("dynlib", {})["executed"] = code_digest(notebook)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)
    _pictures(notebook)
    return seconds


def _still(notebook: NotebookNode) -> None:
    """A page has no kernel: where a widget stood it says so. The widget's picture is in the static twin beside it."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None):
                output.data["text/plain"] = "(a control that works when you run this cell in Jupyter)"


def _pictures(notebook: NotebookNode) -> None:
    """Keep the figure of each cell tagged ``picture`` as a file, for the README."""
    for cell in notebook.cells:
        figures = [
            output.data["image/png"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        if "picture" in cell.metadata.get("tags", []) and figures:
            PICTURES.mkdir(exist_ok=True)
            (PICTURES / f"{cell.id}.png").write_bytes(base64.b64decode(figures[0]))


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="lectures to look at, such as 02_gumbel; all if none is named")
    parser.add_argument("--all", action="store_true", help="also those whose code did not change")
    parser.add_argument("--frames", action="store_true", help="draw what controls show anew, and leave the lecture")
    options = parser.parse_args()
    chosen = [LECTURES / f"{name}.ipynb" for name in options.names] or lectures()
    for path in tqdm(chosen, desc="lectures"):
        notebook = read(path)
        same = notebook.metadata.get("dynlib", {}).get("executed") == code_digest(notebook)
        only = same and not options.all and (options.frames or frames.stale(notebook, path.stem, FRAMES))
        if options.all or not same or only:
            tqdm.write(f"{path.relative_to(ROOT)}: {execute(path, only):.0f} s")


if __name__ == "__main__":
    main()
