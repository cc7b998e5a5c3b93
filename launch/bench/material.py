"""What prediction is measured on: a model, folders of images, a slide.

All of it is drawn from fixed seeds. The model is the small U-Net with random
weights and a head that is fitted to them by least squares, so that what it
finds is what was drawn: as many objects, as large, as a trained one finds.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from launch.bench import ours
from seg import config as config_lib

_PITCH = 32  # px from one object to the next
_PERIOD = 2048  # px after which a slide repeats itself
_TILE = 512  # px, side of a tile of a slide's file
_LOGIT = 6.0  # what the head is fitted to, inside; outside its negative


def picture(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright ellipses on dark ground with noise: uint8 [H, W], and truth."""
    map_, _ = ours.discs(side, (side // _PITCH) ** 2)
    shift = np.random.default_rng(seed).integers(0, side, 2)
    truth = np.roll(map_[..., 0] > 0.5, shift, (0, 1))
    noise = np.random.default_rng(seed + 1).normal(0, 10, truth.shape)
    return np.clip(40 + 120 * truth + noise, 0, 255).astype(np.uint8), truth


def images(folder: pathlib.Path, n: int, side: int) -> pathlib.Path:
    """A folder of n TIFF files of side x side px; made where it is missing."""
    import tifffile

    target = folder / f"images_{n}_{side}"
    if not target.exists():
        target.mkdir()
        for i in range(n):
            pixels, _ = picture(side, i)
            tifffile.imwrite(target / f"{i}.tif", pixels, compression="zlib")
    return target


def slide(folder: pathlib.Path, side: int) -> pathlib.Path:
    """A tiled TIFF of side x side px, written a row of tiles at a time."""
    import tifffile

    target = folder / f"slide_{side}.tif"
    if target.exists():
        return target
    base, _ = picture(min(side, _PERIOD))
    tile = min(_TILE, len(base))

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, side, tile):
            for left in range(0, side, tile):
                row, col = top % len(base), left % len(base)
                yield base[row : row + tile, col : col + tile]

    with tifffile.TiffWriter(target, bigtiff=True) as file:
        file.write(
            tiles(),
            shape=(side, side),
            dtype=base.dtype,
            tile=(tile, tile),
            compression="zlib",
            compressionargs={"level": 1},
        )
    return target


def model(
    folder: pathlib.Path, width: int, dtype: str = "float32"
) -> pathlib.Path:
    """The bundle, and beside it `weights.npz` for the peer.

    dtype is what JAX computes in; the engines of CPUs choose for themselves.
    """
    target = folder / "model"
    if target.exists():
        return target
    import jax.numpy as jnp
    from flax import nnx

    from seg import models
    from seg.predict import bundle

    config = config_lib.replace(
        ours.network(dtype, width),
        {
            "data.normalize": "percentile",
            "predict.closing": 3,
            "predict.min_area": [16],
        },
    )
    network = models.build(config.model, nnx.Rngs(0))
    kernel, bias = _head(config, width)
    network.head.kernel.set_value(jnp.asarray(kernel))
    network.head.bias.set_value(jnp.asarray(bias))
    made = bundle.from_model(config, network)
    np.savez(folder / "weights.npz", **made.weights)
    return bundle.save(made, target)


def _head(
    config: config_lib.Config, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [1, 1, width, 1] and bias [1] that tell objects from ground."""
    features, truth = _features(config, width)
    design = np.concatenate([features, np.ones_like(features[:, :1])], 1)
    wanted = np.where(truth, _LOGIT, -_LOGIT)
    found = np.linalg.lstsq(design, wanted, rcond=None)[0].astype(np.float32)
    return found[:-1].reshape(1, 1, width, 1), found[-1:]


def _features(config: config_lib.Config, width: int) -> tuple[np.ndarray, Any]:
    """What the network's head sees of a picture: [pixels, width], and truth."""
    import jax.numpy as jnp
    from flax import nnx

    from seg import models, normalize

    # the same seed: the same weights up to the head, which here does nothing
    settings = dataclasses.replace(config.model, n_classes=width)
    network = models.build(settings, nnx.Rngs(0))
    network.head.kernel.set_value(jnp.eye(width)[None, None])
    network.head.bias.set_value(jnp.zeros(width))
    pixels, truth = picture(256)
    image = pixels[..., None]
    scaled = normalize.apply(
        image.astype(np.float32),
        normalize.measure(image),
        config.data.normalize,
    )
    network = models.predicting(network)
    found = np.asarray(network(jnp.asarray(scaled)[None])["classes"])
    return found.reshape(-1, width), truth.ravel()
