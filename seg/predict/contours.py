"""How long the outlines of all objects of a label image are, by crossings.

A line that scans the image crosses an outline wherever a pixel and the next
one along it differ. From the crossings of the four directions follows the
length, by Crofton's formula, of which a disc keeps pi times its diameter,
where counted pixel edges would give it 4 times that. As scikit-image 0.26's
`perimeter_crofton`; of an object at the border the image's edge counts too.
"""

import numpy as np

# of a crossing: pi / 8 times the distance between neighbouring lines
_STRAIGHT, _DIAGONAL = np.pi / 8, np.pi / 8 / np.sqrt(2)


def lengths(crossings: np.ndarray) -> np.ndarray:
    """Perimeters, px: float64 [N], of `Crossings.counts`."""
    straight, diagonal = crossings
    return _STRAIGHT * straight + _DIAGONAL * diagonal


class Crossings:
    """Counts the crossings of objects 1..N, whose rows come from the top down.

    counts: int64 [2, N], those along rows and columns, and along diagonals.
    """

    def __init__(self, n_objects: int) -> None:
        self.counts = np.zeros((2, n_objects), np.int64)
        self._above: np.ndarray | None = None

    def add(self, labels: np.ndarray, ids: np.ndarray | None = None) -> None:
        """Takes the next rows, int [h, W]; label j is object ids[j]."""
        n_rows, n_cols = labels.shape
        if ids is None:
            ids = np.arange(self.counts.shape[1] + 1)
        first = ids[labels[0]]
        above = np.zeros(n_cols, first.dtype)
        if self._above is not None:
            above = self._above
        for cols, straight in ((0, True), (1, False), (-1, False)):
            self._seam(above, first, cols, straight)
            self._inside(labels[:-1], labels[1:], ids, cols, straight)
        edges = ids[labels[:, [0, -1]]]
        self._count(edges, True)
        self._inside(labels[:, :-1], labels[:, 1:], ids, 0, True)
        # the diagonals that leave or enter by the image's sides
        self._count(edges[1:], False)
        self._count(edges[:-1], False)
        self._above = ids[labels[n_rows - 1]]

    def finish(self) -> np.ndarray:
        """The perimeters, px: float64 [N], once all rows have come."""
        if self._above is not None:
            nothing = np.zeros_like(self._above)
            for cols, straight in ((0, True), (1, False), (-1, False)):
                self._seam(self._above, nothing, cols, straight)
        return lengths(self.counts)

    def _seam(
        self, above: np.ndarray, below: np.ndarray, cols: int, straight: bool
    ) -> None:
        """Between two rows of objects, from the upper to `cols` further."""
        above, below = np.pad(above, 1), np.pad(below, 1)
        below = np.roll(below, -cols)
        differ = above != below
        self._count(above[differ], straight)
        self._count(below[differ], straight)

    def _inside(
        self,
        one: np.ndarray,
        other: np.ndarray,
        ids: np.ndarray,
        cols: int,
        straight: bool,
    ) -> None:
        """Between pixels of two arrays, the second's `cols` further."""
        n = one.shape[1]
        one = one[:, max(-cols, 0) : n - max(cols, 0)]
        other = other[:, max(cols, 0) : n - max(-cols, 0)]
        differ = one != other
        self._count(ids[one[differ]], straight)
        self._count(ids[other[differ]], straight)

    def _count(self, objects: np.ndarray, straight: bool) -> None:
        n = self.counts.shape[1] + 1
        found = np.bincount(objects.reshape(-1), minlength=n)
        self.counts[0 if straight else 1] += found[1:]
