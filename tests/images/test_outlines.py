"""Polygons of objects, filled again by brute force."""

import numpy as np
import pytest
from scipy import ndimage

from seg.images import outlines


def filled(polygons, shape):
    """Pixels whose middle is inside, by the even-odd rule over all rings."""
    found = np.zeros(shape, bool)
    rows = np.arange(shape[0])[:, None] + 0.5
    cols = np.arange(shape[1])[None] + 0.5
    for polygon in polygons:
        for ring in (polygon.outer, *polygon.holes):
            for (r0, c0), (r1, c1) in zip(
                ring, np.roll(ring, -1, 0), strict=True
            ):
                if r0 == r1:
                    continue
                assert c0 == c1  # along the edges of pixels
                low, high = sorted((r0, r1))
                found ^= (rows > low) & (rows < high) & (cols > c0)
    return found


def drawn(seed, shape=(30, 40), share=0.5, n=6):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0, 2))
    mask = field > np.quantile(field, 1 - share)
    return np.where(mask, rng.integers(1, n, shape) if seed % 2 else 3, 0)


@pytest.mark.parametrize("seed", range(8))
def test_filled_again_they_are_the_objects(seed):
    labels = drawn(seed)
    found = outlines.of_labels(labels)
    assert list(found) == sorted(set(np.unique(labels).tolist()) - {0})
    for label, polygons in found.items():
        np.testing.assert_array_equal(
            filled(polygons, labels.shape), labels == label
        )
        n_parts = ndimage.label(labels == label)[1]
        assert len(polygons) == n_parts


def area(ring):
    row, col = ring.T
    row2, col2 = np.roll(ring, -1, 0).T
    return np.sum(col * row2 - col2 * row) / 2


@pytest.mark.parametrize("seed", range(8))
def test_rings_are_simple_and_run_their_way(seed):
    for polygons in outlines.of_labels(drawn(seed)).values():
        for polygon in polygons:
            assert area(polygon.outer) > 0
            for ring in (polygon.outer, *polygon.holes):
                assert len(np.unique(ring, axis=0)) == len(ring) >= 4
                steps = np.roll(ring, -1, 0) - ring
                assert ((steps != 0).sum(1) == 1).all()
                turns = steps[:, 0] != 0
                assert (turns != np.roll(turns, 1)).all()  # no vertex too many
            assert all(area(hole) < 0 for hole in polygon.holes)


def test_a_square_with_a_hole():
    labels = np.zeros((6, 7), int)
    labels[1:5, 2:6] = 9
    labels[2:4, 3:5] = 0
    ((label, (polygon,)),) = outlines.of_labels(labels).items()
    assert label == 9
    assert polygon.outer.tolist() == [[1, 2], [1, 6], [5, 6], [5, 2]]
    (hole,) = polygon.holes
    assert {tuple(v) for v in hole.tolist()} == {
        (2, 3), (2, 5), (4, 5), (4, 3)
    }  # fmt: skip


def test_what_meets_at_a_corner_is_two_parts_or_a_hole_that_touches():
    labels = np.array([[1, 0], [0, 1]])
    assert len(outlines.of_labels(labels)[1]) == 2
    ring = np.ones((4, 4), int)
    ring[1, 1] = ring[2, 2] = 0  # two holes that meet at a corner
    (polygon,) = outlines.of_labels(ring)[1]
    assert len(polygon.holes) == 2
    ring[0, 0] = 0  # the first opens to the outside at a corner only
    (polygon,) = outlines.of_labels(ring)[1]
    assert len(polygon.holes) == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 6)])
def test_empty_and_full_images(shape):
    assert outlines.of_labels(np.zeros(shape, int)) == {}
    (polygon,) = outlines.of_labels(np.full(shape, 7))[7]
    assert len(polygon.outer) == 4 and not polygon.holes
    assert area(polygon.outer) == shape[0] * shape[1]
