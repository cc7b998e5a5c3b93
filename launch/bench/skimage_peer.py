"""scikit-image: label and regionprops_table, the columns of our table."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import skimage
from skimage import measure

Side = tuple[Callable[[], Any], dict[str, Any]]


def objects(folder: pathlib.Path, *, side: int, n_objects: int) -> Side:
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
    np.testing.assert_array_equal(labels, ours["labels"])
    np.testing.assert_array_equal(found["area"], ours["area_px"])
    for name in ("eccentricity", "solidity"):
        np.testing.assert_allclose(found[name], ours[name], atol=1e-6)
    return once, {
        "program": f"scikit-image {skimage.__version__}",
        "threads": 1,
        "objects": len(found["label"]),
    }
