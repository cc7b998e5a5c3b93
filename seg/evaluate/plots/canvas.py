"""The one style of all figures, and how a figure gets into a file.

The same thing has the same colour everywhere, and the colours are those of
Okabe and Ito, which the colour-blind tell apart.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from seg.images import write

_DPI = 110
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444",
    "#b3a100",
)  # fmt: skip
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: alike everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "text.color": "#222222",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


def available() -> bool:
    """Whether there is a matplotlib; a node that only trains may have none."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def colour(i: int) -> str:
    """The colour of the line or run of index i."""
    return _COLOURS[i % len(_COLOURS)]


@contextlib.contextmanager
def figure(
    path: str | os.PathLike[str], width: float, height: float
) -> Iterator[Any]:
    """Yields a figure, inches, that is written to `path` at the end."""
    import matplotlib
    from matplotlib import figure as figures
    from matplotlib.backends import backend_agg

    with matplotlib.rc_context(_STYLE):
        drawn = figures.Figure((width, height), dpi=_DPI, layout="constrained")
        drawn.get_layout_engine().set(w_pad=0.08, h_pad=0.09)
        backend_agg.FigureCanvasAgg(drawn)
        yield drawn
        with write.whole(path) as temporary:
            # without its version the same data give the same bytes
            drawn.savefig(temporary, metadata={"Software": None})
