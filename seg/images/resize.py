"""Whole arrays at another size, the corners of the first and last pixel kept.

Separable, so that each axis is one product with a matrix of weights.
"""

import numpy as np


def linear(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image [H, W, C] at another (H, W), in its dtype.

    Linear between the middles of pixels. Where pixels get fewer, each new one
    is the mean of what it covers, weighted by a triangle twice its width, so
    that nothing aliases. Integers are rounded.
    """
    found = array.astype(np.float32)
    for axis, side in enumerate(shape):
        weights = _weights(array.shape[axis], side)
        found = np.moveaxis(np.tensordot(weights, found, (1, axis)), 0, axis)
    if np.issubdtype(array.dtype, np.integer):
        found = np.rint(found)
    return np.ascontiguousarray(found.astype(array.dtype))


def nearest(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Classes or labels [H, W] at another (H, W)."""
    rows, cols = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for old, new in zip(array.shape[:2], shape, strict=True)
    )
    return array[rows[:, None], cols]


def _weights(old: int, new: int) -> np.ndarray:
    """What each new pixel takes of each old one: float32 [new, old]."""
    ratio = old / new
    middles = (np.arange(new) + 0.5) * ratio - 0.5
    far = np.abs(middles[:, None] - np.arange(old)) / max(ratio, 1)
    weights = np.maximum(1 - far, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
