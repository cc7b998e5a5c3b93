"""Intensity statistics of a whole image, and scaling by them.

`measure` looks at an image once, before it is cut; what it finds travels with
the image (in the record, the batch and the pack), so a tile is scaled exactly
as the whole image is at prediction. It measures everything that any step
needs: other steps need no new preparation. `apply` is arithmetic only and
takes NumPy and JAX arrays alike.

    measuring   the statistics: extremes, moments, percentiles and what the
                distribution looks like between them
    known       what is known of an image between two steps
    steps       the steps of `data.normalize`, in any order
    training    mean and deviation over all training images, for `global`
"""

from seg.normalize.measuring import (
    COLUMNS,
    completed,
    measure,
    measure_strips,
)
from seg.normalize.steps import Scaling, apply, by_tile, scaling
from seg.normalize.training import pooled

__all__ = [
    "COLUMNS",
    "Scaling",
    "apply",
    "by_tile",
    "completed",
    "measure",
    "measure_strips",
    "pooled",
    "scaling",
]
