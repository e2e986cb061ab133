"""Controls drawn beforehand: the pictures are those of the places, of the code, and few bytes."""

import io
import json
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

import tools.lectures
from tests.browser.pages import Page
from tests.notebooks import toys
from tools import frames
from tools.lectures import FRAMES, execute
from tools.notebooks import lectures, read
from tools.pictures import light

SET_UP = "import ipywidgets as widgets\nfrom dynlib import plotting"
LOOK = """
def look(tau, name):
    with plotting.figure(f"{name} at {tau:g}.", size=(2, 1)) as axes:
        axes.plot([0, tau])


slider = widgets.FloatSlider(value=0.5, min=0, max=2, continuous_update=False)
widgets.interact(look, tau=slider, name=widgets.Dropdown(options=["a", "b"], value="b"));
"""
PLACES = [0.25, 0.5, 2]
DRAWN = [path for path in lectures() if any(map(frames.asked, read(path).cells))]
PAGE_KB = 300


def lecture(over: dict[str, list[object]], look: str = LOOK) -> NotebookNode:
    """One whose control is to be drawn beforehand."""
    made = toys.lecture(SET_UP, look, "print(6 * 7)", executed=False)
    made.cells[2].metadata["dynlib"] = {"frames": {"over": over, "twin": "toys-step-a"}}
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a lecture may be written."""
    monkeypatch.setattr(tools.lectures, "FRAMES", tmp_path / "frames")
    monkeypatch.setattr(tools.lectures, "ROOT", tmp_path)
    (tmp_path / "lectures").mkdir()
    return tmp_path / "lectures" / "99_toys.ipynb"


def test_a_control_is_drawn_at_its_places_while_the_others_stay_and_the_lecture_shows_nothing_of_it(
    place: Path,
) -> None:
    nbformat.write(lecture({"tau": PLACES}), place)
    execute(place)
    made, home = read(place), place.parent.parent / "frames"
    assert [cell.id for cell in made.cells] == ["toys-title", "toys-step-a", "toys-step-b", "toys-step-c"]
    assert [cell.execution_count for cell in made.cells[1:]] == [1, 2, 3]
    assert made.cells[3].outputs[0].text == "42\n"
    (control,) = frames.kept(made, "99_toys", home).values()
    assert (control.control, control.start, control.twin) == ("tau", 1, "toys-step-a")
    assert [frame["at"] for frame in control.frames] == ["0.25", "0.5", "2"]
    assert [frame["alt"] for frame in control.frames] == ["b at 0.25.", "b at 0.5.", "b at 2."]
    assert len({(home / "99_toys" / frame["file"]).read_bytes() for frame in control.frames}) == 3
    assert not frames.stale(made, "99_toys", home)

    before = place.read_bytes()
    made.cells[2].metadata["dynlib"]["frames"]["over"]["tau"] = [0.25, 1]
    assert frames.stale(made, "99_toys", home), "other places"
    nbformat.write(made, place)
    execute(place, only_frames=True)
    assert place.read_bytes() == nbformat.writes(made).encode() + b"\n" != before, "the lecture is left as it was"
    assert len(list((home / "99_toys").glob("*.webp"))) == 2
    made.cells[3].source = "print(6 * 8)"
    assert frames.stale(made, "99_toys", home), "other code"
    assert frames.kept(made, "99_toys", home) == {}, "a page then shows the still picture"


@pytest.mark.parametrize(
    ("over", "look", "error", "says"),
    [
        ({"tau": [1], "name": ["a"]}, LOOK, ValueError, "over one argument; got name, tau"),
        ({"tau": [1]}, "x = 1", ValueError, r"no interact\(function"),
        ({"tau": [1, 3]}, LOOK, CellExecutionError, r"tau goes from 0 to 2; got \[3.0\]"),
        (
            {"name": ["a", "b"]},
            LOOK.replace("with", "if name == 'a':\n        return\n    with"),
            ValueError,
            "2 places",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(
    over: dict[str, list[object]], look: str, error: type[Exception], says: str, place: Path
) -> None:
    nbformat.write(lecture(over, look), place)
    before = place.read_bytes()
    with pytest.raises(error, match=says):
        execute(place)
    assert place.read_bytes() == before


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_the_pictures_of_a_lecture_are_of_its_code_differ_and_are_light(path: Path) -> None:
    notebook = read(path)
    assert not frames.stale(notebook, path.stem, FRAMES), f"`python -m tools.lectures --frames {path.stem}`"
    files = list((FRAMES / path.stem).glob("*.webp"))
    assert sum(file.stat().st_size for file in files) <= PAGE_KB * 1000
    by_id = {cell.id: cell for cell in notebook.cells}
    for control in frames.kept(notebook, path.stem, FRAMES).values():
        pictures = [(FRAMES / path.stem / frame["file"]).read_bytes() for frame in control.frames]
        assert len(set(pictures)) == len(pictures) >= 3
        assert all(len(frame["alt"]) > 20 for frame in control.frames)
        twin = by_id[control.twin].outputs if control.twin else []
        assert any("image/png" in output.data for output in twin) == bool(control.twin)


def test_some_lectures_have_a_control_that_needs_no_kernel() -> None:
    assert len(DRAWN) >= 5
    assert sorted(folder.name for folder in FRAMES.iterdir()) == [path.stem for path in DRAWN]


def test_the_slider_of_a_page_begins_where_the_control_does_and_escapes_what_it_says() -> None:
    control = frames.Control("τ <", 1, "", [{"at": a, "file": f"{a}.webp", "alt": f'"{a}" </script>'} for a in "xyz"])
    html = frames.as_html(control, "cell", "../there")
    page = Page(html)
    assert page.loads == ["../there/y.webp"]
    assert page.pictures_without_words == []
    assert html.count("</script>") == 1
    assert "τ &lt;" in html
    assert 'max="2" step="1" value="1"' in html
    told = html.split('application/json">')[1].split("</script>")[0]
    assert [one["file"] for one in json.loads(told)] == [f"../there/{a}.webp" for a in "xyz"]
    assert [frames.shown(value) for value in (0.5, 2, -1.0, "-4", "1/4")] == ["0.5", "2", "−1", "−4", "1/4"]


def test_a_picture_made_light_has_every_dot_as_it_was() -> None:
    ramp = Image.linear_gradient("L")
    drawn = Image.merge("RGBA", [ramp, Image.radial_gradient("L"), ramp.rotate(90), ramp])
    with Image.open(io.BytesIO(light(drawn))) as back:
        assert back.convert("RGBA").tobytes() == drawn.tobytes()
