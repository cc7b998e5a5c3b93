"""A whole image from windows: cut, run the network, blend.

Windows (`tiles.windows`) go through the network in batches of one shape, the
last one filled up with zeros. Where windows overlap, their outputs are blended:
averaged with weights (`tiles.ramp` of rows and of columns) that fade towards a
window's border and are never zero ("cosine"); averaged alike ("mean"); or the
later window's is taken ("last", which is what a plain paste does). An axis
shorter than a window is continued on both sides by reflection, as often as it
takes. Windows begin at multiples of the network's stride, so that its pooling
falls on the same pixels in all of them; the last ones may reach beyond the
image, into its reflection.

Rows of windows come in from the top and finished rows go out, so that beyond
the image and the result, memory is one strip of `window` rows and three
batches: while one runs in a thread, the next ones are cut and those before are
blended, or the caller uses a strip, across rows of windows. `strips` is that
stream; `stitch` collects it.

Where the windows agree about a pixel, the average is their value, bit for bit:
the sums are float64, and what that rounds float32 does not see.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures

import numpy as np

from seg import tiles

# The symmetries of a square: mirrored or not, then a number of quarter turns.
View = tuple[bool, int]
_VIEWS: dict[int, list[View]] = {
    1: [(False, 0)],
    2: [(False, 0), (True, 0)],
    4: [(False, turns) for turns in range(4)],
    8: [(mirror, turns) for mirror in (False, True) for turns in range(4)],
}
_AHEAD = 3  # batches that run or wait


def stitch(
    image: np.ndarray,
    run: Callable[[np.ndarray], np.ndarray],
    *,
    window: int,
    overlap: float,
    batch_size: int,
    tta: int = 1,
    blend: str = "cosine",
    spacing: str = "least",
    align: int = 1,
) -> np.ndarray:
    """Runs a network over an image of any size.

    Parameters
    ----------
    image : [H, W, C].
    run : [batch_size, window, window, C] of its dtype -> float32 [..., K].
    window : side of a window, px.
    overlap : least share of a side that two neighbours share, in [0, 1).
    batch_size : windows in a call of `run`.
    tta : views of a window that are averaged: 1, 2 (mirrored), 4 (turned) or
        8 (both).
    blend : "cosine", "mean" or "last".
    spacing, align : of the windows, as in `tiles.starts`.

    Returns
    -------
    float32 [H, W, K].
    """
    shape = image.shape[:2]
    stream = strips(
        lambda top, bottom: image[top:bottom],
        shape,
        run,
        window=window,
        overlap=overlap,
        batch_size=batch_size,
        tta=tta,
        blend=blend,
        spacing=spacing,
        align=align,
    )
    return collect(stream, shape)


def collect(
    stream: Iterable[tuple[int, np.ndarray]], shape: tuple[int, int]
) -> np.ndarray:
    """Puts the strips of an image of this (H, W) together: [H, W, K]."""
    result = None
    for top, strip in stream:
        if result is None:
            result = np.empty((*shape, strip.shape[-1]), np.float32)
        result[top : top + len(strip)] = strip
    return result


def strips(
    rows: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    run: Callable[[np.ndarray], np.ndarray],
    *,
    window: int,
    overlap: float,
    batch_size: int,
    tta: int = 1,
    blend: str = "cosine",
    spacing: str = "least",
    start: int = 0,
    by_rows: bool = False,
    n_calls: int = 1,
    align: int = 1,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, float32 [h, W, K]) of finished rows, top to bottom.

    `rows(top, bottom)` gives rows of the image, [h, W, C]: at most
    `window` of them, asked for from the top down. `shape` is the image's
    (H, W). The first strip is the one that holds row `start`. With `by_rows`
    no batch has windows of two rows, so that a strip is the same to the bit
    wherever the stream starts; `batch_size` is then the most, and batches are
    as few, and as small, as a row of windows allows. `run` is called by
    `n_calls` threads, at most `_AHEAD`; what it raises is raised here. `align`
    is the network's stride. The other arguments are those of `stitch`.
    """
    tops, lefts = (
        tiles.starts(length, window, overlap, spacing, align)
        for length in shape
    )
    first = tops[np.searchsorted(tops, start, "right") - 1]
    tops = tops[tops + window > first]  # what reaches into the first strip
    views = _VIEWS[tta]
    cut = (
        (_turn(tile, view) for tile in row for view in views)
        for row in (_cut(rows, shape, window, top, lefts) for top in tops)
    )
    if by_rows:
        n_views = len(views) * len(lefts)
        n_batches = -(-n_views // batch_size)
        batch_size = -(-n_views // n_batches)
    else:
        cut = [itertools.chain.from_iterable(cut)]
    batches = (batch for part in cut for batch in _batches(part, batch_size))
    outputs = _mean(_run(batches, run, n_calls), views)
    sums = _Strip(shape, window, lefts, tops[0], blend)
    for top, below in itertools.pairwise([*tops, shape[0]]):
        for left in lefts:
            sums.add(left, next(outputs))
        strip = sums.finish(below)
        if top >= first:
            yield int(top), strip


class _Strip:
    """Weighted sums for `window` rows of the result, from `top` down."""

    def __init__(
        self,
        shape: tuple[int, int],
        window: int,
        lefts: np.ndarray,
        top: int,
        blend: str,
    ):
        self.ramp = np.ones(window)
        if blend == "cosine":
            self.ramp = tiles.ramp(window).astype(np.float64)
        self.weights = np.outer(self.ramp, self.ramp)[..., None]
        self.overwrites = blend == "last"
        self.inside = [_inside(length, window) for length in shape]
        # What the weights of a pixel add up to is one of the first times one of
        # the second, as all rows of windows are alike.
        self.norm_of_rows = self.ramp.copy()
        self.norm_of_cols = np.zeros((lefts[-1] + window, 1))
        for left in lefts:
            self.norm_of_cols[left : left + window, 0] += self.ramp
        self.top = top
        self.sums: np.ndarray | None = None

    def add(self, left: int, output: np.ndarray) -> None:
        """Adds the output [window, window, K] of a window at `top`."""
        window, width = len(self.ramp), len(self.norm_of_cols)
        if self.sums is None:
            self.sums = np.zeros((window, width, output.shape[-1]))
        here = slice(left, left + window)
        if self.overwrites:
            norm = self.norm_of_rows[:, None, None] * self.norm_of_cols[here]
            self.sums[:, here] = norm * output
        else:
            self.sums[:, here] += self.weights * output

    def finish(self, bottom: int) -> np.ndarray:
        """The rows above `bottom`, float32; the strip then starts there."""
        rows, cols = self.inside
        done = slice(rows.start, rows.start + bottom - self.top)
        mean = self.sums[done, cols] / self.norm_of_cols[cols]
        mean /= self.norm_of_rows[done, None, None]
        n = bottom - self.top
        for array in (self.sums, self.norm_of_rows):
            array[:-n] = array[n:].copy()
            array[len(array) - n :] = 0
        self.norm_of_rows += self.ramp
        self.top = bottom
        return mean.astype(np.float32)


def _inside(length: int, window: int) -> slice:
    """Where an axis of the image lies in the windows that cover it."""
    before = max(window - length, 0) // 2
    return slice(before, before + length)


def _reflect(
    array: np.ndarray, axis: int, before: int, side: int
) -> np.ndarray:
    """Continues an axis by its reflection to `side`, `before` at its start.

    By index, as `np.pad` with mode "reflect" does it: no edge pixel stands
    twice, one pixel is repeated.
    """
    length = array.shape[axis]
    if length >= side:
        return array
    period = max(2 * (length - 1), 1)
    index = np.arange(side) - before
    index %= period
    return np.take(array, np.minimum(index, period - index), axis)


def _cut(
    rows: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    window: int,
    top: int,
    lefts: np.ndarray,
) -> Iterator[np.ndarray]:
    """Yields each window [window, window, C] of the row of them at `top`."""
    strip = rows(top, min(top + window, shape[0]))
    befores = [_inside(length, window).start for length in shape]
    for axis, side in enumerate((window, lefts[-1] + window)):
        strip = _reflect(strip, axis, befores[axis], side)
    for left in lefts:
        yield strip[:, left : left + window]


def _batches(
    windows: Iterator[np.ndarray], size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (batch [size, ...], filled up with zeros; windows in it)."""
    while taken := list(itertools.islice(windows, size)):
        batch = np.zeros((size, *taken[0].shape), taken[0].dtype)
        batch[: len(taken)] = taken
        yield batch, len(taken)


def _run(
    batches: Iterable[tuple[np.ndarray, int]],
    run: Callable[[np.ndarray], np.ndarray],
    n_calls: int,
) -> Iterator[np.ndarray]:
    """Yields the network's output for each window, in their order."""
    running: collections.deque[tuple[futures.Future, int]] = collections.deque()
    worker = futures.ThreadPoolExecutor(n_calls)
    try:
        for batch, n in batches:
            running.append((worker.submit(run, batch), n))
            if len(running) == _AHEAD:
                done, n = running.popleft()
                yield from np.asarray(done.result())[:n]
        for done, n in running:
            yield from np.asarray(done.result())[:n]
    finally:
        worker.shutdown(cancel_futures=True)


def _mean(
    outputs: Iterator[np.ndarray], views: list[View]
) -> Iterator[np.ndarray]:
    """Yields the mean of each window's views."""
    while turned := list(itertools.islice(outputs, len(views))):
        # float64: equal views then have exactly their value as mean.
        total = np.zeros(turned[0].shape)
        for output, view in zip(turned, views, strict=True):
            total += _turn_back(output, view)
        yield total / len(views)


def _turn(tile: np.ndarray, view: View) -> np.ndarray:
    mirror, turns = view
    return np.rot90(tile[:, ::-1] if mirror else tile, turns)


def _turn_back(tile: np.ndarray, view: View) -> np.ndarray:
    mirror, turns = view
    tile = np.rot90(tile, -turns)
    return tile[:, ::-1] if mirror else tile
