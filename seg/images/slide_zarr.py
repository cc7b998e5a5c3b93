"""Bands of an OME-Zarr image, 0.4 or 0.5: decodes the chunks rows touch.

The pixels are level 0 of the first multiscale, its axes by their names. A
chunk that is not there is the fill value, by the definition of Zarr: a store
that was copied in part cannot be told from one that is empty in places.
"""

import json
import math
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from seg import config, images
from seg.images import axes

_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
_ROWS = 256
_BYTES = 2**26


def library() -> types.ModuleType:
    """The library zarr; UserError where it is missing."""
    try:
        import zarr
    except ImportError as error:
        raise config.UserError(
            "OME-Zarr needs the library zarr; pip install -e .[slides]"
        ) from error
    return zarr


def is_zarr(path: pathlib.Path) -> bool:
    """Whether a path is a Zarr folder, by its name or what lies in it."""
    return path.is_dir() and (path.suffix == ".zarr" or holds_zarr(path))


def holds_zarr(path: pathlib.Path) -> bool:
    """Whether a folder has the metadata of Zarr."""
    return any((path / name).is_file() for name in _MARKS)


def holds_labels(path: pathlib.Path) -> bool:
    """Whether a folder is an OME label image, as `slide_write` writes it."""
    try:
        text = (path / ".zattrs").read_text(encoding="utf-8")
        return "image-label" in json.loads(text)
    except (OSError, ValueError, TypeError):
        return False


class Level(NamedTuple):
    """An array [...] and its axes as letters; the rest as OME has it."""

    array: Any
    axes: str
    multiscale: Mapping[str, Any]
    omero: Mapping[str, Any]


class ZarrBands:
    """The rows of an OME-Zarr image, `height` at a time.

    shape: (H, W).
    dtype, n_channels: of `band`.
    n_bytes: that the decoding of one band takes.
    """

    def __init__(self, level: Level, name: str, select: str) -> None:
        array, letters = level.array, level.axes
        self._array = array
        shape, chunks = array.shape, array.chunks
        self._index, self._kept = axes.choose(letters, shape, name, select)
        self._at = letters.index("Y")
        self.shape = (shape[self._at], shape[letters.index("X")])
        self.dtype = np.dtype(array.dtype)
        self.n_channels = math.prod(
            len(axes.positions(part, length))
            for axis, length, part in zip(
                letters, shape, self._index, strict=True
            )
            if axis == "C" and axis in self._kept
        )
        low = chunks[self._at]
        # whole chunks are decoded, also where one plane of them is asked for
        row = self.dtype.itemsize * math.prod(
            len({i // chunk for i in axes.positions(part, length)}) * chunk
            for length, chunk, part, axis in zip(
                shape, chunks, self._index, letters, strict=True
            )
            if axis != "Y"
        )
        self.height = max(1, min(_ROWS, _BYTES // max(row, 1)) // low) * low
        self.n_bytes = self.height * row

    def band(self, i: int) -> np.ndarray:
        """Rows [i * height, (i + 1) * height) as [h, W, C]."""
        index = list(self._index)
        top = i * self.height
        index[self._at] = slice(top, min(top + self.height, self.shape[0]))
        pixels = np.asarray(self._array.oindex[tuple(index)])
        return axes.channels_last(pixels, self._kept)


def level_0(path: pathlib.Path, name: str) -> Level:
    """The array of full size, and what is said of it."""
    zarr = library()
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
    except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
        raise images.ImageError(
            f"{name}: a folder without a Zarr group; give the folder of an "
            "OME-Zarr image"
        ) from error
    attributes = _ome(group)
    # what bioformats2raw writes holds its images in folders 0, 1, ...
    if "multiscales" not in attributes and "0" in group and "1" not in group:
        group = group["0"]
        attributes = _ome(group)
    if not attributes.get("multiscales"):
        raise images.ImageError(
            f"{name}: no OME-Zarr image (no multiscales in its metadata); "
            "give the folder of one image inside"
        )
    multiscale = attributes["multiscales"][0]
    array = group[multiscale["datasets"][0]["path"]]
    letters = _letters(multiscale.get("axes", ()))
    is_image = letters.count("Y") == letters.count("X") == 1
    if not is_image or not len(letters) == len(set(letters)) == array.ndim:
        raise images.ImageError(
            f"{name}: its axes ({letters or 'none'}, for an array "
            f"{array.shape}) are not those of OME-Zarr 0.4 or 0.5; convert it "
            "again"
        )
    return Level(array, letters, multiscale, attributes.get("omero", {}))


def _ome(group: Any) -> Mapping[str, Any]:
    """The OME metadata: under a key of their own since 0.5."""
    attributes = getattr(group, "attrs", {})
    return attributes.get("ome", attributes)


def _letters(axes: Any) -> str:
    """A letter for each axis; 0.3 had names only."""
    names = [axis if isinstance(axis, str) else axis["name"] for axis in axes]
    return "".join(name[:1].upper() for name in names)
