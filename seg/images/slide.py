"""Images of any size, by strips of rows: slides.

    with slide.open_slide("slide.ome.tif") as image:
        for top in range(0, image.shape[0], 192):
            strip = image.rows(top, min(top + 256, image.shape[0]))

Read are tiled and stripped TIFF, BigTIFF and OME-TIFF, and OME-Zarr 0.4 and
0.5; the pixels are those of `read.read_image`. Only the chunks (tiles, strips
of TIFF, chunks of Zarr) that the rows touch are decoded, and the last ones are
kept: reading from the top down, with overlap, decodes each chunk once, in the
memory of the rows and of a row of chunks. There is no limit on the size of
the image, only one on a row of chunks, `MAX_STRIP_BYTES`.

PNG, JPEG, and TIFF whose chunks are as high as the image or that are stored
turned by 90 degrees, are read at once by `read.read_image`, with its limits.

Whatever is wrong with a file, at the door or in a later row, is an ImageError
of one line that starts with its name.
"""

import contextlib
import functools
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from seg import images
from seg.images import (
    axes,
    pixel_types,
    projection,
    read,
    slide_tiff,
    slide_zarr,
    tiff,
    vendors,
)

LARGE = 64_000_000  # pixels, from which on an image is worked on by strips
MAX_STRIP_BYTES = 2**30


class Bands(Protocol):
    """The rows of an image as they are stored, `height` at a time.

    shape: (H, W) as stored.
    dtype: as stored.
    n_bytes: that the decoding of one band takes.
    """

    shape: tuple[int, int]
    n_channels: int
    dtype: np.dtype
    height: int
    n_bytes: int

    def band(self, i: int) -> np.ndarray:
        """Rows [i * height, (i + 1) * height) as [h, W, C]."""


