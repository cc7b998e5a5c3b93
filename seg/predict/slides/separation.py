"""The mask of one class becomes separated objects, strip by strip.

Each step gives what its namesake in `seg.predict.objects` and `blobs` gives
of the whole image; what crosses strips is told apart here.
"""

import collections
import dataclasses
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from seg import config
from seg.predict import blobs, objects, strips
from seg.predict.slides import layer

# A component is left whole whose bounding box is larger, px: to cut one by its
# shape takes 26 bytes of memory for each px of its box, 0.4 GiB at most.
LARGEST_CUT = 4096 * 4096
# Columns whose gaps are filled at a time: bounds the memory.
_BLOCK = 4096

_log = logging.getLogger(__name__)


def separate(
    classes: strips.Strips,
    kind: int,
    predict: config.Predict,
    folder: str | os.PathLike[str],
    on_strip: Callable[[], None],
    apart: strips.Rows | None = None,
) -> layer.Layer:
    """The objects of one class before they are filtered.

    apart: rows of the map that `objects.learned` takes.
    """
    height, shape = classes.height, classes.shape
    found = layer.Layer(folder, f"objects_{kind}", shape, height)
    builder = layer.Components(found, predict.connectivity)
    for i in range(len(classes)):
        on_strip()
        builder.add(_mask(classes, kind, predict.closing, i))
    builder.finish()
    if predict.separate == "watershed":
        _Watershed(found, predict).run(on_strip)
    elif predict.separate == "learned" and apart is not None:
        _Watershed(found, predict, apart).run(on_strip)
    if predict.gap:
        gappy = found
        found = layer.Layer(folder, f"filled_{kind}", shape, height)
        _fill_gaps(gappy, found, predict.gap, on_strip)
        gappy.remove()
    if predict.fill_holes:
        holes = layer.Layer(folder, f"holes_{kind}", shape, height)
        _fill_holes(found, holes, on_strip)
        holes.remove()
    return found


def _mask(classes: strips.Strips, kind: int, side: int, i: int) -> np.ndarray:
    """Strip i of the closed mask of a class: bool [h, W]."""
    top, bottom = classes.span(i)
    start, stop = _around(top, bottom, max(side - 1, 0), classes.shape[0])
    own = classes.get(start, stop) == kind
    if side > 1:
        own = blobs.closing(own, side)
    return own[top - start : bottom - start]


def _around(top: int, bottom: int, reach: int, n_rows: int) -> tuple[int, int]:
    return max(top - reach, 0), min(bottom + reach, n_rows)


class _Piece(NamedTuple):
    """What of a component lies in a strip."""

    strip: int
    label: int  # there
    place: tuple[slice, slice]  # in the strip
    own: np.ndarray  # bool, its pixels
    apart: np.ndarray | None  # the learned map there


@dataclasses.dataclass
class _Clump:
    """A component whose strips have not all come yet."""

    pieces: list[_Piece]
    box: tuple[int, int, int, int]  # row0, col0, row1, col1


class _Watershed:
    """Cuts the components of a layer, in place.

    A component is cut when its last strip has come, and a strip is written
    when all components that it shares with strips below are cut.
    """

    def __init__(
        self,
        found: layer.Layer,
        predict: config.Predict,
        apart: strips.Rows | None = None,
    ) -> None:
        self._found = found
        self._predict = predict
        self._apart = apart
        known = found.objects()
        self._last = known.last
        self._n_ids = len(known.last) - 1
        self._open: dict[int, _Clump] = {}
        self._whole: set[int] = set()  # too large to be cut
        # by strip: (label, place, parts, id of part 1)
        self._cuts: dict[int, list[tuple]] = collections.defaultdict(list)

    def run(self, on_strip: Callable[[], None]) -> None:
        n_written = 0
        for i in range(len(self._found)):
            on_strip()
            self._gather(i)
            waiting = (c.pieces[0][0] for c in self._open.values())
            ready = min(waiting, default=i + 1)
            for strip in range(n_written, ready):
                if strip in self._cuts:
                    self._write(strip, self._cuts.pop(strip))
            n_written = ready
        if self._whole:
            _log.warning(
                "%d component(s) with a bounding box of more than %d px are "
                "left whole: on a slide those up to that size are cut",
                len(self._whole),
                LARGEST_CUT,
            )

    def _gather(self, i: int) -> None:
        """Takes in the pieces of strip i; cuts what is complete."""
        top, bottom = self._found.span(i)
        labels, ids = self._found.strip(i)
        apart = self._apart(top, bottom) if self._apart else None
        for label, place in enumerate(ndimage.find_objects(labels), 1):
            component = int(ids[label])
            if component in self._whole:
                continue
            rows, cols = place
            box = rows.start + top, cols.start, rows.stop + top, cols.stop
            clump = self._open.setdefault(component, _Clump([], box))
            row0, col0 = map(min, clump.box[:2], box[:2])
            row1, col1 = map(max, clump.box[2:], box[2:])
            clump.box = row0, col0, row1, col1
            if (row1 - row0) * (col1 - col0) > LARGEST_CUT:
                self._whole.add(component)
                del self._open[component]
                continue
            own = labels[place] == label
            there = None if apart is None else apart[place] * own
            clump.pieces.append(_Piece(i, label, place, own, there))
            if self._last[component] == i:
                self._cut(self._open.pop(component))

    def _cut(self, clump: _Clump) -> None:
        row0, col0, row1, col1 = clump.box
        places = []
        for piece in clump.pieces:
            rows, cols = piece.place
            down = self._found.span(piece.strip)[0] - row0
            places.append(
                (
                    slice(rows.start + down, rows.stop + down),
                    slice(cols.start - col0, cols.stop - col0),
                )
            )
        whole = np.zeros((row1 - row0, col1 - col0), bool)
        for place, piece in zip(places, clump.pieces, strict=True):
            whole[place] |= piece.own
        predict = self._predict
        if self._apart:
            apart = np.zeros(whole.shape, np.float32)
            for place, piece in zip(places, clump.pieces, strict=True):
                apart[place] += piece.apart  # 0 where it is not its own
            parts = objects.learned(
                whole, apart, predict.prominence, predict.connectivity
            )
            n_parts = int(parts.max())
        else:
            parts, n_parts = objects.cut(
                whole,
                objects.room_around(
                    (slice(row0, row1), slice(col0, col1)), self._found.shape
                ),
                predict.watershed_sigma,
                predict.watershed_distance,
            )
        if n_parts < 2:
            return
        parts = parts.astype(np.min_scalar_type(n_parts))
        for place, piece in zip(places, clump.pieces, strict=True):
            self._cuts[piece.strip].append(
                (
                    piece.label,
                    piece.place,
                    parts[place],
                    n_parts,
                    self._n_ids + 1,
                )
            )
        self._n_ids += n_parts

    def _write(self, i: int, cuts: list[tuple]) -> None:
        labels, ids = self._found.strip(i)
        labels, tables, n = labels.copy(), [ids], len(ids) - 1
        for label, place, parts, n_parts, first_id in cuts:
            there = labels[place]
            own = there == label
            there[own] = n + parts[own].astype(np.int32)
            tables.append(np.arange(first_id, first_id + n_parts))
            n += n_parts
        self._found.put(i, labels, np.concatenate(tables))


