"""A model as one program for other hosts: StableHLO, its weights inside.

    program(image float32 [B, H, W, C], stats float32 [B, C, S])
        -> probabilities float32 [B, H, W, K]

`stats` is what `normalize.measure` finds in each whole image; the image is not
normalised yet. B, H and W are free, H and W multiples of the network's stride.
The file is `jax.export`'s: portable StableHLO for CPU, CUDA and TPU, lowered
without any of them at hand, and readable for years by newer JAX:

    program = jax.export.deserialize(bytearray(content))
    program.call(image, stats)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from seg import config as config_lib
from seg import normalize
from seg.predict import bundle as bundle_lib
from seg.predict import engine

FILE = "program.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(
    bundle: bundle_lib.Bundle, platforms: tuple[str, ...] = PLATFORMS
) -> bytes:
    """The model as a program.

    Raises UserError where the program, read back and run on the CPU, does not
    give exactly what the model gives.
    """
    model = bundle_lib.model(bundle)
    graph, state = engine.split(model)
    kind = bundle.config.data.normalize

    def program(image: jax.Array, stats: jax.Array) -> jax.Array:
        return engine.apply(graph, state, normalize.apply(image, stats, kind))

    n_channels, stride = bundle.config.model.in_channels, model.stride
    b, h, w = jax_export.symbolic_shape("b, h, w")
    shapes = (
        (b, stride * h, stride * w, n_channels),
        (b, n_channels, len(normalize.COLUMNS)),
    )
    exported = jax_export.export(jax.jit(program), platforms=platforms)(
        *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    )
    content = bytes(exported.serialize())
    if "cpu" in platforms:
        _check(content, jax.jit(program), model.stride, n_channels)
    return content


def _check(
    content: bytes, program: Callable[..., Any], stride: int, n_channels: int
) -> None:
    """Compares the exported program with the original on noise, on the CPU."""
    shape = (2, 2 * stride, 3 * stride, n_channels)
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    stats = np.stack([normalize.measure(plane) for plane in image])
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        exported = jax_export.deserialize(bytearray(content))
        found = np.asarray(exported.call(image, stats))
        wanted = np.asarray(program(image, stats))
    if not np.array_equal(found, wanted):
        worst = np.abs(found - wanted).max()
        raise config_lib.UserError(
            f"the exported program differs from the model by {worst:.2g} in "
            "the probabilities; nothing was written"
        )
