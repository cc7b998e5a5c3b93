"""Finds images that were cut from one field: they must not be split.

The public set of the 2018 Data Science Bowl does not say which images belong
together, but most of its smaller images are tiles of larger fields: 542 of the
664 fit another one without a seam. Two images of one size are neighbours where
the last row (or column) of one continues in the first of the other:

- the mean difference across the seam is at most `_SEAM` times the mean
  difference of neighbouring rows inside the two images;
- the two rows correlate, at least `_LIKE`, so that objects cross the seam
  (flat background continues in any other);
- each is the best continuation of the other.

Neighbours of neighbours are one group: fields of 2 x 2, 2 x 4 and 3 x 4 tiles
come out of that set. Equal images are one group too. What cannot be told:
fields of one slide that do not touch, and tiles whose common edge is empty. A
score on such a split is therefore still a little kind; a random split is much
kinder.

A group's name is "family/number"; the family (size, colour or grey, dark or
bright, level of the background) is the stratum that `split.assign` balances.
"""

import collections
import hashlib
from collections.abc import Iterable

import numpy as np

from seg.images import read

_SEAM = 1.6
_LIKE = 0.8
_FLAT = 0.3  # grey levels; below it, noise alone makes the ratio


def groups(images: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """The group of each (id, image [H, W, C]); holds their edges only."""
    families: dict[str, str] = {}
    edges = collections.defaultdict(list)
    same: dict[bytes, str] = {}
    parents: dict[str, str] = {}
    for name, image in images:
        families[name] = _family(image)
        grey = _grey(image).astype(np.float32)
        edges[grey.shape].append(
            (name, grey[[0, 1, -2, -1]].copy(), grey.T[[0, 1, -2, -1]].copy())
        )
        parents[name] = name
        first = same.setdefault(hashlib.sha256(image.tobytes()).digest(), name)
        parents[name] = first
    for members in edges.values():
        names = [name for name, _, _ in members]
        for side in (1, 2):
            for one, other in _continued(np.stack([m[side] for m in members])):
                _join(parents, names[one], names[other])
    return _named(parents, families)


def _continued(edges: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j): the last row of i continues in the first of j.

    edges: float32 [N, 4, L], the first two rows and the last two.
    """
    first, second, before, last = np.moveaxis(edges, 1, 0)
    n = len(edges)
    seam = np.empty((n, n), np.float32)
    for i in range(n):  # row by row: [N, N, L] may be gigabytes
        seam[i] = np.abs(last[i] - first).mean(axis=1)
    np.fill_diagonal(seam, np.inf)
    inside_last = np.abs(last - before).mean(axis=1)
    inside_first = np.abs(first - second).mean(axis=1)
    after = seam.argmin(axis=1)
    pairs = []
    for i, j in enumerate(after):
        inside = max((inside_last[i] + inside_first[j]) / 2, _FLAT)
        if (
            seam[i, j] <= _SEAM * inside
            and seam[:, j].argmin() == i
            and _correlation(last[i], first[j]) >= _LIKE
        ):
            pairs.append((i, int(j)))
    return pairs


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / scale) if scale > 0 else 0.0


def _family(image: np.ndarray) -> str:
    """Size, colour, brightness and level of the background, in powers of 2."""
    height, width, n = image.shape
    colour = n == 3 and not (image == image[..., :1]).all()
    grey = _grey(image)
    top = np.iinfo(image.dtype).max if image.dtype.kind == "u" else grey.max()
    low, middle = np.percentile(grey[::4, ::4], (5, 50)) / max(float(top), 1e-6)
    tone = "bright" if middle > 0.4 else "dark"
    level = int(np.log2(1 + 255 * max(low, 0)))
    kind = "colour" if colour else "grey"
    return f"{height}x{width}-{kind}-{tone}{level}"


def _grey(image: np.ndarray) -> np.ndarray:
    colour = image.shape[-1] == 3
    return read.as_channels(image, 1)[..., 0] if colour else image[..., 0]


def _root(parents: dict[str, str], name: str) -> str:
    while parents[name] != name:
        name = parents[name]
    return name


def _join(parents: dict[str, str], one: str, other: str) -> None:
    one, other = sorted((_root(parents, one), _root(parents, other)))
    parents[other] = one


def _named(parents: dict[str, str], families: dict[str, str]) -> dict[str, str]:
    """ "family/number" for each id; tiles take the family of their first."""
    roots = {name: _root(parents, name) for name in parents}
    numbers = {root: i for i, root in enumerate(sorted(set(roots.values())))}
    return {
        name: f"{families[root]}/{numbers[root]:04d}"
        for name, root in roots.items()
    }
