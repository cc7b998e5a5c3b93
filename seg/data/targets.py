"""Labels -> the classes that are taught, and how large objects are."""

import numpy as np
from scipy import ndimage


def diameter(area: np.ndarray | float) -> np.ndarray:
    """Of a disc with that area, px."""
    return np.sqrt(4 / np.pi * np.asarray(area, float))


def median_diameter(labels: np.ndarray) -> float:
    """Of the objects of an image; NaN without any. labels: int [H, W]."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return float(diameter(np.median(areas))) if len(areas) else np.nan


def classes_with_gap(
    classes: np.ndarray, labels: np.ndarray | None, gap: int
) -> np.ndarray:
    """The class map with background between objects that touch.

    A foreground map keeps touching objects apart only where it shows a gap.
    Of two objects nearer than `gap` px (8-neighbourhood), the larger one gives
    up its pixels there, so that small objects never vanish.

    Parameters
    ----------
    classes : uint8 [H, W]; 255 = not annotated, which stays.
    labels : int [H, W], 0 background; None = objects are not known.
    gap : width of the gap, px; 0 = none.

    Returns
    -------
    uint8 [H, W]; `classes` itself where nothing is to be done.
    """
    if not gap or labels is None or not labels.any():
        return classes
    areas = np.bincount(labels.ravel())
    areas[0] = np.iinfo(areas.dtype).max  # the background never wins a pixel
    rank = np.empty(len(areas), np.int32)
    rank[np.argsort(areas, kind="stable")] = np.arange(len(areas))
    ranks = rank[labels]
    smallest = ndimage.minimum_filter(ranks, 2 * gap + 1, mode="nearest")
    lost = (labels > 0) & (smallest < ranks) & (classes != 255)
    return np.where(lost, np.uint8(0), classes)
