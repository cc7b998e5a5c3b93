"""A U-Net with Xception as encoder and residual blocks in the decoder.

The network of the paper on cells and beads in low contrast (arXiv 1907.03576)
and of the thesis on cardiomyocytes, parameter for parameter: 38,431,483 at 3
channels and 3 classes, 38,430,924 at 1 and 4, running statistics counted.

`model.width` is the decoder's last width (16; it doubles towards the centre),
`model.encoder` the file that `seg.models.pretrained` reads. The encoder's
features of 1/2 and 1/4 of the size lack rows and columns, which are added as
zeros at the top and left.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import (
    blocks,
    refuse,
    strided,
    xception,
)


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.1)


def _norm(n: int, rngs: nnx.Rngs) -> blocks.BatchNorm:
    return blocks.BatchNorm(n, rngs, momentum=0.99)


class Residual(nnx.Module):
    """Two normalised convolutions beside a normalised shortcut."""

    def __init__(self, n: int, rngs: nnx.Rngs, *, dtype: jnp.dtype):
        self.norm0, self.norm1, self.norm2, self.shortcut = (
            _norm(n, rngs) for _ in range(4)
        )
        self.conv1 = blocks.conv(n, n, 3, rngs, dtype=dtype)
        self.conv2 = blocks.conv(n, n, 3, rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        y = self.norm0(_leaky(x))
        y = _leaky(self.norm1(self.conv1(y)))
        return self.norm2(self.conv2(y)) + self.shortcut(x)


class Decode(nnx.Module):
    """A convolution, two residual blocks, leaky ReLU."""

    def __init__(
        self, n_in: int, n_out: int, rngs: nnx.Rngs, *, dtype: jnp.dtype
    ):
        self.conv = blocks.conv(n_in, n_out, 3, rngs, dtype=dtype)
        self.block1 = Residual(n_out, rngs, dtype=dtype)
        self.block2 = Residual(n_out, rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        return _leaky(self.block2(self.block1(self.conv(x))))


class XceptionUNet(nnx.Module):
    """Xception, five transposed convolutions, four skips, head."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "depth", "stem", "norm", "deep_supervision")
        self.stride = 32
        self.dtype = blocks.compute_dtype(config.dtype)
        self.centred = bool(config.encoder)
        kwargs = {"dtype": self.dtype}
        self.encoder = xception.Xception(config.in_channels, rngs, **kwargs)
        width = config.width or 16
        n = width << 5
        skips = [*reversed(xception.Xception.widths), 0]
        self.centre = Decode(xception.Xception.widths[-1], n, rngs, **kwargs)
        self.up, self.merge = nnx.List(), nnx.List()
        for skip in skips:
            self.up.append(strided.UpConv3(n, n // 2, rngs, **kwargs))
            self.merge.append(Decode(n // 2 + skip, n // 2, rngs, **kwargs))
            n //= 2
        first, last = 0.1, 0.05
        if config.dropout is not None:
            first = last = config.dropout
        self.dropout, self.dropout_last = nnx.Dropout(first), nnx.Dropout(last)
        self.head = blocks.conv(n, config.n_classes, 1, rngs, dtype=jnp.float32)

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        if self.centred:
            image = blocks.centred(image)
        *skips, x = self.encoder(image.astype(self.dtype))
        x = _leaky(x)
        skips.append(x)
        x = self.dropout(blocks.max_pool(x), rngs=rngs)
        x = self.centre(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            if skips:
                x = jnp.concatenate([x, _padded(skips.pop(), x)], -1)
            x = merge(self.dropout(x, rngs=rngs))
        x = self.dropout_last(x, rngs=rngs)
        return {"classes": self.head(x.astype(jnp.float32))}


def _padded(skip: Array, like: Array) -> Array:
    """The skip with zeros at the top and left, as high and wide as `like`."""
    rows, columns = (like.shape[i] - skip.shape[i] for i in (1, 2))
    return jnp.pad(skip, ((0, 0), (rows, 0), (columns, 0), (0, 0)))
