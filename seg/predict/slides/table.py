"""Measures the objects of a layer strip by strip.

Sums grow with the strips. Only the convex hull needs an object as a whole, and
only its outline: the first and last pixel of each of its rows are carried down
until its last strip has come.
"""

from collections.abc import Callable, Sequence

import numpy as np

from seg import config
from seg.predict import (
    blobs,
    contours,
    intensities,
    measures,
    shapes,
    strips,
)
from seg.predict.slides import layer


def measure(
    found: layer.Layer,
    kinds: np.ndarray,
    probabilities: strips.Rows,
    image: strips.Rows | None,
    predict: config.Predict,
    class_names: Sequence[str],
    on_strip: Callable[[], None],
) -> dict[str, np.ndarray]:
    """The columns [N] of `blobs.columns` for objects 1..N of a layer.

    kinds: the class of each object, uint8 [N + 1].
    """
    growing = _Shapes(found.objects(), found.shape[1])
    n = len(kinds) - 1
    probability = np.zeros(n + 1)
    outline = contours.Crossings(n)
    intensity = intensities.Intensities(n)
    for i in range(len(found)):
        on_strip()
        top, bottom = found.span(i)
        labels, ids = found.strip(i)
        runs, here = shapes.Runs.of(labels), ids[1:] - 1
        growing.add(i, top, runs, here)
        outline.add(labels, ids)
        prob = probabilities(top, bottom)
        probability[ids] += blobs.sums(runs, kinds[ids], prob)
        if image is not None:
            intensity.add(runs, image(top, bottom), here)
    whole = growing.finish()
    return blobs.columns(
        measures.Measures(whole, outline.finish(), intensity.columns()),
        kinds[1:],
        probability[1:] / whole.area,
        found.shape,
        predict,
        class_names,
    )


def mean_probabilities(
    found: layer.Layer,
    kinds: np.ndarray,
    probabilities: strips.Rows,
    on_strip: Callable[[], None],
) -> np.ndarray:
    """Mean probability of its class over each object: float64 [N + 1].

    kinds: the class of each object, uint8 [N + 1].
    """
    total = np.zeros(len(kinds))
    for i in range(len(found)):
        on_strip()
        labels, ids = found.strip(i)
        runs = shapes.Runs.of(labels)
        total[ids] += blobs.sums(
            runs, kinds[ids], probabilities(*found.span(i))
        )
    return total / np.maximum(found.objects().area, 1)


class _Shapes:
    """`shapes.measure` of objects 0..N-1 whose runs come in strips."""

    def __init__(self, known: layer.Objects, n_cols: int) -> None:
        n = len(known.area) - 1
        self._last = known.last[1:]
        # moments count from the first pixel, then from the box's corner
        self._row, self._col = np.divmod(known.first[1:], n_cols)
        self._sums = np.zeros((6, n))
        self._box = np.empty((n, 4), np.int64)
        self._box[:, :2], self._box[:, 2:] = layer.NOWHERE, 0
        self._hull = np.zeros(n, np.int64)
        # outlines, int64 [4, R]: object, row, start, stop
        self._carried = np.zeros((4, 0), np.int64)

    def add(self, i: int, top: int, runs: shapes.Runs, here: np.ndarray):
        """Takes strip i from row top on; label j is object here[j - 1]."""
        own = runs.objects()
        label = own.label.astype(np.int64) - 1
        index = here[label]
        row, start = np.divmod(own.at, own.shape[1])
        row, stop = row + top, start + own.length
        np.minimum.at(self._box[:, 0], index, row)
        np.minimum.at(self._box[:, 1], index, start)
        np.maximum.at(self._box[:, 2], index, row + 1)
        np.maximum.at(self._box[:, 3], index, stop)
        first_col = self._col[index]
        self._sums[:, here] += shapes.moments(
            label,
            row - self._row[index],
            start - first_col,
            stop - first_col,
            len(here),
        )
        self._hulls(i, np.stack((index, row, start, stop)))

    def _hulls(self, i: int, runs: np.ndarray) -> None:
        """Hulls of the objects that end in strip i; carries the others'."""
        goes_on = self._last[runs[0]] > i
        carried_on = self._last[self._carried[0]] > i
        done = np.concatenate(
            (self._carried[:, ~carried_on], runs[:, ~goes_on]), axis=1
        )
        self._carried = np.concatenate(
            (self._carried[:, carried_on], _outline(runs[:, goes_on])), axis=1
        )
        if not done.size:
            return
        ended, index = np.unique(done[0], return_inverse=True)
        box = self._box[ended]
        row, col = box[index, 0], box[index, 1]
        self._hull[ended] = shapes.hull_areas(
            index, done[1] - row, done[2] - col, done[3] - col, box
        )

    def finish(self) -> shapes.Shapes:
        sums = shapes.moved(self._sums, self._col - self._box[:, 1])
        return shapes.finish(sums, self._box, self._hull)


def _outline(runs: np.ndarray) -> np.ndarray:
    """One run for each row of an object: [4, R], from its first to its last."""
    runs = runs[:, np.lexsort((runs[1], runs[0]))]
    if not runs.size:
        return runs
    new = np.ones(runs.shape[1], bool)
    new[1:] = (runs[:2, 1:] != runs[:2, :-1]).any(0)
    at = np.flatnonzero(new)
    return np.stack(
        (
            *runs[:2, at],
            np.minimum.reduceat(runs[2], at),
            np.maximum.reduceat(runs[3], at),
        )
    )
