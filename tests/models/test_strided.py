"""Layers with strides are Keras' layers, and their gradients lax's."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg.models import strided

F32 = jnp.float32
TIGHT = {"rtol": 1e-5, "atol": 1e-5}
LAYOUT = ("NHWC", "HWIO", "NHWC")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same_gradients(f, g, *args):
    """Of a loss that weighs every output differently."""
    weight = normal(*jax.eval_shape(f, *args).shape, seed=9)
    where = range(len(args))
    found = jax.grad(lambda *a: (f(*a) * weight).sum(), where)
    wanted = jax.grad(lambda *a: (g(*a) * weight).sum(), where)
    for a, b in zip(jax.jit(found)(*args), jax.jit(wanted)(*args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def ours_and_keras(ours, layer, x, kernel_shape=None):
    """Outputs of both with the same random kernel and bias."""
    kernel = normal(*ours.kernel.shape, seed=1)
    weights = [kernel.reshape(kernel_shape or kernel.shape)]
    ours.kernel[...] = kernel
    if getattr(ours, "bias", None) is not None:
        ours.bias[...] = normal(*ours.bias.shape, seed=2)
        weights.append(np.asarray(ours.bias[...]))
    layer.build(x.shape)
    layer.set_weights(weights)
    return ours(x), np.asarray(layer(x))


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_is_keras(size, padding, stride, dilation):
    shape = (2, 15, 14, 3)
    ours = strided.conv(
        shape[-1], 5, size, nnx.Rngs(0), dtype=F32, stride=stride,
        padding=padding, dilation=dilation, bias=True,
    )  # fmt: skip
    layer = keras.layers.Conv2D(
        5, size, stride, padding.lower(), dilation_rate=dilation
    )
    found, wanted = ours_and_keras(ours, layer, normal(*shape))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=3e-5)


def test_equal_convolutions_are_one_program():
    def graph():
        return nnx.graphdef(
            strided.conv(3, 4, 3, nnx.Rngs(0), dtype=F32, stride=2)
        )

    assert graph() == graph()
    assert hash(graph()) == hash(graph())


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (8, 5, 7, 4), (3, 1, 2, 2)])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_a_depthwise_convolution_is_keras(shape, stride, dilation):
    ours = strided.Depthwise(
        shape[-1], nnx.Rngs(0), dtype=F32, stride=stride, dilation=dilation
    )
    layer = keras.layers.DepthwiseConv2D(
        3, stride, "same", dilation_rate=dilation, use_bias=False
    )
    x = normal(*shape)
    found, wanted = ours_and_keras(ours, layer, x, (3, 3, shape[-1], 1))
    np.testing.assert_allclose(found, wanted, **TIGHT)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel[:, :, None], (stride, stride), "SAME",
            rhs_dilation=(dilation, dilation), dimension_numbers=LAYOUT,
            feature_group_count=shape[-1],
        )  # fmt: skip

    def fast(x, kernel):
        return strided.depthwise(x, kernel, stride, dilation)

    same_gradients(fast, plain, x, normal(3, 3, shape[-1]))


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_is_keras(shape, bias):
    ours = strided.UpConv3(shape[-1], 6, nnx.Rngs(0), dtype=F32, bias=bias)
    layer = keras.layers.Conv2DTranspose(6, 3, 2, "same", use_bias=bias)
    x = normal(*shape)
    kernel = normal(*ours.kernel.shape)
    ours.kernel[...] = kernel
    layer.build(shape)
    weights = [kernel.transpose(0, 1, 3, 2)]  # Keras: (.., out, in)
    if bias:
        ours.bias[...] = normal(6)
        weights.append(normal(6))
    layer.set_weights(weights)
    assert ours(x).shape == (shape[0], 2 * shape[1], 2 * shape[2], 6)
    np.testing.assert_allclose(ours(x), layer(x), **TIGHT)

    def plain(x, kernel):
        return jax.lax.conv_transpose(
            x, kernel, (2, 2), ((2, 1), (2, 1)), dimension_numbers=LAYOUT
        )

    def turned(x, kernel):  # lax does not turn the kernel round, Keras does
        return plain(x, kernel[::-1, ::-1])

    same_gradients(strided.conv_transpose, turned, x, kernel)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 5, 7, 2), (1, 1, 2, 1)])
def test_a_pool_of_three_is_keras(shape):
    x = normal(*shape)
    layer = keras.layers.MaxPooling2D(3, 2, "same")
    np.testing.assert_array_equal(strided.max_pool3(x), layer(x))

    def plain(x):
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
        )

    same_gradients(strided.max_pool3, plain, x)


def test_layers_compute_in_their_dtype_with_float32_weights():
    half = {"dtype": jnp.bfloat16}
    x = normal(2, 4, 4, 3)
    for layer in (
        strided.conv(3, 4, 3, nnx.Rngs(0), stride=2, **half),
        strided.conv(3, 4, 1, nnx.Rngs(0), **half),
        strided.Depthwise(3, nnx.Rngs(0), **half),
        strided.UpConv3(3, 4, nnx.Rngs(0), **half),
    ):
        graph, state = nnx.split(layer)

        def loss(state, x, graph=graph):
            y = nnx.merge(graph, state)(x)
            assert y.dtype == jnp.bfloat16
            return (y**2).sum().astype(F32)

        grads = jax.grad(loss)(state, x)
        assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(F32)}
