"""The U-Net with attention gates on its skips.

Oktay, Schlemper, Le Folgoc et al., "Attention U-Net: Learning Where to Look
for the Pancreas", MIDL 2018, in two dimensions: a feature map is weighed,
pixel by pixel, by what the coarser level of the decoder says of it, before it
crosses over; the first level is not, as in the paper. The decoder up-samples
bilinearly and without weights. Left open by the paper, and chosen here: widths
of 32 to 512, as of the U-Net++ that it is compared with (8,107,524 parameters
at 1 channel and 1 class).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, refuse, unet


class Gate(nnx.Module):
    """Additive attention: x [B, 2H, 2W, C] weighed by what g [B, H, W, D] says.

    Equation 1 of the paper, q = psi(relu(W_x x + W_g g + b_g)) + b_psi, on g's
    grid, with half of x's channels inside; W_x takes blocks of 2x2 pixels, as
    in the authors' program. All pass at first: b_psi = 3.
    """

    def __init__(self, n_x: int, n_g: int, rngs: nnx.Rngs, *, dtype: jnp.dtype):
        n = max(1, n_x // 2)
        kwargs = {"dtype": dtype, "init": blocks.he_normal}
        self.w_x = blocks.conv(4 * n_x, n, 1, rngs, bias=False, **kwargs)
        self.w_g = blocks.conv(n_g, n, 1, rngs, **kwargs)
        self.psi = blocks.conv(n, 1, 1, rngs, **kwargs)
        self.psi.bias[...] = jnp.full(1, 3.0)

    def __call__(self, x: Array, g: Array) -> Array:
        inner = self.w_x(blocks.space_to_depth(x)) + self.w_g(g)
        alpha = jax.nn.sigmoid(self.psi(jax.nn.relu(inner)))
        return x * double(alpha)


def double(x: Array) -> Array:
    """Bilinear up-sampling to twice the height and width."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")


class AttentionUNet(nnx.Module):
    """Encoder, gates, decoder, head. Batch normalisation by default."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "stem", "encoder", "deep_supervision")
        depth = 4 if config.depth is None else config.depth
        self.dtype = dtype = blocks.compute_dtype(config.dtype)
        self.stride = 1 << depth
        widths = [(config.width or 32) << level for level in range(depth + 1)]

        def block(n_in: int, n_out: int) -> unet.DoubleConv:
            return unet.DoubleConv(
                n_in,
                n_out,
                rngs,
                norm=config.norm or "batch",
                dropout=config.dropout or 0.0,
                dtype=dtype,
                init=blocks.he_normal,
            )

        self.down = nnx.List(
            block(n_in, n)
            for n_in, n in zip(
                [config.in_channels, *widths], widths, strict=False
            )
        )
        self.gates, self.merge = nnx.List(), nnx.List()
        for level in reversed(range(depth)):
            n, below = widths[level], widths[level + 1]
            if level:
                self.gates.append(Gate(n, below, rngs, dtype=dtype))
            self.merge.append(block(n + below, n))
        self.head = blocks.conv(
            widths[0], config.n_classes, 1, rngs, dtype=jnp.float32
        )

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        x = image.astype(self.dtype)
        skips = []
        for block in self.down[:-1]:
            x = block(x, rngs)
            skips.append(x)
            x = blocks.max_pool(x)
        x = self.down[-1](x, rngs)
        for i, merge in enumerate(self.merge):
            skip = skips.pop()
            if i < len(self.gates):
                skip = self.gates[i](skip, x)
            x = merge(jnp.concatenate([skip, double(x)], -1), rngs)
        return {"classes": self.head(x.astype(jnp.float32))}
