"""Whether objects of a probability are right as often as it says.

An object is right where it is matched with a true one at IoU >= 0.5. The mean
probability of its pixels orders objects well, but is no such share; two numbers
(Platt 1999) make one of it, `predict.calibration`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

from seg.evaluate import matching
from seg.predict import blobs

_N_BINS = 10


def outcomes(
    found: Any, true_labels: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """(probability, 1 if right) of each object that counts: float64 [N, 2].

    labels: those of `found` that count. Objects whose row in the table has no
    probability are left out.
    """
    right = {label for _, label in matching.pairs(true_labels, labels).tolist()}
    counted = set(np.unique(labels).tolist())
    rows = [
        (row["probability"], row["label"] in right)
        for row in found.table
        if row["label"] in counted and "probability" in row
    ]
    return np.array(rows, float).reshape(-1, 2)


def pooled(by_image: Sequence[np.ndarray]) -> np.ndarray:
    """The outcomes of several images together, of none too: [N, 2]."""
    return np.concatenate([np.zeros((0, 2)), *by_image])


def fit(outcome: np.ndarray) -> tuple[float, float]:
    """Slope and offset of `predict.calibration`, of outcomes [N, 2].

    By maximum likelihood, with Platt's targets, which keep it finite where all
    objects are right. Raises ValueError without any.
    """
    probability, right = outcome.T
    if not len(right):
        raise ValueError("no objects to calibrate by")
    n_right = right.sum()
    high = (n_right + 1) / (n_right + 2)
    low = 1 / (len(right) - n_right + 2)
    target = np.where(right > 0, high, low)
    odds = blobs.log_odds(probability)

    def loss(how: np.ndarray) -> tuple[float, np.ndarray]:
        z = how[0] * odds + how[1]
        slope = special.expit(z) - target
        value = np.mean(np.logaddexp(0, z) - target * z)
        return value, np.array([np.mean(slope * odds), np.mean(slope)])

    found = optimize.minimize(
        loss,
        (1.0, 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=((0, None), (None, None)),  # it never turns their order around
        options={"ftol": 1e-12, "gtol": 1e-9},
    )
    slope, offset = found.x.tolist()
    return slope, offset


def error(outcome: np.ndarray) -> float:
    """Expected calibration error of outcomes [N, 2]; NaN without any.

    The mean over objects of |mean probability - share that is right| in ten
    bins of equally many objects.
    """
    if not len(outcome):
        return np.nan
    n, probability, share = reliability(outcome).T
    return float(np.average(np.abs(probability - share), weights=n))


def reliability(outcome: np.ndarray) -> np.ndarray:
    """(objects, mean probability, share that is right) by bin: [<= 10, 3]."""
    order = np.argsort(outcome[:, 0], kind="stable")
    bins = [part for part in np.array_split(order, _N_BINS) if len(part)]
    rows = [(len(part), *outcome[part].mean(0)) for part in bins]
    return np.array(rows).reshape(-1, 3)


def crossed(by_image: Sequence[np.ndarray]) -> tuple[float, float]:
    """Calibration errors as found and once fitted, of raw outcomes by image.

    Fitted on one half of the images and measured on the other, both ways.
    """
    errors = []
    for first in (0, 1):
        own, other = (pooled(by_image[k::2]) for k in (first, 1 - first))
        if not (len(own) and len(other)):
            return np.nan, np.nan
        fitted = other.copy()
        fitted[:, 0] = blobs.calibrated(other[:, 0], fit(own))
        errors.append((error(other), error(fitted)))
    before, after = np.mean(errors, 0).tolist()
    return before, after
