"""DeepLab v3+ is the paper's on Keras' MobileNetV2, weight for weight."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config, models
from seg.models import mobilenet

L = keras.layers


def shapes(**knobs):
    """The network before its weights are drawn."""
    knobs = {"name": "deeplab_v3plus", "in_channels": 2} | knobs
    return nnx.eval_shape(
        lambda: models.build(config.Model(**knobs), nnx.Rngs(0))
    )


def predict(module, x):
    view = nnx.view(
        module,
        use_running_average=True,
        deterministic=True,
        raise_if_not_found=False,
    )
    graph, state = nnx.split(view)
    return jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, x)


# --------------------------------------- pyramid and decoder in Keras
class InKeras:
    """What follows the encoder; `layers` are those with weights, as made."""

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


def copy_weights(layers, target):
    rng = np.random.default_rng(3)
    pyramid = target.pyramid
    parts = [*pyramid.views, pyramid.image, pyramid.mix]
    parts += [target.low, target.conv1, target.conv2]
    ours = [layer for part in parts for layer in (part.conv, part.norm)]
    for layer, mine in zip(layers, [*ours, target.head], strict=True):
        drawn = [rng.normal(size=v.shape) for v in layer.weights]
        names = "kernel", "bias"
        if isinstance(layer, L.BatchNormalization):
            drawn[0], drawn[3] = 1 + 0.1 * drawn[0], np.exp(0.1 * drawn[3])
            names = "scale", "bias", "mean", "var"
        else:
            drawn[0] *= np.sqrt(2 / drawn[0][..., 0].size)
        layer.set_weights(drawn)
        for name, value in zip(names, drawn, strict=False):
            variable = getattr(mine, name)
            assert variable.shape == value.shape
            variable.set_value(jnp.asarray(value, jnp.float32))


class Given(nnx.Module):
    """In the encoder's place: features that are known."""

    def __init__(self, low, top):
        self.low, self.top = nnx.data(low), nnx.data(top)

    def __call__(self, x):
        return [None, self.low, None, self.top]


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_pyramid_and_decoder_are_those_of_keras(size):
    ours = shapes(width=16, n_classes=3)
    n_low, n_top = ours.encoder.widths[1], ours.encoder.widths[-1]
    theirs = InKeras(n_low, n_top, 16, 3)
    copy_weights(theirs.layers, ours)
    rng = np.random.default_rng(0)
    low, top = (
        rng.normal(size=(2, size[0] // s, size[1] // s, n)).astype(np.float32)
        for s, n in ((4, n_low), (16, n_top))
    )
    expected = theirs.model.predict_on_batch([low, top])
    ours.encoder = Given(jnp.asarray(low), jnp.asarray(top))
    found = predict(ours, jnp.zeros((2, *size, 2)))["classes"]
    assert found.shape == (2, *size, 3)
    assert expected.std() > 0.05  # else there is nothing to compare
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_dilated_encoder_finds_what_the_strided_one_does():
    """With the same weights its last features are, at every second pixel,
    those of the encoder that shrinks once more: nothing else has changed.
    """

    def encoder(stride):
        return mobilenet.MobileNetV2(
            2, nnx.Rngs(0), dtype=jnp.float32, stride=stride
        )

    rng = np.random.default_rng(0)
    plain = nnx.eval_shape(lambda: encoder(32))
    dilated = nnx.eval_shape(lambda: encoder(16))
    state = jax.tree.map(
        lambda v: jnp.asarray(
            rng.normal(size=v.shape) * np.sqrt(2 / v.size * v.shape[-1])
            if v.ndim > 1
            else rng.uniform(0.7, 1.2, v.shape),
            jnp.float32,
        ),
        nnx.state(plain),
    )
    nnx.update(plain, state)
    nnx.update(dilated, state)
    x = jnp.asarray(rng.uniform(size=(1, 64, 96, 2)), jnp.float32)
    *_, coarse = predict(plain, x)
    *_, fine = predict(dilated, x)
    assert coarse.shape == (1, 2, 3, 320)
    assert fine.shape == (1, 4, 6, 320)
    scale = np.abs(coarse).max()
    assert scale > 1e-3
    np.testing.assert_allclose(fine[:, 1::2, 1::2], coarse, atol=1e-4 * scale)


def test_the_parameters_are_counted():
    state = nnx.state(shapes(in_channels=3), nnx.Param)
    assert sum(x.size for x in jax.tree.leaves(state)) == 5_816_033
    # pyramid and decoder are all but the encoder
    ours = shapes(width=16, n_classes=3)
    n = sum(x.size for x in jax.tree.leaves(nnx.state(ours)))
    n -= sum(x.size for x in jax.tree.leaves(nnx.state(ours.encoder)))
    assert n == InKeras(144, 320, 16, 3).model.count_params()


@pytest.mark.parametrize(
    "knob", [{"norm": "group"}, {"depth": 3}, {"deep_supervision": True}]
)
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        shapes(**knob)
