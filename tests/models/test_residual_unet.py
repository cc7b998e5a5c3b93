"""The residual U-Net is nnU-Net's, weight for weight, and learns deeply."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.models import residual_unet
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "residual_unet")
n_values = functools.partial(twin.n_values, "residual_unet")


# ------------------------------------------------ the same network in Keras
class InKeras:
    """nnU-Net's network; `layers` are those with weights, as they are made."""

    @twin.blank()
    def __init__(self, width, n_channels, n_classes, depth, deep):
        self.layers = []
        inputs = keras.Input((None, None, n_channels))
        x, skips = leaky(self.norm(self.conv(inputs, width))), []
        for level, count in enumerate((1, 3, 4, 6, 6, 6)[: depth + 1]):
            for i in range(count):
                stride = 2 if level and not i else 1
                x = self.block(x, min(512, width << level), stride)
            skips.append(x)
        heads = []
        for level in reversed(range(depth)):
            n = min(512, width << level)
            x = self.add(L.Conv2DTranspose(n, 2, 2))(x)
            x = L.Concatenate()([x, skips[level]])
            x = leaky(self.norm(self.conv(x, n)))
            if level == 0 or (deep and level < depth - 1):
                heads.append(self.add(L.Conv2D(n_classes, 1))(x))
        self.model = keras.Model(inputs, heads[::-1])

    def add(self, layer):
        self.layers.append(layer)
        return layer

    def norm(self, x):
        """Instance normalisation: one group a channel."""
        return self.add(L.GroupNormalization(-1, epsilon=1e-5))(x)

    def conv(self, x, n, stride=1):
        """3x3, padded by one on every side, as PyTorch does it."""
        x = L.ZeroPadding2D(1)(x)
        return self.add(L.Conv2D(n, 3, stride, use_bias=False))(x)

    def block(self, x, n, stride):
        y = leaky(self.norm(self.conv(x, n, stride)))
        y = self.norm(self.conv(y, n))
        if stride == 2:
            x = L.AveragePooling2D(2)(x)
        if x.shape[-1] != n:
            x = self.norm(self.add(L.Conv2D(n, 1, use_bias=False))(x))
        return leaky(L.Add()([x, y]))


def leaky(x):
    return L.LeakyReLU(negative_slope=0.01)(x)


def in_order(model):
    """Our layers with weights, in the order of those of Keras."""

    def pair(part):
        return [part.conv, part.norm]

    layers = pair(model.stem)
    for stage in model.down:
        for block in stage:
            layers += [*pair(block.conv1), *pair(block.conv2)]
            if block.project is not None:
                layers += pair(block.project)
    n_without = len(model.up) - len(model.heads)
    heads = [[]] * n_without + [[head] for head in model.heads]
    for up, merge, head in zip(model.up, model.merge, heads, strict=True):
        layers += [up, *pair(merge), *head]
    return layers


def test_every_head_is_that_of_keras():
    theirs = InKeras(6, 2, 3, 3, deep=True)
    twin.randomise(theirs.model)
    ours = empty(
        in_channels=2, width=6, n_classes=3, depth=3, deep_supervision=True
    )
    twin.copy_in_order(theirs.layers, in_order(ours))
    x = twin.image(2, 24, 40, 2)
    found, wanted = twin.run(ours, x), twin.expected(theirs.model, x)
    heads = [found["classes"], *found["aux"]]
    sides = [(2, 24 // s, 40 // s, 3) for s in (1, 2)]
    assert [head.shape for head in heads] == sides
    for a, b in zip(heads, wanted, strict=True):
        assert b.std() > 0.05  # else there is nothing to compare
        np.testing.assert_allclose(a, b, atol=1e-4)
    predicted = twin.forward(ours, x)
    assert set(predicted) == {"classes"}
    np.testing.assert_allclose(predicted["classes"], wanted[0], atol=1e-4)


def test_keras_counts_the_same_parameters():
    theirs = InKeras(4, 2, 3, 2, deep=False).model
    knobs = {"in_channels": 2, "n_classes": 3, "width": 4, "depth": 2}
    assert n_values(**knobs) == theirs.count_params()
    assert n_values(in_channels=1) == 71_796_769
    assert n_values(in_channels=1, width=16) == 38_413_329


def test_norms_are_where_and_what_the_config_says():
    for norm, n_stats in ((None, 0), ("batch", 22), ("group", 0), ("none", 0)):
        model = empty(width=4, depth=1, norm=norm)
        stats = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
        assert len(stats) == n_stats
        # these subtract the mean, so a bias before them is inert
        assert (model.stem.conv.bias is None) == (norm in (None, "batch"))
        is_instance = isinstance(model.stem.norm, residual_unet.InstanceNorm)
        assert is_instance == (norm is None)


def test_an_instance_norm_takes_each_image_by_itself():
    layer = residual_unet.InstanceNorm(3)
    x = 4 + 2 * twin.normal(3, 8, 9, 3)
    y = twin.run(layer, x)
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 2)), 1, atol=1e-3)
    half = twin.run(layer, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), y, atol=0.1)


@pytest.mark.parametrize("knob", [{"stem": 2}, {"encoder": "a.h5"}])
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        empty(**knob)
