"""Labels -> the classes that are taught, and how large objects are."""

from typing import Any

import numpy as np
from scipy import ndimage

from seg.images import resize

_MOST = 16  # times smaller or larger: more is no size of an object


def diameter(areas: np.ndarray) -> float:
    """How wide objects of these areas are, px; 0 without any.

    Half of all their pixels are in smaller ones: specks do not count, however
    many there are. The diameter is that of a disc of the same area.
    """
    areas = np.sort(areas[areas > 0]).astype(float)
    if not len(areas):
        return 0.0
    total = np.cumsum(areas)
    middle = areas[np.searchsorted(total, total[-1] / 2)]
    return float(np.sqrt(4 / np.pi * middle))


def rescaled(found: dict[str, Any], wanted: float) -> dict[str, Any]:
    """The image, classes and labels of a sample with objects `wanted` px wide.

    Their `diameter` decides; where objects are not labelled, that of the
    connected parts of the foreground. As they are where there is none, and at
    most 16 times another size.
    """
    labels = found["labels"]
    if labels is None:
        known = (found["classes"] > 0) & (found["classes"] < 255)
        labels, _ = ndimage.label(known, np.ones((3, 3)))
    width = diameter(np.bincount(labels[labels > 0]))
    zoom = np.clip(wanted / width, 1 / _MOST, _MOST) if width else 1.0
    shape = tuple(max(round(side * zoom), 1) for side in labels.shape)
    maps = {
        name: resize.nearest(found[name], shape)
        for name in ("classes", "labels")
        if found[name] is not None
    }
    return {"image": resize.linear(found["image"], shape), **maps}


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
