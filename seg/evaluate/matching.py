"""Objects found against objects that are there, matched one to one.

Label images are integer [H, W], 0 background, any positive ids. An object is
found at a threshold t if it is matched with a true one at IoU >= t. The
matching has as many such pairs as possible and, among those, the largest sum
of IoUs (an assignment problem), as `stardist.matching` of StarDist 0.9 has it;
the counts are equal to its. IoUs are compared in float32 as there: 0.65 as the
sum of steps of 0.05 is then the same threshold as 0.65.

Scores of a `Matching` at t, as there 0 where nothing matches:
    AP = TP / (TP + FP + FN), F1 = 2 TP / (2 TP + FP + FN),
    PQ = sum of matched IoUs / (TP + FP / 2 + FN / 2) (Kirillov et al. 2019).
`scores` differ in one case: where nothing is and nothing was found, they are 1.
They have two more, which need no threshold: the Aggregated Jaccard Index (Kumar
et al. 2017, "A dataset and a technique for generalized nuclear segmentation")
and the F-score of `boundaries`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, sparse
from scipy.sparse import csgraph

from seg.evaluate import boundaries, metrics

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_MEAN_PERCENT = range(50, 91, 5)  # the thresholds of `ap_mean`


@dataclasses.dataclass(frozen=True)
class Matching:
    """Counts of one image, or of several together, at T thresholds."""

    thresholds: tuple[float, ...]
    n_true: int
    n_found: int
    tp: np.ndarray  # int64 [T], matched
    iou_sum: np.ndarray  # float64 [T], sum of the IoUs of the matched
    jaccard: np.ndarray  # int64 [2], pixels in common and in all
    boundary: np.ndarray  # int64 [4], see `boundaries.agreement`

    @property
    def fp(self) -> np.ndarray:
        """Found, but not there: int64 [T]."""
        return self.n_found - self.tp

    @property
    def fn(self) -> np.ndarray:
        """There, but not found: int64 [T]."""
        return self.n_true - self.tp

    @property
    def ap(self) -> np.ndarray:
        """Average precision, as the field calls it: float64 [T]."""
        return _score("ap", self._counts())

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall: float64 [T]."""
        return _score("f1", self._counts())

    @property
    def pq(self) -> np.ndarray:
        """Panoptic quality: float64 [T]."""
        return _score("pq", self._counts())

    def _counts(self) -> np.ndarray:
        """float64 [4, T]: n_true, n_found, tp, iou_sum."""
        sizes = np.array([[self.n_true], [self.n_found]], float)
        sizes = np.broadcast_to(sizes, (2, len(self.thresholds)))
        return np.concatenate((sizes, [self.tp, self.iou_sum]))