def _fill_gaps(
    found: layer.Layer,
    filled: layer.Layer,
    width: int,
    on_strip: Callable[[], None],
) -> None:
    """`objects.fill_gaps`: the pixels of a gap see `width` px, no more."""
    n_rows, n_cols = found.shape
    for i in range(len(found)):
        on_strip()
        top, bottom = found.span(i)
        start, stop = _around(top, bottom, width, n_rows)
        labels, ids = found.window(start, stop)
        out = np.empty((bottom - top, n_cols), np.int32)
        for left in range(0, n_cols, _BLOCK):
            right = min(left + _BLOCK, n_cols)
            begin, end = _around(left, right, width, n_cols)
            part = objects.fill_gaps(labels[:, begin:end], width)
            out[:, left:right] = part[
                top - start : bottom - start, left - begin : right - begin
            ]
        filled.put(i, out, ids)


def _fill_holes(
    found: layer.Layer, holes: layer.Layer, on_strip: Callable[[], None]
) -> None:
    """`objects.fill_holes`, in place; holes: an empty layer to work in."""
    builder = layer.Components(holes, connectivity=1)
    beside = []
    for i in range(len(found)):
        on_strip()
        top, bottom = found.span(i)
        start, stop = _around(top, bottom, 1, found.shape[0])
        labels, ids = found.window(start, stop)
        hole = builder.add(labels[top - start : bottom - start] == 0)
        beside.append(_beside(hole, labels, top - start, ids))
    builder.finish()
    known = holes.objects()
    lowest = np.full(len(known.area), layer.NOWHERE)
    highest = np.zeros(len(known.area), np.int64)
    for table, (low, high) in zip(holes.ids, beside, strict=True):
        np.minimum.at(lowest, table, low)
        np.maximum.at(highest, table, high)
    owner = np.where(~known.border & (lowest == highest), highest, 0)
    owner[0] = 0
    holes.relabel(owner)
    for i in range(len(found)):
        if not holes.ids[i].any():
            continue
        on_strip()
        labels, ids = found.strip(i)
        hole, owners = holes.strip(i)
        # left of a hole is the object it lies in: it is in this strip
        place = np.searchsorted(ids, owners).astype(np.int32)
        found.put(i, labels + place[hole], ids)


def _beside(
    hole: np.ndarray, labels: np.ndarray, above: int, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest id beside each hole of a strip: int64 [n + 1].

    labels: the strip's, and `above` rows above it, if any, and those below.
    """
    n = int(hole.max()) + 1
    low, high = np.full(n, layer.NOWHERE), np.zeros(n, np.int64)
    n_rows = len(hole)
    inner = slice(above, above + n_rows)
    sides = (
        (hole[:, 1:], labels[inner, :-1]),
        (hole[:, :-1], labels[inner, 1:]),
        (hole[1 - above :], labels[: n_rows - 1 + above]),
        (hole[: len(labels) - above - 1], labels[above + 1 :][:n_rows]),
    )
    for own, other in sides:
        at = np.nonzero((own > 0) & (other > 0))
        which, neighbour = own[at], ids[other[at]]
        np.minimum.at(low, which, neighbour)
        np.maximum.at(high, which, neighbour)
    return low, high
