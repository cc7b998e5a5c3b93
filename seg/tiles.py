"""Geometry of windows over an image, for training and for stitching alike.

Windows are squares of side `window`, px. Positions are (row, column) of a
window's first pixel. They are spaced evenly, the first flush with the start
and the last with the end of the image, or less than `align` beyond it; an axis
shorter than the window has one window, at 0, which then reaches beyond the
image.
"""

import math

import numpy as np

_LEAST_SHARED = 10  # px


def starts(
    length: int,
    window: int,
    overlap: float,
    spacing: str = "least",
    align: int = 1,
) -> np.ndarray:
    """Window positions along one axis, multiples of `align`.

    Parameters
    ----------
    length : pixels of the axis, >= 1.
    window : pixels of a window, >= 1.
    overlap : least share of a window that two neighbours share, in [0, 1).
    spacing : "least": as few windows as the overlap allows. "ceil": as many as
        it takes to cover the axis, one more where two would share less than
        10 px, and no heed to the overlap (experiments/clustered_unet.py).
    align : the stride of a network, which then sees a pixel alike in whichever
        window it lies.

    Returns
    -------
    int64 [n], increasing.

    Examples
    --------
    >>> starts(1000, 256, 0.25)
    array([  0, 186, 372, 558, 744])
    >>> starts(360, 256, 0.0, spacing="ceil")
    array([  0, 104])
    """
    if length <= window:
        return np.zeros(1, np.int64)
    last = math.ceil((length - window) / align)
    if spacing == "ceil":
        n = math.ceil(length / window)
        n += (window * n - length) // (n - 1) < _LEAST_SHARED
        n = min(n, last + 1)
    else:
        step = max(1, math.floor(window * (1 - overlap) / align))
        n = math.ceil(last / step) + 1
    return align * np.round(np.linspace(0, last, n)).astype(np.int64)


def thriftiest(
    shape: tuple[int, int], overlap: float, spacing: str = "least"
) -> int:
    """The window, px, by which an image of this (H, W) takes least work.

    Of the multiples of 64 from 320 to 576, for which sides of 1024, 2048, ...
    px take 1.27 times the image's pixels with an overlap of .11; windows of
    256, by a quarter of them, take 1.9. Smaller ones see little around what
    they decide, larger ones need more memory than they spare work.
    """

    def work(window: int) -> tuple[int, int]:
        rows, cols = (
            len(starts(length, window, overlap, spacing)) for length in shape
        )
        return rows * cols * window**2, -window

    return min(range(320, 577, 64), key=work)


def windows(
    shape: tuple[int, int],
    window: int,
    overlap: float,
    spacing: str = "least",
    align: int = 1,
) -> np.ndarray:
    """All windows over an image of this (H, W): int64 [N, 2], row by row."""
    rows, cols = (
        starts(length, window, overlap, spacing, align) for length in shape
    )
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2)


def ramp(window: int) -> np.ndarray:
    """Blending weights of a window's rows, or columns: float32 [window], > 0.

    A raised cosine. The floor of 1 % keeps a pixel that only one window's edge
    covers well defined, as nnU-Net's Gaussian does.
    """
    phase = (np.arange(window) + 0.5) / window
    return np.maximum(np.sin(np.pi * phase) ** 2, 0.01).astype(np.float32)
