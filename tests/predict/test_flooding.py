"""Claims about flooding, against scikit-image's queue of pixels."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import segmentation

from seg.predict import flooding


def _drawn(seed, n_levels, shape=(60, 70)):
    draw = np.random.default_rng(seed)
    level = ndimage.gaussian_filter(draw.normal(size=shape), 2)
    level = (level - level.min()) / np.ptp(level) * (n_levels - 1)
    mask = ndimage.gaussian_filter(draw.normal(size=shape), 1.5) > -0.02
    seeds, _ = ndimage.label(mask & (level > 0.6 * n_levels))
    return np.rint(level).astype(np.uint8), seeds.astype(np.int32), mask


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_scikit_images_watershed_but_for_ties(connectivity, seed):
    level, seeds, mask = _drawn(seed, 256)
    assert seeds.max() > 3
    found = flooding.flood(level, seeds, mask, connectivity)
    wanted = segmentation.watershed(
        255 - level, seeds, connectivity=connectivity, mask=mask
    )
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found > 0, wanted > 0)
    assert (found != wanted).mean() < 0.01


@pytest.mark.parametrize("connectivity", [1, 2])
def test_every_pixel_is_reached_over_the_highest_pass(connectivity):
    level, seeds, mask = _drawn(7, 12)
    found = flooding.flood(level, seeds, mask, connectivity)
    structure = ndimage.generate_binary_structure(2, connectivity)
    for label in range(1, seeds.max() + 1):
        own = found == label
        assert (own[seeds == label]).all()
        _, n = ndimage.label(own, structure)
        _, n_seeds = ndimage.label(seeds == label, structure)
        assert n == n_seeds  # all that is its own hangs together
    # no seed reaches a pixel over a higher pass than that which has it
    for now in range(12):
        high = mask & (level >= now)
        parts, _ = ndimage.label(high, structure)
        seeded = np.unique(parts[(seeds > 0) & high])
        for part in seeded[seeded > 0]:
            inside = set(np.unique(seeds[parts == part])) - {0}
            assert set(np.unique(found[parts == part])) <= inside


def test_seeds_that_come_at_once_meet_in_the_middle():
    level = np.full((1, 9), 4, np.uint8)
    seeds = np.zeros((1, 9), np.int32)
    seeds[0, [0, 8]] = 5, 3
    found = flooding.flood(level, seeds, np.ones((1, 9), bool), 2)
    assert found.tolist() == [[5, 5, 5, 5, 5, 3, 3, 3, 3]]


def test_what_is_not_reached_stays_empty():
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    level = np.zeros(mask.shape, np.uint8)
    seeds = np.zeros(mask.shape, np.int32)
    assert not flooding.flood(level, seeds, mask, 2).any()
    seeds[0, 0] = 2
    found = flooding.flood(level, seeds, mask, 2)
    assert np.argwhere(found).tolist() == [[0, 0], [0, 1]]


def _oracle(level, mask, prominence, connectivity):
    """Objects by their definition: which peaks a level set has alone."""
    structure = ndimage.generate_binary_structure(2, connectivity)
    rising = []  # (peak, how far it rises over the pass to a higher one)
    high = np.where(mask, level.astype(int), -1)
    tops, n = ndimage.label(
        flooding.peaks(level, mask, connectivity), structure
    )
    for peak in range(1, n + 1):
        height = high[tops == peak][0]
        for now in range(height, -1, -1):
            parts, _ = ndimage.label(high >= now, structure)
            own = parts == parts[tops == peak][0]
            equal = tops[own & (tops > 0) & (high == height)]
            # of equal peaks the first one counts as the higher
            if high[own].max() > height or equal.min() < peak:
                rising.append(height - now)
                break
        else:
            rising.append(np.inf)  # nothing higher is connected
    return sum(rise > prominence for rise in rising)


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_as_many_are_left_as_peaks_rise_far_enough(connectivity, seed):
    draw = np.random.default_rng(seed)
    level = ndimage.gaussian_filter(draw.normal(size=(25, 30)), 1.2)
    level = (255 * (level - level.min()) / np.ptp(level)).astype(np.uint8)
    mask = draw.random(level.shape) < 0.95
    found = flooding.peaks(level, mask, connectivity)
    structure = ndimage.generate_binary_structure(2, connectivity)
    seeds, n = ndimage.label(found, structure)
    basins = flooding.flood(level, seeds.astype(np.int32), mask, connectivity)
    assert (basins > 0).tolist() == mask.tolist()
    left = []
    for prominence in (0, 10, 40, 120, 255):
        joined = flooding.joined(level, seeds, basins, prominence, connectivity)
        left.append(len(np.unique(joined[mask])))
        assert left[-1] == _oracle(level, mask, prominence, connectivity)
    assert left == sorted(left, reverse=True)
    assert left[0] == n > 5
    assert left[-1] == ndimage.label(mask, structure)[1]


def test_a_plateau_is_one_peak_and_a_slope_none():
    level = np.array([[3, 3, 2, 5, 5, 5, 4, 4, 1]], np.uint8)
    mask = np.ones(level.shape, bool)
    found = flooding.peaks(level, mask, 2)
    assert found.tolist() == [[1, 1, 0, 1, 1, 1, 0, 0, 0]]
    mask[0, 4] = False
    level[:] = 0
    assert flooding.peaks(level, mask, 2).tolist() == mask.tolist()
