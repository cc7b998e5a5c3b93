"""What classes are taught: gaps between touching objects."""

import numpy as np
from scipy import ndimage

from seg.data import targets

EIGHT = np.ones((3, 3))


def touching_pair():
    labels = np.zeros((12, 20), np.int32)
    labels[2:10, 2:10] = 1
    labels[4:8, 10:14] = 2
    labels[0:2, 17:20] = 3
    return (labels > 0).astype(np.uint8) * 2, labels


def test_a_gap_separates_touching_objects_and_spares_the_small_one():
    classes, labels = touching_pair()
    taught = targets.classes_with_gap(classes, labels, 1)
    assert ndimage.label(classes, EIGHT)[1] == 2
    assert ndimage.label(taught, EIGHT)[1] == 3
    cut = (classes > 0) & (taught == 0)
    assert np.array_equal(np.argwhere(cut), [[r, 9] for r in range(3, 9)])
    assert taught.dtype == np.uint8 and set(np.unique(taught)) == {0, 2}


def test_random_labels_part_into_at_least_as_many_pieces():
    rng = np.random.default_rng(0)
    seeds = ndimage.zoom(rng.integers(0, 5, (8, 8)), 6, order=0)
    labels, _ = ndimage.label(seeds)
    taught = targets.classes_with_gap((labels > 0).astype(np.uint8), labels, 1)
    kept = np.where(taught, labels, 0)
    for i, j in ((0, 1), (1, 0), (1, 1)):
        first, second = kept[i:, j:], kept[: 48 - i, : 48 - j]
        assert not ((first != second) & (first > 0) & (second > 0)).any()


def test_one_pixel_objects_survive():
    labels = np.zeros((5, 5), np.int32)
    labels[1:4, 1:4] = 1
    labels[2, 2] = 2
    taught = targets.classes_with_gap((labels > 0).astype(np.uint8), labels, 1)
    assert taught.sum() == 1 and taught[2, 2] == 1


def test_unannotated_pixels_stay_so():
    classes, labels = touching_pair()
    classes[:, 9] = 255
    taught = targets.classes_with_gap(classes, labels, 1)
    assert np.array_equal(taught == 255, classes == 255)


def test_without_a_gap_or_objects_the_classes_are_unchanged():
    classes, labels = touching_pair()
    assert targets.classes_with_gap(classes, labels, 0) is classes
    assert targets.classes_with_gap(classes, None, 1) is classes
    nothing = np.zeros_like(labels)
    assert targets.classes_with_gap(classes, nothing, 1) is classes
