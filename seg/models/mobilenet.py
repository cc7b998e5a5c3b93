"""The encoder MobileNetV2 (Sandler et al., CVPR 2018), width 1.

It ends with the projection of block 16, before its normalisation, at a
thirty-second of the size. Layers are named as in Keras (`keras_layers`), so
that its weights fit.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg.models import blocks, strided

# Channels and stride of the blocks 0 to 16; all but the first expand by six.
_BLOCKS = (
    (16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1),
    (64, 1), (64, 1), (96, 1), (96, 1), (96, 1), (160, 2), (160, 1), (160, 1),
    (320, 1),
)  # fmt: skip


def _norm(n: int, rngs: nnx.Rngs) -> blocks.BatchNorm:
    return blocks.BatchNorm(n, rngs, momentum=0.999)


class Block(nnx.Module):
    """Expand, filter by channel, project: an inverted residual."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        stride: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        dilation: int = 1,
        expands: bool = True,
        last: bool = False,
    ):
        n = 6 * n_in if expands else n_in
        self.expand = self.norm0 = self.norm2 = nnx.data(None)
        if expands:
            self.expand = strided.conv(n_in, n, 1, rngs, dtype=dtype)
            self.norm0 = _norm(n, rngs)
        self.depthwise = strided.Depthwise(
            n, rngs, dtype=dtype, stride=stride, dilation=dilation
        )
        self.shrinks = stride > 1
        self.norm1 = _norm(n, rngs)
        self.project = strided.conv(n, n_out, 1, rngs, dtype=dtype)
        if not last:
            self.norm2 = _norm(n_out, rngs)
        self.adds = stride == 1 and n_in == n_out

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """The expanded features, and the block's output."""
        wide = x
        if self.expand is not None:
            wide = jax.nn.relu6(self.norm0(self.expand(x)))
        y = jax.nn.relu6(self.norm1(self.depthwise(wide)))
        y = self.project(y)
        if self.norm2 is not None:
            y = self.norm2(y)
        return wide, x + y if self.adds else y


class MobileNetV2(nnx.Module):
    """Image [B, H, W, C] -> features of 1/2, 1/4, 1/8, 1/16, 1/32 of the size.

    The first four are the expanded ones of the blocks that then shrink.
    H and W are multiples of 32. With `stride=16` block 13 shrinks no more and
    what follows is dilated instead (Chen et al., 2017), weight for weight: the
    last features have 1/16 of the size, and the fourth are left out.
    """

    widths = (96, 144, 192, 576, 320)
    unused = r"block_16_project_BN|Conv_1|Conv_1_bn|predictions"
    url = (
        "https://storage.googleapis.com/tensorflow/keras-applications/"
        "mobilenet_v2/"
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    )

    def __init__(
        self,
        n_in: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        stride: int = 32,
    ):
        self.conv = strided.conv(n_in, 32, 3, rngs, dtype=dtype, stride=2)
        self.norm = _norm(32, rngs)
        self.blocks = nnx.List()
        n, shrunk, dilation = 32, 2, 1
        for index, (n_out, step) in enumerate(_BLOCKS):
            full = shrunk * step > stride
            shrunk *= 1 if full else step
            self.blocks.append(
                Block(
                    n,
                    n_out,
                    1 if full else step,
                    rngs,
                    dtype=dtype,
                    dilation=dilation,
                    expands=index > 0,
                    last=index == len(_BLOCKS) - 1,
                )
            )
            n = n_out
            dilation *= step if full else 1

    def __call__(self, x: Array) -> list[Array]:
        x = jax.nn.relu6(self.norm(self.conv(x)))
        features = []
        for block in self.blocks:
            wide, x = block(x)
            if block.shrinks:
                features.append(wide)
        return [*features, x]

    def keras_layers(self) -> dict[str, list[nnx.Variable]]:
        """The weights of each Keras layer, in Keras' order."""
        layers = {
            "Conv1": [self.conv.kernel],
            "bn_Conv1": self.norm.keras_weights(),
        }
        for index, block in enumerate(self.blocks):
            name = f"block_{index}" if index else "expanded_conv"
            for part, layer, norm in (
                ("expand", block.expand, block.norm0),
                ("depthwise", block.depthwise, block.norm1),
                ("project", block.project, block.norm2),
            ):
                if layer is not None:
                    layers[f"{name}_{part}"] = [layer.kernel]
                if norm is not None:
                    layers[f"{name}_{part}_BN"] = norm.keras_weights()
        return layers
