"""Claims about windows: by brute force over all small shapes."""

import itertools
import math

import numpy as np
import pytest

from seg import tiles

CASES = list(
    itertools.product(
        [1, 2, 3, 5, 7, 16, 31, 32, 33, 63, 64, 65, 100, 257],
        [1, 2, 3, 8, 32, 33],
        [0.0, 0.1, 0.25, 0.5, 0.9, 0.99],
    )
)


@pytest.mark.parametrize(("length", "window", "overlap"), CASES)
def test_starts_cover_the_axis_evenly_with_no_more_windows_than_needed(
    length, window, overlap
):
    found = tiles.starts(length, window, overlap)
    assert found.dtype == np.int64 and found[0] == 0
    if length <= window:
        assert found.tolist() == [0]
        return
    assert found[-1] == length - window
    gaps = np.diff(found)
    assert gaps.min() >= 1 and np.ptp(gaps) <= 1
    covered = np.zeros(length, int)
    for start in found:
        covered[start : start + window] += 1
    assert covered.min() >= 1
    step = max(1, math.floor(window * (1 - overlap)))
    assert gaps.max() <= step  # the least overlap is kept
    assert (len(found) - 2) * step < length - window  # one fewer is too few


def test_windows_are_all_pairs_row_by_row():
    found = tiles.windows((70, 40), 32, 0.25)
    rows = tiles.starts(70, 32, 0.25).tolist()
    cols = tiles.starts(40, 32, 0.25).tolist()
    assert found.tolist() == [[r, c] for r in rows for c in cols]
    assert tiles.windows((3, 5), 32, 0.5).tolist() == [[0, 0]]


def test_every_pixel_of_an_image_is_in_a_window():
    for shape in itertools.product((1, 9, 16, 17, 40), repeat=2):
        seen = np.zeros(shape, bool)
        for row, col in tiles.windows(shape, 16, 0.3):
            seen[row : row + 16, col : col + 16] = True
        assert seen.all()


@pytest.mark.parametrize("window", [1, 2, 3, 16, 31, 256])
def test_weights_are_positive_symmetric_and_highest_in_the_middle(window):
    found = tiles.weights(window)
    assert found.shape == (window, window) and found.dtype == np.float32
    assert found.min() > 0 and found.max() <= 1
    for same in (found.T, found[::-1], found[:, ::-1]):
        np.testing.assert_allclose(same, found, rtol=1e-6)
    half = found[: (window + 1) // 2, window // 2]
    assert (np.diff(half) >= 0).all()
    assert found[window // 2, window // 2] == found.max()
