"""The script that one writes with PyTorch and scikit-image, for comparison.

    python -m launch.bench.torch_script IMAGES OUT WEIGHTS WIDTH TILE BATCH DEV

For each image of a folder: scaled by its percentiles, cut into overlapping
tiles, through the network in bfloat16, blended, closed, small objects removed,
labelled, measured, written as TIFF and CSV. Windows and settings are ours.
"""

import csv
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the script itself needs nothing of ours
    from launch.bench import duel

_OVERLAP, _CLOSING, _LEAST_PX = 0.11, 3, 16
_COLUMNS = ("label", "area", "centroid", "bbox", "intensity_mean",
            "eccentricity", "solidity")  # fmt: skip


def cold(folder: pathlib.Path, **settings: Any) -> "duel.Side":
    """The script, from the start of its process to its end."""
    command = [sys.executable, "-m", "launch.bench.torch_script"]
    command += [str(each) for each in _arguments(folder, **settings)]
    tell = _teller(folder, **settings)

    def once() -> None:
        subprocess.run(command, check=True)

    return once, lambda: tell() | _found(folder, **settings)


def warm(folder: pathlib.Path, **settings: Any) -> "duel.Side":
    """The same in a process that goes on, the network loaded and warm."""
    images, out, *rest = _arguments(folder, **settings)
    network = load(*rest)
    size = settings["tile"], settings["batch_size"]
    for path in images.glob("*.tif"):
        probabilities(path, network, *size)
    tell = _teller(folder, **settings)

    def once() -> None:
        segment(images, out, network, *size)

    return once, lambda: tell() | _found(folder, **settings)


def maps(folder: pathlib.Path, **settings: Any) -> "duel.Side":
    """From one file to the class of each pixel, in memory, objects left out."""
    images, _, *rest = _arguments(folder, **settings)
    (path,) = images.glob("*.tif")
    network = load(*rest)
    held: dict[str, np.ndarray] = {}

    def once() -> None:
        _, map_ = probabilities(
            path, network, settings["tile"], settings["batch_size"]
        )
        held["classes"] = (map_ > 0.5).astype(np.uint8)

    once()
    tell = _teller(folder, **settings)

    def apart() -> dict[str, float]:
        wanted = np.load(folder / "classes.npy")
        return {"pixels": float((held["classes"] != wanted).mean())}

    return once, lambda: tell() | {"apart": apart()}


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
        image, map_ = probabilities(path, network, tile, batch_size)
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


def probabilities(
    path: pathlib.Path,
    network: Callable[[np.ndarray], np.ndarray],
    tile: int,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """An image and its map [H, W]."""
    import tifffile

    image = tifffile.imread(path)
    low, high = np.percentile(image, (1, 99.8))
    scaled = ((image - low) / max(high - low, 1e-6)).astype(np.float32)
    return image, _blend(scaled, network, tile, batch_size)


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


def _found(folder: pathlib.Path, **settings: Any) -> dict[str, Any]:
    """Objects, and the share of pixels that ours has on the other side."""
    import tifffile

    images, out, *_ = _arguments(folder, **settings)
    differ, n_pixels = 0, 0
    for path in images.glob("*.tif"):
        ours, own = (
            tifffile.imread(at / f"{path.stem}_labels.tif") > 0
            for at in (folder / f"out_{images.name}", out)
        )
        differ += np.count_nonzero(ours != own)
        n_pixels += ours.size
    with (out / "objects.csv").open(newline="") as file:
        n_objects = sum(1 for _ in csv.reader(file)) - 1
    return {
        "found": {"objects": n_objects},
        "apart": {"pixels": differ / n_pixels},
    }


def _teller(folder: pathlib.Path, **settings: Any) -> Callable[[], Any]:
    """See `torch_peer.teller`."""
    import skimage
    import torch

    from launch.bench import torch_networks, torch_peer

    device, width = settings["device"], settings["width"]
    model = torch_networks.load(folder / "weights.npz", "unet_small", width)
    tile = torch.zeros(1, 1, 64, 64, device=device)
    model = model.to(device).eval()
    computes = torch_peer.computes_in(model, tile, "bfloat16", device)
    tell = torch_peer.teller(device, "", {"computes_in": computes})

    def told() -> dict[str, Any]:
        by = f"{tell()['program']}, scikit-image {skimage.__version__}"
        return tell() | {"program": by}

    return told


def main(images: str, out: str, weights: str, *rest: str) -> None:
    """As the module says."""
    width, tile, batch_size = map(int, rest[:3])
    network = load(weights, width, tile, batch_size, rest[3])
    segment(pathlib.Path(images), pathlib.Path(out), network, tile, batch_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
