"""Claims about boundary F-scores, by brute force."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import segmentation

from seg.evaluate import boundaries


def _blobs(seed, shape=(40, 52)):
    draw = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(draw.normal(size=shape), 2)
    labels = ndimage.label(noise > np.quantile(noise, 0.6))[0]
    return np.where(np.arange(shape[1]) < 26, labels, labels * 2)  # touching


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_all_distances(seed):
    true, found = _blobs(seed), _blobs(seed + 9)
    borders = [
        np.argwhere(segmentation.find_boundaries(x, mode="inner"))
        for x in (true, found)
    ]
    away = np.linalg.norm(borders[0][:, None] - borders[1], axis=2)
    wanted = [
        np.sum(away.min(1) <= 2), len(borders[0]),
        np.sum(away.min(0) <= 2), len(borders[1]),
    ]  # fmt: skip
    assert boundaries.agreement(true, found).tolist() == wanted


def test_objects_moved_by_the_tolerance_are_right_and_further_are_not():
    true = np.zeros((30, 30), int)
    true[8:18, 8:18] = 1
    for step, expected in ((0, 1.0), (2, 1.0), (3, None)):
        found = np.roll(true, step, 0)
        score = boundaries.f_score(boundaries.agreement(true, found))
        assert score == expected or (expected is None and 0.5 < score < 1)


def test_a_missing_line_between_two_that_touch_costs():
    true = np.zeros((40, 60), int)
    true[10:30, 10:30], true[10:30, 30:50] = 1, 2
    merged = np.minimum(true, 1)
    score = boundaries.f_score(boundaries.agreement(true, merged))
    n_all, n_line = 2 * 76, 2 * (20 - 2 * 3)  # ends lie near the outline
    recall = (n_all - n_line) / n_all
    assert score == pytest.approx(2 * recall / (1 + recall))


def test_nothing_to_find_is_right_and_nothing_found_is_wrong():
    one, none = np.eye(9, dtype=int), np.zeros((9, 9), int)
    counts = [boundaries.agreement(*p) for p in ((none, none), (one, none))]
    assert boundaries.f_score(np.array(counts)).tolist() == [1, 0]
