"""Shapes drawn on an image -> the pixels that are inside.

Points are (x, y) in px, as drawing programs give them: the pixel in row r and
column c covers x from c to c + 1 and y from r to r + 1, and its middle is at
(c + 0.5, r + 0.5). It belongs to a shape if its middle is inside or on the
edge (the rule of `skimage.draw.polygon2mask`); of a polygon that meets itself
without crossing, as a keyhole around a hole does, what is inside an odd number
of times is inside. ImageJ has another rule for edges, `filled_by_imagej`.

A polygon that crosses itself is refused: where corners are set one by one, one
of them is not where it was meant to be.

A function raises ShapeError, "what; remedy", for what is no such shape.
"""

import math
from collections.abc import Sequence

import numpy as np

from seg.data.masks import Region

DISC = 5.0  # px, the radius of a point, as LabelMe's own converters draw it
_AT_ONCE = 1 << 18  # pairs of sides
_BEYOND = 1.0  # px that a corner may lie outside; it is then cut off


class ShapeError(ValueError):
    """A shape that cannot be drawn: "what; remedy"."""


def polygon(points: np.ndarray, shape: tuple[int, int]) -> Region:
    """The inside of a closed polygon of points [N, 2]."""
    if len(points) < 3:
        raise ShapeError(
            f"a polygon of {len(points)} points; draw at least three"
        )
    _check_bounds(points, shape)
    if crossed := _crossing(points):
        one, other = crossed
        raise ShapeError(
            f"a polygon that crosses itself (sides {one} and {other}); draw "
            "it again, or in two parts of one group"
        )
    return _filled(points, shape)


def rectangle(points: np.ndarray, shape: tuple[int, int]) -> Region:
    """The box between two opposite corners, or of four in turn."""
    if len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if len(points) != 4:
        raise ShapeError(
            f"a rectangle of {len(points)} points; give two corners"
        )
    return polygon(points, shape)


def circle(points: np.ndarray, shape: tuple[int, int]) -> Region:
    """The disc around the first point, through the second."""
    if len(points) != 2:
        raise ShapeError(
            f"a circle of {len(points)} points; give its middle and a point "
            "on it"
        )
    _check_bounds(points[:1], shape)
    return _disc(points[0], math.hypot(*(points[1] - points[0])), shape)


def dots(points: np.ndarray, shape: tuple[int, int]) -> Region:
    """A disc of radius `DISC` around each point."""
    if not len(points):
        raise ShapeError("no points; draw one")
    _check_bounds(points, shape)
    return union([_disc(point, DISC, shape) for point in points])


def line(points: np.ndarray, shape: tuple[int, int]) -> Region:
    """A line has no inside: always a ShapeError."""
    raise ShapeError("a line, which has no area; draw a polygon")


def pasted(
    mask: np.ndarray, points: np.ndarray, shape: tuple[int, int]
) -> Region:
    """A mask [h, w] between the first and the last of its pixels, inclusive.

    points: (x, y) of these two pixels, whole numbers.
    """
    if points.shape != (2, 2) or (points != np.round(points)).any():
        raise ShapeError("a mask without the two corners of its box; redraw it")
    _check_bounds(points, shape)
    (left, top), (right, bottom) = points.astype(np.int64).tolist()
    if mask.shape != (bottom - top + 1, right - left + 1):
        raise ShapeError(
            f"a mask of {mask.shape[0]}x{mask.shape[1]} px in a box of "
            f"{bottom - top + 1}x{right - left + 1}; redraw it"
        )
    if top < 0 or left < 0 or bottom >= shape[0] or right >= shape[1]:
        raise ShapeError(
            f"a mask that ends outside the image, at row {bottom}, column "
            f"{right}; redraw it"
        )
    return Region(top, left, mask != 0)


def union(regions: list[Region]) -> Region:
    """All pixels of several regions (at least one)."""
    regions = [r for r in regions if r.inside.size] or regions[:1]
    top = min(region.row for region in regions)
    left = min(region.col for region in regions)
    bottom = max(region.row + region.inside.shape[0] for region in regions)
    right = max(region.col + region.inside.shape[1] for region in regions)
    inside = np.zeros((bottom - top, right - left), bool)
    for row, col, part in regions:
        n_rows, n_cols = part.shape
        row, col = row - top, col - left
        inside[row : row + n_rows, col : col + n_cols] |= part
    return Region(top, left, inside)


def _check_bounds(points: np.ndarray, shape: tuple[int, int]) -> None:
    far = np.array(shape[::-1]) + _BEYOND
    outside = (points < -_BEYOND) | (points > far)
    if outside.any():
        x, y = points[outside.any(1)][0]
        raise ShapeError(
            f"a point at x={x:g}, y={y:g}, outside the image of "
            f"{shape[0]}x{shape[1]} px; is it drawn on another image?"
        )


