"""Mean and deviation over all training images, for the step `global`."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from seg import config as config_lib
from seg.normalize import steps


def pooled(
    stats: Iterable[tuple[int, np.ndarray]], data: config_lib.Data
) -> config_lib.Data:
    """The config with `mean` and `std` of these images, if it lacks them.

    Parameters
    ----------
    stats : of each image its pixels, and its statistics [C, S] of `measure`.
        They are as `global` sees them, after the steps that stand before it.

    Returns
    -------
    config.Data; as it came in where it has no `global`, or has its numbers.
    """
    how = steps.scaling(data)
    if "global" not in how.steps or data.mean:
        return data
    n, first, second = 0, 0.0, 0.0
    for n_pixels, row in stats:
        known = steps.before(row.astype(np.float64), how, "global")
        n += n_pixels
        first = first + n_pixels * known.mean
        second = second + n_pixels * (known.std**2 + known.mean**2)
    mean = first / n
    std = np.sqrt(np.maximum(second / n - mean**2, 0))
    return dataclasses.replace(
        data, mean=tuple(map(float, mean)), std=tuple(map(float, std))
    )
