"""The layers, written for speed, give the numbers of the textbook layers."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import models
from seg.models import blocks
from tests.models import keras_twin as twin

F32 = jnp.float32
TIGHT = {"rtol": 1e-5, "atol": 1e-5}
ROUGH = {"rtol": 1e-4, "atol": 1e-4}
LAYOUT = ("NHWC", "HWIO", "NHWC")
normal = twin.normal


def drawn(kind, *args, **kwargs):
    return twin.drawn(twin.abstract(kind, *args, **kwargs))


def of_kernel(ours):
    """The layer as a function of its input and its kernel."""
    graph, state = nnx.split(ours)
    return lambda x, kernel: nnx.merge(graph, {**state, "kernel": kernel})(x)


# ------------------------------------------------------------- up-sampling
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4)])
def test_upconv_is_keras_transposed_convolution(shape):
    ours = twin.abstract(blocks.UpConv, shape[-1], 6, dtype=F32)
    theirs = keras.layers.Conv2DTranspose(6, 2, strides=2)
    found, wanted = twin.beside(ours, normal(*shape), theirs)
    assert found.shape == (shape[0], 2 * shape[1], 2 * shape[2], 6)
    np.testing.assert_allclose(found, wanted, **TIGHT)


def test_upconv_and_its_gradients_are_those_of_conv_transpose():
    ours = drawn(blocks.UpConv, 3, 4, dtype=F32)

    def plain(x, kernel):
        y = jax.lax.conv_transpose(
            x,
            kernel[::-1, ::-1],  # lax turns it round, Keras does not
            (2, 2),
            "VALID",
            dimension_numbers=LAYOUT,
        )
        return y + ours.bias[...]

    args = normal(2, 4, 5, 3), ours.kernel[...]
    twin.same_both_ways(of_kernel(ours), plain, *args, **TIGHT)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4), (1, 2, 1, 2)])
def test_nearestconv_is_keras_upsampling_and_convolution(shape):
    ours = twin.abstract(blocks.NearestConv, shape[-1], 6, dtype=F32)
    grow = keras.layers.UpSampling2D(2, interpolation="nearest")
    conv = keras.layers.Conv2D(6, 2, padding="same")
    found, wanted = twin.beside(ours, normal(*shape), grow, conv)
    np.testing.assert_allclose(found, wanted, **TIGHT)


def test_nearestconv_has_the_plain_gradients():
    ours = drawn(blocks.NearestConv, 3, 4, dtype=F32)

    def plain(x, kernel):
        x = x.repeat(2, 1).repeat(2, 2)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(0, 1), (0, 1)], dimension_numbers=LAYOUT
        )
        return y + ours.bias[...]

    args = jnp.asarray(normal(2, 4, 5, 3)), ours.kernel[...]
    twin.same_both_ways(of_kernel(ours), plain, *args, **TIGHT)


@pytest.mark.parametrize("kind", [blocks.UpConv, blocks.NearestConv])
def test_up_sampling_computes_in_its_dtype_with_float32_weights(kind):
    ours = twin.abstract(kind, 3, 4, dtype=jnp.bfloat16)
    found = nnx.eval_shape(lambda m, x: m(x), ours, normal(1, 4, 4, 3))
    assert found.dtype == jnp.bfloat16
    kinds = {x.dtype for x in jax.tree.leaves(nnx.state(ours))}
    assert kinds == {jnp.dtype(F32)}


# ----------------------------------------------------------------- pooling
@pytest.mark.parametrize("shape", [(2, 6, 10, 3), (1, 2, 2, 1)])
def test_max_pool_is_the_plain_one(shape):
    def plain(x):
        return nnx.max_pool(x, (2, 2), (2, 2))

    twin.same_both_ways(blocks.max_pool, plain, normal(*shape), rtol=0)


def test_equal_maxima_share_the_gradient():
    grad = jax.grad(lambda x: blocks.max_pool(x).sum())
    np.testing.assert_allclose(grad(jnp.ones((1, 4, 4, 2))), 0.25)


def test_a_maximum_that_is_computed_twice_has_a_gradient():
    """Behind a normalisation a compiler may compute the inputs once more, and
    round them otherwise: no maximum is among them then."""

    def loss(x):
        y = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        return (blocks.max_pool(y * 0.7 + 0.1) ** 2).sum()

    x = normal(4, 32, 32, 8)
    (found,) = jax.jit(jax.grad(loss, (0,)), compiler_options=twin.FAST)(x)
    assert np.isfinite(found).all()


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
    ours = drawn(blocks.BatchNorm, 3)
    layer = keras_batch_norm(ours, (4, 6, 5, 3))
    for step in range(4):
        x = 2 + 3 * normal(4, 6, 5, 3, seed=step)
        y = layer(x, training=True)
        found, ours = twin.train(ours, x)
        np.testing.assert_allclose(found, y, **ROUGH)
    _, _, mean, var = (weight.value for weight in layer.weights)
    np.testing.assert_allclose(ours.mean[...], mean, **TIGHT)
    np.testing.assert_allclose(ours.var[...], var, **TIGHT)


def test_batch_norm_is_keras_in_prediction_and_learns_nothing():
    ours = drawn(blocks.BatchNorm, 3)
    layer = keras_batch_norm(ours, (4, 6, 5, 3))
    x = normal(4, 6, 5, 3, seed=5)
    found, after = twin.train(models.predicting(ours), x)
    np.testing.assert_allclose(found, layer(x, training=False), **TIGHT)
    jax.tree.map(
        np.testing.assert_array_equal, nnx.state(after), nnx.state(ours)
    )


def test_batch_norm_gradients_are_those_of_two_pass_moments():
    ours = drawn(blocks.BatchNorm, 3)
    graph, state = nnx.split(ours)

    def plain(x):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + ours.epsilon)
        return y * ours.scale[...] + ours.bias[...]

    def fast(x):
        return nnx.merge(graph, state, copy=True)(x)

    twin.same_both_ways(fast, plain, normal(2, 6, 5, 3), **TIGHT)


def test_batch_norm_of_a_constant_is_its_bias():
    ours = drawn(blocks.BatchNorm, 3)
    y = twin.run(ours, np.full((2, 4, 4, 3), 1000, np.float32))
    np.testing.assert_allclose(
        y, np.broadcast_to(ours.bias[...], y.shape), atol=0.05
    )


def test_batch_norm_measures_bfloat16_in_float32():
    ours = blocks.BatchNorm(3, nnx.Rngs(0))
    x = jnp.asarray(5 + normal(4, 32, 32, 3), jnp.bfloat16)
    found, ours = twin.train(ours, x)
    assert found.dtype == jnp.bfloat16
    mean = x.astype(jnp.float32).mean((0, 1, 2))
    np.testing.assert_allclose(ours.mean[...], 0.1 * mean, rtol=1e-5)
    assert ours.mean[...].dtype == ours.var[...].dtype == jnp.float32


@pytest.mark.parametrize(
    ("n", "groups"), [(64, 8), (8, 8), (12, 4), (6, 2), (5, 1)]
)
def test_group_norm_takes_the_most_groups_that_divide_the_channels(n, groups):
    ours = twin.abstract(blocks.norm, "group", n, dtype=F32)
    theirs = keras.layers.GroupNormalization(groups, epsilon=ours.epsilon)
    found, wanted = twin.beside(ours, normal(2, 4, 6, n), theirs)
    np.testing.assert_allclose(found, wanted, **ROUGH)


def test_no_norm_gives_back_what_it_gets():
    x = normal(1, 2, 2, 3)
    none = blocks.norm("none", 3, nnx.Rngs(0), dtype=F32)
    assert none(x) is x
    assert not jax.tree.leaves(nnx.state(none))


@pytest.mark.parametrize(
    "size, n_in, n_out",
    [
        (1, 2, 6), (1, 6, 2), (2, 6, 2), (3, 2, 6),
        (3, 4, 4), (3, 6, 2), (3, 9, 1), (5, 6, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 7)])
def test_a_convolution_has_the_plain_gradients(size, n_in, n_out, shape):
    """Also where its kernel's gradient is computed the other way round."""
    ours = drawn(blocks.conv, n_in, n_out, size, dtype=F32)

    def plain(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT
        )
        return y + ours.bias[...]

    args = normal(*shape, n_in), ours.kernel[...]
    twin.same_both_ways(of_kernel(ours), plain, *args, **TIGHT)


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
    twin.same_both_ways(blocks.add_bias, lambda x, b: x + b, x, bias, **TIGHT)
