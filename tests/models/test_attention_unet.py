"""The attention U-Net is the paper's, weight for weight."""

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
from seg.models import attention_unet

L = keras.layers
conv2d = functools.partial(L.Conv2D, kernel_initializer="zeros")
up2d = functools.partial(L.Conv2DTranspose, kernel_initializer="zeros")


def build(**knobs):
    knobs = {"name": "attention_unet", "in_channels": 2} | knobs
    return models.build(config.Model(**knobs), nnx.Rngs(0))


def shapes(**knobs):
    """The network before its weights are drawn."""
    return nnx.eval_shape(lambda: build(**knobs))


def forward(model, x):
    """Logits in prediction mode, as one program."""
    view = nnx.view(model, use_running_average=True, deterministic=True)
    graph, state = nnx.split(view)
    return jax.jit(lambda s, x: nnx.merge(graph, s)(x)["classes"])(state, x)


def twice(x, n):
    for _ in range(2):
        x = conv2d(n, 3, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    return x


def gated(x, g, n):
    """Equation 1 of the paper; W_x has the stride that brings x to g."""
    inner = L.Add()(
        [conv2d(n // 2, 2, 2, use_bias=False)(x), conv2d(n // 2, 1)(g)]
    )
    alpha = conv2d(1, 1, activation="sigmoid")(L.ReLU()(inner))
    return L.Multiply()([x, L.UpSampling2D(2, interpolation="bilinear")(alpha)])


def in_keras(width, n_channels, n_classes, depth):
    inputs = x = keras.Input((None, None, n_channels))
    skips = []
    for level in range(depth):
        x = twice(x, width << level)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = twice(x, width << depth)
    for level in reversed(range(depth)):
        n, skip = width << level, skips[level]
        if level > 0:
            skip = gated(skip, x, n)
        x = L.UpSampling2D(2, interpolation="bilinear")(x)
        x = twice(L.Concatenate()([skip, x]), n)
    return keras.Model(inputs, conv2d(n_classes, 1)(x))


def in_order(model):
    def block(b):
        return [b.conv1, b.norm1, b.conv2, b.norm2]

    layers = [layer for b in model.down for layer in block(b)]
    gates = [[g.w_x, g.w_g, g.psi] for g in model.gates] + [[]]
    for gate, merge in zip(gates, model.merge, strict=True):
        layers += [*gate, *block(merge)]
    return [*layers, model.head]


def copy_weights(source, target):
    """The same random weights for both, none of them zero or one."""
    rng = np.random.default_rng(3)
    theirs = [layer for layer in source.layers if layer.weights]
    for layer, ours in zip(theirs, in_order(target), strict=True):
        drawn = [rng.normal(size=v.shape) for v in layer.weights]
        if isinstance(layer, L.BatchNormalization):
            drawn[0], drawn[3] = 1 + 0.1 * drawn[0], np.exp(0.1 * drawn[3])
            names = "scale", "bias", "mean", "var"
        else:
            drawn[0] *= np.sqrt(2 / drawn[0][..., 0].size)
            names = "kernel", "bias"
        layer.set_weights(drawn)
        for name, value in zip(names, drawn, strict=False):
            variable = getattr(ours, name)
            if variable.shape != value.shape:  # 2x2 pixels as channels
                value = value.reshape(1, 1, -1, value.shape[-1])
            assert variable.shape == value.shape
            variable.set_value(jnp.asarray(value, jnp.float32))


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_outputs_are_those_of_keras(size):
    theirs = in_keras(6, 2, 3, depth=3)
    ours = shapes(width=6, n_classes=3, depth=3)
    copy_weights(theirs, ours)
    x = np.random.default_rng(0).uniform(size=(2, *size, 2))
    x = x.astype(np.float32)
    found, expected = forward(ours, x), theirs.predict_on_batch(x)
    assert found.shape == (2, *size, 3)
    assert expected.std() > 0.05  # else there is nothing to compare
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_keras_counts_the_same_parameters():
    state = nnx.state(shapes(in_channels=1, width=6, depth=2))
    n = sum(x.size for x in jax.tree.leaves(state))
    assert n == in_keras(6, 1, 1, 2).count_params()
    state = nnx.state(shapes(in_channels=1), nnx.Param)
    assert sum(x.size for x in jax.tree.leaves(state)) == 8_107_524


def test_a_gate_lets_pass_what_the_coarse_level_says():
    """One that looks at the sign of g alone is open where g is positive."""
    gate = attention_unet.Gate(2, 1, nnx.Rngs(0), dtype=jnp.float32)
    gate.w_x.kernel[...] *= 0
    gate.w_g.kernel[...] = jnp.full((1, 1, 1, 1), 50.0)
    gate.psi.kernel[...] = jnp.ones((1, 1, 1, 1))
    gate.psi.bias[...] = jnp.full(1, -25.0)
    g = jnp.where(jnp.arange(4) < 2, 1.0, -1.0)[None, None, :, None]
    y = gate(jnp.ones((1, 2, 8, 2)), g)
    np.testing.assert_allclose(y[0, 0, :3], 1, atol=1e-6)
    np.testing.assert_allclose(y[0, 0, 5:], 0, atol=1e-6)


def test_a_fresh_gate_is_open():
    gate = attention_unet.Gate(8, 16, nnx.Rngs(0), dtype=jnp.float32)
    x, g = jnp.ones((1, 4, 4, 8)), jnp.zeros((1, 2, 2, 16))
    assert gate(0 * x + 1e-3, g).min() > 0.95e-3


@pytest.mark.parametrize(
    "knob", [{"stem": 2}, {"encoder": "a.h5"}, {"deep_supervision": True}]
)
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        build(**knob)
