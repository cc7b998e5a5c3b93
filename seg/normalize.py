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

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

COLUMNS = ("min", "max", "mean", "std", "p1", "p99_8", "limit")

_PERCENTILES = (0.01, 0.998)
_SCALES = {
    "percentile": ("p1", "p99_8"),
    "minmax": ("min", "max"),
    "range": (None, "limit"),
}


def measure(image: np.ndarray) -> np.ndarray:
    """Statistics of an image [H, W, C]: float32 [C, len(COLUMNS)]."""
    return measure_strips(lambda: (image,), image.dtype)


def measure_strips(
    strips: Callable[[], Iterable[np.ndarray]], dtype: np.dtype
) -> np.ndarray:
    """Statistics of an image that comes in strips: float32 [C, len(COLUMNS)].

    `strips()` gives all pixels as arrays [..., C] of the dtype. It is called
    once for uint8 and uint16, else twice, and must give the same again. All
    values are counted, so that percentiles are those of the whole image.
    """
    if dtype in (np.uint8, np.uint16):
        return _measure_integers(strips, int(np.iinfo(dtype).max))
    whole = np.issubdtype(dtype, np.integer)
    return _measure_floats(strips, float(np.iinfo(dtype).max) if whole else 1.0)


def _measure_integers(
    strips: Callable[[], Iterable[np.ndarray]], limit: int
) -> np.ndarray:
    counts = sum(_counted(strip, limit + 1) for strip in strips())
    rows = []
    for count in counts:
        (values,) = np.nonzero(count)
        count = count[values]
        n = int(count.sum())
        mean = values @ count / n
        std = np.sqrt((values - mean) ** 2 @ count / n)
        ends = _percentiles(values, count)
        rows.append((values[0], values[-1], mean, std, *ends, limit))
    return np.array(rows, np.float32)


def _measure_floats(
    strips: Callable[[], Iterable[np.ndarray]], limit: float
) -> np.ndarray:
    """Counts by the upper 16 bits, then near the percentiles by all 32."""
    low, high, total, n, counts = np.inf, -np.inf, 0.0, 0, 0
    for strip in strips():
        pixels = strip.reshape(-1, strip.shape[-1])
        low = np.minimum(low, pixels.min(0))
        high = np.maximum(high, pixels.max(0))
        total = total + pixels.sum(0, dtype=np.float64)
        n += len(pixels)
        counts = counts + _counted(_sortable(pixels) >> 16, 1 << 16)
    mean = total / n
    # the upper halves that the four numbers around both percentiles have
    near = [np.unique(np.searchsorted(np.cumsum(c), _ranks(n)[0], "right"))
            for c in counts]  # fmt: skip
    squares, kept = 0.0, [np.zeros((len(of), 1 << 16), int) for of in near]
    for strip in strips():
        pixels = strip.reshape(-1, strip.shape[-1])
        squares = squares + np.square(pixels - mean).sum(0)
        for channel, bits in enumerate(_sortable(pixels).T):
            for i, upper in enumerate(near[channel]):
                inside = bits[bits >> 16 == upper] & 0xFFFF
                kept[channel][i] += np.bincount(inside, minlength=1 << 16)
    ends = [_refined(*each) for each in zip(counts, near, kept, strict=True)]
    limits = np.full(len(mean), limit)
    std = np.sqrt(squares / n)
    columns = (low, high, mean, std, *np.transpose(ends), limits)
    return np.stack(columns, -1).astype(np.float32)


def _refined(
    count: np.ndarray, near: np.ndarray, kept: np.ndarray
) -> tuple[float, float]:
    """The percentiles: counts by upper halves, some of them known by all bits.

    Those that are not known stand for themselves: none of them is asked for.
    """
    uppers = np.setdiff1d(np.flatnonzero(count), near)
    bits = [uppers.astype(np.uint32) << 16]
    counts = [count[uppers]]
    for upper, lower in zip(near, kept, strict=True):
        (at,) = np.nonzero(lower)
        bits.append((np.uint32(upper) << 16) + at.astype(np.uint32))
        counts.append(lower[at])
    order = np.argsort(np.concatenate(bits))
    values = _unsortable(np.concatenate(bits)[order]).astype(np.float64)
    return _percentiles(values, np.concatenate(counts)[order])


def _counted(keys: np.ndarray, n: int) -> np.ndarray:
    """How often 0 to n - 1 occur in each channel: int64 [C, n]."""
    channels = keys.reshape(-1, keys.shape[-1]).T
    return np.stack([np.bincount(c, minlength=n) for c in channels])


def _ranks(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of n sorted values the percentiles lie between, and how far."""
    exact = np.array(_PERCENTILES) * (n - 1)
    below = np.floor(exact).astype(np.int64)
    ranks = np.stack([below, np.minimum(below + 1, n - 1)], -1)
    return ranks, exact - below


def _percentiles(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Percentiles 1 and 99.8 of sorted values that occur so often."""
    at_or_below = np.cumsum(counts)
    ranks, part = _ranks(int(at_or_below[-1]))
    around = values[np.searchsorted(at_or_below, ranks, "right")]
    return around[:, 0] + (around[:, 1] - around[:, 0]) * part


def _sortable(values: np.ndarray) -> np.ndarray:
    """uint32 in the order of the values, which are taken as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    negative = bits >> 31 == 1
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _unsortable(keys: np.ndarray) -> np.ndarray:
    """Undoes `_sortable`."""
    positive = keys >> 31 == 1
    bits = np.where(positive, keys & np.uint32((1 << 31) - 1), ~keys)
    return bits.view(np.float32)


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
