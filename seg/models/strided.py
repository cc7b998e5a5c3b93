"""Layers with strides, and depthwise ones, that XLA runs fast on a CPU too.

Padding is Keras': "SAME" gives ceil(n / stride) pixels and pads the odd pixel
at the bottom and right, "VALID" pads nothing. A dense convolution with a
stride is fast as it stands, forward and backward. Not so what this file
writes anew: a 1x1 convolution (a dot here), a grouped one (nine shifted
products), the gradients of a transposed one (those of the convolution that it
transposes) and the gradient of a window's maximum (maxima of two). The numbers
are those of the textbook layers; features are [B, H, W, C].
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg.models import blocks

Padding = Literal["SAME", "VALID"]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Glorot's, as Keras counts: a kernel is [3, 3, C in, 1 out].
_DEPTHWISE = nnx.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=-1, out_axis=()
)


def conv(
    n_in: int,
    n_out: int,
    size: int,
    rngs: nnx.Rngs,
    *,
    dtype: jnp.dtype,
    stride: int = 1,
    padding: Padding = "SAME",
    dilation: int = 1,
    bias: bool = False,
    init: blocks.Init = blocks.glorot_uniform,
) -> nnx.Conv:
    """A convolution with stride or dilation, as Keras pads it."""
    if size > 1 and stride == dilation == 1 and padding == "SAME":
        return blocks.conv(
            n_in, n_out, size, rngs, dtype=dtype, bias=bias, init=init
        )
    return nnx.Conv(
        n_in,
        n_out,
        (size, size),
        use_bias=bias,
        dtype=dtype,
        kernel_init=init,
        conv_general_dilated=_Product(stride, padding, dilation),
        rngs=rngs,
    )


@dataclasses.dataclass(frozen=True)  # equal ones are one program to jit
class _Product:
    """What `nnx.Conv` calls, whose own strides and padding are not used."""

    stride: int
    padding: Padding
    dilation: int

    def __call__(self, x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
        if kernel.shape[:2] == (1, 1):
            for axis in (1, 2):
                x = jax.lax.slice_in_dim(x, 0, None, self.stride, axis)
            return x @ kernel[0, 0]
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            self.padding,
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=_LAYOUT,
        )


# ---------------------------------------------------------------- depthwise
class Depthwise(nnx.Module):
    """3x3 convolution of each channel with a kernel of its own, no bias.

    The kernel has the layout (row, column, channel).
    """

    def __init__(
        self,
        n: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        stride: int = 1,
        dilation: int = 1,
        init: blocks.Init = _DEPTHWISE,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, n)))
        self.stride, self.dilation, self.dtype = stride, dilation, dtype

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        return depthwise(x, kernel, self.stride, self.dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(
    x: Array, kernel: Array, stride: int = 1, dilation: int = 1
) -> Array:
    """Depthwise 3x3 convolution, "SAME"; the kernel is [3, 3, C]."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted, stride=stride, dilation=dilation),
        default=functools.partial(_grouped, stride=stride, dilation=dilation),
    )


def _grouped(x: Array, kernel: Array, *, stride: int, dilation: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[-1],
    )


def _shifted(x: Array, kernel: Array, *, stride: int, dilation: int) -> Array:
    taps = _taps(x, stride, dilation)
    return sum(tap * kernel[row, column] for row, column, tap in taps)


