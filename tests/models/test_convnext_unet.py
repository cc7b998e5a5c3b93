"""The ConvNeXt U-Net has the paper's blocks, weight for weight."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.models import convnext_unet
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "convnext_unet")
n_values = functools.partial(twin.n_values, "convnext_unet")


# ------------------------------------------------ the same network in Keras
class Scale(L.Layer):
    """A weight for each channel."""

    def build(self, shape):
        self.gamma = self.add_weight(
            name="gamma", shape=shape[-1:], initializer="ones"
        )

    def call(self, x):
        return x * self.gamma


class InKeras:
    """The network; `layers` are those with weights, as they are made."""

    @twin.blank()
    def __init__(self, width, n_channels, n_classes, depth):
        self.layers = []
        inputs = keras.Input((None, None, n_channels))
        x, skips = inputs, []
        for level in range(depth):
            if level:
                x = self.norm(x)
            x = self.add(L.Conv2D(width << level, 2, 2))(x)
            if not level:
                x = self.norm(x)
            for _ in range(6 if level == 2 else 2):
                x = self.block(x, width << level)
            skips.append(x)
        for level in reversed(range(depth - 1)):
            n = width << level
            x = self.norm(x)
            x = self.add(L.Conv2DTranspose(n, 2, 2))(x)
            x = self.add(L.Conv2D(n, 1))(L.Concatenate()([skips[level], x]))
            for _ in range(2):
                x = self.block(x, n)
        x = self.norm(x)
        x = self.add(L.Conv2DTranspose(n_classes, 2, 2))(x)
        self.model = keras.Model(inputs, x)

    def add(self, layer):
        self.layers.append(layer)
        return layer

    def norm(self, x):
        return self.add(L.LayerNormalization(epsilon=1e-6))(x)

    def block(self, x, n):
        y = self.norm(self.add(L.DepthwiseConv2D(7, padding="same"))(x))
        y = self.add(L.Dense(4 * n))(y)
        y = self.add(L.Dense(n))(keras.activations.gelu(y))
        return L.Add()([x, self.add(Scale())(y)])


def in_order(model):
    """The variables of our layers, in the order of those of Keras."""

    def conv(part):
        return [part.kernel, part.bias]

    def norm(part):
        return [part.scale, part.bias]

    def stage(stage):
        for b in stage:
            yield from (conv(b), norm(b.norm), conv(b.widen))
            yield from (conv(b.narrow), [b.scale])

    yield from (conv(model.stem), norm(model.stem_norm))
    yield from stage(model.down[0])
    for i, shrink in enumerate(model.shrink):
        yield from (norm(model.shrink_norm[i]), conv(shrink))
        yield from stage(model.down[i + 1])
    for i, grow in enumerate(model.grow):
        yield from (norm(model.grow_norm[i]), conv(grow))
        yield conv(model.merge[i])
        yield from stage(model.up[i])
    yield from (norm(model.head_norm), conv(model.head))


def test_outputs_are_those_of_keras():
    theirs = InKeras(6, 2, 3, 3)
    twin.randomise(theirs.model, gain=1)
    ours = empty(in_channels=2, width=6, n_classes=3, depth=3)
    twin.copy_in_order(theirs.layers, in_order(ours))
    x = twin.image(2, 24, 40, 2)
    found = twin.forward(ours, x)["classes"]
    wanted = twin.expected(theirs.model, x)
    assert found.shape == (2, 24, 40, 3)
    assert wanted.std() > 0.05  # else there is nothing to compare
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_keras_counts_the_same_parameters():
    theirs = InKeras(4, 2, 3, 2).model
    knobs = {"in_channels": 2, "width": 4, "depth": 2, "n_classes": 3}
    assert n_values(**knobs) == theirs.count_params()
    assert n_values(in_channels=1) == 6_129_169


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 5, 9, 3), (3, 8, 4, 40)])
def test_a_depthwise_convolution_is_a_grouped_one(shape, dtype):
    """Written for speed, it has the numbers and gradients of the plain one."""
    x, kernel, dy = (
        jnp.asarray(twin.normal(*size, seed=seed), dtype)
        for seed, size in enumerate((shape, (7, 7, shape[-1]), shape))
    )

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=shape[-1],
        )

    @functools.partial(jax.jit, compiler_options=twin.FAST, static_argnums=0)
    def all_of(f, *args):
        y, pull = jax.vjp(f, *(v.astype(args[2].dtype) for v in args[:2]))
        return y, *pull(args[2])

    found = all_of(convnext_unet.depthwise, x, kernel, dy)
    wanted = all_of(plain, x, kernel, dy.astype(jnp.float32))
    rough = 1e-5 if dtype == "float32" else 3e-2
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype
        scale = np.abs(b).max()
        np.testing.assert_allclose(a.astype(b.dtype), b, atol=rough * scale)


def test_stochastic_depth_leaves_whole_branches_out():
    block = twin.drawn(
        twin.abstract(convnext_unet.Block, config.Model(dropout=0.5), 4)
    )
    x = twin.normal(16, 4, 4, 4)
    branch = twin.forward(block, x, None) - x
    added = twin.run(block, x, nnx.Rngs(dropout=1)) - x
    out = np.asarray(jnp.abs(added).max((1, 2, 3)) == 0)
    assert 2 < out.sum() < 14
    np.testing.assert_allclose(added[~out], 2 * branch[~out], atol=1e-5)


@pytest.mark.parametrize(
    "knob", [{"stem": 2}, {"depth": 0}, {"deep_supervision": True}]
)
def test_what_it_has_not_is_refused(knob):
    name, value = next(iter(knob.items()))
    with pytest.raises(config.ConfigError, match=f"model.{name}={value}"):
        empty(**knob)
