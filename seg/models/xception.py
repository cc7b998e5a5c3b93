"""The encoder of Xception (Chollet, CVPR 2017), without its last block.

It ends behind the normalisation of `block13_sepconv2`, at a sixteenth of the
size. Layers are named as in Keras (`keras_layers`), so that its weights fit.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from seg.models import blocks, strided


def _norm(n: int, rngs: nnx.Rngs) -> blocks.BatchNorm:
    return blocks.BatchNorm(n, rngs, momentum=0.99)


class SepConv(nnx.Module):
    """Depthwise 3x3 and 1x1 convolution, normalised."""

    def __init__(
        self, n_in: int, n_out: int, rngs: nnx.Rngs, *, dtype: jnp.dtype
    ):
        self.depthwise = strided.Depthwise(n_in, rngs, dtype=dtype)
        self.pointwise = strided.conv(n_in, n_out, 1, rngs, dtype=dtype)
        self.norm = _norm(n_out, rngs)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.pointwise(self.depthwise(x)))


class Block(nnx.Module):
    """Separable convolutions, a ReLU before each but perhaps the first."""

    def __init__(
        self,
        widths: tuple[int, ...],
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype,
        shrinks: bool,
        first: bool = False,
    ):
        self.convs = nnx.List(
            SepConv(n_in, n_out, rngs, dtype=dtype)
            for n_in, n_out in itertools.pairwise(widths)
        )
        self.shortcut = self.norm = nnx.data(None)
        if shrinks:
            self.shortcut = strided.conv(
                widths[0], widths[-1], 1, rngs, dtype=dtype, stride=2
            )
            self.norm = _norm(widths[-1], rngs)
        self.first = first

    def __call__(self, x: Array) -> Array:
        for index, conv in enumerate(self.convs):
            x = conv(x if self.first and not index else jax.nn.relu(x))
        return x

    def shrink(self, x: Array, y: Array) -> Array:
        """Input and output of the block -> the next one's, of half the size."""
        return strided.max_pool3(y) + self.norm(self.shortcut(x))


class Xception(nnx.Module):
    """Image [B, H, W, C] -> features of 1/2, 1/4, 1/8 and 1/16 of the size.

    They are taken behind a normalisation, before ReLU and pooling. The first
    convolutions pad nothing, so for H, W that are multiples of 16 the features
    have H/2 - 3, H/4 - 1, H/8 and H/16 rows.
    """

    widths = (128, 256, 728, 1024)
    unused = r"block14_\w+|conv2d_3|batch_normalization_3|predictions"
    url = (
        "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
        "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
    )

    def __init__(self, n_in: int, rngs: nnx.Rngs, *, dtype: jnp.dtype):
        kwargs = {"dtype": dtype}
        self.conv1 = strided.conv(
            n_in, 32, 3, rngs, stride=2, padding="VALID", **kwargs
        )
        self.norm1 = _norm(32, rngs)
        self.conv2 = strided.conv(32, 64, 3, rngs, padding="VALID", **kwargs)
        self.norm2 = _norm(64, rngs)
        self.entry = nnx.List(
            Block((n, m, m), rngs, shrinks=True, first=n == 64, **kwargs)
            for n, m in ((64, 128), (128, 256), (256, 728))
        )
        self.middle = nnx.List(
            Block((728,) * 4, rngs, shrinks=False, **kwargs) for _ in range(8)
        )
        self.exit = Block((728, 728, 1024), rngs, shrinks=False, **kwargs)

    def __call__(self, x: Array) -> list[Array]:
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        x = jax.nn.relu(self.norm2(self.conv2(x)))
        features = []
        for block in self.entry:
            features.append(block(x))
            x = block.shrink(x, features[-1])
        for block in self.middle:
            x = x + block(x)
        return [*features, self.exit(x)]

    def keras_layers(self) -> dict[str, list[nnx.Variable]]:
        """The weights of each Keras layer, in Keras' order.

        The shortcuts are those that Keras numbers by itself.
        """
        layers = {
            "block1_conv1": [self.conv1.kernel],
            "block1_conv1_bn": self.norm1.keras_weights(),
            "block1_conv2": [self.conv2.kernel],
            "block1_conv2_bn": self.norm2.keras_weights(),
        }
        for i, block in enumerate((*self.entry, *self.middle, self.exit)):
            for j, conv in enumerate(block.convs):
                name = f"block{i + 2}_sepconv{j + 1}"
                layers[name] = [conv.depthwise.kernel, conv.pointwise.kernel]
                layers[f"{name}_bn"] = conv.norm.keras_weights()
            if block.shortcut is not None:
                number = f"_{i}" if i else ""
                layers[f"conv2d{number}"] = [block.shortcut.kernel]
                name = f"batch_normalization{number}"
                layers[name] = block.norm.keras_weights()
        return layers
