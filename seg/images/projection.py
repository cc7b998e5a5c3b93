"""Several planes to one: the largest value of each pixel, or the mean."""

from collections.abc import Iterable

import numpy as np


def over(kind: str, planes: Iterable[np.ndarray]) -> np.ndarray:
    """Merges planes of one shape, in their type; kind: "max" or "mean".

    The mean of whole numbers is rounded. NaN in any of them is NaN in the
    result. Memory does not grow with their number.
    """
    planes = iter(planes)
    total = next(planes)
    dtype, n = total.dtype, 1
    if kind == "mean":
        total = total.astype(np.float64)  # sums are exact up to 2^53
    for plane in planes:
        n += 1
        if kind == "max":
            total = np.maximum(total, plane)
        else:
            total += plane
    if kind == "max":
        return total
    total /= n
    if dtype.kind == "b":
        return total >= 0.5
    if dtype.kind in "iu":
        np.rint(total, out=total)
    return total.astype(dtype)
