"""A model as one program for other hosts, its weights inside.

    program(image float32 [B, H, W, C], stats float32 [B, C, S])
        -> probabilities float32 [B, H, W, K], and with `model.objects` one
           channel more, the map that keeps objects apart

`stats` is what `normalize.measure` finds in each whole image, by the names of
`normalize.COLUMNS`; of these the program reads what its steps need (p1 and
p99_8 for `percentile`), so another host may leave the rest 0. The image is not
normalised yet: all steps of `data.normalize` are inside. B, H and W are free,
H and W multiples of the network's stride. What makes an image fit the network,
windows or `data.resize`, is left to the host.

`stablehlo` makes a file of `jax.export`: portable StableHLO for CPU, CUDA and
TPU, lowered without any of them at hand, and readable for years by newer JAX:

    program = jax.export.deserialize(bytearray(content))
    n = program.in_avals[1].shape[-1]  # later versions measure more columns
    program.call(image, stats[..., :n])

`onnx` makes an ONNX model of the same function, for onnxruntime, OpenVINO and
whoever else reads it. Both are compared with the model before they are given.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from seg import config as config_lib
from seg import normalize
from seg.data import synthetic
from seg.predict import bundle as bundle_lib
from seg.predict import engine
from seg.predict.engine import xla

PLATFORMS = ("cpu", "cuda", "tpu")
_RESULT = "probabilities"
# Of one program: what sizes go into is rounded at run time.
_SAME = {"float32": 1e-5, "bfloat16": 0.02}
_CLOSE = 1e-3  # of two float32 programs that add in another order


def stablehlo(
    bundle: bundle_lib.Bundle, platforms: tuple[str, ...] = PLATFORMS
) -> bytes:
    """The model as a program.

    Raises UserError where the program, read back and run on the CPU, differs
    from the model by more than rounding.
    """
    program, stride = _program(bundle)
    n_channels = bundle.config.model.in_channels
    exported = jax_export.export(jax.jit(program), platforms=platforms)(
        *_examples(stride, n_channels)
    )
    content = bytes(exported.serialize())
    if "cpu" in platforms:
        found = jax_export.deserialize(bytearray(content)).call
        tolerance = _SAME[bundle.config.model.dtype]
        _check(found, jax.jit(program), stride, n_channels, tolerance)
    return content


def onnx(bundle: bundle_lib.Bundle) -> bytes:
    """The model as an ONNX model, BatchNorm folded, channels first inside.

    It computes in float32 whatever `model.dtype` is: CPUs' engines choose for
    themselves.

    Raises UserError where a package is missing, an operation has no place in
    ONNX, or the result, run by onnxruntime or OpenVINO in float32, differs
    from the model's by more than 1e-3.
    """
    try:
        from seg.predict import graph
    except ImportError as error:
        raise config_lib.UserError(
            f"{error.name} is missing; pip install -e .[export]"
        ) from error
    settings = bundle.config
    model = dataclasses.replace(settings.model, dtype="float32")
    settings = dataclasses.replace(settings, model=model)
    program, stride = _program(dataclasses.replace(bundle, config=settings))
    n_channels = model.in_channels
    examples = _examples(stride, n_channels)
    made = graph.convert(program, examples, ("image", "stats"), _RESULT)
    content = made.SerializeToString()
    _check(_runner(content), jax.jit(program), stride, n_channels, _CLOSE)
    return content


def run(bundle: bundle_lib.Bundle, image: np.ndarray) -> np.ndarray:
    """The map of images [B, H, W, C] that are scaled already, by JAX."""
    program, _ = _program(bundle)
    stats = np.stack([normalize.measure(plane) for plane in image])
    return np.asarray(jax.jit(program)(image, stats))


def _runner(content: bytes) -> Callable[..., Any]:
    """What runs an ONNX model: the first that is installed."""
    from seg.predict.engine import graphs

    for name in ("onnx", "openvino"):
        if engine.installed(engine.MODULES[name]):
            return graphs.ENGINES[name](content, 1, "f32").call
    raise config_lib.UserError(
        "neither onnxruntime nor OpenVINO is installed to check the export; "
        "pip install -e .[export]"
    )


def _program(bundle: bundle_lib.Bundle) -> tuple[Callable[..., Any], int]:
    """The function of image and stats, and the network's stride."""
    model = bundle_lib.model(bundle)
    graph, state = xla.split(model)
    how = normalize.scaling(bundle.config.data)
    return functools.partial(xla.apply, graph, how, state), model.stride


def _examples(
    stride: int, n_channels: int
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Image and stats of any size that the network takes."""
    b, h, w = jax_export.symbolic_shape("b, h, w")
    shapes = (
        (b, stride * h, stride * w, n_channels),
        (b, n_channels, len(normalize.COLUMNS)),
    )
    image, stats = (jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    return image, stats


def _check(
    found: Callable[..., Any],
    wanted: Callable[..., Any],
    stride: int,
    n_channels: int,
    tolerance: float,
) -> None:
    """Compares two programs on noise and on a drawn image, on the CPU."""
    shape = (2, 2 * stride, 3 * stride, n_channels)
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    image[1] = drawn(shape[1:])
    stats = np.stack([normalize.measure(plane) for plane in image])
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        difference = np.asarray(found(image, stats)) - wanted(image, stats)
    worst = float(np.abs(difference).max())
    if not worst <= tolerance:
        raise config_lib.UserError(
            f"the exported program differs from the model by {worst:.2g} in "
            "the probabilities; nothing was written"
        )


def drawn(shape: tuple[int, int, int]) -> np.ndarray:
    """A drawn image of nuclei [H, W, C], 0 to 256."""
    h, w, _ = shape
    spec = config_lib.Synthetic(
        height=h, width=w, n_objects=4, diameter=max(4.0, min(h, w) / 3)
    )
    return np.broadcast_to(synthetic.draw(spec, 0)["image"] / 256, shape)


FORMATS = {
    "stablehlo": (bundle_lib.PROGRAM, stablehlo),
    "onnx": (bundle_lib.GRAPH, onnx),
}
"""Name -> (file in the bundle, what makes it)."""
