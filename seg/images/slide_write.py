"""Results of any size to files, from strips of rows.

A result is [H, W] or [H, W, C], and comes as strips [h, W] or [h, W, C] of any
heights, from the top down, that together have H rows. In memory are a strip
and the rows of tiles that are being packed. As all of `write`, a file or
folder is written whole or not at all.

Strips that do not add up to the shape, or with values that the type cannot
hold, are a ValueError: a mistake of the caller.
"""

import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from seg import config
from seg.images import slide_zarr, write

_TILE = 512
_CHUNK = 1024
_TOP_LEVEL = 1024  # pixels of the longer side of the smallest level, at most


def write_tiff(
    path: str | os.PathLike[str],
    strips: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    pixel_size: tuple[float, float] | None = None,
) -> None:
    """Writes a BigTIFF in tiles of 512 x 512, packed by zlib in parallel.

    Channels are interleaved; three in uint8 are red, green and blue.
    pixel_size: here and below (row, column) in micrometres.
    """
    dtype = np.dtype(dtype)
    colour = shape[2:] == (3,) and dtype == np.uint8
    n_row_bytes = _TILE * shape[1] * dtype.itemsize * int(np.prod(shape[2:]))
    tiles = (
        block[:, left : left + _TILE]
        for block in _blocks(strips, shape, dtype, _TILE)
        for left in range(0, shape[1], _TILE)
    )
    axes = "YXS" if colour else "YXC"
    with write.whole(path) as temporary:
        tifffile.imwrite(
            temporary,
            tiles,
            shape=shape,
            dtype=dtype,
            bigtiff=True,
            ome=False,
            tile=(_TILE, _TILE),
            compression="zlib",
            photometric="rgb" if colour else "minisblack",
            planarconfig="contig" if len(shape) == 3 else None,
            metadata={"axes": axes[: len(shape)]},
            maxworkers=os.cpu_count(),
            buffersize=n_row_bytes,
            **write.resolution(pixel_size),
        )
        next(tiles, None)  # finds rows too many


def check_place(path: pathlib.Path) -> None:
    """Raises UserError where an image lies, which labels never replace."""
    if path.is_dir() and not slide_zarr.holds_labels(path):
        raise config.UserError(
            f"{path}: holds something else than labels, which is not replaced; "
            "choose another folder for the results"
        )


def write_zarr(
    path: str | os.PathLike[str],
    strips: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    labels: bool,
    pixel_size: tuple[float, float] | None = None,
) -> None:
    """Writes a folder of OME-Zarr 0.4, chunks of 1024 x 1024, with levels.

    Each level has every second pixel of the one before, so ids stay ids, down
    to 1024 pixels or less. With `labels` it is an OME label image. An older
    OME-Zarr folder is replaced, but never another image by labels. The format:
    https://ngff.openmicroscopy.org/0.4

    Raises UserError where the library zarr is missing, or an image lies there.
    """
    dtype = np.dtype(dtype)
    if labels and dtype.kind not in "iu":
        raise ValueError(f"labels are whole numbers, not {dtype}")
    library = slide_zarr.library()
    path = pathlib.Path(path)
    if labels:
        check_place(path)
    with write.whole(path) as temporary:
        group = library.create_group(temporary, zarr_format=2)
        shapes = list(_level_shapes(shape))
        levels = _Levels([_array(group, i, s, dtype) for i, s in shapes])
        for block in _blocks(strips, shape, dtype, _CHUNK):
            levels.put(block)
        levels.flush()
        group.attrs.update(
            _metadata(path.stem, len(shape), len(shapes), pixel_size)
        )
        if labels:
            group.attrs["image-label"] = {"version": "0.4"}
        aside = _set_aside(path, temporary)
    if aside is not None:
        shutil.rmtree(aside)


