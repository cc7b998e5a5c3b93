"""Intensity statistics of a whole image, and scaling by them.

`measure` looks at an image once, before it is cut; what it finds travels with
the image (in the record, the batch and the pack), so a tile is scaled exactly
as the whole image is at prediction. It measures everything that any kind of
scaling needs: another kind needs no new preparation. `apply` is arithmetic
only and takes NumPy and JAX arrays alike.

Kinds: `percentile` maps the 1st and 99.8th percentile to 0 and 1 (StarDist's
and CSBDeep's choice), `standard` gives mean 0 and deviation 1, `minmax` and
`range` map the extremes of the image and of its dtype to 0 and 1, `none` only
converts to float32.
"""

from typing import Any

import numpy as np

COLUMNS = ("min", "max", "mean", "std", "p1", "p99_8", "limit")

_SCALES = {
    "percentile": ("p1", "p99_8"),
    "minmax": ("min", "max"),
    "range": (None, "limit"),
}


def measure(image: np.ndarray) -> np.ndarray:
    """Statistics of an image [H, W, C]: float32 [C, len(COLUMNS)]."""
    pixels = image.reshape(-1, image.shape[-1])
    limit = 1.0
    if np.issubdtype(image.dtype, np.integer):
        limit = float(np.iinfo(image.dtype).max)
    low, high = np.percentile(pixels, (1, 99.8), axis=0)
    found = (
        pixels.min(0),
        pixels.max(0),
        pixels.mean(0, dtype=np.float64),
        pixels.std(0, dtype=np.float64),
        low,
        high,
        np.full(pixels.shape[1], limit),
    )
    return np.stack(found, -1).astype(np.float32)


def apply(image: Any, stats: Any, kind: str) -> Any:
    """Scales an image by statistics.

    Parameters
    ----------
    image : [..., H, W, C], any dtype, NumPy or JAX.
    stats : [..., C, len(COLUMNS)] from `measure`, same leading axes.
    kind : one of the module's kinds.

    Returns
    -------
    float32 of the image's shape. A constant image becomes 0, never NaN.
    """
    image = image.astype(np.float32)
    if kind == "none":
        return image

    def column(name: str) -> Any:
        return stats[..., None, None, :, COLUMNS.index(name)]

    if kind == "standard":
        offset, span = column("mean"), column("std")
    else:
        low, high = _SCALES[kind]
        offset = column(low) if low else 0.0
        span = column(high) - offset
    # Few bright specks on black: both percentiles are black, so the brightest
    # pixel stands for the upper one.
    span = span + (span <= 0) * (column("max") - offset)
    # A flat image has no span; what is left of it after the offset is 0.
    return (image - offset) * (1.0 / (span + (span <= 0)))
