"""Layers that the architectures share.

They are written so that XLA is fast on a CPU too, where base-dilated
convolutions (a transposed convolution, the gradient of a strided one) and the
gradient of a pooling window take most of a plain step: up-sampling is a dot
and a depth-to-space, pooling a maximum over a reshaped axis. On every platform
the numbers are those of the textbook layer. Features are [B, H, W, C].
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

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
    return nnx.Conv(
        n_in,
        n_out,
        (size, size),
        use_bias=bias,
        dtype=dtype,
        kernel_init=init,
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Batch normalisation over B, H, W (Ioffe and Szegedy, 2015).

    One pass over the input for both moments, in float32, and one multiply-add
    to apply them. `momentum` is the share of the old running average, as in
    Keras.
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

    def __call__(self, x: Array) -> Array:
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            wide = x.astype(jnp.float32)
            mean = wide.mean((0, 1, 2))
            var = jnp.maximum(jnp.square(wide).mean((0, 1, 2)) - mean**2, 0.0)
            keep = self.momentum
            self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
            self.var[...] = keep * self.var[...] + (1 - keep) * var
        factor = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        shift = self.bias[...] - mean * factor
        return x * factor.astype(x.dtype) + shift.astype(x.dtype)


def norm(
    kind: str, n: int, rngs: nnx.Rngs, *, dtype: jnp.dtype
) -> Callable[[Array], Array]:
    """The normalisation that `model.norm` names, for n channels."""
    if kind == "batch":
        return BatchNorm(n, rngs)
    if kind == "group":
        groups = next(g for g in (8, 4, 2, 1) if n % g == 0)
        return nnx.GroupNorm(n, num_groups=groups, dtype=dtype, rngs=rngs)
    return Identity()


class Identity(nnx.Module):
    """Gives back what it gets."""

    def __call__(self, x: Array) -> Array:
        return x


def max_pool(x: Array) -> Array:
    """2x2 maximum, stride 2; equal maxima share the gradient."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


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
        return depth_to_space(x @ flat) + bias


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
        return depth_to_space(jnp.concatenate(phases, -1)) + bias


@functools.cache
def compute_dtype(name: str) -> jnp.dtype:
    """The dtype that `model.dtype` names."""
    return jnp.dtype(name)
