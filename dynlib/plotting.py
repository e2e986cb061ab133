"""One look for every figure: colours that colour-blind readers can tell apart, labelled axes, a caption."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

try:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from cycler import cycler
    from matplotlib.axes import Axes
    from matplotlib.backends import BackendFilter, backend_registry
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:  # the package alone does without it
    says = f"dynlib.plotting is for notebooks and needs {error.name}: pip install 'dynlib-course[course]' brings it"
    raise ModuleNotFoundError(says, name=error.name) from None

# Okabe and Ito's palette, dark colours first; black and grey are for references.
BLUE, ORANGE, GREEN, PINK, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
INK, GREY = "#222222", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED)

STYLE: Any = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.linewidth": 1.8,
    "font.size": 10,
    "figure.dpi": 90,
    "savefig.bbox": "tight",
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
}


_NO_SCREEN = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)


@contextmanager
def figure(
    caption: str, *, rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, alt: str = ""
) -> Iterator[Any]:
    """A figure with a one-sentence caption that says what to see; shown when the block ends.

    After an error in the block it is closed and not shown. In a script that draws to files alone it is closed too.

    Args:
        caption: below the picture.
        rows, columns: of axes.
        size: in inches; 7 × 3.2 for one row if left out.
        alt: what is seen, in words, for readers who cannot see it, where the caption does not say it. In a notebook
            both go into the output's metadata, where what makes pages of notebooks looks for them.

    Yields:
        The axes: one, or an array of them where there are several.
    """
    with mpl.rc_context(STYLE):
        drawing, axes = plt.subplots(rows, columns, figsize=size or (7.0, 3.2 * rows), layout="constrained")
        try:
            yield axes
            _caption(drawing, caption)
            _show(drawing, f"{caption} {alt}".strip())
        except BaseException:
            plt.close(drawing)  # else it would be shown half drawn, together with the next one
            raise
        if mpl.get_backend().lower() in _NO_SCREEN:
            plt.close(drawing)


def _show(drawing: Figure, alternative: str) -> None:
    if "inline" not in mpl.get_backend():
        plt.show()
        return
    from IPython.display import display

    display(drawing, metadata={"image/png": {"alt": alternative}})
    plt.close(drawing)  # else the notebook would show it again at the end of the cell


def label(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, with units, and the picture if there are several."""
    axes.set(xlabel=x, ylabel=y, title=title)


def bare(axes: Any) -> None:
    """No ticks, no grid, no frame: for images, one axes or an array of them."""
    for place in getattr(axes, "flat", [axes]):
        place.set(xticks=[], yticks=[])
        place.grid(False)
        place.spines[:].set_visible(False)


_GREYS: dict[str, Any] = {"vmin": 0, "vmax": 1}


def image(axes: Axes, pixels: Any, title: str = "", *, colour: str = INK, **style: Any) -> Any:
    """One image, 0 … 1 in greys unless ``style`` says otherwise, under a small title; what ``imshow`` returns."""
    drawn = axes.imshow(pixels, **_GREYS | style)
    axes.set_title(title, fontsize=9, loc="center", color=colour)
    bare(axes)
    return drawn


def spread(axes: Axes, x: Iterable[Any], intervals: Iterable[Any], *, band: bool = False, **style: Any) -> Any:
    """Numbers with their intervals: points with bars, or a line in a band; what the line is drawn by.

    Args:
        axes: to draw on.
        x: where, ``[n]``.
        intervals: ``n`` of ``dynlib.cost``'s ``Interval`` or ``Ratio``: the number, then ``low`` and ``high``.
        band: a shaded band in place of the bars, for curves.
        style: of the line: ``label``, ``color``, ``fmt``, …
    """
    middle, low, high, arms = _arms(intervals)
    at = [float(place) for place in x]
    if band:
        (line,) = axes.plot(at, middle, **style)
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
        return line
    return axes.errorbar(at, middle, yerr=arms, **_POINTS | style)


_POINTS: dict[str, Any] = {"fmt": "o", "capsize": 3}


def _arms(intervals: Iterable[Any]) -> tuple[Sequence[float], Sequence[float], Sequence[float], Any]:
    # the numbers, the ends of their intervals, and how far below and above each number those are
    middle, low, high = zip(*intervals, strict=True)
    return middle, low, high, [[abs(m - e) for m, e in zip(middle, ends, strict=True)] for ends in (low, high)]


def forest(axes: Axes, intervals: Mapping[str, Any], *, zero: float | None = 0.0, **style: Any) -> None:
    """Named intervals one below the other, the first on top, and a line at ``zero`` (none for ``None``)."""
    middle, *_, arms = _arms(intervals.values())
    if zero is not None:
        axes.axvline(zero, color=GREY, linewidth=1)
    axes.errorbar(middle, range(len(intervals)), xerr=arms, **_POINTS | style)
    axes.set(yticks=range(len(intervals)), yticklabels=list(intervals), ylim=(len(intervals) - 0.5, -0.5))


def legend_beside(axes: Axes, **style: Any) -> None:
    """The legend to the right of the axes, where it covers no curve."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **style)


def show_images(images: Sequence[Any], titles: Sequence[str], caption: str, *, columns: int = 8, alt: str = "") -> None:
    """Images in rows, each under its title; ``caption`` and ``alt`` as in :func:`figure`."""
    rows = -(-len(images) // columns)
    with figure(caption, rows=rows, columns=columns, size=(1.1 * columns, 1.35 * rows), alt=alt) as axes:
        flat = [axes] if rows == columns == 1 else list(axes.flat)
        for place in flat:
            place.axis("off")
        for place, pixels, title in zip(flat, images, titles, strict=False):
            image(place, pixels, title)


def _caption(drawing: Figure, caption: str) -> None:
    # supxlabel takes part in the constrained layout, so that the caption never covers an axis.
    drawing.supxlabel(caption, fontsize=9, color="#555555", x=0.01, ha="left", wrap=True)