def match(
    true_labels: np.ndarray,
    labels: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Matching:
    """Matches the objects of one image at each threshold, in (0, 1].

    Raises ValueError for different shapes, labels that are not whole numbers
    from 0 up, or a threshold that is not positive.

    >>> true = np.repeat([[1, 1, 0, 2, 2, 2]], 4, axis=0)
    >>> found = np.repeat([[7, 7, 0, 9, 0, 0]], 4, axis=0)
    >>> one = match(true, found, thresholds=(0.3, 0.5))
    >>> one.n_true, one.n_found, one.tp  # 9 is a third of 2
    (2, 2, array([2, 1]))
    >>> one.f1
    array([1. , 0.5])
    """
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds {thresholds} do not all lie in (0, 1]")
    overlaps = _Overlaps.of(true_labels, labels)
    chosen = [overlaps.matched(threshold) for threshold in thresholds]
    return Matching(
        tuple(thresholds),
        len(overlaps.true_ids),
        len(overlaps.found_ids),
        np.array([len(pairs) for pairs in chosen], np.int64),
        np.array([overlaps.iou[pairs].sum(dtype=float) for pairs in chosen]),
        overlaps.aggregated(),
        boundaries.agreement(true_labels, labels),
    )


def pairs(
    true_labels: np.ndarray, labels: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
    """Ids (true, found) of the matched objects: int64 [TP, 2], by true id.

    >>> pairs(np.array([[1, 1, 0, 2]]), np.array([[7, 7, 0, 0]]))
    array([[1, 7]])
    """
    overlaps = _Overlaps.of(true_labels, labels)
    matched = np.sort(overlaps.matched(threshold))
    return np.stack(
        (
            overlaps.true_ids[overlaps.true[matched]],
            overlaps.found_ids[overlaps.found[matched]],
        ),
        axis=1,
    )


def pooled(matchings: Sequence[Matching]) -> Matching:
    """The counts of several images together; ValueError for none."""
    thresholds = _thresholds(matchings)
    return Matching(
        thresholds,
        sum(m.n_true for m in matchings),
        sum(m.n_found for m in matchings),
        np.sum([m.tp for m in matchings], axis=0),
        np.sum([m.iou_sum for m in matchings], axis=0),
        np.sum([m.jaccard for m in matchings], axis=0),
        np.sum([m.boundary for m in matchings], axis=0),
    )


def scores(matchings: Sequence[Matching]) -> dict[str, float]:
    """Scores of a split, by the names that tracking uses.

    ap50 ... ap95, ap_mean (.50:.05:.90, of the thresholds that were matched),
    f1 and pq at the first threshold, aji and boundary_f, all pooled; the same
    with `_image` as means over images; and `count_error`, a mean over images.
    """
    return {
        name: float(statistic(values))
        for name, (values, statistic) in _statistics(matchings).items()
    }


def intervals(
    matchings: Sequence[Matching], n: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals (low, high) over images of all `scores`."""
    found = {}
    for name, (values, statistic) in _statistics(matchings).items():
        low, high = metrics.bootstrap(values, statistic, n, seed)
        found[name] = float(low), float(high)
    return found


def _thresholds(matchings: Sequence[Matching]) -> tuple[float, ...]:
    if not matchings:
        raise ValueError("no image was matched")
    thresholds = {m.thresholds for m in matchings}
    if len(thresholds) > 1:
        raise ValueError(f"images were matched at different {thresholds}")
    return thresholds.pop()


def _score(kind: str, counts: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """ap, f1 or pq of counts float64 [..., 4, T]: float64 [..., T]."""
    n_true, n_found, tp, iou_sum = np.moveaxis(counts, -2, 0)
    part, whole = {
        "ap": (tp, n_true + n_found - tp),
        "f1": (2 * tp, n_true + n_found),
        "pq": (2 * iou_sum, n_true + n_found),
    }[kind]
    return np.divide(part, whole, out=np.full(tp.shape, empty), where=whole > 0)


def _aji(pixels: np.ndarray) -> np.ndarray:
    """The index of pixels in common and in all [..., 2]: float64 [...]."""
    common, total = np.moveaxis(np.asarray(pixels, float), -1, 0)
    return np.divide(common, total, out=np.ones_like(common), where=total > 0)


def _statistics(
    matchings: Sequence[Matching],
) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], float]]]:
    """{name: (values by image [N, ...], what makes a score of them)}."""
    thresholds = _thresholds(matchings)
    counts = np.stack([m._counts() for m in matchings])

    def pool(kind: str, at: list[int], values: np.ndarray) -> float:
        return _score(kind, values.sum(0), 1.0)[at].mean()

    percent = [round(100 * t) for t in thresholds]  # .6500...01 is 65, too
    wanted = {f"ap{t}": ("ap", [i]) for i, t in enumerate(percent)}
    if mean_at := [i for i, t in enumerate(percent) if t in _MEAN_PERCENT]:
        wanted["ap_mean"] = "ap", mean_at
    wanted |= {"f1": ("f1", [0]), "pq": ("pq", [0])}
    named = {}
    for name, (kind, at) in wanted.items():
        named[name] = counts, functools.partial(pool, kind, at)
        by_image = _score(kind, counts, 1.0)[:, at].mean(1)
        named[f"{name}_image"] = by_image, np.mean
    for name, part, score in (
        ("aji", "jaccard", _aji),
        ("boundary_f", "boundary", boundaries.f_score),
    ):
        values = np.stack([getattr(m, part) for m in matchings])
        named[name] = values, lambda drawn, score=score: score(drawn.sum(0))
        named[f"{name}_image"] = score(values), np.mean
    errors = metrics.count_error(counts[:, 1, 0], counts[:, 0, 0])
    named["count_error"] = errors, np.mean
    return named


@dataclasses.dataclass(frozen=True)
class _Overlaps:
    """Every pair of a true and a found object with a common pixel."""

    true_ids: np.ndarray  # int64 [N], of the label image
    found_ids: np.ndarray  # int64 [M]
    true: np.ndarray  # int64 [P], index into true_ids
    found: np.ndarray  # int64 [P]
    common: np.ndarray  # int64 [P], pixels
    iou: np.ndarray  # float32 [P]
    true_area: np.ndarray  # int64 [N]
    found_area: np.ndarray  # int64 [M]

    @classmethod
    def of(cls, true_labels: np.ndarray, labels: np.ndarray) -> "_Overlaps":
        for what, array in (("true", true_labels), ("found", labels)):
            if array.dtype.kind not in "iu" or array.min(initial=0) < 0:
                raise ValueError(f"{what} labels are not integers from 0 up")
        if true_labels.shape != labels.shape:
            raise ValueError(
                f"true labels {true_labels.shape} and found ones "
                f"{labels.shape} differ in shape"
            )
        true, found = true_labels.ravel(), labels.ravel()
        # sort stretches of equal pixels, not pixels: ten times fewer or more
        begins = np.ones(true.size, bool)
        begins[1:] = (true[1:] != true[:-1]) | (found[1:] != found[:-1])
        at = np.flatnonzero(begins)
        length = np.diff(at, append=true.size)
        true_ids, true = np.unique(true[at], return_inverse=True)
        found_ids, found = np.unique(found[at], return_inverse=True)
        true_area = np.bincount(true, length, len(true_ids))
        found_area = np.bincount(found, length, len(found_ids))
        key, pair = np.unique(
            true * len(found_ids) + found, return_inverse=True
        )
        common = np.bincount(pair, length, len(key))
        true, found = np.divmod(key, max(len(found_ids), 1))
        both = (true_ids[true] > 0) & (found_ids[found] > 0)
        true, found, common = true[both], found[both], common[both]
        union = true_area[true] + found_area[found] - common
        # background, where there is any, comes first of the sorted ids
        n_zero = (np.sum(true_ids == 0), np.sum(found_ids == 0))
        return cls(
            true_ids[n_zero[0] :].astype(np.int64),
            found_ids[n_zero[1] :].astype(np.int64),
            true - n_zero[0],
            found - n_zero[1],
            common.astype(np.int64),
            (common / union).astype(np.float32),
            true_area[n_zero[0] :].astype(np.int64),
            found_area[n_zero[1] :].astype(np.int64),
        )

    def aggregated(self) -> np.ndarray:
        """Pixels in common and in all, of the Aggregated Jaccard Index.

        Each true object is taken with the found one of the largest IoU, even
        if another one has that too; what is left alone on either side counts
        against.
        """
        order = np.lexsort((-self.found, self.iou, self.true))
        chosen = order[np.diff(self.true[order], append=-1) != 0]
        n_common = self.common[chosen].sum()
        taken = np.bincount(self.found[chosen], minlength=len(self.found_ids))
        n_found = (np.maximum(taken, 1) * self.found_area).sum()
        return np.array([n_common, self.true_area.sum() + n_found - n_common])

    def matched(self, threshold: float) -> np.ndarray:
        """Indices of the pairs that are matched at a threshold."""
        good = self.iou >= np.float32(threshold)
        pairs = np.flatnonzero(good)
        true, found = self.true[pairs], self.found[pairs]
        if np.unique(true).size == np.unique(found).size == len(pairs):
            return pairs  # no object twice: always so above one half
        # Pairs that share an object, directly or through others, compete;
        # poor pairs take part, as where they lie breaks ties.
        n = len(self.true_ids)
        n_all = n + len(self.found_ids)
        graph = sparse.coo_array(
            (np.ones(len(self.iou)), (self.true, n + self.found)),
            (n_all, n_all),
        )
        _, group = csgraph.connected_components(graph, directed=False)
        group = group[self.true]
        chosen = [
            self._assign(np.flatnonzero(group == g), threshold)
            for g in np.unique(group[pairs])
        ]
        return np.concatenate(chosen)

    def _assign(self, pairs: np.ndarray, threshold: float) -> np.ndarray:
        """The best one-to-one choice among pairs, those below t left out."""
        true_ids, row = np.unique(self.true[pairs], return_inverse=True)
        found_ids, col = np.unique(self.found[pairs], return_inverse=True)
        shape = len(true_ids), len(found_ids)
        good = self.iou[pairs] >= np.float32(threshold)
        value = np.zeros(shape)
        # the IoUs add up to less than one more pair is worth
        value[row, col] = good + self.iou[pairs] / (2 * min(shape))
        index = np.full(shape, -1)
        index[row[good], col[good]] = pairs[good]
        chosen = index[optimize.linear_sum_assignment(value, maximize=True)]
        return chosen[chosen >= 0]
