"""The fully convolutional network with skips from strides 8 and 16.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015, as the comparison zoo that the thesis started from
has it small: one 3x3 convolution, ReLU and batch normalisation a stage, widths
64, 128, 256, 256, 256, then a 7x7 convolution in place of VGG's dense layers.
4,764,838 parameters at 1 channel and 1 class. As in the paper the scores are
put together aligned, and grow by learned transposed convolutions that begin
as bilinear ones.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, refuse


class Stage(nnx.Module):
    """Convolution, ReLU, normalisation, in this order."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int,
        rngs: nnx.Rngs,
        *,
        norm: str,
        dtype: jnp.dtype,
    ):
        self.conv = blocks.conv(
            n_in, n_out, size, rngs, dtype=dtype, init=blocks.he_normal
        )
        self.norm = blocks.norm(norm, n_out, rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        return self.norm(jax.nn.relu(self.conv(x)))


class Grow(nnx.Module):
    """Transposed convolution of stride f and side 2f, bilinear at first.

    The kernel has the layout (row, column, in, out); "same", so the output
    [B, f * H, f * W, K] lies centred on the input. Each output sees 2x2
    inputs, so all f * f phases are one 2x2 convolution of the input.
    """

    def __init__(self, n: int, factor: int):
        ramp = 1 - jnp.abs((jnp.arange(2 * factor) + 0.5) / factor - 1)
        self.kernel = nnx.Param(
            ramp[:, None, None, None] * ramp[:, None, None] * jnp.eye(n)
        )
        self.bias = nnx.Param(jnp.zeros(n))
        self.factor = factor

    def __call__(self, x: Array) -> Array:
        f, n = self.factor, len(self.bias[...])
        taps = self.kernel[...].reshape(2, f, 2, f, n, n)
        taps = taps[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
        y = jax.lax.conv_general_dilated(
            x,
            taps.reshape(2, 2, n, f * f * n),
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        b, h, w, _ = y.shape
        y = y.reshape(b, h, w, f, f, n).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(b, h * f, w * f, n)
        edge = f // 2
        return y[:, edge : edge - f, edge : edge - f] + self.bias[...]


class FCN8(nnx.Module):
    """Five stages, each halved, and the scores of the last three."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "depth", "stem", "encoder", "deep_supervision")
        self.dtype = blocks.compute_dtype(config.dtype)
        self.stride = 32
        kwargs = {"norm": config.norm or "batch", "dtype": self.dtype}
        width, k = config.width or 64, config.n_classes
        widths = [config.in_channels, *(width * n for n in (1, 2, 4, 4, 4))]
        self.down = nnx.List(
            Stage(n_in, n, 3, rngs, **kwargs)
            for n_in, n in itertools.pairwise(widths)
        )
        n = widths[-1]
        self.top = Stage(n, n, 7, rngs, **kwargs)
        self.dropout = nnx.Dropout(config.dropout or 0.0)
        self.scores = nnx.List(
            blocks.conv(n, k, 1, rngs, dtype=jnp.float32) for _ in range(3)
        )
        self.grow = nnx.List(Grow(k, factor) for factor in (2, 2, 8))

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        x = image.astype(self.dtype)
        pools = []
        for stage in self.down:
            x = blocks.max_pool(stage(x))
            pools.append(x)
        top = self.dropout(self.top(x), rngs=rngs)
        low, middle, high = (
            score(x.astype(jnp.float32))
            for score, x in zip(self.scores, (top, *pools[3:1:-1]), strict=True)
        )
        two, four, last = self.grow
        return {"classes": last(high + four(middle + two(low)))}
