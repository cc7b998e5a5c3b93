"""What is measured of objects, with the names of the columns of a table.

Lengths and areas are in pixels, coordinates (row, column), boxes half-open.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import spatial

from seg.predict import contours, intensities, shapes


@dataclasses.dataclass(frozen=True)
class Measures:
    """Of objects 1..N.

    Parameters
    ----------
    shapes : places and shapes.
    perimeter : px, float64 [N].
    intensity : columns, float64 [N] by name.
    """

    shapes: shapes.Shapes
    perimeter: np.ndarray
    intensity: dict[str, np.ndarray]


def of_labels(
    labels: np.ndarray, image: np.ndarray | None, n_objects: int
) -> Measures:
    """Measures labels [H, W], ids 1..N, each there, over an image [H, W, C].

    Without an image intensities are NaN.
    """
    runs = shapes.Runs.of(labels)
    outline = contours.Crossings(n_objects)
    outline.add(labels)
    intensity = intensities.Intensities(n_objects)
    if image is not None:
        intensity.add(runs, image, np.arange(n_objects))
    return Measures(
        shapes.measure(runs, n_objects), outline.finish(), intensity.columns()
    )


def columns(
    found: Measures, shape: tuple[int, int], margin: np.ndarray | int = 0
) -> dict[str, np.ndarray]:
    """The columns [N] of a table of objects of an image of (H, W) `shape`.

    margin: px, [N, 1] or one for all, by which boxes are larger, within the
    image.

    Circularity is 4 pi area / perimeter^2, at most 1; `angle_deg` that of the
    longer axis, from 0 (along a row) counter-clockwise, as ImageJ has it;
    `nearest_px` is the distance to the next object's centre, NaN where there
    is none.
    """
    own, area = found.shapes, found.shapes.area
    low = np.maximum(own.box[:, :2] - margin, 0)
    high = np.minimum(own.box[:, 2:] + margin, shape)
    sides = own.box[:, 2:] - own.box[:, :2]
    at_border = (own.box[:, :2] == 0).any(1) | (own.box[:, 2:] == shape).any(1)
    return {
        "area_px": area,
        "row": own.row,
        "col": own.col,
        "bbox_row0": low[:, 0],
        "bbox_col0": low[:, 1],
        "bbox_row1": high[:, 0],
        "bbox_col1": high[:, 1],
        "eccentricity": own.eccentricity,
        "solidity": own.solidity,
        "perimeter_px": found.perimeter,
        "circularity": np.minimum(
            4 * np.pi * area / np.maximum(found.perimeter, 1) ** 2, 1
        ),
        "diameter_px": np.sqrt(4 / np.pi * area),
        "major_axis_px": own.major,
        "minor_axis_px": own.minor,
        "angle_deg": own.angle,
        "extent": area / sides.prod(1),
        "at_border": at_border.astype(int),
        "nearest_px": _nearest(own.row, own.col),
        **found.intensity,
    }


def rows(table: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """One dict for each object of a table of columns."""
    n = len(table["label"])
    for start in range(0, n, 4096):  # few Python objects at a time
        part = [c[start : start + 4096].tolist() for c in table.values()]
        for row in zip(*part, strict=True):
            yield dict(zip(table, row, strict=True))


def _nearest(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    if len(row) < 2:
        return np.full(len(row), np.nan)
    places = np.stack((row, col), 1)
    distances, _ = spatial.cKDTree(places).query(places, k=2)
    return distances[:, 1]
