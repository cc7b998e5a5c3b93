"""The nested U-Net with dense skips and deep supervision.

Zhou, Siddiquee, Tajbakhsh and Liang, "UNet++: A Nested U-Net Architecture for
Medical Image Segmentation", DLMIA 2018. Node X(i, j) at level i sees all nodes
X(i, 0) .. X(i, j - 1) of its level and the up-sampled X(i + 1, j - 1). Widths
32 to 512, two 3x3 convolutions with ReLU a node, transposed 2x2 convolutions
up: 9,041,601 parameters at 1 channel and 1 class (the paper's 9.04 M), and 99
more with deep supervision. No normalisation and no dropout by default: the
paper names none (the authors' program has ELU and a dropout of 0.5).
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import blocks, refuse, unet


class UNetPlusPlus(nnx.Module):
    """The grid of nodes, and heads on its first row.

    With `config.deep_supervision` each of X(0, 1) .. X(0, depth) has a head:
    in training "classes" is the last one's output and "aux" those of the
    others, all at full size; in prediction "classes" is the mean of the
    probabilities of all (the paper's accurate mode), as logits.
    """

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        refuse.knobs(config, "stem", "encoder")
        depth = 4 if config.depth is None else config.depth
        self.dtype = dtype = blocks.compute_dtype(config.dtype)
        self.stride = 1 << depth
        self.deterministic = False
        widths = [(config.width or 32) << level for level in range(depth + 1)]

        def node(n_in: int, n_out: int) -> unet.DoubleConv:
            return unet.DoubleConv(
                n_in,
                n_out,
                rngs,
                norm=config.norm or "none",
                dropout=config.dropout or 0.0,
                dtype=dtype,
                init=blocks.he_normal,
            )

        self.down = nnx.List(
            node(n_in, n)
            for n_in, n in zip(
                [config.in_channels, *widths], widths, strict=False
            )
        )
        # columns[j - 1][i] and ups[j - 1][i] make X(i, j)
        self.columns, self.ups = nnx.List(), nnx.List()
        for j in range(1, depth + 1):
            levels = list(itertools.pairwise(widths[: depth + 2 - j]))
            self.columns.append(
                nnx.List(node((j + 1) * n, n) for n, _ in levels)
            )
            self.ups.append(
                nnx.List(
                    blocks.UpConv(
                        below, n, rngs, dtype=dtype, init=blocks.he_normal
                    )
                    for n, below in levels
                )
            )
        n_heads = max(1, depth) if config.deep_supervision else 1
        self.heads = nnx.List(
            blocks.conv(widths[0], config.n_classes, 1, rngs, dtype=jnp.float32)
            for _ in range(n_heads)
        )

    def set_view(self, deterministic: bool | None = None, **kwargs):
        """Chooses between training and prediction."""
        if deterministic is not None:
            self.deterministic = deterministic
        return kwargs

    def __call__(
        self, image: Array, rngs: nnx.Rngs | None = None
    ) -> dict[str, Array | list[Array]]:
        x = self.down[0](image.astype(self.dtype), rngs)
        rows = [[x]]  # rows[i][j] is X(i, j)
        for block in self.down[1:]:
            rows.append([block(blocks.max_pool(rows[-1][0]), rngs)])
        for column, ups in zip(self.columns, self.ups, strict=True):
            for i, (block, up) in enumerate(zip(column, ups, strict=True)):
                x = jnp.concatenate([up(rows[i + 1][-1]), *rows[i]], -1)
                rows[i].append(block(x, rngs))
            rows.pop()
        outputs = rows[0][-len(self.heads) :]
        *aux, last = (
            head(x.astype(jnp.float32))
            for head, x in zip(self.heads, outputs, strict=True)
        )
        if not aux:
            return {"classes": last}
        if self.deterministic:
            return {"classes": mean_logits(jnp.stack([*aux, last]))}
        return {"classes": last, "aux": aux}


def mean_logits(logits: Array) -> Array:
    """Logits [N, .., K] -> those [.., K] of their mean probabilities.

    Probabilities are a softmax, or a sigmoid where K = 1; nothing overflows.
    """
    total = jax.nn.logsumexp
    if logits.shape[-1] > 1:
        return total(jax.nn.log_softmax(logits), 0) - jnp.log(len(logits))
    return total(jax.nn.log_sigmoid(logits), 0) - total(
        jax.nn.log_sigmoid(-logits), 0
    )
