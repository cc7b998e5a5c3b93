"""The layers, written for speed, give the numbers of the textbook layers."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg.models import blocks

F32 = jnp.float32
TIGHT = {"rtol": 1e-5, "atol": 1e-5}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomised(module, seed=1):
    """The module with every parameter drawn anew, biases too."""
    state = nnx.state(module, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    drawn = [normal(*x.shape, seed=seed + i) for i, x in enumerate(leaves)]
    nnx.update(module, tree.unflatten(map(jnp.asarray, drawn)))
    return module


def gradients(f, *args):
    """Of a loss that weighs every output differently."""
    out = jax.eval_shape(f, *args)
    weight = normal(*out.shape, seed=9)
    grad = jax.grad(lambda *a: (f(*a) * weight).sum(), range(len(args)))
    return grad(*args)


# ------------------------------------------------------------- up-sampling
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4)])
def test_upconv_is_keras_transposed_convolution(shape):
    ours = randomised(blocks.UpConv(shape[-1], 6, nnx.Rngs(0), dtype=F32))
    keras_layer = keras.layers.Conv2DTranspose(6, 2, strides=2)
    keras_layer.build(shape)
    # Keras keeps the kernel as (row, column, out, in)
    kernel = np.asarray(ours.kernel[...]).transpose(0, 1, 3, 2)
    keras_layer.set_weights([kernel, np.asarray(ours.bias[...])])
    x = normal(*shape)
    assert ours(x).shape == (shape[0], 2 * shape[1], 2 * shape[2], 6)
    np.testing.assert_allclose(ours(x), keras_layer(x), **TIGHT)


def test_upconv_and_its_gradients_are_those_of_conv_transpose():
    ours = randomised(blocks.UpConv(3, 4, nnx.Rngs(0), dtype=F32))
    graph, state = nnx.split(ours)

    def fast(x, kernel):
        module = nnx.merge(graph, state, copy=True)
        module.kernel[...] = kernel
        return module(x)

    def plain(x, kernel):
        y = jax.lax.conv_transpose(
            x,
            kernel[::-1, ::-1],  # lax turns it round, Keras does not
            (2, 2),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + ours.bias[...]

    x, kernel = jnp.asarray(normal(2, 4, 5, 3)), ours.kernel[...]
    np.testing.assert_allclose(fast(x, kernel), plain(x, kernel), **TIGHT)
    for a, b in zip(
        gradients(fast, x, kernel), gradients(plain, x, kernel), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4), (1, 2, 1, 2)])
def test_nearestconv_is_keras_upsampling_and_convolution(shape):
    ours = randomised(blocks.NearestConv(shape[-1], 6, nnx.Rngs(0), dtype=F32))
    grow = keras.layers.UpSampling2D(2, interpolation="nearest")
    conv = keras.layers.Conv2D(6, 2, padding="same")
    x = normal(*shape)
    conv.build(grow(x).shape)
    conv.set_weights([np.asarray(ours.kernel[...]), np.asarray(ours.bias[...])])
    np.testing.assert_allclose(ours(x), conv(grow(x)), **TIGHT)


def test_nearestconv_has_the_plain_gradients():
    ours = randomised(blocks.NearestConv(3, 4, nnx.Rngs(0), dtype=F32))
    graph, state = nnx.split(ours)

    def fast(x, kernel):
        module = nnx.merge(graph, state, copy=True)
        module.kernel[...] = kernel
        return module(x)

    def plain(x, kernel):
        x = x.repeat(2, 1).repeat(2, 2)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(0, 1), (0, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + ours.bias[...]

    args = jnp.asarray(normal(2, 4, 5, 3)), ours.kernel[...]
    for a, b in zip(
        gradients(fast, *args), gradients(plain, *args), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [blocks.UpConv, blocks.NearestConv])
def test_up_sampling_computes_in_its_dtype_with_float32_weights(layer):
    module = layer(3, 4, nnx.Rngs(0), dtype=jnp.bfloat16)
    assert module(normal(1, 4, 4, 3)).dtype == jnp.bfloat16
    kinds = {x.dtype for x in jax.tree.leaves(nnx.state(module))}
    assert kinds == {jnp.dtype(jnp.float32)}


# ----------------------------------------------------------------- pooling
@pytest.mark.parametrize("shape", [(2, 6, 10, 3), (1, 2, 2, 1)])
def test_max_pool_is_the_plain_one(shape):
    x = jnp.asarray(normal(*shape))

    def plain(x):
        return nnx.max_pool(x, (2, 2), (2, 2))

    np.testing.assert_array_equal(blocks.max_pool(x), plain(x))
    (a,), (b,) = gradients(blocks.max_pool, x), gradients(plain, x)
    np.testing.assert_array_equal(a, b)


def test_equal_maxima_share_the_gradient():
    grad = jax.grad(lambda x: blocks.max_pool(x).sum())
    np.testing.assert_allclose(grad(jnp.ones((1, 4, 4, 2))), 0.25)


# -------------------------------------------------------- pixels as channels
def test_space_to_depth_and_depth_to_space_undo_each_other():
    x = normal(2, 6, 10, 3)
    np.testing.assert_array_equal(
        blocks.depth_to_space(blocks.space_to_depth(x)), x
    )
    y = normal(2, 3, 5, 12)
    np.testing.assert_array_equal(
        blocks.space_to_depth(blocks.depth_to_space(y)), y
    )


def test_space_to_depth_stacks_the_four_phases_row_first():
    x = normal(2, 6, 10, 3)
    phases = [x[:, r::2, c::2] for r in (0, 1) for c in (0, 1)]
    np.testing.assert_array_equal(
        blocks.space_to_depth(x), np.concatenate(phases, -1)
    )


# ----------------------------------------------------------- normalisation
def keras_batch_norm(ours, shape):
    layer = keras.layers.BatchNormalization(
        momentum=ours.momentum, epsilon=ours.epsilon
    )
    layer.build(shape)
    parts = ours.scale, ours.bias, ours.mean, ours.var
    layer.set_weights([np.asarray(part[...]) for part in parts])
    return layer


def test_batch_norm_is_keras_in_training_with_its_running_statistics():
    ours = randomised(blocks.BatchNorm(3, nnx.Rngs(0)))
    layer = keras_batch_norm(ours, (4, 6, 5, 3))
    for step in range(4):
        x = 2 + 3 * normal(4, 6, 5, 3, seed=step)
        y = layer(x, training=True)
        np.testing.assert_allclose(ours(x), y, rtol=1e-4, atol=1e-4)
    _, _, mean, var = (weight.value for weight in layer.weights)
    np.testing.assert_allclose(ours.mean[...], mean, **TIGHT)
    np.testing.assert_allclose(ours.var[...], var, **TIGHT)


def test_batch_norm_is_keras_in_prediction_and_learns_nothing():
    ours = randomised(blocks.BatchNorm(3, nnx.Rngs(0)))
    ours(1 + normal(4, 6, 5, 3))
    layer = keras_batch_norm(ours, (4, 6, 5, 3))
    view = nnx.view(ours, use_running_average=True)
    before = jax.device_get(nnx.state(ours, nnx.BatchStat))
    x = normal(4, 6, 5, 3, seed=5)
    np.testing.assert_allclose(view(x), layer(x, training=False), **TIGHT)
    after = nnx.state(view, nnx.BatchStat)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_batch_norm_gradients_are_those_of_two_pass_moments():
    ours = randomised(blocks.BatchNorm(3, nnx.Rngs(0)))
    graph, state = nnx.split(ours)

    def plain(x):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + ours.epsilon)
        return y * ours.scale[...] + ours.bias[...]

    x = jnp.asarray(normal(2, 6, 5, 3))
    (a,) = gradients(lambda x: nnx.merge(graph, state, copy=True)(x), x)
    (b,) = gradients(plain, x)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_batch_norm_of_a_constant_is_its_bias():
    ours = randomised(blocks.BatchNorm(3, nnx.Rngs(0)))
    y = ours(jnp.full((2, 4, 4, 3), 1000.0))
    np.testing.assert_allclose(
        y, np.broadcast_to(ours.bias[...], y.shape), atol=0.05
    )


def test_batch_norm_measures_bfloat16_in_float32():
    ours = blocks.BatchNorm(3, nnx.Rngs(0))
    x = jnp.asarray(5 + normal(4, 32, 32, 3), jnp.bfloat16)
    assert ours(x).dtype == jnp.bfloat16
    mean = x.astype(jnp.float32).mean((0, 1, 2))
    np.testing.assert_allclose(ours.mean[...], 0.1 * mean, rtol=1e-5)
    assert ours.mean[...].dtype == ours.var[...].dtype == jnp.float32


@pytest.mark.parametrize(
    ("n", "groups"), [(64, 8), (8, 8), (12, 4), (6, 2), (5, 1)]
)
def test_group_norm_takes_the_most_groups_that_divide_the_channels(n, groups):
    ours = randomised(blocks.norm("group", n, nnx.Rngs(0), dtype=F32))
    layer = keras.layers.GroupNormalization(groups, epsilon=ours.epsilon)
    x = normal(2, 4, 6, n)
    layer.build(x.shape)
    layer.set_weights([np.asarray(v[...]) for v in (ours.scale, ours.bias)])
    np.testing.assert_allclose(ours(x), layer(x), rtol=1e-4, atol=1e-4)


def test_no_norm_gives_back_what_it_gets():
    x = normal(1, 2, 2, 3)
    none = blocks.norm("none", 3, nnx.Rngs(0), dtype=F32)
    assert none(x) is x
    assert not jax.tree.leaves(nnx.state(none))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("n_in, n_out", [(2, 6), (4, 4), (6, 2), (9, 1)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 7), (3, 8, 6)])
def test_a_convolution_has_the_plain_gradients(size, n_in, n_out, shape):
    """Also where its kernel's gradient is computed the other way round."""
    layer = blocks.conv(n_in, n_out, size, nnx.Rngs(0), dtype=F32)
    layer = randomised(layer)
    graph, state = nnx.split(layer)

    def ours(x, kernel):
        found = nnx.merge(graph, {**state, "kernel": kernel})
        return found(x) - layer.bias[...]

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    args = jnp.asarray(normal(*shape, n_in)), layer.kernel[...]
    np.testing.assert_allclose(ours(*args), plain(*args), **TIGHT)
    for found, wanted in zip(
        gradients(lambda x, k: ours(x, k), *args),
        gradients(plain, *args),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("c", [1, 3, 32, 2000])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 7), (4, 16, 24)])
def test_a_channel_sum_is_the_sum(c, shape):
    x = normal(*shape, c)
    found = jax.jit(blocks.channel_sum)(x)
    np.testing.assert_allclose(found, x.sum((0, 1, 2)), rtol=1e-4, atol=1e-4)
    half = jnp.asarray(x, jnp.bfloat16)
    found = jax.jit(blocks.channel_sum)(half)
    assert found.dtype == F32
    wanted = np.asarray(half, np.float64).sum((0, 1, 2))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_channel_sum_of_many_values_does_not_drift():
    """Added one by one, float32 would be 4 % off."""
    x = jnp.full((4, 512, 512, 1), 0.1, F32)
    (found,) = jax.jit(blocks.channel_sum)(x)
    assert found == pytest.approx(float(np.float32(0.1)) * x.size, rel=1e-4)


def test_a_bias_has_the_plain_gradient():
    x, bias = normal(2, 3, 5, 4), normal(4, seed=3)
    for found, wanted in zip(
        gradients(blocks.add_bias, x, bias),
        gradients(lambda x, b: x + b, x, bias),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, **TIGHT)
