"""U-Nets: the classic one and the small one of the 2018 Data Science Bowl.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical
Image Segmentation", MICCAI 2015. The defaults are those of two public
programs, parameter for parameter (tests compare them with Keras):
`unet` has 31,031,685 parameters at 1 channel and 1 class, `unet_small`
1,941,105 at 3 and 1. `model.width`, `depth`, `norm` and `dropout` change them;
with `stem=2` the first level sees blocks of 2x2 pixels as channels (and the
head gives each pixel of a block its own logits), which spares a CPU the
slowest level: few channels over many pixels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, refuse


class DoubleConv(nnx.Module):
    """Two 3x3 convolutions with ReLU; normalised before, dropout between."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rngs: nnx.Rngs,
        *,
        norm: str,
        dropout: float,
        dtype: jnp.dtype,
        init: blocks.Init,
    ):
        def conv(n: int) -> nnx.Conv:
            # A batch norm subtracts the mean, so a bias before it is inert.
            return blocks.conv(
                n, n_out, 3, rngs, dtype=dtype, bias=norm != "batch", init=init
            )

        self.conv1, self.conv2 = conv(n_in), conv(n_out)
        self.norm1 = blocks.norm(norm, n_out, rngs, dtype=dtype)
        self.norm2 = blocks.norm(norm, n_out, rngs, dtype=dtype)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        x = self.dropout(x, rngs=rngs)
        return jax.nn.relu(self.norm2(self.conv2(x)))


class _UNet(nnx.Module):
    """Encoder, decoder with skips, head; what the two networks share."""

    def __init__(
        self,
        config: config_lib.Model,
        rngs: nnx.Rngs,
        *,
        width: int,
        dropout: list[float],
        up: Callable[..., nnx.Module],
        tail: bool,
        init: blocks.Init,
    ):
        refuse.knobs(config, "deep_supervision")
        depth = len(dropout) // 2
        dtype = blocks.compute_dtype(config.dtype)
        kwargs = {
            "norm": config.norm or "none",
            "dtype": dtype,
            "init": init,
        }
        widths = [width << level for level in range(depth + 1)]
        self.stem = config.stem or 1
        self.stride = self.stem << depth
        self.dtype = dtype
        self.down = nnx.List(
            DoubleConv(n_in, n, rngs, dropout=p, **kwargs)
            for n_in, n, p in zip(
                [config.in_channels * self.stem**2, *widths],
                widths,
                dropout,
                strict=False,
            )
        )
        self.up, self.merge = nnx.List(), nnx.List()
        for level in reversed(range(depth)):
            n = widths[level]
            self.up.append(up(2 * n, n, rngs, dtype=dtype, init=init))
            rate = dropout[2 * depth - level]
            self.merge.append(
                DoubleConv(2 * n, n, rngs, dropout=rate, **kwargs)
            )
        n_out = config.n_classes * self.stem**2
        n_last = max(2, config.n_classes) * self.stem**2 if tail else width
        if config.objects != "none":
            # So few features say what is foreground, not how deep inside.
            n_last = max(n_last, width)
        self.tail = nnx.data(
            blocks.conv(width, n_last, 3, rngs, dtype=dtype, init=init)
            if tail
            else None
        )
        self.head = blocks.conv(n_last, n_out, 1, rngs, dtype=jnp.float32)

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        x = image.astype(self.dtype)
        if self.stem == 2:
            x = blocks.space_to_depth(x)
        skips = []
        for block in self.down[:-1]:
            x = block(x, rngs)
            skips.append(x)
            x = blocks.max_pool(x)
        x = self.down[-1](x, rngs)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(jnp.concatenate([skips.pop(), up(x)], -1), rngs)
        if self.tail is not None:
            x = jax.nn.relu(self.tail(x))
        logits = self.head(x.astype(jnp.float32))
        if self.stem == 2:
            logits = blocks.depth_to_space(logits)
        return {"classes": logits}


class Up(nnx.Module):
    """Nearest up-sampling, 2x2 convolution, ReLU."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs, **kwargs):
        self.conv = blocks.NearestConv(n_in, n_out, rngs, **kwargs)

    def __call__(self, x: Array) -> Array:
        return jax.nn.relu(self.conv(x))


class UNet(_UNet):
    """The classic U-Net: widths 64 to 1024, nearest up-sampling.

    Without normalisation and dropout, with a tail of two channels before the
    head. The tail widens with the classes, where more than two are asked for,
    with the pixels of the stem's blocks, and to `width` with `model.objects`.
    """

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        depth = 4 if config.depth is None else config.depth
        super().__init__(
            config,
            rngs,
            width=config.width or 64,
            dropout=[config.dropout or 0.0] * (2 * depth + 1),
            up=Up,
            tail=True,
            init=blocks.he_normal,
        )


class UNetSmall(_UNet):
    """The small U-Net: widths 16 to 256, dropout, transposed convolutions."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        depth = 4 if config.depth is None else config.depth
        rates = [0.1 * (1 + level // 2) for level in range(depth + 1)]
        dropout = rates + rates[-2::-1]
        if config.dropout is not None:
            dropout = [config.dropout] * len(dropout)
        super().__init__(
            config,
            rngs,
            width=config.width or 16,
            dropout=dropout,
            up=blocks.UpConv,
            tail=False,
            init=blocks.he_normal,
        )
