"""Averages over pixels against optax; weights of classes and boundaries."""

import jax
import numpy as np
import optax
import pytest

from seg.train import losses
from seg.train.losses import pixels
from tests.train.losses import cases, definitions

CROSS_ENTROPIES = ["cross_entropy", "boundary_cross_entropy"]


def test_cross_entropy_equals_optax():
    logits, truth = cases.sample(3)
    true = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, np.int32(np.where(truth == losses.IGNORE, 0, truth))
    )[truth != losses.IGNORE].mean()
    found = cases.every(logits, truth)
    assert found["cross_entropy"][0] == pytest.approx(float(true), rel=1e-5)


def test_binary_cross_entropy_equals_optax():
    logits, truth = cases.sample(1)
    true = optax.losses.sigmoid_binary_cross_entropy(logits[..., 0], truth)
    true = float(true[truth != losses.IGNORE].mean())
    found = cases.every(logits, truth)
    assert found["cross_entropy"][0] == pytest.approx(true, rel=1e-5)
    assert found["binary_cross_entropy"][0] == pytest.approx(true, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_optax(gamma):
    logits, truth = cases.sample(1)
    true = optax.losses.sigmoid_focal_loss(
        logits[..., 0], np.float32(truth == 1), gamma=gamma
    )[truth != losses.IGNORE].mean()
    found = cases.value(logits, truth, "focal", focal_gamma=gamma)
    assert found == pytest.approx(float(true), rel=1e-4)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_focal_without_focus_is_cross_entropy(n_classes):
    logits, truth = cases.sample(n_classes)
    found = cases.value(logits, truth, "focal", focal_gamma=0.0)
    true = cases.every(logits, truth)["cross_entropy"][0]
    assert found == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_focal_is_finite_where_the_network_is_sure(n_classes):
    logits, truth = cases.sample(n_classes)
    for size in (30, 1e4):
        found = cases.every(
            size * logits, truth, names=["focal"], focal_gamma=0.5
        )
        assert np.isfinite(found["focal"][1]).all()


# --- The weights of classes


@pytest.mark.parametrize("n_classes", [1, 3])
def test_equal_weights_of_the_classes_change_nothing(n_classes):
    logits, truth = cases.sample(n_classes)
    true = cases.every(logits, truth, names=CROSS_ENTROPIES)
    for weight in (1.0, 20.0):
        weights = (weight,) * max(n_classes, 2)
        found = cases.every(
            logits, truth, names=CROSS_ENTROPIES, class_weights=weights
        )
        for name in CROSS_ENTROPIES:
            for a, b in zip(found[name], true[name], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("n_classes", [1, 3])
def test_a_class_without_weight_is_as_if_not_annotated(n_classes):
    logits, truth = cases.sample(n_classes)
    weights = (0.0, 1.0, 1.0)[: max(n_classes, 2)]
    found = cases.every(
        logits, truth, names=["cross_entropy"], class_weights=weights
    )
    truth[truth == 0] = losses.IGNORE
    true = cases.every(logits, truth, names=["cross_entropy"])
    for a, b in zip(*(x["cross_entropy"] for x in (found, true)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


# --- Boundaries


@pytest.mark.parametrize("side", [1, 3, 7, 11])
def test_a_boundary_is_where_the_window_sees_two_classes(side):
    rng = np.random.default_rng(side)
    shape = (3, 9, 16)  # smaller than the largest window
    # so few of another class that some windows see one alone
    truth = (rng.random(shape) < 1 / side**2) * rng.integers(1, 254, shape)
    truth[rng.random(shape) < 0.3] = losses.IGNORE
    truth = truth.astype(np.uint8)
    valid = truth != losses.IGNORE
    f = jax.jit(pixels.at_boundary, static_argnums=2)
    found = np.asarray(f(truth, valid, side))
    true = definitions.at_boundary(truth, side)
    assert side == 1 or 0 < true[valid].mean() < 1
    np.testing.assert_array_equal(found[valid], true[valid])


def test_what_is_not_annotated_makes_no_boundary():
    truth = np.zeros((2, 8, 8), np.uint8)
    truth[0, :, 4:], truth[1] = losses.IGNORE, 1
    valid = truth != losses.IGNORE
    assert not pixels.at_boundary(truth, valid, 11)[valid].any()


@pytest.mark.parametrize(
    "knobs", [{"boundary_width": 1}, {"boundary_weight": 0.0}]
)
@pytest.mark.parametrize("n_classes", [1, 3])
def test_without_boundaries_it_is_cross_entropy(n_classes, knobs):
    logits, truth = cases.sample(n_classes)
    found = cases.every(logits, truth, names=CROSS_ENTROPIES, **knobs)
    one, other = (found[name][0] for name in CROSS_ENTROPIES)
    assert one == pytest.approx(other, rel=1e-6)


def test_the_foreground_of_a_sigmoid_has_no_boundary_within():
    logits, truth = cases.sample(1)
    parted = truth.copy()
    parted[(truth == 1) & (np.arange(truth.shape[-1]) % 2 > 0)] = 2
    knobs = {"names": CROSS_ENTROPIES, "boundary_width": 3}
    found = cases.every(logits, parted, **knobs)
    true = cases.every(logits, truth, **knobs)
    assert all(found[name][0] == true[name][0] for name in CROSS_ENTROPIES)
