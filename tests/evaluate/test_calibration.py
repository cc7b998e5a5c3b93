"""Probabilities of objects against how often they are right."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import special

from seg.evaluate import calibration
from seg.predict import blobs


def drawn(n, slope, offset, seed=0):
    """Outcomes of which the log odds are a line of those that are said."""
    rng = np.random.default_rng(seed)
    said = rng.uniform(0.5, 0.999, n)
    true = special.expit(slope * special.logit(said) + offset)
    return np.stack([said, rng.random(n) < true], 1)


def test_the_line_is_found_that_the_outcomes_were_drawn_from():
    slope, offset = calibration.fit(drawn(40_000, 1.7, -1.2))
    assert abs(slope - 1.7) < 0.05 and abs(offset + 1.2) < 0.08


def test_the_fit_is_where_the_likelihood_is_largest():
    outcome = drawn(500, 0.6, 0.3)
    found = calibration.fit(outcome)

    def loss(slope, offset):
        z = slope * special.logit(outcome[:, 0]) + offset
        p, right = special.expit(z), outcome[:, 1]
        n = right.sum()
        target = np.where(right, (n + 1) / (n + 2), 1 / (len(right) - n + 2))
        return -np.sum(target * np.log(p) + (1 - target) * np.log(1 - p))

    for step in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert loss(*found) < loss(*np.add(found, step))


@pytest.mark.parametrize("right", [0, 1])
def test_all_alike_stay_finite_and_on_their_side(right):
    outcome = np.stack([np.linspace(0.6, 1, 50), np.full(50, right)], 1)
    how = calibration.fit(outcome)
    found = blobs.calibrated(outcome[:, 0], how)
    assert np.isfinite(how).all()
    assert ((found > 0.9) == right).all() and ((found < 0.1) != right).all()


def test_nothing_cannot_be_fitted():
    with pytest.raises(ValueError, match="no objects"):
        calibration.fit(np.zeros((0, 2)))


def test_the_error_is_the_mean_gap_of_ten_equal_bins():
    outcome = drawn(1234, 0.4, 0.0)
    order = np.argsort(outcome[:, 0])
    gaps = 0.0
    for part in np.array_split(outcome[order], 10):
        said, right = part.mean(0)
        gaps += len(part) * abs(said - right)
    assert calibration.error(outcome) == pytest.approx(gaps / 1234)
    assert math.isnan(calibration.error(np.zeros((0, 2))))
    few = np.array([[0.75, 1.0], [0.25, 0.0]])  # a bin each
    assert calibration.error(few) == pytest.approx(0.25)


def test_what_is_fitted_on_one_half_is_measured_on_the_other():
    images = [drawn(200, 2.0, -2.5, seed) for seed in range(20)]
    before, after = calibration.crossed(images)
    assert before > 0.1 and after < 0.05
    # an image whose objects nothing foretells is not in its own fit
    odd = [np.array([[0.9, 1.0]] * 50), np.array([[0.9, 0.0]] * 50)]
    assert calibration.crossed(odd)[1] > 0.9
    assert all(map(math.isnan, calibration.crossed(images[:1])))


def test_only_objects_that_count_have_an_outcome():
    @dataclasses.dataclass
    class Found:
        table: list

    true, labels = np.zeros((2, 20, 20), np.int32)
    true[2:8, 2:8], true[12:18, 12:18] = 4, 2
    labels[2:8, 2:8], labels[12:18, 0:6] = 1, 3
    rows = [{"label": n, "probability": n / 10} for n in (1, 2, 3)]
    found = calibration.outcomes(Found(rows), true, labels)
    np.testing.assert_allclose(found, [[0.1, 1], [0.3, 0]])
    bare = calibration.outcomes(Found([{"label": 1}]), true, labels)
    assert bare.shape == (0, 2)
