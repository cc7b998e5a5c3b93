"""Labels -> what the heads are taught."""

import numpy as np
from scipy import ndimage

OBJECTS = 255
"""What stands for 1 in the map of `of_objects`."""

_BORDER = 2  # px of an object that `interior` leaves out
_DEEP = 5  # px from the border where `distance` ends


def of_objects(labels: np.ndarray, kind: str) -> np.ndarray:
    """The map that keeps objects apart: uint8 [H, W], 0 outside of them.

    Of each object by itself, whatever lies beside it; the image's border is no
    border of an object. "distance": rises with the Euclidean distance to the
    object's border, to OBJECTS from five pixels on, or where a small object is
    deepest; how far the middle of a large one is takes a network long to learn
    and keeps nothing apart. "interior": OBJECTS in all of it but a rim of two
    pixels, thinner where nothing else would be left.

    labels: int [H, W], 0 background.
    """
    found = np.zeros(labels.shape, np.uint8)
    wide = np.pad(labels, 1, mode="edge")
    for label, place in enumerate(ndimage.find_objects(labels), 1):
        if place is None:
            continue
        around = tuple(slice(side.start, side.stop + 2) for side in place)
        depth = _depth(wide[around] == label)[1:-1, 1:-1]
        own = labels[place] == label
        if kind == "interior":
            inside = own & (depth > min(_BORDER, depth.max() - 0.5))
            found[place][inside] = OBJECTS
        else:
            share = (depth[own] - 0.5) / (min(_DEEP, depth.max()) - 0.5)
            found[place][own] = np.rint(OBJECTS * np.minimum(share, 1))
    return found


def _depth(own: np.ndarray) -> np.ndarray:
    """Distance to what is outside, px; of a full array, to nothing: 1."""
    if own.all():
        return own.astype(float)
    return ndimage.distance_transform_edt(own)


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
