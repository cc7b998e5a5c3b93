"""Layers that the architectures share.

They are written so that XLA is fast on a CPU too, where base-dilated
convolutions (a transposed convolution, the gradient of a strided one) and the
gradient of a pooling window take most of a plain step: up-sampling is a dot
and a depth-to-space, pooling a maximum over a reshaped axis. What is then left
beside the convolutions is sums over whole feature maps, which are dots with
ones there (`channel_sum`). On every platform the numbers are those of the
textbook layer. Features are [B, H, W, C].
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib

Init = nnx.Initializer
glorot_uniform = nnx.initializers.glorot_uniform()
he_normal = nnx.initializers.he_normal()


def conv(
    n_in: int,
    n_out: int,
    size: int,
    rngs: nnx.Rngs,
    *,
    dtype: jnp.dtype,
    bias: bool = True,
    init: Init = glorot_uniform,
) -> nnx.Conv:
    """A "same" convolution, stride 1, with Keras' initialisation."""
    narrows = n_in >= n_out and size % 2 == 1
    return nnx.Conv(
        n_in,
        n_out,
        (size, size),
        use_bias=bias,
        dtype=dtype,
        kernel_init=init,
        conv_general_dilated=_narrowing if narrows else _same,
        rngs=rngs,
    )


def _same(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _narrow(x: Array, kernel: Array) -> Array:
    return _same(x, kernel)


def _narrow_backward(
    kept: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    _, pull = jax.vjp(_same, x, kernel)
    return pull(dy)[0], jax.lax.platform_dependent(
        x,
        dy,
        cpu=functools.partial(_kernel_gradient, len(kernel)),
        default=lambda x, dy: jax.vjp(_same, x, kernel)[1](dy)[1],
    )


def _kernel_gradient(side: int, x: Array, dy: Array) -> Array:
    """The gradient [side, side, n_in, n_out] of an odd kernel.

    A convolution whose "batch" is channels, which XLA must first bring to the
    front: it is given those of dy, of which there are not more, and which no
    slow transposition computes anew on the way, as it does x.
    """
    pad = side // 2
    found = jax.lax.conv_general_dilated(
        dy.transpose(3, 1, 2, 0),
        x.transpose(1, 2, 0, 3),
        (1, 1),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jnp.flip(found, (1, 2)).transpose(1, 2, 3, 0)


_narrow.defvjp(
    lambda x, kernel: (_same(x, kernel), (x, kernel)), _narrow_backward
)


def _narrowing(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    return _narrow(x, kernel)


# The widest row that a sum is folded to: a dot of 1 x T by T x 32 is slow.
_WIDE = 1024


def channel_sum(x: Array) -> Array:
    """Sum over all axes but the last: float32 [C].

    XLA makes trees of windows of such a sum on a CPU: 14 ms for both moments
    of float32 [4, 256, 256, 32] on two cores with AVX-512, the dot 6 ms.
    """
    return jax.lax.platform_dependent(x, cpu=_sum_by_dot, default=_sum)


def _sum(x: Array) -> Array:
    return x.astype(jnp.float32).sum(tuple(range(x.ndim - 1)))


def _sum_by_dot(x: Array) -> Array:
    c = x.shape[-1]
    fold = math.gcd(x.size // c, max(1, _WIDE // c))
    rows = x.reshape(-1, fold * c)
    ones = jnp.ones((1, len(rows)), x.dtype)
    sums = jnp.dot(
        ones,
        rows,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return sums.reshape(fold, c).sum(0)


@jax.custom_vjp
def add_bias(x: Array, bias: Array) -> Array:
    """x + bias [C]; the bias' gradient is a `channel_sum`."""
    return x + bias


add_bias.defvjp(
    lambda x, bias: (x + bias, None),
    lambda _, d: (d, channel_sum(d).astype(d.dtype)),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Batch normalisation: (y of x's shape and dtype, mean [C], variance [C]).

    Mean and variance (biased) are float32, and constants to a gradient: they
    are for running averages.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    n = x.size // x.shape[-1]
    mean = channel_sum(x) / n
    wide = x.astype(jnp.float32)
    var = jnp.maximum(channel_sum(wide * wide) / n - mean**2, 0.0)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = _scale(x, scale * inverse, bias - mean * scale * inverse)
    return (y, mean, var), (x, scale, mean, inverse)


def _normalize_backward(
    epsilon: float, kept: tuple[Array, ...], given: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    """Ioffe and Szegedy, 2015, section 3, as one multiply-add of x and dy."""
    del epsilon
    x, scale, mean, inverse = kept
    dy = given[0]
    n = x.size // x.shape[-1]
    d_bias = channel_sum(dy)
    product = dy.astype(jnp.float32) * x.astype(jnp.float32)
    d_scale = (channel_sum(product) - mean * d_bias) * inverse
    slope = -scale * inverse**2 * d_scale / n
    shift = -scale * inverse * d_bias / n - slope * mean
    dx = dy * (scale * inverse).astype(x.dtype) + _scale(x, slope, shift)
    return dx, d_scale, d_bias


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


def _scale(x: Array, factor: Array, shift: Array) -> Array:
    return x * factor.astype(x.dtype) + shift.astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over B, H, W (Ioffe and Szegedy, 2015).

    Moments in float32, and one multiply-add to apply them. `momentum` is the
    share of the old running average, as in Keras.
    """

    def __init__(
        self,
        n: int,
        rngs: nnx.Rngs,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
    ):
        del rngs  # the initial values are constants
        self.scale = nnx.Param(jnp.ones(n))
        self.bias = nnx.Param(jnp.zeros(n))
        self.mean = nnx.BatchStat(jnp.zeros(n))
        self.var = nnx.BatchStat(jnp.ones(n))
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False

    def set_view(self, use_running_average: bool | None = None, **kwargs):
        """Chooses between the batch's moments and the running ones."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        return kwargs

    def keras_weights(self) -> list[nnx.Variable]:
        """The layer's weights in Keras' order."""
        return [self.scale, self.bias, self.mean, self.var]

    def __call__(self, x: Array) -> Array:
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(self.var[...] + self.epsilon)
            return _scale(x, factor, bias - self.mean[...] * factor)
        if x.size == x.shape[-1]:  # its variance, 0, says nothing
            raise config_lib.ConfigError(
                "a batch with one value a channel cannot be normalised, which "
                "this network does; give a train.batch_size of 2 or more, or "
                "larger tiles"
            )
        y, mean, var = normalize_batch(x, scale, bias, self.epsilon)
        keep = self.momentum
        self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
        self.var[...] = keep * self.var[...] + (1 - keep) * var
        return y


def norm(
    kind: str,
    n: int,
    rngs: nnx.Rngs,
    *,
    dtype: jnp.dtype,
    momentum: float = 0.9,
) -> Callable[[Array], Array]:
    """The normalisation that `model.norm` names, for n channels."""
    if kind == "batch":
        return BatchNorm(n, rngs, momentum=momentum)
    if kind == "group":
        groups = next(g for g in (8, 4, 2, 1) if n % g == 0)
        return nnx.GroupNorm(n, num_groups=groups, dtype=dtype, rngs=rngs)
    return Identity()


class Identity(nnx.Module):
    """Gives back what it gets."""

    def __call__(self, x: Array) -> Array:
        return x


@jax.custom_vjp
def max_pool(x: Array) -> Array:
    """2x2 maximum, stride 2; equal maxima share the gradient."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def _pool_by_pairs(x: Array) -> Array:
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


# The gradient of a reduction looks for its maximum among the inputs, and is
# 0 / 0 where a compiler computes them anew with another last digit.
max_pool.defvjp(
    lambda x: (max_pool(x), x),
    lambda x, dy: jax.vjp(_pool_by_pairs, x)[1](dy),
)


def depth_to_space(
    x: Array,
) -> Array:
    """[B, H, W, 4*C] -> [B, 2*H, 2*W, C]; the groups are the four phases."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def space_to_depth(x: Array) -> Array:
    """[B, H, W, C] -> [B, H/2, W/2, 4*C]; undone by `depth_to_space`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // 2, w // 2, 4 * c)


class UpConv(nnx.Module):
    """Transposed convolution, 2x2, stride 2, as a dot and a depth-to-space.

    The kernel has the layout (row, column, in, out); windows do not overlap,
    so each output pixel is one dot product.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        init: Init = glorot_uniform,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, n_in, n_out)))
        self.bias = nnx.Param(jnp.zeros(n_out))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        x, kernel, bias = (
            v.astype(self.dtype) for v in (x, self.kernel[...], self.bias[...])
        )
        n_in, n_out = kernel.shape[2:]
        flat = kernel.transpose(2, 0, 1, 3).reshape(n_in, 4 * n_out)
        return add_bias(depth_to_space(x @ flat), bias)


class NearestConv(nnx.Module):
    """Nearest 2x up-sampling, then a 2x2 "same" convolution, at half the size.

    Each of the four phases of the up-sampled image sees each low-resolution
    neighbour through a sum of kernel taps, so nothing is computed at the high
    resolution. "Same" pads an even kernel at the bottom and right, as Keras.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        init: Init = glorot_uniform,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, n_in, n_out)))
        self.bias = nnx.Param(jnp.zeros(n_out))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        x, k, bias = (
            v.astype(self.dtype) for v in (x, self.kernel[...], self.bias[...])
        )
        right = jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, 1:]
        down = jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))[:, 1:]
        both = jnp.pad(right, ((0, 0), (0, 1), (0, 0), (0, 0)))[:, 1:]
        left, top = k[:, 0] + k[:, 1], k[0] + k[1]
        phases = (
            x @ (left[0] + left[1]),
            x @ top[0] + right @ top[1],
            x @ left[0] + down @ left[1],
            x @ k[0, 0] + right @ k[0, 1] + down @ k[1, 0] + both @ k[1, 1],
        )
        return add_bias(depth_to_space(jnp.concatenate(phases, -1)), bias)


def centred(image: Array) -> Array:
    """From [0, 1] to [-1, 1], which encoders of Keras are trained on."""
    return 2.0 * image.astype(jnp.float32) - 1.0


@functools.cache
def compute_dtype(name: str) -> jnp.dtype:
    """The dtype that `model.dtype` names."""
    return jnp.dtype(name)
