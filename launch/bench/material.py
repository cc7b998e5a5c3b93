"""What prediction is measured on: a model, folders of images, a slide.

All of it is drawn from fixed seeds. The model is the small U-Net, trained for a
minute, so that it finds what was drawn, and computes in the type that a
trained one computes in: with weights of chance bfloat16 changes too much.
"""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from launch.bench import ours
from seg import config as config_lib
from seg.data import synthetic

_PITCH = 32  # px from one object to the next
_PERIOD = 2048  # px after which a slide repeats itself
_TILE = 512  # px, side of a tile of a slide's file
_CROP, _BATCH, _STEPS = 128, 8, 60  # of the model's training


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
    if not target.exists():
        # neither its flags nor its memory shall be those of what is measured
        made = [str(folder), str(width), dtype]
        subprocess.run([sys.executable, "-m", __name__, *made], check=True)
    return target


def main(folder: str, width: str, dtype: str) -> None:
    """Trains the model and writes it, with `weights.npz`, into the folder."""
    from seg.predict import bundle

    config = config_lib.replace(
        ours.network("float32", int(width)),
        {
            "data.normalize": "percentile",
            "data.tile": _CROP,
            "train.batch_size": _BATCH,
            "optim.learning_rate": 3e-3,
            "predict.closing": 3,
            "predict.min_area": [16],
        },
    )
    made = bundle.from_model(config, _trained(config))
    np.savez(pathlib.Path(folder, "weights.npz"), **made.weights)
    kept = config_lib.replace(config, {"model.dtype": dtype})
    made = dataclasses.replace(made, config=kept)
    bundle.save(made, pathlib.Path(folder, "model"))


def _trained(config: config_lib.Config) -> Any:
    """Weights after a minute of training, on crops of such pictures."""
    from seg import compiler, normalize
    from seg.train import mesh, step

    compiler.configure()
    devices = mesh.make()
    state, advance = step.create(config, _STEPS, devices)
    for i in range(_STEPS):
        crops = [_crop(_BATCH * i + k) for k in range(_BATCH)]
        image, classes = map(np.stack, zip(*crops, strict=True))
        batch = {
            "image": image,
            "classes": classes,
            "stats": np.stack([normalize.measure(each) for each in image]),
            "weight": np.ones(_BATCH, np.float32),
        }
        state, _ = advance(state, mesh.put(devices, batch))
    return step.weights(state)


def _crop(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, or each second time drawn nuclei: [h, w, 1] and classes.

    Of the latter are the images by which an engine judges bfloat16.
    """
    if seed % 2:
        nuclei = config_lib.Synthetic(
            height=_CROP, width=_CROP, n_objects=12, diameter=24.0
        )
        drawn = synthetic.draw(nuclei, seed)
        image = (drawn["image"] >> 8).astype(np.uint8)
        return image, drawn["classes"].astype(np.uint8)
    pixels, truth = picture(_CROP, seed)
    return pixels[..., None], truth.astype(np.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])
