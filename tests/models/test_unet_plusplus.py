"""The nested U-Net is the paper's, weight for weight, and learns deeply."""

import functools

import jax
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.models import unet_plusplus
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "unet_plusplus")
n_values = functools.partial(twin.n_values, "unet_plusplus")


@twin.blank()
def in_keras(width, n_channels, n_classes, depth):
    """One output a node of the first row, from X(0, 1) on."""

    def node(x, i, j):
        for k in (1, 2):
            conv = L.Conv2D(width << i, 3, padding="same", name=f"x{i}{j}{k}")
            x = L.ReLU()(conv(x))
        return x

    inputs = keras.Input((None, None, n_channels))
    nodes = {(0, 0): node(inputs, 0, 0)}
    for i in range(1, depth + 1):
        nodes[i, 0] = node(L.MaxPooling2D()(nodes[i - 1, 0]), i, 0)
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            up = L.Conv2DTranspose(width << i, 2, 2, name=f"up{i}{j}")
            row = [up(nodes[i + 1, j - 1]), *(nodes[i, k] for k in range(j))]
            nodes[i, j] = node(L.Concatenate()(row), i, j)
    heads = [
        L.Conv2D(n_classes, 1, name=f"head{j}")(nodes[0, j])
        for j in range(1, depth + 1)
    ]
    return keras.Model(inputs, heads)


def by_name(model):
    """Our layers under the names that they have in Keras."""
    nodes = {(i, 0): block for i, block in enumerate(model.down)}
    for j, column in enumerate(model.columns, 1):
        nodes |= {(i, j): block for i, block in enumerate(column)}
    for (i, j), block in nodes.items():
        yield f"x{i}{j}1", block.conv1
        yield f"x{i}{j}2", block.conv2
    for j, ups in enumerate(model.ups, 1):
        for i, up in enumerate(ups):
            yield f"up{i}{j}", up
    for j, head in enumerate(model.heads, 1):
        yield f"head{j}", head


@pytest.fixture(scope="module")
def pair():
    theirs = in_keras(6, 2, 3, depth=3)
    twin.randomise(theirs, gain=2)
    ours = empty(
        in_channels=2, width=6, n_classes=3, depth=3, deep_supervision=True
    )
    for name, layer in by_name(ours):
        twin.copy(theirs.get_layer(name), twin.variables(layer))
    x = twin.image(2, 24, 40, 2)
    return ours, x, twin.expected(theirs, x)


def test_every_head_is_that_of_keras(pair):
    ours, x, wanted = pair
    found = twin.run(ours, x)
    heads = [*found["aux"], found["classes"]]
    for a, b in zip(heads, wanted, strict=True):
        assert a.shape == (2, 24, 40, 3)
        assert b.std() > 0.05  # else there is nothing to compare
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_prediction_is_the_mean_of_the_heads_probabilities(pair):
    ours, x, wanted = pair
    found = twin.forward(ours, x)
    assert set(found) == {"classes"}
    heads = [jax.nn.softmax(logits) for logits in wanted]
    np.testing.assert_allclose(
        jax.nn.softmax(found["classes"]), np.mean(heads, 0), atol=1e-5
    )


@pytest.mark.parametrize("k", [1, 4])
def test_logits_of_a_mean_are_exact_and_never_overflow(k):
    squash = jax.nn.sigmoid if k == 1 else jax.nn.softmax

    @functools.partial(jax.jit, compiler_options=twin.FAST)
    def of_mean(logits):
        mean = unet_plusplus.mean_logits(logits)
        return mean, squash(mean), squash(logits)

    _, found, each = of_mean(logits := 5 * twin.normal(3, 7, k))
    np.testing.assert_allclose(found, each.mean(0), atol=1e-5)
    far = np.stack([np.full((7, k), v) for v in (1e4, -1e4, 200.0)])
    mean, *_ = of_mean(far.astype(np.float32))
    assert np.isfinite(mean).all()
    _, found, each = of_mean(np.stack([logits[0]] * 3))
    np.testing.assert_allclose(found, each[0], atol=1e-5)


def test_without_deep_supervision_the_deepest_head_stands_alone(pair):
    deep, x, _ = pair
    alone = empty(in_channels=2, width=6, n_classes=3, depth=3)
    state = nnx.to_pure_dict(nnx.state(deep))
    state["heads"] = {0: state["heads"][2]}
    nnx.update(alone, state)
    found = twin.run(alone, x)
    assert set(found) == {"classes"}
    np.testing.assert_allclose(
        found["classes"], twin.run(deep, x)["classes"], atol=1e-5
    )


def test_the_papers_parameters_are_counted():
    assert n_values(in_channels=1) == 9_041_601  # "9.04M"
    # three more heads of 32 weights and a bias
    assert n_values(in_channels=1, deep_supervision=True) == 9_041_601 + 99
    small = in_keras(4, 2, 3, 2).count_params()
    knobs = {"in_channels": 2, "width": 4, "n_classes": 3, "depth": 2}
    assert n_values(deep_supervision=True, **knobs) == small


@pytest.mark.parametrize("knob", [{"stem": 2}, {"encoder": "a.h5"}])
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        empty(**knob)
