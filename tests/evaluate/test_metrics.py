import numpy as np
import pytest

from seg.evaluate import metrics


def _maps(seed, shape=(17, 23), n_classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, shape).astype(np.uint8)
    classes = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, 4))
    truth[rng.random(shape) < 0.1] = metrics.NOT_ANNOTATED
    return classes.astype(np.uint8), truth


@pytest.mark.parametrize("seed", range(3))
def test_confusion_counts_pixel_by_pixel(seed):
    classes, truth = _maps(seed)
    counts = np.zeros((4, 4), int)
    for found, true in zip(classes.ravel(), truth.ravel(), strict=True):
        if true != 255:
            counts[true, found] += 1
    ours = metrics.confusion(classes, truth, 4)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, counts)


def test_scores_equal_sets_of_pixels():
    classes, truth = _maps(5)
    scores = metrics.scores(metrics.confusion(classes, truth, 4), "abcd")
    known = truth != 255
    ious = []
    for k, name in enumerate("abcd"):
        found, true = (classes == k) & known, truth == k
        both, either = (found & true).sum(), (found | true).sum()
        ious.append(both / either)
        assert scores[f"iou_{name}"] == pytest.approx(ious[-1])
        dice = 2 * both / (found.sum() + true.sum())
        assert scores[f"dice_{name}"] == pytest.approx(dice)
    assert scores["miou"] == pytest.approx(np.mean(ious))
    right = (classes == truth)[known].mean()
    assert scores["accuracy"] == pytest.approx(right)


def test_confusions_of_parts_add_up():
    classes, truth = _maps(6)
    whole = metrics.confusion(classes, truth, 4)
    parts = [
        metrics.confusion(classes[rows], truth[rows], 4)
        for rows in (slice(0, 5), slice(5, None))
    ]
    np.testing.assert_array_equal(sum(parts), whole)


def test_a_class_that_is_nowhere_scores_one_and_does_not_lift_the_mean():
    scores = metrics.scores(np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]]))
    assert scores["dice_2"] == scores["iou_2"] == 1
    assert scores["miou"] == pytest.approx((6 / 9 + 1 / 4) / 2)


def test_without_annotated_pixels_the_mean_is_nan_and_never_the_best():
    truth = np.full((3, 3), 255, np.uint8)
    counts = metrics.confusion(np.zeros_like(truth), truth, 2)
    scores = metrics.scores(counts)
    assert np.isnan(scores["miou"]) and np.isnan(scores["accuracy"])
    assert not scores["miou"] > 0
    assert metrics.foreground(np.ones_like(truth), truth) == (1.0, 1.0)


def test_foreground_of_two_empties_is_one_and_of_one_empty_zero():
    empty = np.zeros((4, 4), np.uint8)
    some = empty.copy()
    some[1, 1] = 2
    assert metrics.foreground(empty, empty) == (1.0, 1.0)
    assert metrics.foreground(some, empty) == (0.0, 0.0)
    assert metrics.foreground(empty, some) == (0.0, 0.0)


def test_foreground_joins_the_classes_and_ignores_the_unannotated():
    truth = np.array([[0, 1, 2, 255], [0, 0, 1, 255]], np.uint8)
    classes = np.array([[0, 2, 1, 1], [1, 0, 0, 0]], np.uint8)
    dice, iou = metrics.foreground(classes, truth)
    assert dice == pytest.approx(2 * 2 / (3 + 3))
    assert iou == pytest.approx(2 / 4)


def test_foreground_is_the_confusion_of_two_classes():
    classes, truth = _maps(7, n_classes=2)
    classes = np.minimum(classes, 1)
    scores = metrics.scores(metrics.confusion(classes, truth, 2))
    dice, iou = metrics.foreground(classes, truth)
    assert (dice, iou) == (scores["dice_1"], scores["iou_1"])


def test_count_error_is_relative_to_the_truth():
    errors = metrics.count_error([8, 3, 0, 5], [10, 0, 0, np.uint8(10)])
    assert errors.tolist() == [0.2, 3.0, 0.0, 0.5]


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = metrics.bootstrap(values, np.mean, 2000)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_is_seeded_and_takes_arrays():
    counts = np.random.default_rng(1).integers(0, 50, (12, 3, 3))

    def diagonal(drawn):
        total = drawn.sum(0)
        return np.diag(total) / total.sum(1)

    low, high = metrics.bootstrap(counts, diagonal, 200, seed=4)
    assert low.shape == high.shape == (3,)
    whole = diagonal(counts)
    assert (low <= whole).all() and (whole <= high).all()
    again = metrics.bootstrap(counts, diagonal, 200, seed=4)
    np.testing.assert_array_equal((low, high), again)
    other = metrics.bootstrap(counts, diagonal, 200, seed=5)
    assert not np.array_equal((low, high), other)


def test_bootstrap_of_one_image_is_its_value():
    assert metrics.bootstrap(np.array([0.7])) == (0.7, 0.7)


def test_bootstrap_passes_a_nan_on():
    low, high = metrics.bootstrap(np.array([0.5, np.nan, 0.7]))
    assert np.isnan(low) and np.isnan(high)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="shape"):
        metrics.confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(ValueError, match="found classes reach from 0 to 2"):
        metrics.confusion(np.array([[0, 2]]), np.array([[0, 1]]), 2)
    with pytest.raises(ValueError, match="true classes"):
        metrics.confusion(np.array([[0, 1]]), np.array([[0, 2]]), 2)
    with pytest.raises(ValueError, match="no images"):
        metrics.bootstrap(np.empty(0))