def _blocks(
    strips: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    height: int,
) -> Iterator[np.ndarray]:
    """The strips cut anew: blocks of `height` rows, the last one lower."""
    n_rows = 0
    block = np.empty((min(height, shape[0]), *shape[1:]), dtype)
    filled = 0
    for strip in strips:
        _check(strip, shape, dtype)
        while len(strip):
            if n_rows == shape[0]:
                raise ValueError(f"more rows than the {shape[0]} of the image")
            part = strip[: len(block) - filled]
            block[filled : filled + len(part)] = part
            strip = strip[len(part) :]
            filled, n_rows = filled + len(part), n_rows + len(part)
            if filled == len(block):
                yield block
                # never the same memory: threads may still pack the last one
                left = min(height, shape[0] - n_rows)
                block, filled = np.empty((left, *shape[1:]), dtype), 0
    if n_rows < shape[0]:
        raise ValueError(f"{n_rows} rows of the {shape[0]} of the image")


def _check(strip: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if strip.shape[1:] != shape[1:]:
        raise ValueError(f"a strip {strip.shape} of an image {shape}")
    if np.can_cast(strip.dtype, dtype) or not strip.size:
        return
    if dtype.kind not in "iu" or strip.dtype.kind not in "iu":
        if strip.dtype.kind == dtype.kind == "f":
            return
        raise ValueError(f"a strip of {strip.dtype}, not {dtype}")
    limits = np.iinfo(dtype)
    if int(strip.min()) < limits.min or int(strip.max()) > limits.max:
        raise ValueError(f"values beyond {dtype}")


def _level_shapes(
    shape: tuple[int, ...],
) -> Iterator[tuple[int, tuple[int, ...]]]:
    i = 0
    while True:
        yield i, shape
        if max(shape[:2]) <= _TOP_LEVEL:
            return
        shape = (-(-shape[0] // 2), -(-shape[1] // 2), *shape[2:])
        i += 1


def _array(group: Any, i: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Makes the array of a level; channels go first, as OME wants it."""
    n_channels = shape[2:]
    return group.create_array(
        str(i),
        shape=(*n_channels, *shape[:2]),
        chunks=(*(1 for _ in n_channels), _CHUNK, _CHUNK),
        dtype=dtype,
        # every reader of Zarr knows Blosc
        compressors={"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1},
        chunk_key_encoding={"name": "v2", "separator": "/"},
        fill_value=0,
    )


class _Levels:
    """Writes rows to all levels at once, each when it has a row of chunks."""

    def __init__(self, arrays: list[Any]) -> None:
        self._arrays = arrays
        self._tops = [0 for _ in arrays]
        self._waiting: list[list[np.ndarray]] = [[] for _ in arrays]

    def put(self, block: np.ndarray, i: int = 0) -> None:
        """Takes the next rows of level `i`: an even number, but at the end."""
        self._waiting[i].append(block)
        if sum(map(len, self._waiting[i])) >= _CHUNK:
            self._write(i)

    def flush(self) -> None:
        for i, blocks in enumerate(self._waiting):
            if blocks:
                self._write(i)

    def _write(self, i: int) -> None:
        blocks, self._waiting[i] = self._waiting[i], []
        block = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        top = self._tops[i]
        self._tops[i] += len(block)
        rows = np.moveaxis(block, -1, 0) if block.ndim == 3 else block
        self._arrays[i][..., top : top + len(block), :] = rows
        if i + 1 < len(self._arrays):
            self.put(block[::2, ::2].copy(), i + 1)


def _metadata(
    name: str,
    n_axes: int,
    n_levels: int,
    pixel_size: tuple[float, float] | None,
) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if pixel_size else {}
    axes = [{"name": name, "type": "space", **unit} for name in "yx"]
    if n_axes == 3:
        axes.insert(0, {"name": "c", "type": "channel"})
    datasets = []
    for i in range(n_levels):
        # every second pixel stays where it was: a scale, and no translation
        sides = [side * 2.0**i for side in pixel_size or (1.0, 1.0)]
        scale = [1.0] * (n_axes - 2) + sides
        datasets.append(
            {
                "path": str(i),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale}
                ],
            }
        )
    multiscale = {
        "version": "0.4",
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": "nearest",
    }
    return {"multiscales": [multiscale]}


def _set_aside(
    path: pathlib.Path, temporary: pathlib.Path
) -> pathlib.Path | None:
    """Moves an older OME-Zarr folder out of the way; nothing else."""
    # by what lies in it: a name alone is no leave to delete a folder
    if not path.is_dir() or not slide_zarr.holds_zarr(path):
        return None
    aside = temporary.with_suffix(".old")
    path.rename(aside)
    return aside
