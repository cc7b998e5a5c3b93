"""Arrays at another size, the corners of the first and last pixel kept.

Separable, so that each axis is one product with a sparse matrix of weights. Any
strip of rows of the result can be had by itself, the same to the bit.
"""

import functools
from collections.abc import Callable

import numpy as np
from scipy import sparse

_PIXELS = 1 << 22  # of the image, at a time, about


def linear(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image [H, W, C] at another (H, W), in its dtype.

    Linear between the middles of pixels. Where pixels get fewer, each new one
    is the mean of what it covers, weighted by a triangle twice its width, so
    that nothing aliases. Integers are rounded.
    """

    def rows(top: int, bottom: int) -> np.ndarray:
        return array[top:bottom]

    return strip(rows, array.shape[:2], shape, 0, shape[0])


def strip(
    rows: Callable[[int, int], np.ndarray],
    old: tuple[int, int],
    new: tuple[int, int],
    top: int,
    bottom: int,
) -> np.ndarray:
    """Rows top to bottom of `linear`, of an image that is read by rows.

    rows(top, bottom): rows of the image, [h, W, C], of which it takes few at a
    time; old, new: (H, W).
    """
    down, across = (_weights(*sides) for sides in zip(old, new, strict=True))
    firsts, ends = reach(old[0], new[0])
    n = max(1, _PIXELS * new[0] // (old[0] * old[1]))
    parts = []
    for start in range(top, bottom, n):
        stop = min(start + n, bottom)
        first, end = int(firsts[start]), int(ends[stop - 1])
        seen = down[start:stop, first:end]
        parts.append(_product(seen, across, rows(first, end)))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _product(
    down: sparse.csr_array, across: sparse.csr_array, part: np.ndarray
) -> np.ndarray:
    """An image [H, W, C] with the weights of its rows and of its columns."""
    (n_rows, _), (n_cols, width) = down.shape, across.shape
    found = down @ part.reshape(len(part), -1).astype(np.float32)
    found = found.reshape(n_rows, width, -1).transpose(1, 0, 2)
    found = across @ found.reshape(width, -1)
    found = found.reshape(n_cols, n_rows, -1).transpose(1, 0, 2)
    if np.issubdtype(part.dtype, np.integer):
        found = np.rint(found)
    return np.ascontiguousarray(found.astype(part.dtype))


def reach(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each new pixel the first old one that it sees, and the last's next."""
    weights = _weights(old, new)
    at = weights.indptr
    return weights.indices[at[:-1]], weights.indices[at[1:] - 1] + 1


def nearest(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Classes or labels [H, W] at another (H, W)."""
    rows, cols = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for old, new in zip(array.shape[:2], shape, strict=True)
    )
    return array[rows[:, None], cols]


@functools.lru_cache(maxsize=8)
def _weights(old: int, new: int) -> sparse.csr_array:
    """What each new pixel takes of each old one: float32 [new, old]."""
    ratio = old / new
    wide = max(ratio, 1)
    middles = (np.arange(new)[:, None] + 0.5) * ratio - 0.5
    at = np.floor(middles - wide).astype(int) + np.arange(2 * int(wide) + 4)
    weights = np.maximum(1 - np.abs(middles - at) / wide, 0)
    weights[(at < 0) | (at >= old)] = 0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    row, k = np.nonzero(weights)
    entries = weights[row, k], (row, at[row, k])
    return sparse.csr_array(entries, (new, old))
