"""Statistics of a whole image, at once or by strips.

One row of `COLUMNS` by channel: extremes, mean, deviation, percentiles, the
largest value of the dtype, and the distribution as two sets of knots. `up_k`
is where k / 64 of the pixels above the minimum are reached, counted from
below; `down_k` the same from above, of the pixels below the maximum. `at_min`
and `at_max` are the shares of pixels that these leave out. A value that many
pixels have is reached on the way to it, from the value before: the knots are
points of the line through the counts, with no jump, whatever the image.

The first seven columns are what earlier versions measured; they keep their
places, for programs that were exported then.
"""

from collections.abc import Callable, Iterable

import numpy as np

N_PARTS = 64  # the distribution is cut into; its knots are one fewer

COLUMNS = (
    "min", "max", "mean", "std", "p1", "p99_8", "limit",
    "p0_2", "p99", "at_min", "at_max",
    *(f"up_{k}" for k in range(1, N_PARTS)),
    *(f"down_{k}" for k in range(1, N_PARTS)),
)  # fmt: skip

_PERCENTILES = np.array((0.01, 0.998, 0.002, 0.99))
_N_CLOSE = 512  # upper halves that are looked into for the knots


def measure(image: np.ndarray) -> np.ndarray:
    """Statistics of an image [H, W, C]: float32 [C, len(COLUMNS)]."""
    return measure_strips(lambda: (image,), image.dtype)


