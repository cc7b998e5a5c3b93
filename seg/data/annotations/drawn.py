"""An object as it is drawn in a file, before the image's size is known."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seg import images
from seg.data import masks, shapes

Size = tuple[int, int]


class Object(NamedTuple):
    """One object as it is drawn: where it stands in its file, its class, and
    what makes pixels of it for an image of (H, W).
    """

    where: str
    name: str
    draw: Callable[[Size], masks.Region]


def rings(parts: Sequence[Any], where: str) -> list[np.ndarray]:
    """Rings of points as float64 [V, 2], (x, y), without the last if it is
    the first again. Raises ImageError.
    """
    found = []
    for part in parts:
        try:
            ring = np.array(part, np.float64)[:, :2]
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise images.ImageError(
                f"{where}: its points are not pairs of numbers; draw it again"
            ) from error
        if ring.shape[-1] != 2 or not np.isfinite(ring).all():
            raise images.ImageError(
                f"{where}: its points are not pairs of finite numbers; draw "
                "it again"
            )
        if len(ring) > 1 and (ring[0] == ring[-1]).all():
            ring = ring[:-1]
        found.append(ring)
    return found


def polygon(outer: np.ndarray, holes: Sequence[np.ndarray], shape: Size):
    """The region inside of a ring and of no hole. Raises ShapeError."""
    region = shapes.polygon(outer, shape)
    inside = region.inside.copy()
    for hole in holes:
        row, col, part = shapes.polygon(hole, shape)
        rows = np.arange(len(part)) + row - region.row
        cols = np.arange(part.shape[1]) + col - region.col
        rows_in = (rows >= 0) & (rows < inside.shape[0])
        cols_in = (cols >= 0) & (cols < inside.shape[1])
        box = np.ix_(rows[rows_in], cols[cols_in])
        inside[box] &= ~part[np.ix_(rows_in, cols_in)]
    return region._replace(inside=inside)
