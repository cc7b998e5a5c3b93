import numpy as np
import pytest
from scipy import ndimage

from seg.data import masks


def two_squares(value=1, dtype=np.uint8):
    mask = np.zeros((20, 30), dtype)
    mask[2:8, 2:8] = value
    mask[10:18, 12:25] = value
    return mask


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 1, np.uint8), (0, 255, np.uint8), (0, 1, np.uint16),
     (0, 255, np.int32)],
)  # fmt: skip
def test_black_and_white_is_one_class_and_its_regions(low, high, dtype):
    truth = masks.interpret(two_squares(high, dtype), 2, lossy=False)
    assert truth.classes.dtype == np.uint8 and truth.labels.dtype == np.int32
    np.testing.assert_array_equal(truth.classes, two_squares())
    expected, _ = ndimage.label(two_squares())
    np.testing.assert_array_equal(truth.labels, expected)


def test_diagonal_neighbours_are_one_object():
    truth = masks.interpret(np.eye(4, dtype=np.uint8), 2, lossy=False)
    assert truth.labels.max() == 1


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_an_empty_mask_is_valid(n_classes):
    truth = masks.interpret(np.zeros((5, 6), np.uint8), n_classes, lossy=False)
    assert not truth.classes.any() and not truth.labels.any()
    assert truth.classes.shape == truth.labels.shape == (5, 6)


def test_all_foreground_is_valid():
    truth = masks.interpret(np.full((5, 6), 255, np.uint8), 2, lossy=False)
    assert (truth.classes == 1).all() and (truth.labels == 1).all()


def test_class_ids_are_classes_and_touching_classes_are_two_objects():
    mask = np.zeros((10, 10), np.uint8)
    mask[2:5, 2:5], mask[2:5, 5:8], mask[8:, 8:] = 1, 2, 255
    truth = masks.interpret(mask, 3, lossy=False)
    np.testing.assert_array_equal(truth.classes, mask)
    assert truth.labels.max() == 2
    assert truth.labels[3, 3] != truth.labels[3, 6]
    assert not truth.labels[8:, 8:].any()


def test_with_more_than_two_classes_values_are_classes_never_objects():
    objects = np.zeros((10, 12), np.uint16)  # of two, or two classes?
    objects[1:4, 1:4], objects[6:9, 6:9] = 1, 2
    assert masks.interpret(objects, 2, lossy=False).classes.max() == 1
    np.testing.assert_array_equal(
        masks.interpret(objects, 3, lossy=False).classes, objects
    )
    objects[0, 11] = 3
    with pytest.raises(masks.MaskError, match=r"value 3.*3 classes; .*classes"):
        masks.interpret(objects, 3, lossy=False)
    assert masks.interpret(objects, 4, lossy=False).classes.max() == 3


@pytest.mark.parametrize("n_classes", [3, 4, 6])
def test_objects_are_the_connected_parts_of_each_class(n_classes):
    rng = np.random.default_rng(n_classes)
    mask = np.kron(rng.integers(0, n_classes, (6, 7)), np.ones((3, 3), int))
    truth = masks.interpret(mask, n_classes, lossy=False)
    np.testing.assert_array_equal(truth.classes, mask)
    n_parts = 0
    for k in range(1, n_classes):
        parts, n = ndimage.label(mask == k, np.ones((3, 3)))
        n_parts += n
        for i in range(1, n + 1):
            (label,) = np.unique(truth.labels[parts == i])
            np.testing.assert_array_equal(truth.labels == label, parts == i)
    assert truth.labels.max() == n_parts


def test_ids_beyond_the_classes_are_objects():
    mask = two_squares(0, np.uint16)
    mask[2:8, 2:5], mask[2:8, 5:8], mask[10:18, 12:25] = 7, 9, 300
    mask[0, 29] = 7  # a second piece of the same object
    truth = masks.interpret(mask, 2, lossy=False)
    np.testing.assert_array_equal(truth.classes, mask > 0)
    assert truth.labels[3, 3] == truth.labels[0, 29] == 1
    assert truth.labels[3, 6] == 2 and truth.labels[12, 15] == 3


def test_noise_around_black_and_white_is_removed():
    rng = np.random.default_rng(0)
    clean = two_squares()
    noisy = np.where(clean, 255, 0) + rng.integers(-30, 31, clean.shape)
    noisy = np.clip(noisy, 0, 255).astype(np.uint8)
    for lossy in (False, True):
        truth = masks.interpret(noisy, 2, lossy=lossy)
        np.testing.assert_array_equal(truth.classes, clean)


@pytest.mark.parametrize(
    ("mask", "n_classes", "lossy", "what"),
    [
        (two_squares(255), 3, False, "only 0 and 255"),
        (two_squares(5), 3, False, "the value 5, but there are 3"),
        (two_squares(255), 3, True, "noisy mask"),
        (two_squares(128), 2, False, "1 values up to 128 in 2 regions"),
        (two_squares(40), 2, True, "not black and white"),
        (np.arange(256, dtype=np.uint8).reshape(16, 16), 2, True, "lossy"),
        (two_squares(-1, np.int16), 2, False, "negative"),
    ],
)
def test_what_could_mean_two_things_is_refused(mask, n_classes, lossy, what):
    with pytest.raises(masks.MaskError, match=what) as caught:
        masks.interpret(mask, n_classes, lossy=lossy)
    assert "; " in str(caught.value)


def test_255_among_few_ids_is_refused():
    mask = two_squares(2)
    mask[0, 0], mask[0, 29] = 1, 255
    with pytest.raises(masks.MaskError, match="an object or not annotated"):
        masks.interpret(mask, 2, lossy=False)
    truth = masks.interpret(mask.astype(np.uint16), 2, lossy=False)
    assert truth.labels[0, 29] == 3


