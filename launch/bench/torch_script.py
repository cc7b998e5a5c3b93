"""The script that one writes with PyTorch and scikit-image, for comparison.

    python -m launch.bench.torch_script IMAGES OUT WEIGHTS WIDTH TILE BATCH DEV

For each image of a folder: scaled by its percentiles, cut into overlapping
tiles, through the network in bfloat16, blended, closed, small objects removed,
labelled, measured, written as TIFF and CSV. Windows and settings are ours.
"""

import csv
import itertools
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Side = tuple[Callable[[], Any], dict[str, Any]]

_OVERLAP, _CLOSING, _LEAST_PX = 0.25, 3, 16
_COLUMNS = ("label", "area", "centroid", "bbox", "intensity_mean",
            "eccentricity", "solidity")  # fmt: skip


def cold(folder: pathlib.Path, **settings: Any) -> Side:
    """The script, from the start of its process to its end."""
    command = [sys.executable, "-m", "launch.bench.torch_script"]
    command += [str(each) for each in _arguments(folder, **settings)]

    def once() -> None:
        subprocess.run(command, check=True)

    once()
    return once, _about(folder)


def warm(folder: pathlib.Path, **settings: Any) -> Side:
    """The same in a process that goes on, the network loaded."""
    images, out, *rest = _arguments(folder, **settings)
    network = load(*rest)

    def once() -> None:
        segment(images, out, network, settings["tile"], settings["batch_size"])

    once()
    return once, _about(folder)


def load(
    weights: str, width: int, tile: int, batch_size: int, device: str
) -> Callable[[np.ndarray], np.ndarray]:
    """float32 tiles [B, h, w] to probabilities [B, h, w]."""
    import torch

    from launch.bench import torch_networks

    del tile, batch_size
    torch.backends.cudnn.benchmark = True
    model = torch_networks.load(weights, "unet_small", width)
    model = model.to(device).eval()

    def run(tiles: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(tiles[:, None]).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            return torch.sigmoid(model(x).float())[:, 0].cpu().numpy()

    return run


def segment(
    images: pathlib.Path,
    out: pathlib.Path,
    network: Callable[[np.ndarray], np.ndarray],
    tile: int,
    batch_size: int,
) -> None:
    """A folder of images to label images and one table."""
    import tifffile
    from skimage import measure, morphology

    out.mkdir(exist_ok=True)
    rows: list[tuple[Any, ...]] = []
    found: dict[str, np.ndarray] = {}
    for path in sorted(images.glob("*.tif")):
        image = tifffile.imread(path)
        low, high = np.percentile(image, (1, 99.8))
        scaled = ((image - low) / max(high - low, 1e-6)).astype(np.float32)
        map_ = _blend(scaled, network, tile, batch_size)
        mask = morphology.closing(
            np.pad(map_ > 0.5, _CLOSING), np.ones((_CLOSING, _CLOSING), bool)
        )[_CLOSING:-_CLOSING, _CLOSING:-_CLOSING]
        labels = measure.label(mask, connectivity=2)
        small = np.bincount(labels.ravel()) < _LEAST_PX
        labels = measure.label(mask & ~small[labels], connectivity=2)
        found = measure.regionprops_table(
            labels, np.stack([image, map_], -1), _COLUMNS
        )
        rows += zip(itertools.repeat(path.name), *found.values(), strict=False)
        tifffile.imwrite(
            out / f"{path.stem}_labels.tif",
            labels.astype(np.uint16 if labels.max() < 2**16 else np.uint32),
            compression="zlib",
        )
    with (out / "objects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *found))
        writer.writerows(rows)


def _blend(
    image: np.ndarray,
    network: Callable[[np.ndarray], np.ndarray],
    tile: int,
    batch_size: int,
) -> np.ndarray:
    """Tiles averaged with weights that fall off towards their borders."""
    tile = min(tile, *image.shape)
    starts = [
        np.linspace(0, n - tile, _n_windows(n, tile)).round().astype(int)
        for n in image.shape
    ]
    corners = list(itertools.product(*starts))
    ramp = 1 - np.abs(np.linspace(-1, 1, tile + 2)[1:-1])
    weights = np.outer(ramp, ramp).astype(np.float32)
    total, norm = np.zeros((2, *image.shape), np.float32)
    for first in range(0, len(corners), batch_size):
        places = [
            (slice(row, row + tile), slice(col, col + tile))
            for row, col in corners[first : first + batch_size]
        ]
        outputs = network(np.stack([image[place] for place in places]))
        for place, output in zip(places, outputs, strict=True):
            total[place] += weights * output
            norm[place] += weights
    return total / norm


def _n_windows(length: int, tile: int) -> int:
    return 1 + int(np.ceil((length - tile) / (tile * (1 - _OVERLAP))))


def _arguments(
    folder: pathlib.Path,
    *,
    n_images: int,
    side: int,
    width: int,
    tile: int,
    batch_size: int,
    device: str,
) -> tuple[Any, ...]:
    return (
        folder / f"images_{n_images}_{side}",
        folder / "out_torch",
        folder / "weights.npz",
        width,
        tile,
        batch_size,
        device,
    )


def _about(folder: pathlib.Path) -> dict[str, Any]:
    import importlib.metadata

    with (folder / "out_torch" / "objects.csv").open(newline="") as file:
        n_objects = sum(1 for _ in csv.reader(file)) - 1
    torch, skimage = (
        importlib.metadata.version(name) for name in ("torch", "scikit-image")
    )
    return {
        "program": f"PyTorch {torch} bfloat16, scikit-image {skimage}",
        "threads": len(os.sched_getaffinity(0)),
        "objects": n_objects,
    }


def main(images: str, out: str, weights: str, *rest: str) -> None:
    """As the module says."""
    width, tile, batch_size = map(int, rest[:3])
    network = load(weights, width, tile, batch_size, rest[3])
    segment(pathlib.Path(images), pathlib.Path(out), network, tile, batch_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
