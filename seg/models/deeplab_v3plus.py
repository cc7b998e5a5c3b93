"""DeepLab v3+ on MobileNetV2.

Chen, Zhu, Papandreou, Schroff and Adam, "Encoder-Decoder with Atrous Separable
Convolution for Semantic Image Segmentation", ECCV 2018: the encoder at output
stride 16, a pyramid of dilated convolutions with rates 6, 12 and 18 and the
image's mean, and a decoder that sees the features at stride 4 through 48
channels; everything grows bilinearly. Of the paper's encoders the small one is
taken, so convolutions are whole, not separable. 5,816,033 parameters at 3
channels and 1 class. `model.width` is the channels of pyramid and decoder
(256), `model.dropout` that of the pyramid (0.1, as in the authors' program).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, mobilenet, refuse, strided


class ConvNorm(nnx.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        dilation: int = 1,
    ):
        self.conv = strided.conv(
            n_in,
            n_out,
            size,
            rngs,
            dtype=dtype,
            dilation=dilation,
            init=blocks.he_normal,
        )
        self.norm = blocks.BatchNorm(n_out, rngs)

    def __call__(self, x: Array) -> Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class Pyramid(nnx.Module):
    """Atrous spatial pyramid pooling: five views of x, side by side, mixed."""

    def __init__(self, n_in: int, n: int, rngs: nnx.Rngs, dtype: jnp.dtype):
        make = functools.partial(ConvNorm, rngs=rngs, dtype=dtype)
        self.views = nnx.List(
            make(n_in, n, 3 if rate > 1 else 1, dilation=rate)
            for rate in (1, 6, 12, 18)
        )
        self.image = make(n_in, n, 1)
        self.mix = make(5 * n, n, 1)

    def __call__(self, x: Array) -> Array:
        views = [view(x) for view in self.views]
        mean = x.astype(jnp.float32).mean((1, 2), keepdims=True)
        image = self.image(mean.astype(x.dtype))
        views.append(jnp.broadcast_to(image, views[0].shape))
        return self.mix(jnp.concatenate(views, -1))


class DeepLabV3Plus(nnx.Module):
    """Encoder, pyramid, decoder, head at a quarter of the size."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "depth", "stem", "norm", "deep_supervision")
        self.stride = 16
        self.dtype = dtype = blocks.compute_dtype(config.dtype)
        self.centred = bool(config.encoder)
        self.encoder = mobilenet.MobileNetV2(
            config.in_channels, rngs, dtype=dtype, stride=16
        )
        n_low, n_top = (self.encoder.widths[i] for i in (1, -1))
        n = config.width or 256
        few = max(1, 3 * n // 16)
        make = functools.partial(ConvNorm, rngs=rngs, dtype=dtype)
        self.pyramid = Pyramid(n_top, n, rngs, dtype)
        self.dropout = nnx.Dropout(
            0.1 if config.dropout is None else config.dropout
        )
        self.low = make(n_low, few, 1)
        self.conv1, self.conv2 = make(n + few, n, 3), make(n, n, 3)
        self.head = blocks.conv(n, config.n_classes, 1, rngs, dtype=jnp.float32)

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        if self.centred:
            image = blocks.centred(image)
        _, low, *_, x = self.encoder(image.astype(self.dtype))
        x = _grow(self.dropout(self.pyramid(x), rngs=rngs))
        x = jnp.concatenate([x, self.low(low)], -1)
        x = self.conv2(self.conv1(x))
        return {"classes": _grow(self.head(x.astype(jnp.float32)))}


def _grow(x: Array) -> Array:
    """Bilinear up-sampling to four times the height and width."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 4 * h, 4 * w, c), "bilinear")
