"""A control of a lecture as a reader of the site moves it: pictures of a few of its places, drawn beforehand.

A page has no kernel. Where the metadata of the cell with the control says so,
``"dynlib": {"frames": {"over": {"tau": [0.1, 0.5, 1]}, "twin": "slider-twin"}}``, executing the lecture also draws what
the control draws at these places of one of its arguments, the others left where the control starts, and keeps the
pictures in ``lectures/frames``. The site shows a slider over them, in place of the still picture of the cell ``twin``.
A place is a number or, where the control has named options, one of the names.
"""

import base64
import io
import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from PIL import Image

from tools.notebooks import code_digest
from tools.pictures import light

MARK = "-frames"

# Run below the cell with the control. The first line printed describes the control, each picture is one of its places.
DRAW = '''\
def _frames(look, argument, wanted):
    """What a control draws at some places of one of its arguments."""
    import json

    knobs = {knob._kwarg: knob for knob in look.widget.kwargs_widgets}
    knob = knobs[argument]
    named = dict(getattr(knob, "_options_full", ()))
    now = {name: one.get_interact_value() for name, one in knobs.items()}
    places = [named[place] if named else type(knob.value)(place) for place in wanted]
    if not named:
        low, high = (knob.base**end if hasattr(knob, "base") else end for end in (knob.min, knob.max))
        beyond = [place for place in places if not low - 1e-9 <= place <= high + 1e-9]
        if beyond:
            raise ValueError(f"{argument} goes from {low:g} to {high:g}; got {beyond}")
    start = next((at for at, place in enumerate(places) if place == now[argument]), len(places) // 2)
    print(json.dumps({"control": knob.description or argument, "start": start}))
    for place in places:
        look(**now | {argument: place})


_frames(LOOK, ARGUMENT, WANTED)
del _frames
'''


def asked(cell: NotebookNode) -> tuple[str, list[Any], str] | None:
    """Of a cell with a control that is to be drawn beforehand: the argument, its places, the id of the still picture.

    Raises:
        ValueError: if more than one argument is to be moved.
    """
    told = cell.metadata.get("dynlib", {}).get("frames")
    if told is None:
        return None
    if len(told["over"]) != 1:
        raise ValueError(f"{cell.id}: frames are drawn over one argument; got {', '.join(told['over']) or 'none'}")
    ((argument, places),) = told["over"].items()
    return argument, list(places), told.get("twin", "")


def with_drawing(notebook: NotebookNode) -> NotebookNode:
    """The notebook with a cell below each such control that draws its places."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        wanted = asked(cell)
        if wanted:
            look = re.search(r"\binteract\(\s*(\w+)", cell.source)
            if look is None:
                raise ValueError(f"{cell.id}: there is no interact(function, …) whose pictures could be drawn")
            source = DRAW.replace("LOOK", look[1]).replace("ARGUMENT", repr(wanted[0]))
            cells.append(new_code_cell(source.replace("WANTED", repr(wanted[1])), id=f"{cell.id}{MARK}"[-64:]))
    return NotebookNode(notebook | {"cells": cells})


def keep(executed: NotebookNode, name: str, folder: Path) -> None:
    """Keep the pictures that the added cells drew, and what says which is which, in ``folder / name``.

    Raises:
        ValueError: if a control drew another number of pictures than it has places.
    """
    wanted = {cell.id: asked(cell) for cell in executed.cells if asked(cell)}
    digest = code_digest(without_drawing(executed))
    files: dict[str, bytes] = {}
    controls = {}
    for cell, drawing in zip(executed.cells, executed.cells[1:], strict=False):
        if cell.id not in wanted:
            continue
        _, places, twin = wanted[cell.id]
        said = next(output.text for output in drawing.outputs if output.output_type == "stream")
        drawn = [output for output in drawing.outputs if "image/png" in output.get("data", {})]
        if len(drawn) != len(places):
            raise ValueError(f"{cell.id}: {len(places)} places, and {len(drawn)} pictures were drawn")
        frames = []
        for number, (place, output) in enumerate(zip(places, drawn, strict=True)):
            file = f"{cell.id}-{number}.webp"
            files[file] = light(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))
            words = " ".join(output.metadata["image/png"]["alt"].split())
            frames.append({"at": shown(place), "file": file, "alt": words})
        controls[cell.id] = json.loads(said.splitlines()[0]) | {"twin": twin, "frames": frames}
    home = folder / name
    if controls:
        home.mkdir(parents=True, exist_ok=True)
        told = {"executed": digest, "controls": controls}
        files["frames.json"] = f"{json.dumps(told, indent=1, ensure_ascii=False)}\n".encode()
    if home.is_dir():
        for file in home.iterdir():
            if file.name not in files:
                file.unlink()
    for file, content in files.items():
        (home / file).write_bytes(content)


def without_drawing(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it was before :func:`with_drawing`, its cells counted anew."""
    cells, before, ran = [], None, 0
    for cell in notebook.cells:
        if before is None or asked(before) is None:
            cells.append(cell)
            if cell.cell_type == "code" and cell.execution_count is not None:
                cell.execution_count = ran = ran + 1
        before = cell
    return NotebookNode(notebook | {"cells": cells})


