"""The MobileNetV2 U-Net is that of the tutorial, weight for weight."""

import functools

import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "mobilenet_unet")
n_values = functools.partial(twin.n_values, "mobilenet_unet")


@twin.blank()
def in_keras(width, n_classes):
    """Encoder and whole network."""
    base = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(None, None, 3)
    )
    *skips, x = (
        base.get_layer(name).output
        for name in (
            "block_1_expand_relu",
            "block_3_expand_relu",
            "block_6_expand_relu",
            "block_13_expand_relu",
            "block_16_project",
        )
    )
    decoder = []
    for level in (3, 2, 1, 0):
        up = L.Conv2DTranspose(
            width << level, 3, strides=2, padding="same", use_bias=False
        )
        norm = L.BatchNormalization()
        decoder += [up, norm]
        x = L.Concatenate()([L.ReLU()(norm(up(x))), skips[level]])
    head = L.Conv2DTranspose(n_classes, 3, strides=2, padding="same")
    return base, [*decoder, head], keras.Model(base.input, head(x))


@functools.cache
def make_twins(width):
    base, decoder, theirs = in_keras(width, 3)
    twin.randomise(theirs)
    ours = empty(in_channels=3, n_classes=3, width=width)
    twin.copy_encoder(base, ours.encoder)
    layers = [layer for up in ours.up for layer in (up.conv, up.norm)]
    twin.copy_in_order(decoder, [*layers, ours.head])
    return theirs, ours


@pytest.fixture(scope="module")
def twins():
    return make_twins(4)


@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
@pytest.mark.parametrize("width", [4, twin.own_width(64)])
def test_outputs_are_those_of_keras(width, size):
    theirs, ours = make_twins(width)
    x = twin.image(2, *size, 3)
    found = twin.forward(ours, x)["classes"]
    assert found.shape == (2, *size, 3)
    wanted = twin.expected(theirs, x)
    assert 0.05 < wanted.std() < 10
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("n_channels", "n_classes", "n"), [(3, 3, 6_504_227), (3, 2, 6_502_786)]
)
def test_the_sources_parameters_are_counted(n_channels, n_classes, n):
    assert n_values(in_channels=n_channels, n_classes=n_classes) == n


def test_training_and_its_running_statistics_are_those_of_keras(twins):
    theirs, ours = twins
    x = twin.image(4, 64, 64, 3)
    found, wanted, after, changed = twin.trained(theirs, ours, x)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    for name, norm in (
        ("block_12_project_BN", after.encoder.blocks[12].norm2),
        ("bn_Conv1", after.encoder.norm),
    ):
        layer = theirs.get_layer(name)
        mean = changed[layer.moving_mean.path]
        np.testing.assert_allclose(norm.mean[...], mean, atol=1e-5)


def test_bfloat16_is_near_float32(twins):
    _, full = twins  # and its program for this size
    half = empty(in_channels=3, n_classes=3, width=4, dtype="bfloat16")
    nnx.update(half, nnx.state(full))
    x = twin.image(2, 96, 32, 3)
    a, b = (twin.forward(m, x)["classes"] for m in (half, full))
    assert a.dtype == jnp.float32
    assert 0 < np.abs(a - b).mean() < 0.1 * b.std()


def test_knobs_that_the_network_has_not_are_refused():
    for knob, value in (("depth", 3), ("stem", 2), ("norm", "group")):
        with pytest.raises(config.ConfigError, match=f"model.{knob}"):
            empty(**{knob: value})
