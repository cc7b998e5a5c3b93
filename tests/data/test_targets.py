"""What classes are taught: gaps between touching objects."""

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


@pytest.mark.parametrize("zoom", [0.25, 0.6, 2.5])
@pytest.mark.parametrize("known", [True, False])
def test_objects_of_any_size_are_brought_to_one(zoom, known):
    """Of an image drawn larger the same comes out as of the smaller one."""
    rng = np.random.default_rng(0)
    rows, cols = np.indices((120, 150))
    labels = np.zeros((120, 150), np.int32)
    for i, middle in enumerate(((30, 30), (80, 60), (40, 110), (95, 120))):
        labels[np.hypot(rows - middle[0], cols - middle[1]) < 15 + i] = i + 1
    image = rng.integers(0, 9, (120, 150, 2)).astype(np.uint16)
    image += (100 * labels[..., None]).astype(np.uint16)
    width = targets.diameter(np.bincount(labels[labels > 0]))
    classes = (labels > 0).astype(np.uint8)
    classes[:5] = 255
    found = {"image": image, "classes": classes, "labels": labels}
    if not known:
        found["labels"] = None
    small = targets.rescaled(found, zoom * width)
    shape = round(120 * zoom), round(150 * zoom)
    assert small["image"].shape == (*shape, 2)
    assert small["image"].dtype == np.uint16
    assert small["classes"].shape == shape
    assert small["classes"][0, 0] == 255
    if not known:
        assert "labels" not in small
        return
    assert set(np.unique(small["labels"])) == set(range(5))
    areas = np.bincount(small["labels"][small["labels"] > 0])
    assert targets.diameter(areas) == pytest.approx(zoom * width, rel=0.05)
    inside = small["image"][small["labels"] == 4, 0]
    assert np.median(inside) == pytest.approx(404, abs=2)


def test_an_image_without_objects_stays_as_large_as_it_is():
    found = {
        "image": np.ones((6, 7, 1), np.uint8),
        "classes": np.zeros((6, 7), np.uint8),
        "labels": np.zeros((6, 7), np.int32),
    }
    same = targets.rescaled(found, 30)
    assert same["image"].shape == (6, 7, 1)


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
