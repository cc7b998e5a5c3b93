"""The MobileNetV2 U-Net is that of the tutorial, weight for weight."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from tests.models import keras_twin as twin

L = keras.layers


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


@pytest.fixture(scope="module")
def twins():
    base, decoder, theirs = in_keras(4, 3)
    twin.randomise(theirs)
    ours = twin.empty("mobilenet_unet", in_channels=3, n_classes=3, width=4)
    twin.copy_encoder(base, ours.encoder)
    layers = [layer for up in ours.up for layer in (up.conv, up.norm)]
    twin.copy_in_order(decoder, [*layers, ours.head])
    return theirs, ours


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_outputs_are_those_of_keras(twins, size):
    theirs, ours = twins
    x = twin.image(2, *size, 3)
    found = twin.forward(ours, x)["classes"]
    assert found.shape == (2, *size, 3)
    expected = theirs.predict_on_batch(x)
    assert 0.05 < expected.std() < 10
    np.testing.assert_allclose(found, expected, atol=1e-4)
