"""Decodes TIFF, with axes by name: what `read` and `slide` use for TIFF files.

The axes come from the file's own metadata (OME, ImageJ, tifffile) or from its
tags; nothing is guessed from the sizes. Y and X are the image, C and S its
channels; any other axis longer than one needs a choice by the caller.
"""

import contextlib
import contextvars
import logging
import math
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from seg import images

_CHANNELS = "CS"
_ORIENTATION = 0x0112
_NAMES = {
    "Z": "planes in depth",
    "T": "points in time",
    "I": "pages",
    "Q": "pages",
    "R": "replicates",
    "A": "angles",
    "P": "positions",
    "M": "mosaic tiles",
}


# tifffile logs what it could read in spite of a defect. While a file is open
# here, the log is kept, not printed: some of these defects are data lost.
_LOST = ("invalid page offset", "series metadata invalid or corrupted")
_complaints: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "complaints", default=None
)


def _keep(record: logging.LogRecord) -> bool:
    kept = _complaints.get()
    if kept is None:
        return True
    kept.append(record.getMessage())
    return False


logging.getLogger("tifffile").addFilter(_keep)


class Plan(NamedTuple):
    """What a file holds, known from its header alone."""

    series: tifffile.TiffPageSeries
    axes: str
    shape: tuple[int, ...]
    orientation: int

    @property
    def page(self) -> tifffile.TiffPage:
        """The page that stands for all pages of the series."""
        return self.series.keyframe


