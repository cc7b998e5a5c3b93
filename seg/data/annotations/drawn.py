"""An object as it is drawn in a file, before the image's size is known."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from seg import config, images
from seg.data import masks, shapes

Size = tuple[int, int]
EMPTY = "no middle of a pixel is inside; draw it larger, or remove it"


class Object(NamedTuple):
    """One object as it is drawn: where it stands in its file, its class, and
    what makes pixels of it for an image of (H, W).

    crowd: it is many objects, which nobody has told apart (COCO's iscrowd).
    """

    where: str
    name: str
    draw: Callable[[Size], masks.Region]
    crowd: bool = False


def truth(
    objects: Sequence[Object], shape: Size, names: dict[str, int], policy: str
) -> tuple[masks.Truth, list[str]]:
    """Classes and objects of an image, and lines "where: what; remedy".

    names: the class of each name. policy: data.overlaps. A crowd is not
    annotated.

    Only where nothing is wrong does the truth hold.
    """
    wrong, regions = [], []
    for one in objects:
        if one.name not in names:
            unknown = config.unknown("class", one.name, names)
            wrong.append(
                f"{one.where}: {unknown.rstrip('?')}; name it so, add "
                f"'{one.name}=CLASS' to data.aliases, or add the class"
            )
            continue
        try:
            region = one.draw(shape)
        except shapes.ShapeError as error:
            wrong.append(f"{one.where}: {error}")
            continue
        if not region.inside.any():
            wrong.append(f"{one.where}: {EMPTY}")
        kind = masks.UNKNOWN if one.crowd else names[one.name]
        regions.append((kind, region))
    found, overlap = masks.painted(regions, shape, policy)
    return found, [*wrong, *overlap]


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
