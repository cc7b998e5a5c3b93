"""What a model has to beat: Otsu's threshold, nothing learned.

Bright objects on a dark background are taken from the smoothed image by one
threshold for the whole image, and separated by connected components or by a
watershed. A baseline is called like a model in `report.evaluate`: it takes a
record and gives what was found. On StarDist's 50 test images: Dice .895, IoU
.817, AP at 0.5 .486 pooled and .662 as a mean over images; with the watershed
AP .643 and .732.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from seg.images import read
from seg.predict import blobs, objects

_SIGMA = 1.0  # of the smoothing before the threshold, px
_MIN_AREA = 25  # smaller ones are noise, px
_WATERSHED = (2.0, 5)  # smoothing of the distance, least distance of seeds, px


def otsu(image: np.ndarray, *, separate: str = "components") -> blobs.Blobs:
    """The bright objects of an image [H, W, C]: all of class 1, no table.

    separate: "components" (4-connected) or "watershed". Of several channels
    the luma counts. The threshold is that of Otsu (1979), of 256 bins.
    """
    # a third of a second, which whoever imports this need not pay
    from skimage import filters

    grey = read.as_channels(image, 1)[..., 0].astype(np.float64)
    grey = ndimage.gaussian_filter(grey, _SIGMA, mode="nearest")
    labels = objects.components(grey > filters.threshold_otsu(grey), 1)
    areas = np.bincount(labels.ravel())
    labels = objects.keep(labels, areas >= _MIN_AREA)
    if separate == "watershed":
        labels = objects.watershed(labels > 0, *_WATERSHED)
    elif separate != "components":
        raise ValueError(f"separate={separate!r}: components or watershed")
    labels = objects.in_raster_order(labels)
    return blobs.Blobs(labels, (labels > 0).astype(np.uint8), [])


BASELINES: dict[str, Callable[[Mapping[str, Any]], blobs.Blobs]] = {
    "otsu": lambda record: otsu(record["image"]),
    "otsu_watershed": lambda record: otsu(
        record["image"], separate="watershed"
    ),
}
