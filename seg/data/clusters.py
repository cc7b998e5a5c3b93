"""data.split=clusters: images that look alike are spread over the splits.

The rule of experiments/clustered_unet.py: k-means (8 clusters) on six numbers
of each image, the smallest, the largest, the deviation and the mean of its
intensities, and width and height / 1024; then each cluster is split in the same
shares. Here intensities are those of the grey image as shares of its dtype's
range, so that all six are near 0 to 1, and none is scaled further; floats are
divided by the largest of the data set. The split is seeded, and does not depend
on the order of the images. Groups are never separated: a group is of the
cluster that most of its images are in.

k-means: Lloyd's iterations from ten k-means++ starts (Arthur and
Vassilvitskii 2007), the tightest kept.
"""

import collections
from collections.abc import Mapping

import numpy as np

from seg.images import read

N = 8
_STARTS = 10
_ROUNDS = 100  # it stands still long before


def features(image: np.ndarray) -> np.ndarray:
    """Of an image [H, W, C]: float64 [6] min, max, std, mean, width, height."""
    height, width, n = image.shape
    grey = (read.as_channels(image, 1) if n == 3 else image)[..., 0]
    limit = np.iinfo(grey.dtype).max if grey.dtype.kind == "u" else 1.0
    low, high = float(grey.min()), float(grey.max())
    std, mean = (float(f(grey, dtype=np.float64)) for f in (np.std, np.mean))
    intensities = np.array([low, high, std, mean]) / limit
    return np.append(intensities, [width / 1024, height / 1024])


def alike(
    found: Mapping[str, np.ndarray], groups: Mapping[str, str], seed: int
) -> dict[str, int]:
    """The cluster of each group, by the features and groups of the ids."""
    ids = sorted(found)
    table = np.array([found[name] for name in ids]).reshape(-1, 6)
    table[:, :4] /= max(1.0, float(np.abs(table[:, :4]).max(initial=0)))
    votes = collections.defaultdict(collections.Counter)
    for name, number in zip(ids, cluster(table, N, seed).tolist(), strict=True):
        votes[groups[name]][number] += 1
    return {
        group: max(count, key=lambda k: (count[k], -k))
        for group, count in votes.items()
    }


def strata(
    found: Mapping[str, np.ndarray], groups: Mapping[str, str], seed: int
) -> dict[str, str]:
    """The stratum of each group: its cluster, as `split.assign` takes it."""
    clusters = alike(found, groups, seed)
    return {group: f"cluster{number}" for group, number in clusters.items()}


def cluster(table: np.ndarray, n: int, seed: int) -> np.ndarray:
    """k-means of the rows [N, D]: the number of each row's cluster, int [N].

    Fewer than n where fewer rows differ; numbered in the order of the middles.
    """
    rng = np.random.default_rng(seed)
    n = min(n, len(np.unique(table, axis=0)))
    best, least = np.zeros(len(table), np.int64), np.inf
    for _ in range(_STARTS if n else 0):
        middles = _starts(table, n, rng)
        for _ in range(_ROUNDS):
            nearest = _squares(table, middles).argmin(1)
            moved = middles.copy()
            for k in np.unique(nearest):
                moved[k] = table[nearest == k].mean(0)
            if np.array_equal(moved, middles):
                break
            middles = moved
        middles = middles[np.lexsort(middles.T[::-1])]
        squares = _squares(table, middles)
        if squares.min(1).sum() < least:
            best, least = squares.argmin(1), squares.min(1).sum()
    return best


def _starts(table: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows far from each other, by chance: k-means++."""
    middles = table[[rng.integers(len(table))]]
    while len(middles) < n:
        squares = _squares(table, middles).min(1)
        chosen = rng.choice(len(table), p=squares / squares.sum())
        middles = np.append(middles, table[[chosen]], axis=0)
    return middles


def _squares(table: np.ndarray, middles: np.ndarray) -> np.ndarray:
    return np.square(table[:, None] - middles).sum(-1)
