"""The Xception U-Net is that of its sources, weight for weight."""

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


class Decoder:
    """The decoder's layers in Keras; those with weights in `made`."""

    def __init__(self):
        self.made = []

    def apply(self, layer, x):
        self.made.append(layer)
        return layer(x)

    def norm(self, x):
        return self.apply(L.BatchNormalization(), x)

    def conv(self, x, n, size=3):
        return self.apply(L.Conv2D(n, size, padding="same"), x)

    def up(self, x, n):
        return self.apply(L.Conv2DTranspose(n, 3, strides=2, padding="same"), x)

    def residual(self, x, n):
        a = self.norm(leaky(x))
        shortcut = self.norm(x)
        a = leaky(self.norm(self.conv(a, n)))
        return L.Add()([self.norm(self.conv(a, n)), shortcut])

    def decode(self, x, n):
        x = self.conv(x, n)
        return leaky(self.residual(self.residual(x, n), n))


def leaky(x):
    return L.LeakyReLU(negative_slope=0.1)(x)


def in_keras(width, n_classes):
    """Encoder, layers of the decoder, and the whole network."""
    base = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(None, None, 3)
    )
    names = (
        "block2_sepconv2_bn",
        "block3_sepconv2_bn",
        "block4_sepconv2_bn",
        "block13_sepconv2_bn",
    )
    conv1, conv2, conv3, conv4 = (base.get_layer(n).output for n in names)
    conv1 = L.ZeroPadding2D(((3, 0), (3, 0)))(conv1)
    conv2 = L.ZeroPadding2D(((1, 0), (1, 0)))(conv2)
    conv4 = leaky(conv4)
    decoder = Decoder()
    x = decoder.decode(L.MaxPooling2D()(conv4), 32 * width)
    for level, skip in enumerate((conv4, conv3, conv2, conv1, None)):
        n = width << (4 - level)
        x = decoder.up(x, n)
        x = decoder.decode(x if skip is None else L.Concatenate()([x, skip]), n)
    x = decoder.conv(x, n_classes, 1)
    return base, decoder.made, keras.Model(base.input, x)


def decoder_in_order(model):
    layers = decoded(model.centre)
    for up, merge in zip(model.up, model.merge, strict=True):
        layers += [up, *decoded(merge)]
    return [*layers, model.head]


def decoded(decode):
    layers = [decode.conv]
    for b in (decode.block1, decode.block2):
        layers += [b.norm0, b.shortcut, b.conv1, b.norm1, b.conv2, b.norm2]
    return layers


@pytest.fixture(scope="module")
def twins():
    base, decoder, theirs = in_keras(2, 3)
    twin.randomise(theirs)
    ours = twin.empty("xception_unet", in_channels=3, n_classes=3, width=2)
    twin.copy_encoder(base, ours.encoder)
    twin.copy_in_order(decoder, decoder_in_order(ours))
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
