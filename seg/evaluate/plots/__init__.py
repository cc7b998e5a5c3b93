"""Every figure, drawn with matplotlib's Agg and written whole as PNG.

matplotlib is imported when the first figure is drawn. Where there is none,
`curves` draws nothing and says so in the log; ask `available` before others.
"""

from seg.evaluate.plots.canvas import available
from seg.evaluate.plots.charts import (
    ap_curve,
    comparison,
    curves,
    reliability,
)
from seg.evaluate.plots.pictures import hero, overlay
from seg.evaluate.plots.surveys import SURVEY

__all__ = [
    "SURVEY",
    "ap_curve",
    "available",
    "comparison",
    "curves",
    "hero",
    "overlay",
    "reliability",
]
