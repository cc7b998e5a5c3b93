"""The outlines of objects: polygons along the edges of their pixels.

Exact: a pixel is in an object if its middle is inside of its polygons. Vertices
are (row, column) of corners of pixels, (0, 0) the upper left of the image;
outer rings run clockwise as seen on the screen, holes the other way, and no
ring comes to a vertex twice. Rings of one object may touch at a vertex.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Polygon(NamedTuple):
    """A part of an object, joined by edges of pixels.

    Rings are int [V, 2], the last vertex is not the first again.
    """

    outer: np.ndarray
    holes: list[np.ndarray]


def of_labels(labels: np.ndarray) -> dict[int, list[Polygon]]:
    """The polygons of each object of a label image int [H, W], 0 background.

    By id; the parts of an object in the order of their first pixels.
    """
    from skimage import measure  # half a second to import

    parts = measure.label(labels, connectivity=1).ravel()
    wide = labels.shape[1] + 1
    outers: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    object_of: dict[int, int] = {}
    for pixel, ring in _rings(labels):
        part = int(parts[pixel])
        object_of[part] = int(labels.flat[pixel])
        for loop in _loops(ring):
            vertices = np.stack(np.divmod(loop, wide), 1)
            if _area(vertices) > 0:
                outers[part] = _corners(vertices)
            else:
                holes.setdefault(part, []).append(_corners(vertices))
    found: dict[int, list[Polygon]] = {}
    for part in sorted(outers, key=lambda part: (object_of[part], part)):
        polygon = Polygon(outers[part], holes.get(part, []))
        found.setdefault(object_of[part], []).append(polygon)
    return found


def _rings(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(a pixel of the object, vertices as flat indices) of each border.

    A pixel's sides are 0 above, 1 right, 2 below, 3 left, gone through
    clockwise: an object lies to the right. Where four pixels meet and only two
    across are of the object, it is taken to be apart there.
    """
    n_rows, n_cols = labels.shape
    padded = np.pad(labels, 1, constant_values=-1)
    borders = np.zeros((*labels.shape, 4), bool)
    for side, (row, col) in enumerate(((0, 1), (1, 2), (2, 1), (1, 0))):
        beside = padded[row : row + n_rows, col : col + n_cols]
        borders[..., side] = (labels > 0) & (beside != labels)
    borders = borders.ravel()
    edges = np.flatnonzero(borders)
    pixel, side = np.divmod(edges, 4)
    # the pixel that lies ahead of each side's direction
    ahead = np.array([1, n_cols, -1, -n_cols])
    right = (side + 1) % 4
    left = (side + 3) % 4
    turns = borders[4 * pixel + right]
    front = np.where(turns, pixel, pixel + ahead[side])
    straight = ~turns & borders[4 * front + side]
    corner = np.where(turns | straight, front, front + ahead[left])
    new_side = np.where(turns, right, np.where(straight, side, left))
    follows = np.searchsorted(edges, 4 * corner + new_side).tolist()
    row, col = np.divmod(pixel, n_cols)
    row, col = row + (side >= 2), col + ((side == 1) | (side == 2))
    vertex = row * (n_cols + 1) + col  # where the side begins
    seen = bytearray(len(edges))
    for first in range(len(edges)):
        ring = []
        at = first
        while not seen[at]:
            seen[at] = 1
            ring.append(at)
            at = follows[at]
        if ring:
            yield int(pixel[first]), vertex[ring]


def _loops(ring: np.ndarray) -> Iterator[np.ndarray]:
    """A ring cut where it comes to a vertex again."""
    if len(np.unique(ring)) == len(ring):
        yield ring
        return
    path: list[int] = []
    place: dict[int, int] = {}
    for vertex in [*ring.tolist(), int(ring[0])]:
        if vertex in place:
            since = place[vertex]
            yield np.array(path[since:])
            for gone in path[since:]:
                del place[gone]
            del path[since:]
        place[vertex] = len(path)
        path.append(vertex)


def _area(vertices: np.ndarray) -> float:
    """Signed: positive where they run clockwise on the screen, px."""
    row, col = vertices.T
    after = np.roll(vertices, -1, 0)
    return float(np.sum(col * after[:, 0] - after[:, 1] * row)) / 2


def _corners(vertices: np.ndarray) -> np.ndarray:
    """Only the vertices where the direction changes."""
    into = vertices - np.roll(vertices, 1, 0)
    out = np.roll(vertices, -1, 0) - vertices
    return vertices[(into != out).any(1)]
