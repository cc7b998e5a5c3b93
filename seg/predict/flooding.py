"""Seeds grow over a map, from its heights down to its depths, and are joined.

Meyer's flooding by whole sets of pixels in place of a queue of single ones: of
a 2048x2048 image with 5,600 cells, 2.1 million pixels in all, .4 s where
scikit-image's `watershed` takes .7 (one core, idle). `objects.learned` as a
whole, of 5,329 drawn cells in 2,100 clumps there: .47 s.
"""

import numpy as np

_BESIDE = ((-1, 0), (0, -1), (0, 1), (1, 0))
_AT_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def flood(
    level: np.ndarray, seeds: np.ndarray, mask: np.ndarray, connectivity: int
) -> np.ndarray:
    """The seeds, grown until they fill what of the mask they reach.

    A pixel goes to the seed that reaches it over the highest pass; where two
    come at once, the one whose pixel comes first. What lies beyond the reach
    of a connected part of the mask does not change its result.

    level: uint8 [H, W]; seeds: int32 [H, W], 0 = none, all in the mask; mask:
    bool [H, W]; connectivity: 1 = by edges, 2 = by corners too. Returns int32
    [H, W], 0 outside the mask and where no seed comes.
    """
    width = level.shape[1] + 2
    # a rim that nothing enters: no pixel's neighbours need a test
    level = np.pad(level, 1).ravel()
    ids = np.pad(np.where(mask, seeds, -1), 1, constant_values=-1)
    ids = ids.astype(np.int32).ravel()
    beside = _BESIDE + (_AT_CORNERS if connectivity == 2 else ())
    steps = np.array([row * width + col for row, col in beside])
    place = np.empty(ids.size, np.int32)
    waiting: list[list[tuple[np.ndarray, np.ndarray]]] = [
        [] for _ in range(256)
    ]

    def around(at: np.ndarray) -> np.ndarray:
        """Free pixels beside these, and who reaches them: int [2, N]."""
        near = (at[:, None] + steps).ravel()
        free = ids[near] == 0
        return near[free], np.repeat(ids[at], len(steps))[free]

    def sort(
        at: np.ndarray, by: np.ndarray, now: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Puts off what lies below `now`; the rest."""
        height = level[at]
        later = height < now
        rest = at[~later], by[~later]
        at, by, height = at[later], by[later], height[later]
        order = np.argsort(height, kind="stable")
        at, by, height = at[order], by[order], height[order]
        ends = [*np.flatnonzero(np.diff(height)) + 1, len(at)]
        start = 0
        for end in ends if len(at) else ():
            waiting[height[start]].append((at[start:end], by[start:end]))
            start = end
        return rest

    sort(*around(np.flatnonzero(ids > 0)), 256)
    for now in range(255, -1, -1):
        if not waiting[now]:
            continue
        at, by = (np.concatenate(x) for x in zip(*waiting[now], strict=True))
        waiting[now] = []
        while len(at):
            free = ids[at] == 0
            at, by = at[free], by[free]
            # of several that reach a pixel at once, the first has it
            turn = np.arange(len(at), dtype=np.int32)
            place[at[::-1]] = turn[::-1]
            first = place[at] == turn
            ids[at[first]] = by[first]
            at, by = sort(*around(at[first]), now)
    return np.maximum(ids.reshape(-1, width)[1:-1, 1:-1], 0)


def peaks(level: np.ndarray, mask: np.ndarray, connectivity: int) -> np.ndarray:
    """The regional maxima of level uint8 [H, W] in the mask: bool [H, W]."""
    from skimage import morphology  # half a second to import

    above = np.where(mask, level.astype(np.uint16) + 1, 0)
    return morphology.local_maxima(above, connectivity=connectivity) & mask


def joined(
    level: np.ndarray,
    seeds: np.ndarray,
    basins: np.ndarray,
    prominence: float,
    connectivity: int,
) -> np.ndarray:
    """Basins joined whose peak hardly rises above the pass to a higher one.

    Passes are taken from the highest down; a basin that rises no more than
    `prominence` above the pass becomes part of the other one.

    level: uint8 [H, W]; seeds: int32 [H, W], of `peaks`; basins: int32 [H, W],
    what `flood` made of them.
    """
    peak = np.zeros(int(basins.max()) + 1, np.int64)
    at = np.flatnonzero(seeds)
    peak[seeds.ravel()[at]] = level.ravel()[at]
    heights = peak.tolist()
    root = list(range(len(heights)))

    def of(basin: int) -> int:
        while root[basin] != basin:
            root[basin] = root[root[basin]]
            basin = root[basin]
        return basin

    for one, other, height in _passes(level, basins, connectivity):
        one, other = of(one), of(other)
        if heights[one] < heights[other]:
            one, other = other, one
        if one != other and heights[other] - height <= prominence:
            root[other] = one
    ids = np.array([of(basin) for basin in range(len(root))], np.int32)
    return ids[basins]


def _passes(
    level: np.ndarray, basins: np.ndarray, connectivity: int
) -> list[list[int]]:
    """(basin, basin, height) of the highest pass of each two, highest first."""
    n = int(basins.max()) + 1
    found = []
    for row, col in ((0, 1), (1, 0), (1, 1), (1, -1))[: 2 * connectivity]:
        n_rows, n_cols = level.shape[0] - row, level.shape[1] - abs(col)
        left, right = max(-col, 0), max(col, 0)
        first = slice(n_rows), slice(left, left + n_cols)
        second = slice(row, None), slice(right, right + n_cols)
        a, b = basins[first], basins[second]
        at = np.nonzero((a != b) & (a > 0) & (b > 0))
        a, b = a[at].astype(np.int64), b[at]
        height = np.minimum(level[first][at], level[second][at])
        # one number, so that one sort brings each two basins' highest last
        pair = np.minimum(a, b) * n + np.maximum(a, b)
        found.append(pair * 256 + height)
    found = np.sort(np.concatenate(found))
    pair, height = np.divmod(found, 256)
    last = np.flatnonzero(np.diff(pair, append=-1))
    pair, height = pair[last], height[last]
    order = np.argsort(-height, kind="stable")
    return np.stack([*np.divmod(pair, n), height])[:, order].T.tolist()
