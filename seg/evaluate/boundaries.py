"""Boundaries found against boundaries that are there.

Csurka et al. 2013, "What is a good evaluation measure for semantic
segmentation?", for objects: a pixel of an object beside another one or beside
the background is boundary; it is right if the other label image has boundary
within TOLERANCE px.
"""

import numpy as np
from scipy import ndimage

TOLERANCE = 2  # px, as wide as two annotators differ


def agreement(true_labels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Boundary pixels of two label images [H, W] that have some near them.

    int64 [4]: of the true ones those that were found, and all; of the found
    ones those that are true, and all. Such counts add up over images.
    """
    true, found = _inner(true_labels), _inner(labels)
    return np.array(
        [
            np.count_nonzero(true & _near(found)), np.count_nonzero(true),
            np.count_nonzero(found & _near(true)), np.count_nonzero(found),
        ]
    )  # fmt: skip


def f_score(counts: np.ndarray) -> np.ndarray:
    """Harmonic mean of both shares of `agreement`s [..., 4]: float64 [...].

    1 where neither has a boundary, 0 where one has none.
    """
    right, n_true, good, n_found = np.moveaxis(np.asarray(counts, float), -1, 0)
    # 2 / (1 / recall + 1 / precision)
    inverse = n_true * good + n_found * right
    score = np.divide(
        2 * right * good, inverse, out=np.zeros_like(right), where=inverse > 0
    )
    return np.where(n_true + n_found > 0, score, 1.0)


def _inner(labels: np.ndarray) -> np.ndarray:
    """Pixels of objects with another label beside them (4-connected)."""
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        one, other = (np.swapaxes(a, 0, axis) for a in (border, labels))
        differs = other[1:] != other[:-1]
        one[1:] |= differs
        one[:-1] |= differs
    return border & (labels > 0)


def _near(border: np.ndarray) -> np.ndarray:
    side = np.arange(-TOLERANCE, TOLERANCE + 1)
    disk = side[:, None] ** 2 + side**2 <= TOLERANCE**2
    return ndimage.binary_dilation(border, disk)