def completed(stats: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Statistics of an earlier version, with the columns that they lack.

    The first ones stay: an image may be stored in a wider dtype than it was
    measured in.
    """
    if stats.shape[-1] == len(COLUMNS):
        return stats
    found = measure(image)
    n = stats.shape[-1]
    found[:, :n] = stats
    return found


def measure_strips(
    strips: Callable[[], Iterable[np.ndarray]], dtype: np.dtype
) -> np.ndarray:
    """Statistics of an image that comes in strips: float32 [C, len(COLUMNS)].

    `strips()` gives all pixels as arrays [..., C] of the dtype. It is called
    once for uint8 and uint16, else twice, and must give the same again. All
    values are counted, so that percentiles are those of the whole image; the
    knots of other types than these two are exact to 3e-5 of their value.
    """
    if dtype in (np.uint8, np.uint16):
        return _measure_integers(strips, int(np.iinfo(dtype).max))
    whole = np.issubdtype(dtype, np.integer)
    return _measure_floats(strips, float(np.iinfo(dtype).max) if whole else 1.0)


def _measure_integers(
    strips: Callable[[], Iterable[np.ndarray]], limit: int
) -> np.ndarray:
    counts = sum(_counted(strip, limit + 1) for strip in strips())
    rows = []
    for count in counts:
        (values,) = np.nonzero(count)
        count = count[values]
        n = int(count.sum())
        mean = values @ count / n
        std = np.sqrt((values - mean) ** 2 @ count / n)
        p1, p99_8, p0_2, p99 = _percentiles(values, count)
        rows.append((values[0], values[-1], mean, std, p1, p99_8, limit,
                     p0_2, p99, *_knots(values, count)))  # fmt: skip
    return np.array(rows, np.float32)


def _measure_floats(
    strips: Callable[[], Iterable[np.ndarray]], limit: float
) -> np.ndarray:
    """Counts by the upper 16 bits, then by more of them where it matters.

    That is near the percentiles, by all 32, and for the knots where most
    pixels are, by 24.
    """
    low, high, total, n, counts = np.inf, -np.inf, 0.0, 0, 0
    for strip in strips():
        pixels = strip.reshape(-1, strip.shape[-1])
        low = np.minimum(low, pixels.min(0))
        high = np.maximum(high, pixels.max(0))
        total = total + pixels.sum(0, dtype=np.float64)
        n += len(pixels)
        counts = counts + _counted(_sortable(pixels) >> 16, 1 << 16)
    mean = total / n
    # the upper halves that the numbers around the percentiles have
    near = [_Inside(np.searchsorted(np.cumsum(c), _ranks(n)[0], "right"), 16)
            for c in counts]  # fmt: skip
    close = [_Inside(_largest(c, _N_CLOSE), 8) for c in counts]
    squares = 0.0
    for strip in strips():
        pixels = strip.reshape(-1, strip.shape[-1])
        squares = squares + np.square(pixels - mean).sum(0)
        for channel, bits in enumerate(_sortable(pixels).T):
            near[channel].add(bits)
            close[channel].add(bits)
    std = np.sqrt(squares / n)
    rows = []
    for i, count in enumerate(counts):
        p1, p99_8, p0_2, p99 = _percentiles(*near[i].refined(count))
        values, fine = close[i].refined(count)
        values = np.clip(values, low[i], high[i])
        values[-1] = high[i]
        rows.append((low[i], high[i], mean[i], std[i], p1, p99_8, limit,
                     p0_2, p99, *_knots(values, fine)))  # fmt: skip
    return np.array(rows, np.float32)


class _Inside:
    """Counts what is inside of some upper halves, by `n_bits` more bits."""

    def __init__(self, uppers: np.ndarray, n_bits: int):
        self._uppers = np.unique(uppers)
        self._n_bits = n_bits
        n = len(self._uppers)
        self._places = np.full(1 << 16, n << n_bits)  # the last: elsewhere
        self._places[self._uppers] = np.arange(n) << n_bits
        self._counts = np.zeros((n + 1) << n_bits, np.int64)

    def add(self, bits: np.ndarray) -> None:
        """Counts pixels, by all their bits."""
        keys = self._places[bits >> 16]
        keys += (bits & 0xFFFF) >> (16 - self._n_bits)
        self._counts += np.bincount(keys, minlength=len(self._counts))

    def refined(self, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sorted values and their counts, `count` by upper halves given.

        A value stands for all that begin with the same bits.
        """
        uppers = np.setdiff1d(np.flatnonzero(count), self._uppers)
        (at,) = np.nonzero(self._counts[: len(self._uppers) << self._n_bits])
        lower = (at & ((1 << self._n_bits) - 1)) << (16 - self._n_bits)
        inner = (self._uppers[at >> self._n_bits] << 16) + lower
        bits = np.concatenate([uppers << 16, inner]).astype(np.uint32)
        counts = np.concatenate([count[uppers], self._counts[at]])
        order = np.argsort(bits)
        return _unsortable(bits[order]).astype(np.float64), counts[order]


def _counted(keys: np.ndarray, n: int) -> np.ndarray:
    """How often 0 to n - 1 occur in each channel: int64 [C, n]."""
    channels = keys.reshape(-1, keys.shape[-1]).T
    return np.stack([np.bincount(c, minlength=n) for c in channels])


def _largest(counts: np.ndarray, n: int) -> np.ndarray:
    """The n places, or all that are, with the largest counts."""
    (there,) = np.nonzero(counts)
    return there[np.argsort(counts[there])[-n:]]


def _ranks(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of n sorted values the percentiles lie between, and how far."""
    exact = _PERCENTILES * (n - 1)
    below = np.floor(exact).astype(np.int64)
    ranks = np.stack([below, np.minimum(below + 1, n - 1)], -1)
    return ranks, exact - below


def _percentiles(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Percentiles of sorted values that occur so often."""
    at_or_below = np.cumsum(counts)
    ranks, part = _ranks(int(at_or_below[-1]))
    around = values[np.searchsorted(at_or_below, ranks, "right")]
    return around[:, 0] + (around[:, 1] - around[:, 0]) * part


def _knots(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The columns from `at_min` on, of sorted values that occur so often."""
    ends = counts[[0, -1]] / counts.sum()
    up = _reached(values, counts)
    down = _reached(values[::-1], counts[::-1])
    return np.concatenate([ends, up, down])


def _reached(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where each 1 / N_PARTS of the pixels after the first value is reached."""
    passed = np.cumsum(counts) - counts[0]
    wanted = np.arange(1, N_PARTS) / N_PARTS * passed[-1]
    return np.interp(wanted, passed, values)


def _sortable(values: np.ndarray) -> np.ndarray:
    """uint32 in the order of the values, which are taken as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    negative = bits >> 31 == 1
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _unsortable(keys: np.ndarray) -> np.ndarray:
    """Undoes `_sortable`."""
    positive = keys >> 31 == 1
    bits = np.where(positive, keys & np.uint32((1 << 31) - 1), ~keys)
    return bits.view(np.float32)
