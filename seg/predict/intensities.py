"""What the pixels of all objects of an image are like, in one pass over it."""

import numpy as np

from seg.predict import shapes

NAMES = ("mean", "min", "max", "std", "total")
_PIXELS = 2**20  # at a time: what is squared fits into a cache


class Intensities:
    """Of objects 1..N; rows of the image come in any order, each once.

    All channels count together, but for a mean of each.
    """

    def __init__(self, n_objects: int) -> None:
        self._n = np.zeros(n_objects)
        self._squares = np.zeros(n_objects)
        self._least = np.full(n_objects, np.inf)
        self._most = np.full(n_objects, -np.inf)
        self._totals = np.zeros((0, n_objects))

    def add(
        self, runs: shapes.Runs, pixels: np.ndarray, here: np.ndarray
    ) -> None:
        """Takes rows [h, W, C] and their runs; label j is object here[j-1]."""
        n_channels = pixels.shape[2]
        if not len(self._totals):
            self._totals = np.zeros((n_channels, len(self._n)))
        height = max(1, _PIXELS // runs.shape[1])
        for top in range(0, runs.shape[0], height):
            part = runs.rows(top, top + height).objects()
            if not len(part.at):
                continue
            index = here[part.label - 1]
            np.add.at(self._n, index, part.length)
            for channel in range(n_channels):
                values = pixels[top : top + height, :, channel].reshape(-1)
                self._add(channel, part, index, values)

    def _add(
        self, channel: int, runs: shapes.Runs, index: np.ndarray, values
    ) -> None:
        # from the begin of each run to its end, and on to the next begin
        bounds = np.stack((runs.at, runs.at + runs.length), 1).reshape(-1)
        # a pixel more, as a bound must be one
        values = np.append(values, values[-1:])
        least = np.minimum.reduceat(values, bounds)[::2]
        most = np.maximum.reduceat(values, bounds)[::2]
        np.minimum.at(self._least, index, least)
        np.maximum.at(self._most, index, most)
        values = values.astype(np.float64)
        total = np.add.reduceat(values, bounds)[::2]
        np.add.at(self._totals[channel], index, total)
        values *= values
        np.add.at(self._squares, index, np.add.reduceat(values, bounds)[::2])

    def columns(self) -> dict[str, np.ndarray]:
        """float64 [N] by name; NaN of an object whose pixels did not come.

        `mean_intensity`, `min_`, `max_`, `std_` and `total_intensity`, the sum;
        of more than one channel `mean_intensity_0` and so on too.
        """
        n_channels = max(len(self._totals), 1)
        known = self._n > 0
        n = np.where(known, self._n, np.nan)
        totals = self._totals.sum(0) + 0 * n
        mean = totals / (n * n_channels)
        variance = self._squares / (n * n_channels) - mean**2
        values = (
            mean,
            np.where(known, self._least, np.nan),
            np.where(known, self._most, np.nan),
            np.sqrt(np.maximum(variance, 0)),
            totals,
        )
        found = {
            f"{name}_intensity": value
            for name, value in zip(NAMES, values, strict=True)
        }
        if n_channels > 1:
            for i, total in enumerate(self._totals):
                found[f"mean_intensity_{i}"] = total / n
        return found
