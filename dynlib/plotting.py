"""One look for every figure: colours that colour-blind readers can tell apart, labelled axes, a caption."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    "lines.linewidth": 1.8,
    "font.size": 10,
    "figure.dpi": 90,
    "savefig.bbox": "tight",
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
}


@contextmanager
def figure(caption: str, *, rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None) -> Iterator[Any]:
    """A figure with a one-sentence caption that says what to see; shown when the block ends.

    Args:
        caption: below the picture, and its text for readers who cannot see it.
        rows, columns: of axes.
        size: in inches; 7 × 3.2 for one row if left out.

    Yields:
        The axes: one, or an array of them where there are several.
    """
    with mpl.rc_context(STYLE):
        drawing, axes = plt.subplots(rows, columns, figsize=size or (7.0, 3.2 * rows), layout="constrained")
        yield axes
        _caption(drawing, caption)
        plt.show()


def label(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, with units, and the picture if there are several."""
    axes.set(xlabel=x, ylabel=y, title=title)


def show_images(images: Sequence[Any], titles: Sequence[str], caption: str, *, columns: int = 8) -> None:
    """Images in rows, each under its title."""
    rows = -(-len(images) // columns)
    with figure(caption, rows=rows, columns=columns, size=(1.1 * columns, 1.35 * rows)) as axes:
        flat = [axes] if rows == columns == 1 else list(axes.flat)
        for place in flat:
            place.axis("off")
        for place, image, title in zip(flat, images, titles, strict=False):
            place.imshow(image, vmin=0, vmax=1)
            place.set_title(title, fontsize=8, loc="center")


def _caption(drawing: Figure, caption: str) -> None:
    # supxlabel takes part in the constrained layout, so that the caption never covers an axis.
    drawing.supxlabel(caption, fontsize=9, color="#555555", x=0.01, ha="left", wrap=True)
