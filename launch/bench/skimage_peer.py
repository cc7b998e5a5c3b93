"""scikit-image: label and regionprops_table, the columns of our table."""

import pathlib

import numpy as np
import skimage
from skimage import measure

from launch.bench import duel

# Column of theirs -> of ours; channel 0 is the image, 1 the map.
_EXACT = {
    "label": "label",
    "area": "area_px",
    "bbox-0": "bbox_row0",
    "bbox-1": "bbox_col0",
    "bbox-2": "bbox_row1",
    "bbox-3": "bbox_col1",
}
_CLOSE = {
    "centroid-0": "row",
    "centroid-1": "col",
    "intensity_mean-0": "mean_intensity",
    "intensity_mean-1": "probability",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
}
_ROUNDING = 5e-5  # scikit-image averages in float32, pixel by pixel


def objects(folder: pathlib.Path, *, side: int, n_objects: int) -> duel.Side:
    """A probability map to labels and a table; equal to ours, or it fails."""
    del side, n_objects
    given = np.load(folder / "map.npz")
    map_, image = given["map"][..., 0], given["image"][..., 0]

    def once() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        labels = measure.label(map_ > 0.5, connectivity=2)
        found = measure.regionprops_table(
            labels,
            np.stack([image.astype(np.float32), map_], -1),
            (
                "label",
                "area",
                "centroid",
                "bbox",
                "intensity_mean",
                "eccentricity",
                "solidity",
            ),
        )
        return labels, found

    labels, found = once()
    ours = np.load(folder / "found.npz")
    np.testing.assert_array_equal(labels, ours["labels"], "labels")
    for theirs, own in _EXACT.items():
        np.testing.assert_array_equal(found[theirs], ours[own], own)
    for theirs, own in _CLOSE.items():
        np.testing.assert_allclose(
            found[theirs], ours[own], rtol=_ROUNDING, err_msg=own
        )
    about = {
        "program": f"scikit-image {skimage.__version__}",
        "threads": 1,
        "objects": len(found["label"]),
        "equal": ["labels", *_EXACT.values(), *_CLOSE.values()],
    }
    return once, lambda: about