@contextlib.contextmanager
def opened(file: BinaryIO, name: str, size: int) -> Iterator[Plan]:
    """Opens a file of `size` bytes and finds its one image.

    Raises ImageError where there are several, or none, or a page is cut off.
    """
    with listening(), load(file, name, size) as plan:
        yield plan


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Keeps what tifffile logs in this block, for `load` to look at."""
    token = _complaints.set([])
    try:
        yield
    finally:
        _complaints.reset(token)


@contextlib.contextmanager
def load(file: BinaryIO, name: str, size: int) -> Iterator[Plan]:
    """`opened`, for a file that stays open; to be entered in `listening`."""
    # OME-XML can name other files; an untrusted one could name any
    with tifffile.TiffFile(
        file, name=os.path.basename(name), _multifile=False
    ) as tif:
        plan = _plan(tif, name)
        _check_whole(plan, name, size)
        yield plan


def _plan(tif: tifffile.TiffFile, name: str) -> Plan:
    if not tif.series:
        raise images.ImageError(f"{name}: no image in this TIFF; save it again")
    first, *others = tif.series
    # thumbnails, labels and pyramid levels are smaller; siblings are data
    siblings = [s for s in others if 2 * s.size > first.size]
    if siblings:
        raise images.ImageError(
            f"{name}: holds {1 + len(siblings)} images in one TIFF; save each "
            "as a file of its own"
        )
    if first.axes.count("Y") != 1 or first.axes.count("X") != 1:
        raise images.ImageError(
            f"{name}: axes {first.axes} are not an image's; save it with Y "
            "and X"
        )
    tag = first.keyframe.tags.get(_ORIENTATION)
    orientation = 1 if tag is None else int(tag.value)
    return Plan(first, first.axes, tuple(first.shape), orientation)


def _check_whole(plan: Plan, name: str, size: int) -> None:
    """Raises ImageError where pages or their data are missing.

    tifffile would leave the pages out, or return zeros for the data.
    """
    if None in plan.series.pages:
        raise images.ImageError(
            f"{name}: pages are missing, or in other files that its OME "
            "metadata name; save the image as one file"
        )
    # tifffile would fill up what is missing of the strips, one by one
    if any(
        len(page.dataoffsets) < math.prod(page.chunked)
        for page in plan.series.pages
    ):
        raise images.ImageError(
            f"{name}: corrupt, it declares more strips than it has; save it "
            "again"
        )
    spans = [
        offset + count
        for page in plan.series.pages
        for offset, count in zip(
            page.dataoffsets, page.databytecounts, strict=False
        )
    ]
    complaints = _complaints.get() or []
    lost = any(text in line for line in complaints for text in _LOST)
    if lost or max(spans, default=0) > size:
        raise images.ImageError(
            f"{name}: truncated, its data reach beyond the end of the file "
            f"({size} bytes); copy it again"
        )


def parse_select(select: str, name: str) -> dict[str, int]:
    """Reads a choice like "Z=3,T=0"."""
    wanted = {}
    for part in filter(None, select.replace(" ", "").split(",")):
        axis, _, index = part.partition("=")
        if len(axis) != 1 or not index.isdigit():
            raise images.ImageError(
                f"{name}: select={select!r} is not like 'Z=3' or 'Z=3,T=0'"
            )
        wanted[axis.upper()] = int(index)
    return wanted


def decode(plan: Plan, name: str, select: str, *, mask: bool) -> np.ndarray:
    """The pixels as [H, W, C] (C from 1), upright, in the stored dtype.

    Palettes become RGB and inverted greys are inverted back, but for a mask,
    whose codes stay; alpha is dropped.
    """
    index, kept = choose(plan.axes, plan.shape, name, select)
    pixels = channels_last(_pixels(plan, name)[index], kept)
    pixels = resolve(plan, name, pixels, kept, mask=mask)
    return upright(pixels, plan.orientation)


def channels_last(pixels: np.ndarray, axes: str) -> np.ndarray:
    """[H, W, C] (C from 1) of pixels with axes Y, X and any of C and S."""
    channels = [axis for axis in axes if axis in _CHANNELS]
    order = [axes.index(axis) for axis in ("Y", "X", *channels)]
    pixels = pixels.transpose(order)
    return pixels.reshape(*pixels.shape[:2], -1)


def resolve(
    plan: Plan, name: str, pixels: np.ndarray, kept: str, *, mask: bool
) -> np.ndarray:
    """[H, W, C] by what its values mean: `decode`, but for the rotation.

    Works on any rows of the image; `kept` are the axes of `choose`.
    """
    photometric = plan.page.photometric
    if photometric == tifffile.PHOTOMETRIC.SEPARATED:
        raise images.ImageError(f"{name}: CMYK colours; save it as RGB or grey")
    if photometric == tifffile.PHOTOMETRIC.PALETTE and not mask:
        colours = (plan.page.colormap.T // 256).astype(np.uint8)
        return colours[pixels[..., 0]]
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE and not mask:
        return _inverted(pixels)
    if "S" in kept and _has_alpha(plan.page):
        return pixels[..., :-1]
    return pixels


def _pixels(plan: Plan, name: str) -> np.ndarray:
    try:
        return plan.series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        page = plan.page
        simple = page.dtype in (np.uint8, bool) or page.samplesperpixel == 1
        simple = simple and plan.orientation == 1
        if plan.axes not in ("YX", "YXS") or not simple:
            raise images.ImageError(
                f"{name}: TIFF compression {page.compression.name} needs "
                "imagecodecs (pip install imagecodecs), or save it uncompressed"
            ) from error
    # libtiff, inside Pillow, knows LZW, JPEG and fax, for single plain pages
    file = plan.page.parent.filehandle
    file.seek(0)
    with Image.open(file, formats=("TIFF",)) as image:
        return np.asarray(image)


def _has_alpha(page: tifffile.TiffPage) -> bool:
    colours = 3 if page.photometric == tifffile.PHOTOMETRIC.RGB else 1
    if page.samplesperpixel != colours + 1:
        return False
    # a fourth channel of RGB is alpha even where the file does not say so
    return colours == 3 or any(extra in (1, 2) for extra in page.extrasamples)


def _inverted(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "b":
        return ~pixels
    return np.iinfo(pixels.dtype).max - pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF or TIFF orientation (1 to 8) of [H, W, ...]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    # after the swap 6 still is mirrored, 8 upside down, and 7 both
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def choose(
    axes: str, shape: tuple[int, ...], name: str, select: str
) -> tuple[tuple[int | slice, ...], str]:
    """An index into an array of these axes, and the axes that it leaves.

    Raises ImageError for an axis that needs a choice, or has no such entry.
    """
    wanted = parse_select(select, name)
    index: list[int | slice] = []
    kept = ""
    for axis, length in zip(axes, shape, strict=True):
        if axis in "YX" or (axis in _CHANNELS and axis not in wanted):
            index.append(slice(None))
            kept += axis
        elif axis in wanted:
            if wanted[axis] >= length:
                raise images.ImageError(
                    f"{name}: {axis}={wanted[axis]}, but it has {axis} from 0 "
                    f"to {length - 1}"
                )
            index.append(wanted[axis])
        elif length == 1:
            index.append(0)
        else:
            what = _NAMES.get(axis, f"entries along {axis}")
            raise images.StackError(
                f"{name}: a stack of {length} {what} (axes {axes}, "
                f"shape {shape}); choose one with select='{axis}=0' to "
                f"'{axis}={length - 1}', or save it as a file of its own",
                _stacked(axes, shape),
            )
    missing = set(wanted) - set(axes)
    if missing:
        raise images.ImageError(
            f"{name}: has no axis {', '.join(sorted(missing))}; its axes are "
            f"{axes}"
        )
    return tuple(index), kept


def _stacked(axes: str, shape: tuple[int, ...]) -> dict[str, int]:
    """The lengths of the axes of which `choose` wants one entry."""
    pairs = zip(axes, shape, strict=True)
    return {a: n for a, n in pairs if a not in "YX" + _CHANNELS and n > 1}
