"""The attention U-Net is the paper's, weight for weight."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.models import attention_unet
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "attention_unet")
n_values = functools.partial(twin.n_values, "attention_unet")


def twice(x, n):
    for _ in range(2):
        x = L.Conv2D(n, 3, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    return x


def gated(x, g, n):
    """Equation 1 of the paper; W_x has the stride that brings x to g."""
    inner = L.Add()(
        [L.Conv2D(n // 2, 2, 2, use_bias=False)(x), L.Conv2D(n // 2, 1)(g)]
    )
    alpha = L.Conv2D(1, 1, activation="sigmoid")(L.ReLU()(inner))
    return L.Multiply()([x, L.UpSampling2D(2, interpolation="bilinear")(alpha)])


@twin.blank()
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
    return keras.Model(inputs, L.Conv2D(n_classes, 1)(x))


def in_order(model):
    def block(b):
        return [b.conv1, b.norm1, b.conv2, b.norm2]

    layers = [layer for b in model.down for layer in block(b)]
    gates = [[g.w_x, g.w_g, g.psi] for g in model.gates] + [[]]
    for gate, merge in zip(gates, model.merge, strict=True):
        layers += [*gate, *block(merge)]
    return [*layers, model.head]


def test_outputs_are_those_of_keras():
    theirs = in_keras(6, 2, 3, depth=3)
    twin.randomise(theirs)
    ours = empty(in_channels=2, width=6, n_classes=3, depth=3)
    twin.copy_in_order(theirs.layers, in_order(ours))
    x = twin.image(2, 24, 40, 2)
    found = twin.forward(ours, x)["classes"]
    wanted = twin.expected(theirs, x)
    assert found.shape == (2, 24, 40, 3)
    assert wanted.std() > 0.05  # else there is nothing to compare
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_keras_counts_the_same_parameters():
    knobs = {"in_channels": 1, "width": 6, "depth": 2}
    assert n_values(**knobs) == in_keras(6, 1, 1, 2).count_params()
    assert n_values(nnx.Param, in_channels=1) == 8_107_524


def test_a_gate_lets_pass_what_the_coarse_level_says():
    """One that looks at the sign of g alone is open where g is positive."""
    gate = twin.abstract(attention_unet.Gate, 2, 1, dtype=jnp.float32)
    for weight, value in (
        (gate.w_x.kernel, 0.0),
        (gate.w_g.kernel, 50.0),
        (gate.w_g.bias, 0.0),
        (gate.psi.kernel, 1.0),
        (gate.psi.bias, -25.0),
    ):
        weight.set_value(jnp.full(weight.shape, value))
    g = jnp.where(jnp.arange(4) < 2, 1.0, -1.0)[None, None, :, None]
    y = twin.run(gate, jnp.ones((1, 2, 8, 2)), g)
    np.testing.assert_allclose(y[0, 0, :3], 1, atol=1e-6)
    np.testing.assert_allclose(y[0, 0, 5:], 0, atol=1e-6)


def test_a_fresh_gate_is_open():
    @functools.partial(jax.jit, compiler_options=twin.FAST)
    def run(x, g):
        gate = attention_unet.Gate(8, 16, nnx.Rngs(0), dtype=jnp.float32)
        return gate(x, g)

    x, g = jnp.full((1, 4, 4, 8), 1e-3), jnp.zeros((1, 2, 2, 16))
    assert run(x, g).min() > 0.95e-3


@pytest.mark.parametrize(
    "knob", [{"stem": 2}, {"encoder": "a.h5"}, {"deep_supervision": True}]
)
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        empty(**knob)
