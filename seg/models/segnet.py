"""SegNets: encoder and decoder without skips.

`segnet` is that of a public thesis on cardiomyocytes, parameter for parameter
(11,742,788 at 1 channel and 4 classes, running statistics counted): nearest
up-sampling, and each normalisation behind the ReLU. `segnet_indices` has the
same widths, and what made the name: Badrinarayanan, Kendall and Cipolla,
"SegNet", PAMI 2017, up-samples by putting each value back where the encoder's
maximum was. The last convolution of a decoder's level then narrows to the
channels that those places have.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, refuse


class Stage(nnx.Module):
    """Twice 3x3 convolution, ReLU, normalisation; dropout between."""

    def __init__(
        self,
        n_in: int,
        n: int,
        n_out: int,
        rngs: nnx.Rngs,
        *,
        norm: str,
        dropout: float,
        dtype: jnp.dtype,
    ):
        self.conv1 = blocks.conv(n_in, n, 3, rngs, dtype=dtype)
        self.norm1 = blocks.norm(norm, n, rngs, dtype=dtype, momentum=0.99)
        self.conv2 = blocks.conv(n, n_out, 3, rngs, dtype=dtype)
        self.norm2 = blocks.norm(norm, n_out, rngs, dtype=dtype, momentum=0.99)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        x = self.norm1(jax.nn.relu(self.conv1(x)))
        x = self.dropout(x, rngs=rngs)
        return self.norm2(jax.nn.relu(self.conv2(x)))


class SegNet(nnx.Module):
    """The thesis' network; `indices` makes it the original's."""

    indices = False

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "stem", "encoder", "deep_supervision")
        depth = 4 if config.depth is None else config.depth
        self.stride = 1 << depth
        self.dtype = blocks.compute_dtype(config.dtype)
        kwargs = {
            "norm": config.norm or "batch",
            "dropout": config.dropout or 0.0,
            "dtype": self.dtype,
        }
        widths = [(config.width or 64) << level for level in range(depth)]
        self.down, self.up = nnx.List(), nnx.List()
        n = config.in_channels
        for width in widths:
            self.down.append(Stage(n, width, width, rngs, **kwargs))
            n = width
        for level in reversed(range(depth)):
            width = widths[level]
            out = widths[max(level - 1, 0)] if self.indices else width
            self.up.append(Stage(n, width, out, rngs, **kwargs))
            n = out
        self.head = blocks.conv(n, config.n_classes, 1, rngs, dtype=jnp.float32)

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        x = image.astype(self.dtype)
        places = []
        for stage in self.down:
            x = stage(x, rngs)
            if self.indices:
                places.append(_places(x))
            x = blocks.max_pool(x)
        for stage in self.up:
            if self.indices:
                x = _unpool(x, places.pop())
            else:
                x = x.repeat(2, 1).repeat(2, 2)
            x = stage(x, rngs)
        return {"classes": self.head(x.astype(jnp.float32))}


class SegNetIndices(SegNet):
    """The SegNet that up-samples by the places of its maxima."""

    indices = True


def _places(x: Array) -> list[Array]:
    """Where the maxima of 2x2 windows are: four masks [B, H/2, W/2, C].

    Of equal maxima, which are common behind a ReLU, the first has it. One of
    the four always has it, however a compiler rounds what it computes twice.
    """
    a, b, c, d = jnp.split(blocks.space_to_depth(x), 4, -1)
    upper, lower = a >= b, c >= d
    above = jnp.maximum(a, b) >= jnp.maximum(c, d)
    return [upper & above, ~upper & above, lower & ~above, ~lower & ~above]


def _unpool(x: Array, places: list[Array]) -> Array:
    """[B, H, W, C] -> [B, 2*H, 2*W, C], zero beside the places."""
    return blocks.depth_to_space(
        jnp.concatenate([jnp.where(here, x, 0) for here in places], -1)
    )
