"""The extension's weights and its sort; its values are in test_losses.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.train.losses import lovasz


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
