"""DeepLab v3+ is the paper's on Keras' MobileNetV2, weight for weight."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.models import mobilenet, predicting
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "deeplab_v3plus")
n_values = functools.partial(twin.n_values, "deeplab_v3plus")


# --------------------------------------- pyramid and decoder in Keras
class InKeras:
    """What follows the encoder; `layers` are those with weights, as made."""

    @twin.blank()
    def __init__(self, n_low, n_top, n, n_classes):
        self.layers = []
        low = keras.Input((None, None, n_low))
        top = keras.Input((None, None, n_top))
        views = [
            self.conv(top, n, 3 if rate > 1 else 1, rate)
            for rate in (1, 6, 12, 18)
        ]
        # a sum with zeros spreads the mean over the map
        mean = self.conv(L.GlobalAveragePooling2D(keepdims=True)(top), n, 1)
        views.append(L.Add()([mean, L.Rescaling(0.0)(views[0])]))
        x = self.conv(L.Concatenate()(views), n, 1)
        x = L.UpSampling2D(4, interpolation="bilinear")(x)
        x = L.Concatenate()([x, self.conv(low, 3 * n // 16, 1)])
        x = self.conv(self.conv(x, n, 3), n, 3)
        head = L.Conv2D(n_classes, 1)
        self.layers.append(head)
        x = L.UpSampling2D(4, interpolation="bilinear")(head(x))
        self.model = keras.Model([low, top], x)

    def conv(self, x, n, size, rate=1):
        conv = L.Conv2D(
            n, size, padding="same", dilation_rate=rate, use_bias=False
        )
        norm = L.BatchNormalization()
        self.layers += [conv, norm]
        return L.ReLU()(norm(conv(x)))


def in_order(model):
    """Our layers behind the encoder, in the order of those of Keras."""
    pyramid = model.pyramid
    parts = [*pyramid.views, pyramid.image, pyramid.mix]
    parts += [model.low, model.conv1, model.conv2]
    layers = [layer for part in parts for layer in (part.conv, part.norm)]
    return [*layers, model.head]


class Given(nnx.Module):
    """In the encoder's place: features that are known."""

    def __init__(self, low, top):
        self.low, self.top = nnx.data(low), nnx.data(top)

    def __call__(self, x):
        return [None, self.low, None, self.top]


def test_pyramid_and_decoder_are_those_of_keras():
    ours = empty(in_channels=2, width=16, n_classes=3)
    n_low, n_top = ours.encoder.widths[1], ours.encoder.widths[-1]
    theirs = InKeras(n_low, n_top, 16, 3)
    twin.randomise(theirs.model)
    twin.copy_in_order(theirs.layers, in_order(ours))
    low, top = (
        twin.normal(2, 48 // s, 80 // s, n)
        for s, n in ((4, n_low), (16, n_top))
    )
    wanted = twin.expected(theirs.model, [low, top])
    ours.encoder = Given(jnp.asarray(low), jnp.asarray(top))
    found = twin.forward(ours, jnp.zeros((2, 48, 80, 2)))["classes"]
    assert found.shape == (2, 48, 80, 3)
    assert wanted.std() > 0.05  # else there is nothing to compare
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_dilated_encoder_finds_what_the_strided_one_does():
    """With the same weights its last features are, at every second pixel,
    those of the encoder that shrinks once more: nothing else has changed.
    """

    def encoder(stride):
        return nnx.eval_shape(
            lambda: mobilenet.MobileNetV2(
                2, nnx.Rngs(0), dtype=jnp.float32, stride=stride
            )
        )

    plain, dilated = twin.drawn(encoder(32)), twin.drawn(encoder(16))
    x = twin.image(1, 64, 96, 2)
    *_, coarse = twin.forward(plain, x)
    *_, fine = twin.forward(dilated, x)
    assert coarse.shape == (1, 2, 3, 320)
    assert fine.shape == (1, 4, 6, 320)
    scale = np.abs(coarse).max()
    assert scale > 1e-3
    np.testing.assert_allclose(fine[:, 1::2, 1::2], coarse, atol=1e-4 * scale)


def test_the_parameters_are_counted():
    assert n_values(nnx.Param, in_channels=3) == 5_816_033
    # pyramid and decoder are all but the encoder
    ours = empty(width=16, n_classes=3)
    n = sum(x.size for x in jax.tree.leaves(nnx.state(ours)))
    n -= sum(x.size for x in jax.tree.leaves(nnx.state(ours.encoder)))
    assert n == InKeras(144, 320, 16, 3).model.count_params()


@pytest.mark.parametrize(
    "knob", [{"norm": "group"}, {"depth": 3}, {"deep_supervision": True}]
)
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        empty(**knob)


def test_one_value_a_channel_is_not_normalised():
    """As PyTorch refuses it: its variance, 0, would be taken for a fact."""
    model = empty(width=8, dropout=0.0)
    image = jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32)

    def forward(model, image):
        return model(image)["classes"]

    with pytest.raises(config.ConfigError, match="batch_size of 2"):
        nnx.eval_shape(forward, model, image)
    two = jax.ShapeDtypeStruct((2, 64, 64, 1), np.float32)
    assert nnx.eval_shape(forward, model, two).shape == (2, 64, 64, 1)
    one = nnx.eval_shape(forward, predicting(model), image)
    assert one.shape == (1, 64, 64, 1)
