"""One way to read an image: PNG, JPEG, BMP, WebP and TIFF.

`read_image` gives [H, W, C] in uint8, uint16 or float32, as stored:

- alpha is dropped; a palette becomes RGB; 1 bit becomes 0 and 255; CMYK and
  YCbCr become RGB; EXIF (and TIFF) rotation is applied;
- other integers become uint16 where their values lie within it, else float32;
  float16 and float64 become float32;
- the axes of a TIFF come from its metadata; channels go last, whatever the
  order in the file. A stack in Z or T is refused, saying how to choose.

`read_mask` gives integers [H, W], as stored: palette indices and the codes of
PNGs of 1, 2 or 4 bits are kept, equal colour channels become one.

Every file is refused from its header, before any pixel is decoded, if it
declares more than `MAX_PIXELS`, or as a bomb: over `MAX_BYTES` of pixels from
a file `MAX_RATIO` times smaller. Whatever is wrong with a file, the error is
an ImageError of one line that starts with its name.
"""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from seg import config, images
from seg.images import (
    axes,
    pixel_types,
    projection,
    raster,
    tiff,
    tiff_pixels,
    vendors,
)

MAX_PIXELS = 2**28  # rows x columns x pages, 16384 x 16384
MAX_BYTES = 2**28
MAX_RATIO = 100
_BY_STRIPS = (
    "save it as tiled TIFF or OME-Zarr, which `seg predict` takes in any size"
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

# Pillow warns from here on, and refuses at twice; what it warns of is refused
# here, where the file's size counts too.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RASTER_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")


class Header(NamedTuple):
    """What a file declares.

    shape: (H, W) as `read_image` would give it, rotation applied.
    orientation: of EXIF; 1 = upright.
    lossy: whether the pixels are those of JPEG or of lossy WebP.
    n_bytes: of what is decoded for one plane, all its channels together.
    """

    shape: tuple[int, int]
    orientation: int
    lossy: bool
    n_bytes: int


def read_image(
    source: str | os.PathLike[str] | bytes, *, name: str = "", select: str = ""
) -> np.ndarray:
    """Reads an image as [H, W, C] in uint8, uint16 or float32.

    Args:
      source: a path, or the bytes of a file.
      name: of the file in messages; by default the path.
      select: of a stack, the plane to take, as "Z=3,T=0" or "Z=max", and of
        its channels, as "C=0"; see `axes`.

    Raises ImageError, also for NaN and infinite values.
    """
    with opened(source, name) as (file, name, size):
        if vendors.is_vendor(source):
            stack = vendors.open_file(source, name)
            check_pixels(name, math.prod(stack.shape))
            pixels = stack.read(select)
        elif is_tiff(file, name):
            pixels = _tiff(file, name, size, select, mask=False)
        else:
            pixels = _raster(file, name, size, select, mask=False)
        return pixel_types.storable(pixels, name)


def read_mask(
    source: str | os.PathLike[str] | bytes, *, name: str = "", select: str = ""
) -> np.ndarray:
    """Reads a mask as integers [H, W], codes as stored.

    Raises ImageError, also for fractions and for channels that differ.
    """
    with opened(source, name) as (file, name, size):
        if is_tiff(file, name):
            pixels = _tiff(file, name, size, select, mask=True)
            lossy = False
        else:
            pixels = _raster(file, name, size, select, mask=True)
            lossy = raster.is_lossy(raster.open_file(file, name), file)
        return pixel_types.codes(pixels, name, lossy)


def read_header(
    source: str | os.PathLike[str] | bytes, *, name: str = "", select: str = ""
) -> Header:
    """Reads size and orientation without decoding; raises ImageError.

    select: as of `read_image`; without one, the first plane is meant.
    """
    with opened(source, name) as (file, name, size):
        if is_tiff(file, name):
            with tiff.opened(file, name, size) as plan:
                index = axes.first(plan.axes)
                if select:
                    index, _ = _chosen(plan, name, select)
                n_bytes = _check_tiff(plan, name, size, index)
                rows = plan.shape[plan.axes.index("Y")]
                columns = plan.shape[plan.axes.index("X")]
                orientation, lossy = plan.orientation, False
        else:
            image = raster.open_file(file, name)
            n_bytes = _check_raster(image, name, size)
            columns, rows = image.size
            orientation = raster.orientation(image, file)
            lossy = raster.is_lossy(image, file)
    turned = orientation in (5, 6, 7, 8)
    shape = (columns, rows) if turned else (rows, columns)
    return Header(shape, orientation, lossy, n_bytes)


def fits(n_stored: int, n: int) -> bool:
    """Whether `as_channels` makes `n` channels of so many."""
    return n_stored == n or {n_stored, n} == {1, 3}


def as_channels(image: np.ndarray, n: int) -> np.ndarray:
    """The image [H, W, C] with `n` channels, in its dtype.

    One from three is the luma (Rec. 601); three from one repeats it. Raises
    ChannelError for any other change.
    """
    n_stored = image.shape[-1]
    if n_stored == n:
        return image
    if (n_stored, n) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (n_stored, n) == (3, 1):
        return pixel_types.luma(image)
    remedy = f"train with model.in_channels={n_stored}"
    counts = [one for one in (1, n) if one <= n_stored and fits(one, n)]
    if counts:
        choices = " or ".join(
            f"'C={'+'.join(map(str, range(one)))}'"
            for one in dict.fromkeys(counts)
        )
        remedy = (
            f"choose with select={choices} (0 to {n_stored - 1}), or {remedy}"
        )
    raise images.ChannelError(
        f"the image has {n_stored} channels, the model takes {n}; {remedy}"
    )


@contextlib.contextmanager
def opened(
    source: str | os.PathLike[str] | bytes, name: str = ""
) -> Iterator[tuple[BinaryIO, str, int]]:
    """Yields (file, name, size in bytes); every failure is an ImageError."""
    if not isinstance(source, bytes):
        name = name or str(source)
    name = name or "image"
    with explained(name):
        if isinstance(source, bytes):
            file: BinaryIO = io.BytesIO(source)
        else:
            file = open(source, "rb")  # noqa: SIM115
        with file:
            yield file, name, file_size(file, name)


def file_size(file: BinaryIO, name: str) -> int:
    """In bytes; ImageError where there are none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not size:
        raise images.ImageError(f"{name}: an empty file; copy it again")
    return size


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Whatever fails in this block is an ImageError of the file `name`."""
    try:
        yield
    except config.UserError:
        raise
    except FileNotFoundError as error:
        raise images.ImageError(
            f"{name}: no such file; check the path"
        ) from error
    except (IsADirectoryError, PermissionError) as error:
        raise images.ImageError(
            f"{name}: {error.strerror}; check the path"
        ) from error
    except Image.DecompressionBombError as error:
        raise images.TooLargeError(
            f"{name}: declares over {2 * MAX_PIXELS / 1e6:.0f} megapixels, at "
            f"most {MAX_PIXELS / 1e6:.0f} are read at once; {_BY_STRIPS}"
        ) from error
    except MemoryError as error:
        raise images.TooLargeError(
            f"{name}: not enough memory; {_BY_STRIPS}"
        ) from error
    # a broken file makes decoders raise anything, from struct.error to
    # IndexError; here, and only here, all of it means "corrupt"
    except Exception as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise images.ImageError(
            f"{name}: corrupt or truncated ({detail}); copy or save it again"
        ) from error


def _magic(file: BinaryIO) -> bytes:
    file.seek(0)
    start = file.read(32)
    file.seek(0)
    return start


def is_tiff(file: BinaryIO, name: str) -> bool:
    """Whether a file is TIFF, by its bytes; ImageError if no image at all."""
    start = _magic(file)
    if start[:4] in _TIFF_MAGIC:
        return True
    if start.startswith(_RASTER_MAGIC) or start[8:12] == b"WEBP":
        return False
    raise images.ImageError(
        f"{name}: not an image that is read here (its bytes are neither PNG, "
        "JPEG, BMP, WebP nor TIFF, whatever its name); convert it to one of "
        "them"
    )


def check_pixels(name: str, pixels: int) -> None:
    """Refuses more than `MAX_PIXELS`."""
    if pixels > MAX_PIXELS:
        raise images.TooLargeError(
            f"{name}: declares {pixels / 1e6:.0f} megapixels, at most "
            f"{MAX_PIXELS / 1e6:.0f} are read at once; {_BY_STRIPS}"
        )


def _check_size(name: str, pixels: int, n_bytes: int, size: int) -> None:
    """Refuses what would take too much memory; from the header alone."""
    check_pixels(name, pixels)
    if n_bytes > MAX_BYTES and n_bytes > MAX_RATIO * size:
        raise images.TooLargeError(
            f"{name}: {size / 1e3:.0f} kB that declare {n_bytes / 1e6:.0f} MB "
            "of pixels, refused as a decompression bomb; cut it into parts"
        )


def _raster(
    file: BinaryIO, name: str, size: int, select: str, *, mask: bool
) -> np.ndarray:
    """The pixels of a PNG, JPEG, BMP or WebP, [H, W, C], upright."""
    if axes.parse(select, name).keys() - {"C"}:
        raise images.ImageError(
            f"{name}: has no axes to choose from; leave out select={select!r}"
        )
    image = raster.open_file(file, name)
    _check_raster(image, name, size)
    pixels = raster.decode(image, file, name, mask=mask)
    index, kept = axes.choose("YXC", pixels.shape, name, select)
    return axes.channels_last(axes.take(pixels, index), kept)


def _check_raster(image: Image.Image, name: str, size: int) -> int:
    """Refuses what would take too much memory; gives its bytes."""
    pixels = image.width * image.height
    n_bytes = pixels * len(image.getbands())
    _check_size(name, pixels, n_bytes, size)
    return n_bytes


def _check_tiff(
    plan: tiff.Plan, name: str, size: int, index: axes.Index
) -> int:
    """Refuses a plane that would take too much memory; gives its bytes."""
    rows, columns = (
        plan.shape[plan.axes.index("Y")],
        plan.shape[plan.axes.index("X")],
    )
    n_values = tiff_pixels.n_decoded(plan, index)
    n_pixels = rows * columns
    if not plan.is_paged:  # decoded are all planes, whichever is chosen
        n_pixels *= math.prod(
            length
            for axis, length in zip(plan.axes, plan.shape, strict=True)
            if axis not in axes.CHANNELS + "YX"
        )
    n_bytes = n_values * plan.series.dtype.itemsize
    _check_size(name, n_pixels, n_bytes, size)
    return n_bytes


def _chosen(
    plan: tiff.Plan, name: str, select: str
) -> tuple[axes.Index, tuple[str, list[str]]]:
    """The first plane of a choice; how planes are merged, and which."""
    kind, each = axes.merged(plan.axes, plan.shape, name, select)
    index, _ = axes.choose(plan.axes, plan.shape, name, each[0])
    return index, (kind, each)


def _tiff(
    file: BinaryIO, name: str, size: int, select: str, *, mask: bool
) -> np.ndarray:
    """The pixels of a TIFF, [H, W, C], upright."""
    with tiff.opened(file, name, size) as plan:
        index, (kind, each) = _chosen(plan, name, select)
        _check_tiff(plan, name, size, index)
        planes = (
            tiff_pixels.decode(plan, name, one, mask=mask) for one in each
        )
        return projection.over(kind, planes) if kind else next(planes)
