"""The SegNets are those of their sources, weight for weight."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config
from seg.models import segnet
from tests.models import keras_twin as twin

L = keras.layers
empty = functools.partial(twin.empty, "segnet")
n_values = functools.partial(twin.n_values, "segnet")


@twin.blank()
def in_keras(width, n_channels, n_classes, depth=4):
    """Stages of two convolutions, ReLU, normalisation; no skips."""
    inputs = x = keras.Input((None, None, n_channels))
    widths = [width << level for level in range(depth)]
    for n in widths:
        x = L.MaxPooling2D()(stage(x, n, n))
    for n in reversed(widths):
        x = stage(L.UpSampling2D(2)(x), n, n)
    return keras.Model(inputs, L.Conv2D(n_classes, 1)(x))


def stage(x, *widths):
    for n in widths:
        x = L.Conv2D(n, 3, padding="same", activation="relu")(x)
        x = L.BatchNormalization()(x)
    return x


class Unpool(L.Layer):
    """Values where x has its maxima: what pooling's gradient does."""

    def call(self, values, x):
        _, pull = jax.vjp(lambda x: nnx.max_pool(x, (2, 2), (2, 2)), x)
        return pull(values)[0]

    def compute_output_shape(self, values_shape, x_shape):
        return x_shape


@twin.blank()
def in_keras_with_indices(width, n_channels, n_classes, depth=4):
    """As Badrinarayanan et al., with the thesis' widths."""
    inputs = x = keras.Input((None, None, n_channels))
    widths = [width << level for level in range(depth)]
    pooled = []
    for n in widths:
        x = stage(x, n, n)
        pooled.append(x)
        x = L.MaxPooling2D()(x)
    for level in (3, 2, 1, 0):
        x = Unpool()(x, pooled[level])
        x = stage(x, widths[level], widths[max(level - 1, 0)])
    return keras.Model(inputs, L.Conv2D(n_classes, 1)(x))


def in_order(model):
    layers = []
    for s in (*model.down, *model.up):
        layers += [s.conv1, s.norm1, s.conv2, s.norm2]
    return [*layers, model.head]


@functools.cache
def make_twins(width, name="segnet"):
    make = in_keras if name == "segnet" else in_keras_with_indices
    theirs = make(width, 1, 4)
    twin.randomise(theirs)
    ours = twin.empty(name, in_channels=1, n_classes=4, width=width)
    twin.copy_in_order(theirs.layers, in_order(ours))
    return theirs, ours


@pytest.fixture(scope="module")
def twins():
    return make_twins(4)


@pytest.mark.parametrize("size", [(32, 64), (48, 80)])
@pytest.mark.parametrize("width", [4, twin.own_width(64)])
@pytest.mark.parametrize("name", ["segnet", "segnet_indices"])
def test_outputs_are_those_of_keras(name, width, size):
    theirs, ours = make_twins(width, name)
    x = twin.image(2, *size, 1)
    found = twin.forward(ours, x)["classes"]
    assert found.shape == (2, *size, 4)
    wanted = twin.expected(theirs, x)
    assert wanted.std() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_training_and_its_running_statistics_are_those_of_keras(twins):
    theirs, ours = twins
    x = twin.image(2, 32, 32, 1)
    found, wanted, after, changed = twin.trained(theirs, ours, x)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    norms = [n for n in theirs.layers if isinstance(n, L.BatchNormalization)]
    ours = [n for n in in_order(after) if hasattr(n, "mean")]
    for a, b in zip(ours, norms, strict=True):
        mean, var = changed[b.moving_mean.path], changed[b.moving_variance.path]
        np.testing.assert_allclose(a.mean[...], mean, atol=1e-5)
        np.testing.assert_allclose(a.var[...], var, rtol=1e-4, atol=1e-4)


def test_the_sources_parameters_are_counted():
    assert n_values(in_channels=1, n_classes=4) == 11_742_788
    # and those of its small relative, as published
    assert n_values(in_channels=3, n_classes=2, width=32) == 2_941_218


# ----------------------------------------------------------------- indices
@functools.partial(jax.jit, compiler_options=twin.FAST)
def unpooled(values, x):
    """The values [B, H/2, W/2, C] where x [B, H, W, C] has its maxima."""
    return segnet._unpool(values, segnet._places(x))


def test_a_value_returns_to_the_place_of_its_maximum():
    x = twin.normal(2, 6, 8, 3)
    pooled = x.reshape(2, 3, 2, 4, 2, 3).max((2, 4))
    grown = pooled.repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(
        unpooled(pooled, x), np.where(x == grown, x, 0)
    )


def test_of_equal_maxima_the_first_keeps_the_place():
    x = np.ones((1, 4, 4, 1), np.float32)
    x[0, 0, 0] = 0
    found = unpooled(np.full((1, 2, 2, 1), 5.0, np.float32), x)
    expected = np.zeros((4, 4))
    expected[[0, 0, 2, 2], [1, 2, 0, 2]] = 5
    np.testing.assert_array_equal(found[0, ..., 0], expected)


def test_with_indices_thin_lines_survive_the_pooling():
    """An unpooled map of a pooled one has every maximum where it was."""
    x = np.zeros((1, 8, 8, 1), np.float32)
    x[0, :, 3] = 1
    found = unpooled(np.ones((1, 4, 4, 1), np.float32), x)
    np.testing.assert_array_equal(found[0, ::2, 3, 0], 1)


# ------------------------------------------------------------------- knobs
@pytest.mark.parametrize("name", ["segnet", "segnet_indices"])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_any_multiple_of_the_stride_goes_through(name, depth):
    knobs = {"in_channels": 2, "n_classes": 3, "width": 4, "depth": depth}
    model = twin.empty(name, **knobs)
    assert model.stride == 2**depth
    for rows, columns in ((1, 1), (3, 5)):
        h, w = rows * model.stride, columns * model.stride
        x = jax.ShapeDtypeStruct((2, h, w, 2), jnp.float32)
        found = nnx.eval_shape(lambda m, x: m(x), model, x)["classes"]
        assert (found.shape, found.dtype) == ((2, h, w, 3), jnp.float32)


@pytest.mark.parametrize("name", ["segnet", "segnet_indices"])
def test_bfloat16_is_near_float32(name):
    knobs = {"width": 4, "depth": 2, "dropout": 0.0}
    x = twin.image(1, 16, 16, 1)
    half, full = (
        twin.drawn(twin.empty(name, dtype=dtype, **knobs))
        for dtype in ("bfloat16", "float32")
    )
    a, b = (twin.forward(m, x)["classes"] for m in (half, full))
    assert a.dtype == jnp.float32
    assert 0 < np.abs(a - b).mean() < 0.05 * np.abs(b).max() + 1e-3


def test_knobs_are_honoured_or_refused():
    model = twin.drawn(empty(width=4, depth=1, norm="none", dropout=0.5))
    assert not jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    x = twin.image(1, 8, 8, 1)

    a, b = (twin.run(model, x, nnx.Rngs(dropout=i))["classes"] for i in (1, 2))
    assert np.abs(a - b).max() > 0
    for knob, value in (("stem", 2), ("encoder", "x.h5")):
        with pytest.raises(config.ConfigError, match=f"model.{knob}"):
            empty(**{knob: value})
