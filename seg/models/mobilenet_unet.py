"""A U-Net with MobileNetV2 as encoder, from TensorFlow's tutorial.

6,504,227 parameters at 3 channels and 3 classes, running statistics counted.
The tutorial keeps ImageNet's weights in the encoder and trains the decoder
alone: `model.encoder=FILE`, `optim.rates=encoder=0`. `model.width` is the
decoder's last width (64; it doubles towards the centre).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import (
    blocks,
    mobilenet,
    refuse,
    strided,
)

_INIT = nnx.initializers.normal(0.02)


class Up(nnx.Module):
    """Transposed convolution, normalisation, ReLU."""

    def __init__(
        self, n_in: int, n_out: int, rngs: nnx.Rngs, *, dtype: jnp.dtype
    ):
        self.conv = strided.UpConv3(
            n_in, n_out, rngs, dtype=dtype, bias=False, init=_INIT
        )
        self.norm = blocks.BatchNorm(n_out, rngs, momentum=0.99)

    def __call__(self, x: Array) -> Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class MobileNetUNet(nnx.Module):
    """MobileNetV2, four up-samplings with skips, and one that is the head."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "depth", "stem", "norm", "deep_supervision")
        self.stride = 32
        self.dtype = blocks.compute_dtype(config.dtype)
        self.centred = bool(config.encoder)
        self.encoder = mobilenet.MobileNetV2(
            config.in_channels, rngs, dtype=self.dtype
        )
        *skips, n = mobilenet.MobileNetV2.widths
        self.up = nnx.List()
        for level, skip in reversed([*enumerate(skips)]):
            width = (config.width or 64) << level
            self.up.append(Up(n, width, rngs, dtype=self.dtype))
            n = width + skip
        self.dropout = nnx.Dropout(config.dropout or 0.0)
        self.head = strided.UpConv3(
            n, config.n_classes, rngs, dtype=jnp.float32
        )

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        if self.centred:
            image = blocks.centred(image)
        *skips, x = self.encoder(image.astype(self.dtype))
        for up in self.up:
            x = self.dropout(up(x), rngs=rngs)
            x = jnp.concatenate([x, skips.pop()], -1)
        return {"classes": self.head(x.astype(jnp.float32))}
