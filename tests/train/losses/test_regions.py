"""Dice and its kin: against optax, each other, and counts by hand."""

import numpy as np
import optax
import pytest

from tests.train.losses import cases


@pytest.mark.parametrize("n_classes", [1, 3])
def test_dice_per_image_equals_optax(n_classes):
    logits, truth = cases.sample(n_classes, ignored=0)
    one_hot = np.eye(max(n_classes, 2), dtype=np.float32)[truth]
    true = optax.losses.dice_loss(logits, one_hot[..., -n_classes:]).mean()
    found = cases.every(logits, truth, per_image=True, classes="all")["dice"][0]
    assert found == pytest.approx(float(true), rel=1e-5)


def test_dice_of_two_empties_is_one():
    logits, truth = cases.sample(1)
    logits[:], truth[:] = -100, 0
    assert cases.value(logits, truth, "dice", classes="all") == 0
    assert cases.value(logits, truth, "dice") == 0
    truth[:] = 1
    assert cases.value(logits, truth, "dice") > 0.95


def assert_equal(found, one, other):
    """Two terms have the same value and gradient."""
    for a, b in zip(found[one], found[other], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_tversky_of_halves_is_dice(n_classes, per_image):
    logits, truth = cases.sample(n_classes)
    names = ["dice", "tversky"]
    found = cases.every(
        logits, truth, names=names, tversky=(0.5, 0.5), per_image=per_image
    )
    assert_equal(found, *names)


def test_focal_tversky_without_focus_is_tversky():
    logits, truth = cases.sample(3)
    names = ["tversky", "focal_tversky"]
    assert_equal(
        cases.every(logits, truth, names=names, tversky_gamma=1.0), *names
    )


@pytest.mark.parametrize("n_classes", [1, 3])
def test_generalised_dice_of_one_class_is_its_dice(n_classes):
    logits, truth = cases.sample(n_classes)
    names = ["dice", "generalized_dice"]
    assert_equal(cases.every(logits, truth, names=names, classes="1"), *names)


@pytest.mark.parametrize("tversky", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_tverskys_first_weight_is_that_of_false_positives(tversky):
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[:, :4] = 1
    logits = np.full((1, 8, 8, 1), -100, np.float32)
    logits[:, 2:, :7] = 100
    n_both, n_more, n_missed = 14, 28, 18
    a, b = tversky
    true = 1 - (n_both + 1) / (n_both + a * n_more + b * n_missed + 1)
    found = cases.value(logits, truth, "tversky", tversky=tversky)
    assert found == pytest.approx(true, rel=1e-5)


def test_generalised_dice_weighs_by_the_square_of_the_size():
    n, few = 4096, 16
    truth = np.zeros((1, 64, 64), np.uint8)
    truth[0, :4, :4] = 1
    nothing = np.full((1, 64, 64, 1), -100, np.float32)
    w = (few / (n - few)) ** 2
    true = 1 - (2 * w * (n - few) + 2) / (few + w * (2 * n - few) + 2)
    for logits in (nothing, nothing * [0, 1]):
        found = cases.value(np.float32(logits), truth, "generalized_dice")
        assert found == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 4 / 3, 100.0])
def test_focal_tversky_is_finite_where_all_is_right(gamma):
    truth = np.ones((1, 8, 8), np.uint8)
    for logit in (5, 17, 100):
        found = cases.every(
            np.full((1, 8, 8, 1), logit, np.float32),
            truth,
            names=["focal_tversky"],
            tversky_gamma=gamma,
        )["focal_tversky"]
        assert all(np.isfinite(x).all() for x in found)


def test_log_cosh_is_exact_where_dice_is_small():
    truth = np.ones((1, 64, 64), np.uint8)
    logits = np.full((1, 64, 64, 1), 6, np.float32)
    found = cases.every(logits, truth, names=["dice", "log_cosh_dice"])
    (dice, slope), (value, grads) = found["dice"], found["log_cosh_dice"]
    assert 1e-4 < dice < 3e-3
    assert value == pytest.approx(np.log(np.cosh(np.float64(dice))), rel=1e-5)
    np.testing.assert_allclose(grads, slope * np.tanh(dice), rtol=1e-5)