def _taps(
    x: Array, stride: int, dilation: int
) -> Iterator[tuple[int, int, Array]]:
    """What each of the nine taps sees: row, column, [B, H', W', C]."""
    n_rows, n_columns = (-(-n // stride) for n in x.shape[1:3])
    pads = [
        jax.lax.padtype_to_pads((n,), (2 * dilation + 1,), (stride,), "SAME")[0]
        for n in x.shape[1:3]
    ]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for row in range(3):
        for column in range(3):
            top, left = row * dilation, column * dilation
            bottom = top + stride * (n_rows - 1) + 1
            right = left + stride * (n_columns - 1) + 1
            # As an index this is a gather where H and W are symbols.
            tap = jax.lax.slice_in_dim(x, top, bottom, stride, 1)
            tap = jax.lax.slice_in_dim(tap, left, right, stride, 2)
            yield row, column, tap


def _depthwise_backward(
    stride: int, dilation: int, kept: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    how = {"stride": stride, "dilation": dilation}

    def by_shifts(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        _, pull = jax.vjp(lambda x: _shifted(x, kernel, **how), x)
        sums = [_product_sum(tap, dy) for *_, tap in _taps(x, stride, dilation)]
        d_kernel = jnp.stack(sums).reshape(kernel.shape)
        return *pull(dy), d_kernel.astype(kernel.dtype)

    def by_groups(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        _, pull = jax.vjp(functools.partial(_grouped, **how), x, kernel)
        return pull(dy)

    return jax.lax.platform_dependent(
        *kept, dy, cpu=by_shifts, default=by_groups
    )


def _product_sum(x: Array, dy: Array) -> Array:
    """The sum of x * dy over all but channels: float32 [C].

    Images are added in pairs of a written-out sum, which becomes one vector
    loop; a reduction over B, H, W takes five times as long on a CPU.
    """
    group = math.gcd(len(x), 8)
    pairs = zip(
        jnp.split(x.astype(jnp.float32), group),
        jnp.split(dy.astype(jnp.float32), group),
        strict=True,
    )
    return blocks.channel_sum(sum(a * b for a, b in pairs))


depthwise.defvjp(
    lambda x, kernel, *how: (depthwise(x, kernel, *how), (x, kernel)),
    _depthwise_backward,
)


# --------------------------------------------------------------- transposed
class UpConv3(nnx.Module):
    """Transposed convolution, 3x3, stride 2, "SAME": twice the size.

    The kernel has the layout (row, column, in, out).
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        bias: bool = True,
        init: blocks.Init = blocks.glorot_uniform,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, n_in, n_out)))
        self.bias = nnx.data(nnx.Param(jnp.zeros(n_out)) if bias else None)
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(self.dtype)
        y = conv_transpose(x.astype(self.dtype), kernel)
        if self.bias is None:
            return y
        return blocks.add_bias(y, self.bias[...].astype(self.dtype))


@jax.custom_vjp
def conv_transpose(x: Array, kernel: Array) -> Array:
    """Transposed 3x3 convolution, stride 2; Keras' "same" begins at row 0."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        ((2, 1), (2, 1)),
        lhs_dilation=(2, 2),
        dimension_numbers=_LAYOUT,
    )


def _transposed(y: Array, kernel: Array) -> Array:
    """The convolution, from large to small, that `conv_transpose` turns."""
    return jax.lax.conv_general_dilated(
        y,
        kernel.transpose(0, 1, 3, 2),
        (2, 2),
        ((0, 1), (0, 1)),
        dimension_numbers=_LAYOUT,
    )


def _transpose_backward(
    kept: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    dx, pull = jax.vjp(lambda kernel: _transposed(dy, kernel), kernel)
    return dx, *pull(x)


conv_transpose.defvjp(
    lambda x, kernel: (conv_transpose(x, kernel), (x, kernel)),
    _transpose_backward,
)


# ------------------------------------------------------------------ pooling
@jax.custom_vjp
def max_pool3(x: Array) -> Array:
    """3x3 maximum, stride 2, "SAME"; two equal maxima share the gradient."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    )


def _pool_by_pairs(x: Array) -> Array:
    b, *sizes, c = x.shape
    n_rows, n_columns = (-(-n // 2) for n in sizes)
    pads = [(n % 2, 2) for n in sizes]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    x = x.reshape(b, n_rows + 1, 2, 2 * n_columns + 2, c)
    x = jnp.maximum(jnp.maximum(x[:, :-1, 0], x[:, :-1, 1]), x[:, 1:, 0])
    x = x.reshape(b, n_rows, n_columns + 1, 2, c)
    return jnp.maximum(
        jnp.maximum(x[:, :, :-1, 0], x[:, :, :-1, 1]), x[:, :, 1:, 0]
    )


max_pool3.defvjp(
    lambda x: (max_pool3(x), x),
    lambda x, dy: jax.vjp(_pool_by_pairs, x)[1](dy),
)