def test_classes_or_grey_levels_are_not_taken_for_objects():
    classes = np.zeros((30, 30), np.uint8)
    classes[::3, ::3] = 1
    classes[::6, ::6] = 3
    grey = np.random.default_rng(0).integers(0, 200, (30, 30), np.uint8)
    for mask in (classes, grey):
        with pytest.raises(masks.MaskError, match="are they objects"):
            masks.interpret(mask, 2, lossy=False)
    four = masks.interpret(classes, 4, lossy=False)
    assert four.labels.max() == 100


@pytest.mark.parametrize(
    ("mask", "lossy", "what"),
    [
        (two_squares(-1, np.int16), False, "negative values; .*from 0"),
        (two_squares(255), False, "0 and 255 in 2 regions.*layout=folders"),
        (two_squares(7), True, "JPEG.*layout=folders"),
        (np.kron(np.eye(4, dtype=int), np.diag([1, 0])), False,
         "1 values besides 0 in 4 regions.*layout=folders"),
        (np.kron(np.arange(1, 15).reshape(2, 7) % 2, np.diag([1, 0]))
         + np.kron(np.arange(14).reshape(2, 7) % 2, np.diag([2, 0])), False,
         "2 values besides 0 in 14 regions.*layout=folders"),
    ],
)  # fmt: skip
def test_what_cannot_be_object_ids_is_refused(mask, lossy, what):
    with pytest.raises(masks.MaskError, match=what) as caught:
        masks.instances(mask, lossy=lossy)
    assert "; " in str(caught.value)


@pytest.mark.parametrize("value", [1, 7, 255])
def test_an_only_object_may_have_any_id(value):
    mask = two_squares(value)
    mask[10:] = 0
    truth = masks.instances(mask, lossy=False)
    np.testing.assert_array_equal(truth.labels, mask > 0)


def test_object_ids_may_have_pieces_and_255_among_them():
    mask = two_squares(1)
    assert masks.instances(mask, lossy=False).labels.max() == 1
    mask[2:8, 2:8], mask[0, 0] = 255, 255
    truth = masks.instances(mask, lossy=False)
    assert truth.labels[12, 15] == 1 and truth.labels[3, 3] == 2
    empty = masks.instances(np.zeros((3, 4), np.uint8), lossy=False)
    assert not empty.labels.any()


def test_255_beside_class_ids_is_not_annotated():
    mask = two_squares()
    mask[0] = 255
    truth = masks.interpret(mask, 2, lossy=False)
    assert (truth.classes[0] == 255).all() and not truth.labels[0].any()
    assert truth.labels.max() == 2


# masks of single objects


def box(row, col, height, width, shape=(20, 30), value=255):
    mask = np.zeros(shape, np.uint8)
    mask[row : row + height, col : col + width] = value
    return mask


def merged(boxes, policy, shape=(20, 30)):
    regions = [masks.single(mask, lossy=False) for mask in boxes]
    return masks.merge(regions, shape, policy)


def test_objects_that_do_not_overlap_merge_to_their_sum():
    boxes = [box(1, 1, 4, 4), box(1, 5, 4, 4, value=1), box(19, 29, 1, 1)]
    labels, overlap_px, regions = merged(boxes, "error")
    assert overlap_px == 0 and regions.tolist() == [0, 1, 2]
    expected = sum((i + 1) * (mask > 0) for i, mask in enumerate(boxes))
    np.testing.assert_array_equal(labels, expected)


def test_overlaps_are_counted_and_resolved_by_policy():
    large, small = box(2, 2, 10, 10), box(8, 8, 6, 6)
    labels, overlap_px, _ = merged([large, small], "first")
    assert overlap_px == 16 and labels[9, 9] == 1
    labels, overlap_px, _ = merged([large, small], "smallest")
    assert overlap_px == 16 and labels[9, 9] == 2
    assert merged([small, large], "smallest").labels[9, 9] == 1
    third = box(8, 8, 4, 4)
    assert merged([large, small, third], "first").overlap_px == 16


def test_an_object_that_is_hidden_or_empty_leaves_no_hole_in_the_ids():
    hidden = [
        box(2, 2, 9, 9),
        box(3, 3, 2, 2),
        box(0, 0, 0, 0),
        box(15, 2, 2, 2),
    ]
    labels = merged(hidden, "first").labels
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert labels[15, 2] == 2
    assert not merged([], "first").labels.any()


def test_the_mask_of_one_object_has_one_value():
    graded = box(2, 2, 5, 5)
    graded[3, 3] = 100
    with pytest.raises(masks.MaskError, match=r"several values \(100, 255"):
        masks.single(graded, lossy=False)
    noisy = box(2, 2, 5, 5)
    noisy[0, 0], noisy[3, 3], noisy[3, 4] = 4, 250, 230
    for lossy in (True, False):
        region = masks.single(noisy, lossy=lossy)
        assert region[:2] == (2, 2) and region.inside.all()
        assert region.inside.shape == (5, 5)


@pytest.mark.parametrize("scale", [1, 10, 10**8])
def test_sequential_keeps_objects_and_order(scale):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, (16, 16)) * scale
    found = masks.sequential(labels)
    assert found.dtype == np.int32
    ids, inverse = np.unique(labels, return_inverse=True)
    np.testing.assert_array_equal(found, inverse.reshape(16, 16))
    assert len(ids) == found.max() + 1
    without = masks.sequential(labels + scale)  # no background
    np.testing.assert_array_equal(without, found + 1)
