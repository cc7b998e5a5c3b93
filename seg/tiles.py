"""Geometry of windows over an image, for training and for stitching alike.

Windows are squares of side `window`, px. Positions are (row, column) of a
window's first pixel. They are spaced evenly, the first flush with the start
and the last with the end of the image; an axis shorter than the window has one
window, at 0, which then reaches beyond the image.
"""

import math

import numpy as np

_LEAST_SHARED = 10  # px


def starts(
    length: int, window: int, overlap: float, spacing: str = "least"
) -> np.ndarray:
    """Window positions along one axis.

    Parameters
    ----------
    length : pixels of the axis, >= 1.
    window : pixels of a window, >= 1.
    overlap : least share of a window that two neighbours share, in [0, 1).
    spacing : "least": as few windows as the overlap allows. "ceil": as many as
        it takes to cover the axis, one more where two would share less than
        10 px, and no heed to the overlap (experiments/clustered_unet.py).

    Returns
    -------
    int64 [n], increasing.
    """
    if length <= window:
        return np.zeros(1, np.int64)
    if spacing == "ceil":
        n = math.ceil(length / window)
        n += (window * n - length) // (n - 1) < _LEAST_SHARED
        n = min(n, length - window + 1)
    else:
        step = max(1, math.floor(window * (1 - overlap)))
        n = math.ceil((length - window) / step) + 1
    return np.round(np.linspace(0, length - window, n)).astype(np.int64)


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
    shape: tuple[int, int], window: int, overlap: float, spacing: str = "least"
) -> np.ndarray:
    """All windows over an image of this (H, W): int64 [N, 2], row by row."""
    rows = starts(shape[0], window, overlap, spacing)
    cols = starts(shape[1], window, overlap, spacing)
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2)


def ramp(window: int) -> np.ndarray:
    """Blending weights of a window's rows, or columns: float32 [window], > 0.

    A raised cosine. The floor of 1 % keeps a pixel that only one window's edge
    covers well defined, as nnU-Net's Gaussian does.
    """
    phase = (np.arange(window) + 0.5) / window
    return np.maximum(np.sin(np.pi * phase) ** 2, 0.01).astype(np.float32)
