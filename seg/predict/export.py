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

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export

from seg import config as config_lib
from seg import normalize
from seg.predict import bundle as bundle_lib
from seg.predict import engine

FILE = "program.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")

# Probabilities; the same operations in another order differ by less.
_TOLERANCE = 1e-6


def stablehlo(
    bundle: bundle_lib.Bundle, platforms: tuple[str, ...] = PLATFORMS
) -> bytes:
    """The model as a program.

    Raises UserError where the program, run on the CPU, does not give what the
    model itself gives.
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
        _check(content, model, bundle.config)
    return content


def _check(
    content: bytes, model: nnx.Module, config: config_lib.Config
) -> None:
    """Compares the program with the network on noise, on the CPU."""
    side = 2 * model.stride
    shape = (2, side, 2 * side, config.model.in_channels)
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    stats = np.stack([normalize.measure(plane) for plane in image])
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        program = jax_export.deserialize(bytearray(content))
        found = np.asarray(program.call(image, stats))
        wanted = engine.Engine(model).run(
            normalize.apply(image, stats, config.data.normalize)
        )
    worst = np.abs(found - wanted).max()
    if not worst <= _TOLERANCE:
        raise config_lib.UserError(
            f"the exported program differs from the model by {worst:.2g} in "
            "the probabilities; nothing was written"
        )