class Slide:
    """An open image, read by rows, by one thread; a context manager.

    shape: (H, W), upright.
    """

    def __init__(
        self,
        bands: Bands,
        name: str,
        orientation: int = 1,
        files: contextlib.ExitStack | None = None,
    ) -> None:
        """Made by `open_slide`; takes over `files`, to close them."""
        if bands.dtype.kind not in "biuf":
            raise images.ImageError(
                f"{name}: pixels of type {bands.dtype}; save real numbers"
            )
        if bands.n_bytes > MAX_STRIP_BYTES:
            raise images.ImageError(
                f"{name}: decoding {bands.height} rows takes "
                f"{bands.n_bytes / 1e6:.0f} MB, at most "
                f"{MAX_STRIP_BYTES / 1e6:.0f} are given; save it in smaller "
                "tiles"
            )
        self._bands, self._name = bands, name
        self._orientation = orientation
        self._kept: dict[int, np.ndarray] = {}
        self.shape = bands.shape
        self.n_channels = bands.n_channels
        self._files = files.pop_all() if files else contextlib.ExitStack()

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """uint8, uint16 or float32: what `rows` gives, as `read.read_image`.

        Whole numbers of other types become uint16 if all of them fit: to know
        that, the first use of this takes a pass over the image.
        """
        stored = self._bands.dtype
        if stored.kind == "b" or stored == np.uint8:
            return np.dtype(np.uint8)
        if stored.kind == "f":
            return np.dtype(np.float32)
        if stored.kind == "u" and stored.itemsize == 2:
            return np.dtype(np.uint16)
        limit = np.iinfo(np.uint16).max
        with read.explained(self._name):
            for i in range(-(-self.shape[0] // self._bands.height)):
                band = self._bands.band(i)
                if band.min() < 0 or band.max() > limit:
                    return np.dtype(np.float32)
        return np.dtype(np.uint16)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Rows [top, bottom) at full width, [bottom - top, W, C].

        Raises ImageError where they are damaged, NaN or infinite; ValueError
        where the image has no such rows.
        """
        if not 0 <= top < bottom <= self.shape[0]:
            raise ValueError(f"rows {top} to {bottom} of {self.shape[0]}")
        out = np.empty(
            (bottom - top, self.shape[1], self.n_channels), self.dtype
        )
        if self._orientation in (3, 4):  # stored upside down
            top, bottom = self.shape[0] - bottom, self.shape[0] - top
        height = self._bands.height
        needed = range(top // height, (bottom - 1) // height + 1)
        # what the last call did not use is not used again from the top down
        self._kept = {i: self._kept[i] for i in needed if i in self._kept}
        for i in needed:
            start = i * height
            band = self._kept[i] if i in self._kept else self._load(i)
            self._kept[i] = band
            first, last = max(top, start), min(bottom, start + len(band))
            out[first - top : last - top] = band[first - start : last - start]
        return np.ascontiguousarray(pixel_types.upright(out, self._orientation))

    def _load(self, i: int) -> np.ndarray:
        top = i * self._bands.height
        bottom = min(top + self._bands.height, self._bands.shape[0])
        where = f"{self._name}, rows {top} to {bottom - 1}"
        with read.explained(where):
            band = self._bands.band(i)
            if band.dtype.kind in "iu":
                return band.astype(self.dtype, copy=False)
            return pixel_types.storable(band, where)

    def close(self) -> None:
        """Closes the file; `rows` fails from then on."""
        self._kept = {}
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Whole:
    """An image in memory, as one band."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        self.shape = pixels.shape[:2]
        self.n_channels, self.dtype = pixels.shape[2], pixels.dtype
        # within the limits of `read`, and decoded already
        self.height, self.n_bytes = len(pixels), 0

    def band(self, i: int) -> np.ndarray:
        return self._pixels


class _Merged:
    """Several planes of an image as one, row by row."""

    def __init__(self, kind: str, planes: Sequence[Bands]) -> None:
        self._kind, self._planes = kind, planes
        first = planes[0]
        self.shape, self.n_channels = first.shape, first.n_channels
        self.dtype, self.height = first.dtype, first.height
        # a plane, the sum in 64 bits, and the sum with the plane
        n_values = first.height * first.shape[1] * first.n_channels
        self.n_bytes = first.n_bytes + 16 * n_values

    def band(self, i: int) -> np.ndarray:
        return projection.over(
            self._kind, (plane.band(i) for plane in self._planes)
        )


def _merged(kind: str, planes: Sequence[Bands]) -> Bands:
    return _Merged(kind, planes) if kind else planes[0]


def open_slide(source: str | os.PathLike[str], *, select: str = "") -> Slide:
    """Opens an image to be read by rows.

    Args:
      source: a file, or the folder of an OME-Zarr image.
      select: of a stack, the plane to take; see `axes`.

    Raises ImageError; UserError where a library is missing.
    """
    path, name = pathlib.Path(source), str(source)
    with contextlib.ExitStack() as files, read.explained(name):
        if slide_zarr.is_zarr(path):
            level = slide_zarr.level_0(path, name)
            kind, each = axes.merged(
                level.axes, level.array.shape, name, select
            )
            bands = _merged(
                kind, [slide_zarr.ZarrBands(level, name, one) for one in each]
            )
            return Slide(bands, name)
        plan = _plan(path, name, files)
        if plan is None or not slide_tiff.suits(plan):
            return Slide(_Whole(read.read_image(path, select=select)), name)
        kind, each = axes.merged(plan.axes, plan.shape, name, select)
        bands = _merged(
            kind, [slide_tiff.TiffBands(plan, name, one) for one in each]
        )
        return Slide(bands, name, plan.orientation, files)


def read_image(
    source: str | os.PathLike[str], *, select: str = ""
) -> np.ndarray:
    """All of an image [H, W, C]: a file, or the folder of an OME-Zarr image.

    Raises ImageError, and TooLargeError for what `read` would not take.
    """
    if not slide_zarr.is_zarr(pathlib.Path(source)):
        return read.read_image(source, select=select)
    with open_slide(source, select=select) as opened:
        read.check_pixels(os.fspath(source), math.prod(opened.shape))
        return opened.rows(0, opened.shape[0])


def is_slide(path: str | os.PathLike[str]) -> bool:
    """Whether an image is to be read by strips, from its header alone.

    True over `LARGE`, for a Zarr folder and a TIFF that can be read so. False
    also for what cannot be read at all.
    """
    path = pathlib.Path(path)
    try:
        with contextlib.ExitStack() as files, read.explained(str(path)):
            if slide_zarr.is_zarr(path):
                level = slide_zarr.level_0(path, str(path))
                return is_large(level.axes, level.array.shape)
            plan = _plan(path, str(path), files)
            return plan is not None and by_strips(plan)
    except images.ImageError:
        return False


def by_strips(plan: tiff.Plan) -> bool:
    """`is_slide` of a TIFF."""
    return is_large(plan.axes, plan.shape) and slide_tiff.suits(plan)


def is_large(letters: str, lengths: Sequence[int]) -> bool:
    """Whether a plane of these axes has more than `LARGE` pixels."""
    sides = dict(zip(letters, lengths, strict=True))
    return sides["Y"] * sides["X"] > LARGE


def _plan(
    path: pathlib.Path, name: str, files: contextlib.ExitStack
) -> tiff.Plan | None:
    """What a TIFF holds; None: no TIFF."""
    if vendors.is_vendor(path):
        return None
    file = files.enter_context(open(path, "rb"))  # noqa: SIM115
    size = read.file_size(file, name)
    if not read.is_tiff(file, name):
        return None
    with tiff.listening():
        return files.enter_context(tiff.load(file, name, size))
