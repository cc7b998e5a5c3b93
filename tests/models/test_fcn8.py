"""FCN-8 is the compact one of the zoo, with the paper's aligned scores."""

import functools

import jax
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.models import fcn8
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "fcn8")
n_values = functools.partial(twin.n_values, "fcn8")


@twin.blank()
def in_keras(width, n_channels, k):
    """The network, and its layers with weights in the order of ours."""
    down, scores, grow = [], [], []

    def stage(x, n, size):
        conv = L.Conv2D(n, size, padding="same", activation="relu")
        down.extend([conv, norm := L.BatchNormalization()])
        return norm(conv(x))

    def score(x):
        scores.append(L.Conv2D(k, 1))
        return scores[-1](x)

    def larger(x, factor):
        side = 2 * factor
        grow.append(L.Conv2DTranspose(k, side, factor, padding="same"))
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


def in_order(model):
    stages = [*model.down, model.top]
    layers = [part for stage in stages for part in (stage.conv, stage.norm)]
    return [*layers, *model.scores, *model.grow]


def test_outputs_are_those_of_keras():
    theirs, layers = in_keras(8, 2, 3)
    twin.randomise(theirs, gain=2)
    ours = empty(in_channels=2, width=8, n_classes=3)
    twin.copy_in_order(layers, in_order(ours))
    x = twin.image(2, 32, 96, 2)
    found = twin.forward(ours, x)["classes"]
    wanted = twin.expected(theirs, x)
    assert found.shape == (2, 32, 96, 3)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-4)


def test_keras_counts_the_same_parameters():
    theirs, _ = in_keras(64, 1, 1)
    assert n_values(in_channels=1) == theirs.count_params()
    assert n_values(nnx.Param, in_channels=1) == 4_764_838


@pytest.mark.parametrize("factor", [2, 8])
def test_scores_grow_bilinearly_at_first(factor):
    """Inside; at the border the transposed convolution sees zeros."""
    x = twin.normal(2, 4, 5, 3)
    y = twin.run(fcn8.Grow(3, factor), x)
    wanted = jax.image.resize(x, y.shape, "bilinear")
    assert y.shape == (2, 4 * factor, 5 * factor, 3)
    inside = (slice(None), *[slice(factor // 2, -(factor // 2))] * 2)
    np.testing.assert_allclose(y[inside], wanted[inside], atol=1e-5)


@pytest.mark.parametrize("knob", [{"depth": 3}, {"deep_supervision": True}])
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        empty(**knob)
