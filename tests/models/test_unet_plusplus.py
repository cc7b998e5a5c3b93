"""The nested U-Net is the paper's, weight for weight, and learns deeply."""

import functools
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config, models
from seg.models import unet_plusplus

L = keras.layers
conv2d = functools.partial(L.Conv2D, kernel_initializer="zeros")
up2d = functools.partial(L.Conv2DTranspose, kernel_initializer="zeros")


def build(**knobs):
    knobs = {"name": "unet_plusplus", "in_channels": 2} | knobs
    return models.build(config.Model(**knobs), nnx.Rngs(0))


def shapes(**knobs):
    """The network before its weights are drawn."""
    return nnx.eval_shape(lambda: build(**knobs))


def predicting(model):
    return nnx.view(model, deterministic=True)


def run(model, x):
    """All outputs, as one program."""
    graph, state = nnx.split(model)
    return jax.jit(lambda s, x: dict(nnx.merge(graph, s)(x)))(state, x)


def in_keras(width, n_channels, n_classes, depth):
    """One output a node of the first row, from X(0, 1) on."""

    def node(x, i, j):
        for k in (1, 2):
            conv = conv2d(width << i, 3, padding="same", name=f"x{i}{j}{k}")
            x = L.ReLU()(conv(x))
        return x

    inputs = keras.Input((None, None, n_channels))
    nodes = {(0, 0): node(inputs, 0, 0)}
    for i in range(1, depth + 1):
        nodes[i, 0] = node(L.MaxPooling2D()(nodes[i - 1, 0]), i, 0)
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            up = up2d(width << i, 2, 2, name=f"up{i}{j}")
            row = [up(nodes[i + 1, j - 1]), *(nodes[i, k] for k in range(j))]
            nodes[i, j] = node(L.Concatenate()(row), i, j)
    heads = [
        conv2d(n_classes, 1, name=f"head{j}")(nodes[0, j])
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


def copy_weights(source, target):
    rng = np.random.default_rng(3)
    for name, ours in by_name(target):
        layer = source.get_layer(name)
        kernel, bias = (rng.normal(size=v.shape) for v in layer.weights)
        kernel *= np.sqrt(2 / kernel[..., 0].size)
        if name.startswith("up"):
            kernel *= 2
        layer.set_weights([kernel, bias := 0.2 * bias])
        if name.startswith("up"):
            kernel = kernel.transpose(0, 1, 3, 2)  # to (.., in, out)
        assert ours.kernel.shape == kernel.shape
        ours.kernel.set_value(jnp.asarray(kernel, jnp.float32))
        ours.bias.set_value(jnp.asarray(bias, jnp.float32))


@pytest.fixture(scope="module")
def pair():
    theirs = in_keras(6, 2, 3, depth=3)
    ours = shapes(width=6, n_classes=3, depth=3, deep_supervision=True)
    copy_weights(theirs, ours)
    return ours, theirs


def image(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_every_head_is_that_of_keras(pair, size):
    ours, theirs = pair
    x = image(2, *size, 2)
    found, expected = run(ours, x), theirs.predict_on_batch(x)
    heads = [*found["aux"], found["classes"]]
    for a, b in zip(heads, expected, strict=True):
        assert a.shape == (2, *size, 3)
        assert b.std() > 0.05  # else there is nothing to compare
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_prediction_is_the_mean_of_the_heads_probabilities(pair):
    ours, theirs = pair
    x = image(2, 16, 32, 2)
    found = run(predicting(ours), x)
    assert set(found) == {"classes"}
    heads = [jax.nn.softmax(v) for v in theirs.predict_on_batch(x)]
    np.testing.assert_allclose(
        jax.nn.softmax(found["classes"]), np.mean(heads, 0), atol=1e-5
    )


@pytest.mark.parametrize("k", [1, 4])
def test_logits_of_a_mean_are_exact_and_never_overflow(k):
    logits = 5 * np.random.default_rng(1).normal(size=(3, 7, k))
    mean = unet_plusplus.mean_logits(jnp.asarray(logits, jnp.float32))
    squash = jax.nn.sigmoid if k == 1 else jax.nn.softmax
    np.testing.assert_allclose(
        squash(mean), np.mean(squash(logits), 0), atol=1e-5
    )
    far = jnp.stack([jnp.full((2, k), v) for v in (1e4, -1e4, 200.0)])
    assert jnp.isfinite(unet_plusplus.mean_logits(far)).all()
    same = jnp.asarray(np.stack([logits[0]] * 3), jnp.float32)
    found = unet_plusplus.mean_logits(same)
    np.testing.assert_allclose(squash(found), squash(logits[0]), atol=1e-5)


def test_without_deep_supervision_the_deepest_head_stands_alone(pair):
    deep, _ = pair
    alone = shapes(width=6, n_classes=3, depth=3)
    state = nnx.to_pure_dict(nnx.state(deep))
    state["heads"] = {0: state["heads"][2]}
    nnx.update(alone, state)
    x = image(1, 16, 16, 2)
    np.testing.assert_allclose(
        run(alone, x)["classes"], run(deep, x)["classes"], atol=1e-5
    )
    assert set(run(alone, x)) == {"classes"}


def n_params(**knobs):
    model = shapes(**knobs)
    return sum(x.size for x in jax.tree.leaves(nnx.state(model)))


def test_the_papers_parameters_are_counted():
    assert n_params(in_channels=1) == 9_041_601  # "9.04M"
    # three more heads of 32 weights and a bias
    assert n_params(in_channels=1, deep_supervision=True) == 9_041_601 + 99
    small = in_keras(4, 2, 3, 2).count_params()
    knobs = {"width": 4, "n_classes": 3, "depth": 2}
    assert n_params(deep_supervision=True, **knobs) == small


@pytest.mark.parametrize("knob", [{"stem": 2}, {"encoder": "a.h5"}])
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        build(**knob)
