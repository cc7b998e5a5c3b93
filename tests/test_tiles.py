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


@pytest.mark.parametrize("align", [2, 4, 16])
@pytest.mark.parametrize("overlap", [0.0, 0.11, 0.5])
def test_aligned_starts_are_multiples_and_keep_the_overlap(overlap, align):
    for length in range(1, 150):
        found = tiles.starts(length, 32, overlap, align=align)
        assert (found % align == 0).all() and found[0] == 0
        if length <= 32:
            assert len(found) == 1
            continue
        assert 0 <= found[-1] + 32 - length < align
        gaps = np.diff(found)
        assert np.ptp(gaps) in (0, align) and gaps.min() > 0
        step = max(1, math.floor(32 * (1 - overlap) / align)) * align
        assert gaps.max() <= step
        n_least = math.ceil((found[-1] - 0) / step) + 1
        assert len(found) == n_least


# DSB2018 as experiments/clustered_unet.py cuts it: length -> windows of 256 px,
# what two of them share
SOURCE = {320: (2, 192), 360: (2, 152), 512: (3, 128), 520: (3, 124),
          1024: (5, 64), 1040: (5, 60), 1388: (6, 29)}  # fmt: skip


@pytest.mark.parametrize("length", SOURCE)
def test_ceil_spaces_windows_as_the_source_does(length):
    found = tiles.starts(length, 256, 0.25, "ceil")
    n, shared = SOURCE[length]
    assert len(found) == n
    assert 256 - np.diff(found).max() == shared
    assert found[0] == 0 and found[-1] == length - 256
    # whatever the overlap
    assert (tiles.starts(length, 256, 0.9, "ceil") == found).all()


@pytest.mark.parametrize("window", [1, 2, 9, 32])
def test_ceil_covers_every_length(window):
    for length in range(1, 300):
        found = tiles.starts(length, window, 0.0, "ceil")
        assert found[0] == 0 and (np.diff(found) > 0).all()
        assert found[-1] == max(length - window, 0)
        assert (np.diff(found) <= window).all()


def test_ceil_gives_the_sources_number_of_tiles():
    """On all 670 images of the 2018 Data Science Bowl, by their sizes."""
    sizes = {(256, 256): 334, (256, 320): 112, (520, 696): 92, (360, 360): 91,
             (1024, 1024): 16, (512, 640): 13, (603, 1272): 6, (260, 347): 5,
             (1040, 1388): 1}  # fmt: skip
    assert sum(sizes.values()) == 670
    assert (
        sum(
            n * len(tiles.windows(shape, 256, 0.25, "ceil"))
            for shape, n in sizes.items()
        )
        == 2425
    )


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


@pytest.mark.parametrize(
    ("shape", "least"),  # pixels that go through the network, by image's
    [((600, 600), 1.14), ((640, 640), 1.44), ((1200, 1200), 1.25),
     ((2048, 2048), 1.27), ((8192, 8192), 1.27), ((500, 500), 1.05)],
)  # fmt: skip
def test_the_thriftiest_window_spares_work(shape, least):
    window = tiles.thriftiest(shape, 0.11)
    n = len(tiles.windows(shape, window, 0.11))
    assert n * window**2 / np.prod(shape) == pytest.approx(least, abs=0.005)
    assert window % 64 == 0 and 320 <= window <= 576


@pytest.mark.parametrize("window", [1, 2, 3, 16, 31, 256])
def test_weights_are_positive_symmetric_and_highest_in_the_middle(window):
    found = tiles.ramp(window)
    assert found.shape == (window,) and found.dtype == np.float32
    assert found.min() > 0 and found.max() <= 1
    np.testing.assert_allclose(found[::-1], found, rtol=1e-6)
    assert (np.diff(found[: (window + 1) // 2]) >= 0).all()
    assert found[window // 2] == found.max()
