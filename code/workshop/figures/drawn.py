"""Show a figure that a cell drew, as SVG and in the book's style."""

from IPython.display import SVG
from matplotlib.figure import Figure

from workshop.figures import style


def drawn(figure: Figure) -> SVG:
    """Return a figure for the end of a cell: its words stay text.

    The page gives the alternative text and the caption, in the cell's
    `mystnb` metadata.
    """
    return SVG(style.svg(figure))
