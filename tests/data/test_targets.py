"""What the heads are taught: gaps, and maps that keep objects apart."""

import numpy as np
import pytest
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


def drawn(seed=0, shape=(50, 60)):
    """Touching objects of all sizes, some cut by the image's border."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform((0, 0), shape, (14, 2))
    away = np.linalg.norm(
        np.indices(shape)[..., None] - middles.T[:, None, None], axis=0
    )
    return np.where(away.min(2) < 8, away.argmin(2) + 1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_to_the_nearest_pixel_of_anything_else(seed):
    labels = drawn(seed)
    found = targets.of_objects(labels, "distance")
    assert found.dtype == np.uint8 and not found[labels == 0].any()
    for label in range(1, 15):
        own = np.argwhere(labels == label)
        if not len(own):
            continue
        others = np.argwhere(labels != label)
        depth = np.linalg.norm(own[:, None] - others, axis=2).min(1)
        share = (depth - 0.5) / (min(5, depth.max()) - 0.5)
        wanted = np.rint(255 * share.clip(0, 1))
        assert np.abs(found[tuple(own.T)] - wanted).max() <= 1
        assert found[tuple(own.T)].max() == targets.OBJECTS


def test_the_interior_leaves_out_a_rim_and_never_a_whole_object():
    labels = np.zeros((30, 40), np.int32)
    labels[5:15, 5:15], labels[5:15, 15:25] = 1, 2  # touching
    labels[20:24, 3:7], labels[26, 30] = 7, 9
    labels[20:, 12:20] = 11  # cut by the border
    found = targets.of_objects(labels, "interior") == targets.OBJECTS
    wanted = np.zeros(labels.shape, bool)
    wanted[7:13, 7:13] = wanted[7:13, 17:23] = True
    wanted[21:23, 4:6] = wanted[26, 30] = True
    wanted[22:, 14:18] = True
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["distance", "interior"])
def test_the_map_takes_the_objects_apart_again(kind):
    labels = drawn()
    found = targets.of_objects(labels, kind)
    parts, n = ndimage.label(found > 0.7 * targets.OBJECTS)
    for part in range(1, n + 1):
        assert len(np.unique(labels[parts == part])) == 1
    assert set(np.unique(labels[parts > 0])) == set(np.unique(labels)) - {0}


@pytest.mark.parametrize("kind", ["distance", "interior"])
def test_nothing_and_all_of_one_object_are_maps_too(kind):
    nothing = np.zeros((4, 5), np.int32)
    assert not targets.of_objects(nothing, kind).any()
    found = targets.of_objects(nothing + 3, kind)
    assert (found == targets.OBJECTS).all()