def shown(place: Any) -> str:
    """A place as a reader sees it, with a sign that is one."""
    return (f"{place:g}" if isinstance(place, int | float) else str(place)).replace("-", "−")


@dataclass
class Control:
    """What is kept of a control: its name, the place where it starts, the picture that it replaces, and the others."""

    control: str
    start: int
    twin: str
    frames: list[dict[str, str]]


def kept(notebook: NotebookNode, name: str, folder: Path) -> dict[str, Control]:
    """The controls of a lecture that have pictures, by their cells; none where the pictures are stale."""
    if not any(map(asked, notebook.cells)) or stale(notebook, name, folder):
        return {}
    told = json.loads((folder / name / "frames.json").read_text(encoding="utf-8"))
    return {cell: Control(**control) for cell, control in told["controls"].items()}


def stale(notebook: NotebookNode, name: str, folder: Path) -> bool:
    """Whether the pictures are those of other code or of other places than the lecture has now."""
    wanted = {cell.id: [shown(place) for place in asked(cell)[1]] for cell in notebook.cells if asked(cell)}
    file = folder / name / "frames.json"
    if not file.exists():
        return bool(wanted)
    told = json.loads(file.read_text(encoding="utf-8"))
    there = {cell: [frame["at"] for frame in one["frames"]] for cell, one in told["controls"].items()}
    return there != wanted or told["executed"] != code_digest(notebook)


def as_html(control: Control, cell: str, pictures: str) -> str:
    """The slider over the pictures, which lie in the folder ``pictures``; ``site.js`` moves it."""
    frames, start = control.frames, control.start
    others = [
        {
            "at": frame["at"],
            "file": f"{pictures}/{frame['file']}",
            "alt": f"{control.control} {frame['at']}: {frame['alt']}",
        }
        for frame in frames
    ]
    told = json.dumps(others, ensure_ascii=False).replace("<", "\\u003c")
    first = others[start]
    return (
        f'<figure class="frames"><p><label for="{cell}-place">{escape(control.control)}</label>'
        f'<input id="{cell}-place" type="range" autocomplete="off" '
        f'min="0" max="{len(frames) - 1}" step="1" value="{start}" '
        f'aria-valuetext="{escape(first["at"])}"><output for="{cell}-place">{escape(first["at"])}</output></p>'
        f'<img src="{first["file"]}" alt="{escape(first["alt"])}">'
        f'<script type="application/json">{told}</script>'
        f"<figcaption>{len(frames)} places, drawn beforehand. In Jupyter the control goes everywhere.</figcaption>"
        "</figure>"
    )
