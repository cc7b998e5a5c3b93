"""Scores of class maps and counts, and how sure they are.

Class maps are integer [H, W] with classes 0 (background) to K - 1; 255 in the
truth means not annotated and is ignored everywhere. Confusion matrices are
int64 [K, K], rows the truth, columns what was found; they add up over images,
so sum first and divide last. Two empties agree: their Dice and IoU are 1.
A score that is not defined is NaN, and a NaN among the values of a mean or of
an interval makes the result NaN: nothing leaves it out silently.
"""

from collections.abc import Callable, Sequence

import numpy as np

NOT_ANNOTATED = 255


def confusion(
    classes: np.ndarray, truth: np.ndarray, n_classes: int
) -> np.ndarray:
    """Counts of (true class, found class): int64 [K, K].

    Raises ValueError for different shapes, or a class outside 0..K - 1.
    """
    if classes.shape != truth.shape:
        raise ValueError(
            f"classes {classes.shape} and truth {truth.shape} differ in shape"
        )
    known = truth != NOT_ANNOTATED
    found, true = classes[known].astype(np.int64), truth[known].astype(np.int64)
    for what, values in (("found", found), ("true", true)):
        if values.size and not 0 <= values.min() <= values.max() < n_classes:
            raise ValueError(
                f"{what} classes reach from {values.min()} to {values.max()}; "
                f"expected 0 to {n_classes - 1}"
            )
    counts = np.bincount(n_classes * true + found, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def scores(
    counts: np.ndarray, class_names: Sequence[str] | None = None
) -> dict[str, float]:
    """Scores of a confusion matrix [K, K], pooled over all its pixels.

    dice_<class> and iou_<class> for every class (numbered without names),
    `miou`, and `accuracy`. A class that neither is there nor was found scores
    1, but does not count in `miou`. Without any pixel `miou` and `accuracy`
    are NaN.
    """
    names = class_names or [str(k) for k in range(len(counts))]
    true, found, both = counts.sum(1), counts.sum(0), np.diag(counts)
    dice = _ratio(2 * both, true + found, empty=1.0)
    iou = _ratio(both, true + found - both, empty=1.0)
    occurs = true + found > 0
    named = {f"dice_{name}": x for name, x in zip(names, dice, strict=True)}
    named |= {f"iou_{name}": x for name, x in zip(names, iou, strict=True)}
    named["miou"] = _ratio(iou[occurs].sum(), occurs.sum(), empty=np.nan)
    named["accuracy"] = _ratio(both.sum(), counts.sum(), empty=np.nan)
    return {name: float(value) for name, value in named.items()}


def foreground(classes: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(Dice, IoU) of everything that is not background, in one image.

    >>> foreground(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    (0.8, 0.6666666666666666)
    """
    known = truth != NOT_ANNOTATED
    found, true = (classes > 0) & known, (truth > 0) & known
    n_both = np.count_nonzero(found & true)
    n_sum = np.count_nonzero(found) + np.count_nonzero(true)
    dice = _ratio(2 * n_both, n_sum, empty=1.0)
    iou = _ratio(n_both, n_sum - n_both, empty=1.0)
    return float(dice), float(iou)


def count_error(n_found: np.ndarray, n_true: np.ndarray) -> np.ndarray:
    """|found - true| / max(true, 1), of each image: float64 [N]."""
    n_true = np.asarray(n_true, np.int64)
    return np.abs(np.asarray(n_found) - n_true) / np.maximum(n_true, 1)


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = np.mean,
    n: int = 1000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Interval (low, high) of a statistic over images, by resampling them.

    Percentile bootstrap (Efron 1979). values: [N, ...], one entry an image;
    statistic: takes as many entries, drawn with replacement, and returns a
    number or an array. For pooled scores the entries are counts, and the
    statistic adds them up before it divides. Raises ValueError without images.
    """
    values = np.asarray(values)
    if not len(values):
        raise ValueError("no images to resample")
    draws = np.random.default_rng(seed).integers(
        len(values), size=(n, len(values))
    )
    results = np.array([statistic(values[draw]) for draw in draws], float)
    tail = 50 * (1 - level)
    low, high = np.percentile(results, (tail, 100 - tail), axis=0)
    return low, high


def _ratio(part: np.ndarray, whole: np.ndarray, *, empty: float) -> np.ndarray:
    """part / whole, `empty` where whole is 0."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    out = np.full(whole.shape, empty)
    return np.divide(part, whole, out=out, where=whole > 0)
