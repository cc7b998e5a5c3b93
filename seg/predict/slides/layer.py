"""Label images in strips, and components across strips.

A strip on disk holds small numbers, int32 [h, W], and a table in memory says
which object each number is: `ids`, int64 [m + 1], ids[0] = 0, the background.
Giving objects other ids, or none, changes tables alone, never pixels.
"""

import dataclasses
import os

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from seg.predict import objects, shapes, strips

NOWHERE = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Objects:
    """What a layer knows of its objects; arrays [N + 1], by id."""

    area: np.ndarray  # int64, px; 0: there is no such object
    first: np.ndarray  # int64, index of the first pixel in raster order
    last: np.ndarray  # int64, last strip
    border: np.ndarray  # bool, it touches the border of the image


class Layer:
    """A label image [H, W] in strips."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        shape: tuple[int, int],
        height: int,
    ) -> None:
        self._strips = strips.Strips(folder, name, shape, np.int32, height)
        self.shape = shape
        self.height = height
        self.ids = [np.zeros(1, np.int64)] * len(self)
        self._seen: list[tuple[np.ndarray, ...]] = [()] * len(self)

    def __len__(self) -> int:
        """Number of strips."""
        return len(self._strips)

    def span(self, i: int) -> tuple[int, int]:
        """First row of strip i, and the row below its last."""
        return self._strips.span(i)

    def put(self, i: int, labels: np.ndarray, ids: np.ndarray) -> None:
        """Sets strip i: labels int32 [h, W], object ids[label] each."""
        self._strips.put(i, labels)
        self.ids[i] = ids
        runs = shapes.Runs.of(labels)
        area = runs.areas(len(ids))
        first = runs.firsts(len(ids), NOWHERE)
        first[area > 0] += self.span(i)[0] * self.shape[1]
        border = np.zeros(len(ids), bool)
        border[labels[:, 0]] = border[labels[:, -1]] = True
        if i == 0:
            border[labels[0]] = True
        if i == len(self) - 1:
            border[labels[-1]] = True
        self._seen[i] = area, first, border

    def window(self, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows top to bottom - 1: labels int32 [h, W] and their ids.

        The ids ascend from 0; some may have no pixel in these rows.
        """
        first = top // self.height
        tables = self.ids[first : (bottom - 1) // self.height + 1]
        ids, dense = np.unique(np.concatenate(tables), return_inverse=True)
        found = self._strips.get(top, bottom)
        if np.array_equal(dense, np.arange(len(dense))):
            return found, ids
        labels = np.empty(found.shape, np.int32)
        dense = dense.astype(np.int32)
        for i, table in enumerate(tables, first):
            start, stop = self.span(i)
            rows = slice(max(start - top, 0), stop - top)
            labels[rows] = dense[: len(table)][found[rows]]
            dense = dense[len(table) :]
        return labels, ids

    def strip(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Strip i, as `window` gives it."""
        return self.window(*self.span(i))

    def relabel(self, ids: np.ndarray) -> None:
        """Object i becomes object ids[i]; 0 removes it."""
        self.ids = [ids[table] for table in self.ids]

    def objects(self) -> Objects:
        """Gathers what is known of all objects."""
        n = 1 + max(int(table.max()) for table in self.ids)
        area, first = np.zeros(n, np.int64), np.full(n, NOWHERE)
        last, border = np.full(n, -1), np.zeros(n, bool)
        for i, (table, seen) in enumerate(
            zip(self.ids, self._seen, strict=True)
        ):
            np.add.at(area, table, seen[0])
            np.minimum.at(first, table, seen[1])
            border[table[seen[2]]] = True
            last[table[seen[0] > 0]] = i
        return Objects(area, first, last, border)

    def remove(self) -> None:
        """Deletes the layer from the disk."""
        self._strips.remove()


class Components:
    """Makes a layer of connected components, strip by strip.

    A component gets a number in each strip that it passes; where strips meet,
    numbers that touch are noted as pairs, and all pairs are joined at the end.
    The ids then run 1..N in the raster order of the first pixels, as those of
    `objects.components`.
    """

    def __init__(self, layer: Layer, connectivity: int) -> None:
        self.layer = layer
        self._connectivity = connectivity
        self._n_strips = 0
        self._n_ids = 0
        self._bottom: np.ndarray | None = None  # ids of the last row
        self._pairs: list[np.ndarray] = []  # int64 [2, P]

    def add(self, mask: np.ndarray) -> np.ndarray:
        """Labels int32 [h, W] of the next strip, by itself; mask: bool."""
        labels = objects.components(mask, self._connectivity)
        ids = self._n_ids + np.arange(int(labels.max()) + 1)
        self._n_ids = int(ids[-1])
        ids[0] = 0
        self.layer.put(self._n_strips, labels, ids)
        self._n_strips += 1
        if self._bottom is not None:
            self._touch(self._bottom, ids[labels[0]])
        self._bottom = ids[labels[-1]]
        return labels

    def _touch(self, above: np.ndarray, below: np.ndarray) -> None:
        """Notes which ids of two neighbouring rows touch."""
        n = len(above)
        for step in range(1 - self._connectivity, self._connectivity):
            pairs = np.stack(
                (
                    above[max(step, 0) : max(n + min(step, 0), 0)],
                    below[max(-step, 0) : max(n - max(step, 0), 0)],
                )
            )
            pairs = pairs[:, pairs.all(0)]
            new = np.ones(pairs.shape[1], bool)
            new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(0)
            self._pairs.append(pairs[:, new])

    def finish(self) -> Layer:
        """Joins what touches across strips."""
        root = np.arange(self._n_ids + 1)
        if self._pairs:
            pairs = np.concatenate(self._pairs, axis=1)
            ids, ends = np.unique(pairs, return_inverse=True)
            above, below = ends.reshape(pairs.shape)
            n = len(ids)
            graph = sparse.coo_array(
                (np.ones(len(above), bool), (above, below)), shape=(n, n)
            )
            n_groups, group = csgraph.connected_components(
                graph, directed=False
            )
            least = np.empty(n_groups, np.int64)
            least[group[::-1]] = ids[::-1]
            root[ids] = least[group]
        # the least id of a component was given at its first pixel
        order = np.cumsum(root == np.arange(len(root))) - 1
        self.layer.relabel(order[root])
        return self.layer
