"""The Xception U-Net is that of its sources, weight for weight."""

import functools

import keras
import numpy as np
import pytest

from seg import config
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "xception_unet")
n_values = functools.partial(twin.n_values, "xception_unet")


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


@twin.blank()
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


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
@pytest.mark.parametrize("width", [2, 16])
def test_outputs_are_those_of_keras(width, size):
    base, decoder, theirs = in_keras(width, 3)
    twin.randomise(theirs)
    ours = empty(in_channels=3, n_classes=3, width=width)
    twin.copy_encoder(base, ours.encoder)
    twin.copy_in_order(decoder, decoder_in_order(ours))
    x = twin.image(2, *size, 3)
    found = twin.forward(ours, x)["classes"]
    assert found.shape == (2, *size, 3)
    wanted = twin.expected(theirs, x)
    assert 0.05 < wanted.std() < 10
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_training_is_that_of_keras():
    base, decoder, theirs = in_keras(2, 3)
    twin.randomise(theirs)
    ours = empty(in_channels=3, n_classes=3, width=2, dropout=0.0)
    twin.copy_encoder(base, ours.encoder)
    twin.copy_in_order(decoder, decoder_in_order(ours))
    x = twin.image(2, 64, 64, 3)
    found, wanted, after, changed = twin.trained(theirs, ours, x)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    theirs = [n for n in decoder if isinstance(n, L.BatchNormalization)]
    ours = [n for n in decoder_in_order(after) if hasattr(n, "mean")]
    for a, b in zip(ours, theirs, strict=True):
        mean, var = changed[b.moving_mean.path], changed[b.moving_variance.path]
        np.testing.assert_allclose(a.mean[...], mean, atol=1e-4)
        np.testing.assert_allclose(a.var[...], var, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("n_channels", "n_classes", "n"), [(1, 4, 38_430_924), (3, 3, 38_431_483)]
)
def test_the_sources_parameters_are_counted(n_channels, n_classes, n):
    assert n_values(in_channels=n_channels, n_classes=n_classes) == n


def test_dropout_is_the_sources_or_one_rate():
    def rates(**knobs):
        model = empty(**knobs)
        return model.dropout.rate, model.dropout_last.rate

    assert rates() == (0.1, 0.05)
    assert rates(dropout=0.0) == (0.0, 0.0)


def test_knobs_that_the_network_has_not_are_refused():
    for knob, value in (("depth", 3), ("stem", 2), ("norm", "group")):
        with pytest.raises(config.ConfigError, match=f"model.{knob}"):
            empty(**{knob: value})
