"""The Lovasz family: its values, then the extension's weights and its sort."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg import config
from seg.train.losses import lovasz
from tests.train.losses import cases, definitions


def pairs(n_classes):
    """Every labelling of 2 x 2 px, beside every other: two [N, 1, 2, 2]."""
    each = np.array(list(itertools.product(range(n_classes), repeat=4)))
    two = np.repeat(each, len(each), 0), np.tile(each, (len(each), 1))
    return [x.reshape(-1, 1, 2, 2).astype(np.uint8) for x in two]


def one_by_one(logits, truth, terms, **knobs):
    """The loss [N] of each of N batches."""
    loss, weight = config.Loss(terms=terms, **knobs), np.ones(1, np.float32)
    f = jax.vmap(lambda z, c: cases.total(z, c, weight, loss))
    return np.asarray(jax.jit(f)(logits, truth))


@pytest.mark.parametrize(
    ("name", "logit", "error"),
    [("lovasz_hinge", 1, 2), ("lovasz_sigmoid", 200, 1)],
)
def test_lovasz_equals_the_jaccard_loss_on_hard_predictions(name, logit, error):
    truth, found = pairs(2)
    logits = np.where(found == 1, logit, -logit).astype(np.float32)[..., None]
    result = one_by_one(logits, truth, name, classes="all")
    true = [
        # the extension is linear in the size of the errors
        error * definitions.jaccard_loss(y == 1, y != p)
        for y, p in zip(truth, found, strict=True)
    ]
    np.testing.assert_allclose(result, true, atol=1e-6)


def test_lovasz_softmax_equals_the_mean_jaccard_loss_of_the_present():
    truth, found = pairs(3)
    logits = 200 * np.eye(3, dtype=np.float32)[found]
    result = one_by_one(logits, truth, "lovasz_softmax")
    true, n_present = np.zeros(len(truth)), np.zeros(len(truth))
    for k in range(3):
        y, p = (x.reshape(-1, 4) == k for x in (truth, found))
        loss = 1 - (y & p).sum(1) / np.maximum((y | p).sum(1), 1)
        true += loss * y.any(1)
        n_present += y.any(1)
    np.testing.assert_allclose(result, true / n_present, atol=1e-6)


def test_lovasz_at_tied_errors_still_adds_up():
    # J of everything mistaken is 1, so the weights g add up to 1
    logits, truth = cases.sample(1)
    found = cases.every(0 * logits, truth)
    for name, error in (("lovasz_hinge", 1), ("lovasz_sigmoid", 0.5)):
        assert found[name][0] == pytest.approx(error, rel=1e-6)
        assert (found[name][1] != 0).any()


def test_a_mask_without_foreground_costs_its_worst_pixel_or_nothing():
    logits, truth = cases.sample(1)
    truth[:] = 0
    found = cases.every(logits, truth, classes="all")
    nothing = cases.every(logits, truth)
    for name in ("lovasz_hinge", "lovasz_sigmoid"):
        ((m, _),) = definitions.errors(name, logits, truth, config.Loss())
        assert found[name][0] == pytest.approx(m.max(), rel=1e-5)
        assert nothing[name][0] == 0
    assert nothing["lovasz_symmetric"][0] > 0


def as_probabilities(scores, truth):
    """arXiv:1907.03576's loss: the softmax's errors, of whatever is given."""
    each = [
        (np.abs((truth == k) - scores[..., k]).ravel(), (truth == k).ravel())
        for k in range(scores.shape[-1])
    ]
    return np.mean([definitions.lovasz_extension(m, y) for m, y in each])


def test_logits_become_probabilities_before_the_errors():
    for seed in range(5):
        logits, truth = cases.sample(3, seed, ignored=0)
        found = cases.value(logits, truth, "lovasz_softmax")
        prob = definitions.probabilities(logits)
        assert 0 <= found <= 1
        assert found == pytest.approx(as_probabilities(prob, truth), rel=1e-5)
        # an error of raw outputs has no upper bound
        assert as_probabilities(np.float64(logits), truth) > 1.2


def test_logits_may_all_be_larger_by_a_constant():
    logits, truth = cases.sample(3, ignored=0)
    found = cases.value(logits + 3, truth, "lovasz_softmax")
    true = cases.value(logits, truth, "lovasz_softmax")
    assert found == pytest.approx(true, rel=1e-4)
    moved = as_probabilities(logits + 3.0, truth)
    assert moved > 1 + as_probabilities(np.float64(logits), truth)


@pytest.mark.parametrize("hinge", ["relu", "elu"])
@pytest.mark.parametrize("per_image", [False, True])
def test_symmetric_is_the_mean_of_both_sides(per_image, hinge):
    logits, truth = cases.sample(1)
    knobs = {"per_image": per_image, "hinge": hinge}
    other = np.where(truth == 255, truth, 1 - truth)
    sides = [(logits, truth), (-logits, other)]
    ends = [cases.value(z, c, "lovasz_hinge", **knobs) for z, c in sides]
    both = [cases.value(z, c, "lovasz_symmetric", **knobs) for z, c in sides]
    assert both == pytest.approx([np.mean(ends)] * 2, rel=1e-5)


def test_the_hinge_by_elu_pulls_at_every_pixel():
    logits, truth = cases.sample(1, ignored=0)
    pulled = {}
    for hinge in ("relu", "elu"):
        found = cases.every(logits, truth, names=["lovasz_hinge"], hinge=hinge)
        pulled[hinge] = (found["lovasz_hinge"][1] != 0).mean()
    assert pulled["relu"] < 0.8 < pulled["elu"] == 1


# --- The extension


def test_the_weights_are_exact_for_a_million_pixels():
    # the published differences of float32 are wrong by per cents here
    n = 1 << 20
    rng = np.random.default_rng(0)
    m, y = rng.random(n).astype(np.float32), rng.random(n) < 0.1
    found = np.asarray(jax.jit(lovasz._weights)(m, y, np.ones(n, bool)))
    order = np.argsort(-m, kind="stable")
    fg = np.float64(y[order])
    jaccard = 1 - (fg.sum() - fg.cumsum()) / (fg.sum() + (1 - fg).cumsum())
    true = np.diff(jaccard, prepend=0)
    np.testing.assert_allclose(np.sort(found), np.sort(true), rtol=1e-4)
    assert found.sum(dtype=float) == pytest.approx(1, abs=1e-4)


def test_both_sorts_agree_and_put_the_ignored_last():
    rng = np.random.default_rng(0)
    m = np.append(rng.permutation(97), [0, 0, 1e30]).astype(np.float32) / 7
    valid = np.arange(100) % 5 > 0
    order = np.asarray(lovasz._decreasing(m, valid))
    n = valid.sum()
    assert valid[order[:n]].all()
    assert not valid[order[n:]].any()
    assert (np.diff(m[order[:n]]) <= 0).all()
    key = jnp.asarray(rng.permutation(99) + 2**31 - 50, jnp.uint32)
    np.testing.assert_array_equal(
        lovasz._order_packed(key), lovasz._order_pair(key)
    )


def test_lovasz_is_convex_in_the_errors():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 12)).astype(np.float32)
    truth, valid = rng.random((30, 12)) < 0.5, np.ones((30, 12), bool)
    f = jax.jit(jax.vmap(lovasz.extension))
    middle = f((a + b) / 2, truth, valid)
    ends = f(a, truth, valid) + f(b, truth, valid)
    assert (middle <= ends / 2 + 1e-6).all()
