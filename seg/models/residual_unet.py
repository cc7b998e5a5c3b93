"""The U-Net with nnU-Net's residual encoder.

Isensee, Wald, Ulrich et al., "nnU-Net Revisited", MICCAI 2024: the encoder of
the ResEnc presets, in two dimensions. 1, 3, 4, 6, 6 and 6 basic blocks, widths
32 to at most 512, strided convolutions down; transposed 2x2 convolutions up
and one convolution a level; LeakyReLU of slope 0.01. The number of levels is
the one that nnU-Net plans for tiles of 128x128: down to 4x4, depth 5. Biases
before an instance or batch norm, which it would subtract, are left out.
71,796,769 parameters at 1 channel and 1 class (38,413,329 with
`model.width=16`).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, refuse

_BLOCKS = (1, 3, 4)  # and 6 on every level below
_MOST = 512  # channels


class InstanceNorm(nnx.Module):
    """Each channel of each image has mean 0 and variance 1, then an affine map.

    Ulyanov, Vedaldi and Lempitsky, 2016. Moments in float32, and one
    multiply-add to apply them.
    """

    def __init__(self, n: int, *, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(n))
        self.bias = nnx.Param(jnp.zeros(n))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        mean = wide.mean((1, 2), keepdims=True)
        var = (wide * wide).mean((1, 2), keepdims=True) - mean**2
        inverse = jax.lax.rsqrt(jnp.maximum(var, 0.0) + self.epsilon)
        factor = self.scale[...] * inverse
        shift = self.bias[...] - mean * factor
        return x * factor.astype(x.dtype) + shift.astype(x.dtype)


class ConvNorm(nnx.Module):
    """Convolution, dropout, normalisation."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rngs: nnx.Rngs,
        *,
        config: config_lib.Model,
        size: int = 3,
        stride: int = 1,
        dropout: bool = True,
    ):
        norm = config.norm or "instance"
        kwargs = {
            "dtype": blocks.compute_dtype(config.dtype),
            "rngs": rngs,
        }
        # A projection (size 1) has no bias in the source either.
        bias = size > 1 and norm in ("group", "none")
        if stride == 1:
            self.conv = blocks.conv(
                n_in, n_out, size, bias=bias, init=blocks.he_normal, **kwargs
            )
        else:
            self.conv = nnx.Conv(
                n_in,
                n_out,
                (size, size),
                strides=stride,
                padding=1,
                use_bias=bias,
                kernel_init=blocks.he_normal,
                **kwargs,
            )
        rate = config.dropout or 0.0
        self.dropout = nnx.Dropout(rate if dropout else 0.0)
        self.norm = (
            InstanceNorm(n_out)
            if norm == "instance"
            else blocks.norm(norm, n_out, **kwargs)
        )

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        return self.norm(self.dropout(self.conv(x), rngs=rngs))


class Residual(nnx.Module):
    """Two convolutions around which x passes: averaged and projected.

    The block D of He, Zhang et al., "Bag of Tricks", CVPR 2019.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rngs: nnx.Rngs,
        *,
        config: config_lib.Model,
        stride: int,
    ):
        self.stride = stride
        self.conv1 = ConvNorm(n_in, n_out, rngs, config=config, stride=stride)
        self.conv2 = ConvNorm(n_out, n_out, rngs, config=config, dropout=False)
        self.project = nnx.data(
            None
            if n_in == n_out
            else ConvNorm(
                n_in, n_out, rngs, config=config, size=1, dropout=False
            )
        )

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        y = self.conv2(_leaky(self.conv1(x, rngs)), rngs)
        if self.stride == 2:
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
        if self.project is not None:
            x = self.project(x, rngs)
        return _leaky(x + y)


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.01)


class ResidualUNet(nnx.Module):
    """Residual encoder, plain decoder, heads.

    With `config.deep_supervision` the levels of the decoder have heads too,
    but for the coarsest, which weighs nothing in nnU-Net either: "aux" in
    training is their logits at 1/2, 1/4, .. of the size.
    """

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "stem", "encoder")
        depth = 5 if config.depth is None else config.depth
        self.dtype = blocks.compute_dtype(config.dtype)
        self.stride = 1 << depth
        self.deterministic = False
        width = config.width or 32
        most = max(_MOST, width)
        widths = [min(most, width << level) for level in range(depth + 1)]
        self.stem = ConvNorm(config.in_channels, widths[0], rngs, config=config)
        self.down = nnx.List()
        for level, n in enumerate(widths):
            n_in = widths[max(0, level - 1)]
            n_blocks = _BLOCKS[level] if level < len(_BLOCKS) else 6
            self.down.append(
                nnx.List(
                    Residual(
                        n if i else n_in,
                        n,
                        rngs,
                        config=config,
                        stride=1 if i or not level else 2,
                    )
                    for i in range(n_blocks)
                )
            )
        self.up, self.merge, self.heads = nnx.List(), nnx.List(), nnx.List()
        for level in reversed(range(depth)):
            n = widths[level]
            self.up.append(
                blocks.UpConv(
                    widths[level + 1],
                    n,
                    rngs,
                    dtype=self.dtype,
                    init=blocks.he_normal,
                )
            )
            self.merge.append(ConvNorm(2 * n, n, rngs, config=config))
        n_heads = max(1, depth - 1) if config.deep_supervision else 1
        for n in reversed(widths[:n_heads]):
            self.heads.append(
                blocks.conv(n, config.n_classes, 1, rngs, dtype=jnp.float32)
            )

    def set_view(self, deterministic: bool | None = None, **kwargs):
        """Chooses between training and prediction."""
        if deterministic is not None:
            self.deterministic = deterministic
        return kwargs

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array | list[Array]]:
        x = _leaky(self.stem(image.astype(self.dtype), rngs))
        skips = []
        for stage in self.down:
            for block in stage:
                x = block(x, rngs)
            skips.append(x)
        features = [skips.pop()]
        for up, merge in zip(self.up, self.merge, strict=True):
            x = jnp.concatenate([up(features[-1]), skips.pop()], -1)
            features.append(_leaky(merge(x, rngs)))
        if self.deterministic or len(self.heads) == 1:
            return {"classes": self.heads[-1](_wide(features[-1]))}
        outputs = features[-len(self.heads) :]
        *aux, last = (
            head(_wide(x)) for head, x in zip(self.heads, outputs, strict=True)
        )
        return {"classes": last, "aux": aux[::-1]}


def _wide(x: Array) -> Array:
    return x.astype(jnp.float32)
