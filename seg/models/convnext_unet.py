"""A U-Net of ConvNeXt blocks: large kernels, few activations.

Liu, Mao, Wu et al., "A ConvNet for the 2020s", CVPR 2022. The encoder is their
network at the width of its small public versions (48 to 384 channels, 2, 2, 6,
2 blocks), but it begins with blocks of 2x2 pixels instead of 4x4, as cells are
small; the decoder mirrors it, with two blocks a level, and the head gives each
pixel of a 2x2 block its own logits. 6,129,169 parameters at 1 channel and 1
class. `model.depth` counts the down-samplings, the stem's among them;
`model.dropout` is their stochastic depth (none by default).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, refuse

_SIDE = 7
_small = nnx.initializers.truncated_normal(0.02)


@jax.custom_vjp
def depthwise(x: Array, kernel: Array) -> Array:
    """Each channel of [B, H, W, C] by its own kernel [7, 7, C], "same".

    On a CPU a sum of shifted products: 6 ms for float32 [8, 64, 64, 48] where
    XLA's grouped convolution takes 150 ms, as do its two gradients.
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=_by_shifts, default=_by_groups
    )


def _by_groups(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _padded(x: Array) -> Array:
    pad = _SIDE // 2
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def _by_shifts(x: Array, kernel: Array) -> Array:
    _, h, w, _ = x.shape
    x = _padded(x)
    return sum(
        x[:, i : i + h, j : j + w] * kernel[i, j]
        for i in range(_SIDE)
        for j in range(_SIDE)
    )


def _backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    def by_shifts(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return _by_shifts(dy, kernel[::-1, ::-1]), _kernel_gradient(x, dy)

    def by_groups(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return jax.vjp(_by_groups, x, kernel)[1](dy)

    return jax.lax.platform_dependent(
        *kept, dy, cpu=by_shifts, default=by_groups
    )


depthwise.defvjp(
    lambda x, kernel: (depthwise(x, kernel), (x, kernel)), _backward
)


def _kernel_gradient(x: Array, dy: Array) -> Array:
    """The gradient [7, 7, C], image by image and row of the kernel by row.

    So what is read seven times stays in the cache: 40 ms, where all at once
    take 80 ms, and the grouped convolution 165 ms.
    """
    b, h, w, c = x.shape
    x = _padded(x)

    def row(at: Array) -> Array:
        image, i = at // _SIDE, at % _SIDE
        seen = jax.lax.dynamic_slice(
            x, (image, i, 0, 0), (1, h, w + _SIDE - 1, c)
        )
        given = jax.lax.dynamic_slice_in_dim(dy, image, 1)
        return jnp.stack(
            [
                blocks.channel_sum(seen[:, :, j : j + w] * given)
                for j in range(_SIDE)
            ]
        )

    rows = jax.lax.map(row, jnp.arange(b * _SIDE))
    return rows.reshape(b, _SIDE, _SIDE, c).sum(0).astype(dy.dtype)


def _norm(
    config: config_lib.Model, n: int, rngs: nnx.Rngs, dtype: jnp.dtype
) -> nnx.Module:
    if config.norm is None:
        return nnx.LayerNorm(n, epsilon=1e-6, dtype=dtype, rngs=rngs)
    return blocks.norm(config.norm, n, rngs, dtype=dtype)


class Block(nnx.Module):
    """7x7 depthwise, norm, to four times the channels, GELU, back, scale."""

    def __init__(self, config: config_lib.Model, n: int, rngs: nnx.Rngs):
        dtype = blocks.compute_dtype(config.dtype)
        dense = functools.partial(
            blocks.conv, size=1, rngs=rngs, dtype=dtype, init=_small
        )
        self.kernel = nnx.Param(_small(rngs.params(), (_SIDE, _SIDE, n)))
        self.bias = nnx.Param(jnp.zeros(n))
        self.norm = _norm(config, n, rngs, dtype)
        self.widen, self.narrow = dense(n, 4 * n), dense(4 * n, n)
        self.scale = nnx.Param(jnp.full(n, 1e-6))
        # Stochastic depth: the branch is left out, image by image.
        self.dropout = nnx.Dropout(
            config.dropout or 0.0, broadcast_dims=(1, 2, 3)
        )
        self.dtype = dtype

    def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
        kernel, bias, scale = (
            v[...].astype(self.dtype)
            for v in (self.kernel, self.bias, self.scale)
        )
        y = self.norm(blocks.add_bias(depthwise(x, kernel), bias))
        y = self.narrow(jax.nn.gelu(self.widen(y), approximate=False))
        return x + self.dropout(y * scale, rngs=rngs)


class ConvNeXtUNet(nnx.Module):
    """Stem of 2x2 pixels, encoder, decoder, head of 2x2 pixels."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "stem", "encoder", "deep_supervision")
        depth = 4 if config.depth is None else config.depth
        if depth < 1:
            raise config_lib.ConfigError(
                f"model.depth={depth}: {config.name} counts its stem; "
                "choose 1 or more"
            )
        self.dtype = dtype = blocks.compute_dtype(config.dtype)
        self.stride = 1 << depth
        widths = [(config.width or 48) << level for level in range(depth)]
        n_blocks = [6 if level == 2 else 2 for level in range(depth)]
        dense = functools.partial(
            blocks.conv, size=1, rngs=rngs, dtype=dtype, init=_small
        )
        norm = functools.partial(_norm, config, rngs=rngs, dtype=dtype)

        def stage(n: int, count: int) -> nnx.List:
            return nnx.List(Block(config, n, rngs) for _ in range(count))

        self.stem = dense(4 * config.in_channels, widths[0])
        self.stem_norm = norm(widths[0])
        self.shrink, self.shrink_norm = nnx.List(), nnx.List()
        self.down = nnx.List([stage(widths[0], n_blocks[0])])
        for level in range(1, depth):
            above, n = widths[level - 1 : level + 1]
            self.shrink_norm.append(norm(above))
            self.shrink.append(dense(4 * above, n))
            self.down.append(stage(n, n_blocks[level]))
        self.grow, self.grow_norm = nnx.List(), nnx.List()
        self.merge, self.up = nnx.List(), nnx.List()
        for level in reversed(range(1, depth)):
            n, below = widths[level - 1 : level + 1]
            self.grow_norm.append(norm(below))
            self.grow.append(
                blocks.UpConv(below, n, rngs, dtype=dtype, init=_small)
            )
            self.merge.append(dense(2 * n, n))
            self.up.append(stage(n, 2))
        self.head_norm = norm(widths[0])
        self.head = blocks.UpConv(
            widths[0], config.n_classes, rngs, dtype=jnp.float32
        )

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array]:
        x = blocks.space_to_depth(image.astype(self.dtype))
        x = self.stem_norm(self.stem(x))
        skips = []
        for i, stage in enumerate(self.down):
            if i:
                x = self.shrink_norm[i - 1](x)
                x = self.shrink[i - 1](blocks.space_to_depth(x))
            for block in stage:
                x = block(x, rngs)
            skips.append(x)
        skips.pop()
        for norm, grow, merge, stage in zip(
            self.grow_norm, self.grow, self.merge, self.up, strict=True
        ):
            x = merge(jnp.concatenate([skips.pop(), grow(norm(x))], -1))
            for block in stage:
                x = block(x, rngs)
        x = self.head_norm(x)
        return {"classes": self.head(x.astype(jnp.float32))}