def _crossing(points: np.ndarray) -> tuple[int, int] | None:
    """The numbers (from 1) of two sides that cross, if any do.

    Sides that only touch, or lie on each other, do not cross. Compared are
    those that share a row: few, where a long outline has short sides.
    """
    ends = np.stack([points, np.roll(points, -1, axis=0)])
    number = np.argsort(ends[..., 1].min(0))
    start, end = ends[:, number]
    top, bottom = np.sort(ends[:, number, 1], axis=0)
    n_shared = np.searchsorted(top, bottom, "right") - np.arange(len(top)) - 1
    block = np.cumsum(n_shared) // _AT_ONCE
    cuts = np.flatnonzero(np.diff(block)) + 1
    for part in np.split(np.arange(len(top)), cuts):
        which, offset = _expanded(n_shared[part])
        i = part[which]
        j = i + 1 + offset
        a, b, c, d = start[i], end[i], start[j], end[j]
        apart = (_side(a, b, c) * _side(a, b, d) < 0) & (
            _side(c, d, a) * _side(c, d, b) < 0
        )
        if apart.any():
            k = apart.argmax()
            one, other = sorted((int(number[i[k]]), int(number[j[k]])))
            return one + 1, other + 1
    return None


def _side(a: np.ndarray, b: np.ndarray, point: np.ndarray) -> np.ndarray:
    """On which side of the lines from a to b points lie: -1, 0 or 1."""
    along, to = b - a, point - a
    return np.sign(along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0])


def _expanded(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of sum(counts) entries: whose each is, and the how many-th of them."""
    whose = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return whose, np.arange(len(whose)) - first[whose]


def _filled(points: np.ndarray, shape: tuple[int, int]) -> Region:
    """The pixels of `skimage.draw.polygon2mask`, in a moment.

    That tries every pixel on every side: 14 s for an outline of 5,000 points
    and 900 px. Here each row is filled between the places where sides cross
    it; a side has the row of its upper end, not that of its lower one.
    """
    at = points - 0.5  # middles of pixels are whole numbers now
    start, end = at, np.roll(at, -1, axis=0)
    upwards = start[:, 1:] > end[:, 1:]
    (x0, y0), (x1, y1) = (
        np.where(upwards, end, start).T,
        np.where(upwards, start, end).T,
    )
    first, last = (
        np.clip(np.ceil(y), 0, shape[0]).astype(int) for y in (y0, y1)
    )
    side, offset = _expanded(last - first)
    row = first[side] + offset
    # the product first: exact where corners lie on a grid
    beyond = (row - y0[side]) * (x1 - x0)[side] / (y1 - y0)[side]
    x = x0[side] + beyond
    order = np.lexsort((x, row))
    row, x = row[order], x[order]
    spans = np.concatenate(
        [
            np.stack([row[::2], x[::2], x[1::2]], -1),
            # edges count: also level ones, and corners at the lower end
            np.stack([y0, np.minimum(x0, x1), np.maximum(x0, x1)], -1)[
                y0 == y1
            ],
            np.stack([y1, x1, x1], -1),
        ]
    )
    return _painted(spans, shape)


def filled_by_imagej(
    rings: Sequence[np.ndarray], shape: tuple[int, int]
) -> Region:
    """The pixels that ImageJ fills of closed rings [N, 2], cut off.

    The rule of its PolygonFiller: middles inside an odd number of times, over
    all rings, however they cross. On an edge they are inside if that is a
    right or a lower one.
    """
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    upwards = start[:, 1:] > end[:, 1:]
    (x0, y0), (x1, y1) = (
        np.where(upwards, end, start).T,
        np.where(upwards, start, end).T,
    )
    first, last = (
        np.clip(np.floor(y + 0.5), 0, shape[0]).astype(int) for y in (y0, y1)
    )
    side, offset = _expanded(last - first)
    row = first[side] + offset
    slope = (x1 - x0)[side] / (y1 - y0)[side]
    # ImageJ adds so much, for what rounding may take
    x = x0[side] + (row + 0.5 - y0[side]) * slope + 1e-8
    order = np.lexsort((x, row))
    row, x = row[order], np.floor(x[order] + 0.5)
    spans = np.stack([row[::2], x[::2], x[1::2] - 1], -1)
    return _painted(spans, shape)


def _painted(spans: np.ndarray, shape: tuple[int, int]) -> Region:
    """Pixels whose middles are in spans [N, 3] of (row, from, to), inclusive.

    Spans between two rows paint nothing.
    """
    inside = (spans[:, 0] >= 0) & (spans[:, 0] < shape[0])
    spans = spans[inside & (spans[:, 0] == np.round(spans[:, 0]))]
    rows = spans[:, 0].astype(int)
    starts = np.clip(np.ceil(spans[:, 1]), 0, shape[1]).astype(int)
    stops = np.clip(np.floor(spans[:, 2]) + 1, 0, shape[1]).astype(int)
    (real,) = np.nonzero(starts < stops)
    if not len(real):
        return Region(0, 0, np.zeros((0, 0), bool))
    rows, starts, stops = rows[real], starts[real], stops[real]
    top, left = int(rows.min()), int(starts.min())
    steps = np.zeros((rows.max() - top + 1, stops.max() - left + 1), np.int32)
    np.add.at(steps, (rows - top, starts - left), 1)
    np.add.at(steps, (rows - top, stops - left), -1)
    return Region(top, left, np.cumsum(steps, axis=1)[:, :-1] > 0)


def _disc(middle: np.ndarray, radius: float, shape: tuple[int, int]) -> Region:
    limit = np.array(shape[::-1])
    low = np.clip(np.floor(middle - radius), 0, limit).astype(int)
    high = np.clip(np.ceil(middle + radius), 0, limit).astype(int)
    x = np.arange(low[0], high[0]) + 0.5 - middle[0]
    y = np.arange(low[1], high[1]) + 0.5 - middle[1]
    inside = np.hypot(x[None], y[:, None]) <= radius
    return Region(int(low[1]), int(low[0]), inside)
