"""Layers with strides are Keras' layers, and their gradients lax's."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg.models import strided
from tests.models import keras_twin as twin

F32 = jnp.float32
TIGHT = {"rtol": 1e-5, "atol": 1e-5}
GRADIENTS = {"rtol": 1e-5, "atol": 2e-5}
LAYOUT = ("NHWC", "HWIO", "NHWC")
normal = twin.normal


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_is_keras(size, padding, stride, dilation):
    shape = (2, 15, 14, 3)
    ours = twin.abstract(
        strided.conv, shape[-1], 5, size, dtype=F32, stride=stride,
        padding=padding, dilation=dilation, bias=True,
    )  # fmt: skip
    layer = keras.layers.Conv2D(
        5, size, stride, padding.lower(), dilation_rate=dilation
    )
    found, wanted = twin.beside(ours, normal(*shape), layer)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=3e-5)


def test_equal_convolutions_are_one_program():
    def graph():
        return nnx.graphdef(
            twin.abstract(strided.conv, 3, 4, 3, dtype=F32, stride=2)
        )

    assert graph() == graph()
    assert hash(graph()) == hash(graph())


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (8, 5, 7, 4), (3, 1, 2, 2)])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_a_depthwise_convolution_is_keras(shape, stride, dilation):
    ours = twin.abstract(
        strided.Depthwise,
        shape[-1],
        dtype=F32,
        stride=stride,
        dilation=dilation,
    )
    layer = keras.layers.DepthwiseConv2D(
        3, stride, "same", dilation_rate=dilation, use_bias=False
    )
    x = normal(*shape)
    found, wanted = twin.beside(ours, x, layer)
    np.testing.assert_allclose(found, wanted, **TIGHT)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel[:, :, None], (stride, stride), "SAME",
            rhs_dilation=(dilation, dilation), dimension_numbers=LAYOUT,
            feature_group_count=shape[-1],
        )  # fmt: skip

    def fast(x, kernel):
        return strided.depthwise(x, kernel, stride, dilation)

    args = x, normal(3, 3, shape[-1])
    twin.same_both_ways(fast, plain, *args, **GRADIENTS)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_is_keras(shape, bias):
    ours = twin.abstract(strided.UpConv3, shape[-1], 6, dtype=F32, bias=bias)
    layer = keras.layers.Conv2DTranspose(6, 3, 2, "same", use_bias=bias)
    x = normal(*shape)
    found, wanted = twin.beside(ours, x, layer)
    assert found.shape == (shape[0], 2 * shape[1], 2 * shape[2], 6)
    np.testing.assert_allclose(found, wanted, **TIGHT)

    def plain(x, kernel):
        return jax.lax.conv_transpose(
            x, kernel, (2, 2), ((2, 1), (2, 1)), dimension_numbers=LAYOUT
        )

    def turned(x, kernel):  # lax does not turn the kernel round, Keras does
        return plain(x, kernel[::-1, ::-1])

    args = x, normal(*ours.kernel.shape)
    twin.same_both_ways(strided.conv_transpose, turned, *args, **GRADIENTS)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 5, 7, 2), (1, 1, 2, 1)])
def test_a_pool_of_three_is_keras(shape):
    x = normal(*shape)
    layer = keras.layers.MaxPooling2D(3, 2, "same")
    np.testing.assert_array_equal(strided.max_pool3(x), layer(x))

    def plain(x):
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
        )

    twin.same_both_ways(strided.max_pool3, plain, x, **GRADIENTS)


def test_layers_compute_in_their_dtype_with_float32_weights():
    x = normal(2, 4, 4, 3)
    for make, *args in (
        (functools.partial(strided.conv, stride=2), 3, 4, 3),
        (strided.conv, 3, 4, 1),
        (strided.Depthwise, 3),
        (strided.UpConv3, 3, 4),
    ):
        layer = twin.abstract(make, *args, dtype=jnp.bfloat16)
        graph, state = nnx.split(layer)

        def loss(state, x, graph=graph):
            y = nnx.merge(graph, state)(x)
            assert y.dtype == jnp.bfloat16
            return (y**2).sum().astype(F32)

        grads = jax.eval_shape(jax.grad(loss), state, x)
        assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(F32)}
