"""Figures: one style, no picture without a caption, and the parts that several lectures draw."""

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from matplotlib.axes import Axes
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from dynlib import plotting
from dynlib.cost import Interval, Ratio


@pytest.fixture(autouse=True)
def _no_screen() -> Iterator[None]:
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture
def axes() -> Axes:
    return plt.subplots()[1]


def test_a_figure_has_its_caption_and_leaves_the_readers_settings_alone() -> None:
    before = mpl.rcParams["axes.grid"], mpl.rcParams["legend.fontsize"]
    with plotting.figure("What to see.", columns=2) as two:
        assert len(two) == 2
        assert mpl.rcParams["legend.frameon"] is False
        drawing = two[0].figure
    assert drawing._supxlabel.get_text() == "What to see."
    assert (mpl.rcParams["axes.grid"], mpl.rcParams["legend.fontsize"]) == before


def test_a_figure_that_failed_is_not_shown_and_none_stays_open_without_a_screen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[list[int]] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    mine = plt.figure()
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), plotting.figure("Half drawn."):
            raise error
    for _ in range(3):
        with plotting.figure("Whole.") as axes:
            axes.plot([1, 2])
    assert [len(numbers) for numbers in shown] == [2, 2, 2], "the reader's own figure, and the one that is shown"
    assert plt.get_fignums() == [mine.number]
    monkeypatch.setattr(mpl, "get_backend", lambda: "some_window")
    with plotting.figure("In a window."):
        pass
    assert len(plt.get_fignums()) == 2, "a window stays until it is closed"


def test_in_a_notebook_a_picture_has_alternative_text_and_is_shown_once() -> None:
    cell = """
from dynlib import plotting
with plotting.figure("What to see.", alt="A line that rises.") as axes:
    axes.plot([1, 2])
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.metadata["image/png"]["alt"] == "What to see. A line that rises."
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert 'alt="What to see. A line that rises."' in page


def test_bare_axes_have_no_ticks_and_no_frame() -> None:
    several = plt.subplots(2, 2)[1]
    plotting.bare(several)
    for place in several.flat:
        assert list(place.get_xticks()) == list(place.get_yticks()) == []
        assert not any(spine.get_visible() for spine in place.spines.values())


def test_an_image_is_grey_from_0_to_1_unless_asked_otherwise(axes: Axes) -> None:
    drawn = plotting.image(axes, torch.full((2, 2), 0.5), "reads 3", colour=plotting.RED)
    assert drawn.get_clim() == (0, 1)
    assert axes.get_title() == "reads 3"
    assert axes.title.get_color() == plotting.RED
    assert list(axes.get_xticks()) == []
    other = plotting.image(axes, torch.ones(2, 2), vmax=6, cmap="viridis")
    assert other.get_clim() == (0, 6)
    assert other.get_cmap().name == "viridis"


INTERVALS = [Interval(1.0, 0.5, 1.5), Interval(0.2, 0.1, 0.6), Ratio(2.0, 1.0, 5.0)]


def test_points_carry_the_arms_of_their_intervals(axes: Axes) -> None:
    line, _, (bars,) = plotting.spread(axes, range(3), INTERVALS, label="three")
    assert line.get_xydata().tolist() == [[0, 1.0], [1, 0.2], [2, 2.0]]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx(pair) for pair in ([0.5, 1.5], [0.1, 0.6], [1.0, 5.0])]


def test_a_curve_runs_in_its_band(axes: Axes) -> None:
    line = plotting.spread(axes, torch.arange(3), INTERVALS, band=True, color=plotting.GREEN)
    assert line.get_ydata() == pytest.approx([1.0, 0.2, 2.0])
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0.1)
    assert corners[:, 1].max() == pytest.approx(5.0)
    assert line.get_color() == plotting.GREEN


@pytest.mark.parametrize("band", [False, True])
def test_as_many_places_as_intervals_are_needed(axes: Axes, band: bool) -> None:
    with pytest.raises(ValueError, match=r"shape|same size"):
        plotting.spread(axes, range(2), INTERVALS, band=band)


def test_a_forest_has_its_first_row_on_top_and_a_line_at_zero(axes: Axes) -> None:
    plotting.forest(axes, {"one": INTERVALS[0], "two": INTERVALS[1]})
    assert [text.get_text() for text in axes.get_yticklabels()] == ["one", "two"]
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert axes.lines[0].get_xdata() == [0, 0]


def test_a_forest_can_go_without_the_line(axes: Axes) -> None:
    plotting.forest(axes, {"one": INTERVALS[0]}, zero=None)
    assert all(line.get_xdata().tolist() != [0, 0] for line in axes.lines[1:])
    assert axes.lines[0].get_xdata().tolist() == [1.0]


def test_a_legend_beside_the_axes_covers_none_of_them(axes: Axes) -> None:
    axes.plot([1, 2], label="curve")
    plotting.legend_beside(axes, title="what")
    axes.figure.canvas.draw()
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1 - 1


def test_images_come_in_rows_under_their_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Axes] = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.gcf().axes))
    plotting.show_images(list(torch.zeros(3, 4, 4)), ["a", "b", "c"], "Three.", columns=2)
    assert [place.get_title() for place in shown] == ["a", "b", "c", ""]
    assert [len(place.images) for place in shown] == [1, 1, 1, 0]
