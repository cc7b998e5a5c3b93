"""FCN-8 is the compact one of the zoo, with the paper's aligned scores."""

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
from seg.models import fcn8

L = keras.layers
conv2d = functools.partial(L.Conv2D, kernel_initializer="zeros")
up2d = functools.partial(L.Conv2DTranspose, kernel_initializer="zeros")


def build(**knobs):
    knobs = {"name": "fcn8", "in_channels": 2} | knobs
    return models.build(config.Model(**knobs), nnx.Rngs(0))


def shapes(**knobs):
    """The network before its weights are drawn."""
    return nnx.eval_shape(lambda: build(**knobs))


def forward(model, x):
    """Logits in prediction mode, as one program."""
    view = nnx.view(model, use_running_average=True, deterministic=True)
    graph, state = nnx.split(view)
    return jax.jit(lambda s, x: nnx.merge(graph, s)(x)["classes"])(state, x)


def in_keras(width, n_channels, k):
    """The network, and its layers with weights in the order of ours."""
    down, scores, grow = [], [], []

    def stage(x, n, size):
        conv = conv2d(n, size, padding="same", activation="relu")
        down.extend([conv, norm := L.BatchNormalization()])
        return norm(conv(x))

    def score(x):
        scores.append(conv2d(k, 1))
        return scores[-1](x)

    def larger(x, factor):
        side = 2 * factor
        grow.append(up2d(k, side, factor, padding="same"))
        return grow[-1](x)

    inputs = x = keras.Input((None, None, n_channels))
    pools = []
    for times in (1, 2, 4, 4, 4):
        x = L.MaxPooling2D()(stage(x, times * width, 3))
        pools.append(x)
    x = larger(score(stage(x, 4 * width, 7)), 2)
    x = larger(L.Add()([x, score(pools[3])]), 2)
    x = larger(L.Add()([x, score(pools[2])]), 8)
    return keras.Model(inputs, x), [*down, *scores, *grow]


def copy_weights(layers, target):
    rng = np.random.default_rng(3)
    stages = [*target.down, target.top]
    ours = [part for stage in stages for part in (stage.conv, stage.norm)]
    ours += [*target.scores, *target.grow]
    for layer, mine in zip(layers, ours, strict=True):
        drawn = [rng.normal(size=v.shape) for v in layer.weights]
        names = "kernel", "bias"
        if isinstance(layer, L.BatchNormalization):
            drawn[0], drawn[3] = 1 + 0.1 * drawn[0], np.exp(0.1 * drawn[3])
            names = "scale", "bias", "mean", "var"
        elif isinstance(layer, L.Conv2D):
            drawn[0] *= np.sqrt(2 / drawn[0][..., 0].size)
        layer.set_weights(drawn)
        if isinstance(layer, L.Conv2DTranspose):
            drawn[0] = drawn[0].transpose(0, 1, 3, 2)  # to (.., in, out)
        for name, value in zip(names, drawn, strict=True):
            assert getattr(mine, name).shape == value.shape
            getattr(mine, name).set_value(jnp.asarray(value, jnp.float32))


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_outputs_are_those_of_keras(size):
    theirs, layers = in_keras(8, 2, 3)
    ours = shapes(width=8, n_classes=3)
    copy_weights(layers, ours)
    x = np.random.default_rng(0).uniform(size=(2, *size, 2))
    x = x.astype(np.float32)
    found, expected = forward(ours, x), theirs.predict_on_batch(x)
    assert found.shape == (2, *size, 3)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)


def test_keras_counts_the_same_parameters():
    model = shapes(in_channels=1)
    n = sum(x.size for x in jax.tree.leaves(nnx.state(model)))
    assert n == in_keras(64, 1, 1)[0].count_params()
    n = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert n == 4_764_838


@pytest.mark.parametrize("factor", [2, 8])
def test_scores_grow_bilinearly_at_first(factor):
    """Inside; at the border the transposed convolution sees zeros."""
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    y = fcn8.Grow(3, factor)(jnp.asarray(x))
    wanted = jax.image.resize(x, y.shape, "bilinear")
    assert y.shape == (2, 4 * factor, 5 * factor, 3)
    inside = (slice(None), *[slice(factor // 2, -(factor // 2))] * 2)
    np.testing.assert_allclose(y[inside], wanted[inside], atol=1e-5)


@pytest.mark.parametrize("knob", [{"depth": 3}, {"deep_supervision": True}])
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        build(**knob)
