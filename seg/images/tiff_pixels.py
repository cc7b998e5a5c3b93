"""Decodes the pages of a TIFF that a choice of planes needs, and no other."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import tifffile
from PIL import Image

from seg import images
from seg.images import axes, pixel_types, tiff


def decode(
    plan: tiff.Plan, name: str, select: str, *, mask: bool
) -> np.ndarray:
    """The pixels as [H, W, C] (C from 1), upright, in the stored dtype.

    Palettes become RGB and inverted greys are inverted back, but for a mask,
    whose codes stay; alpha is dropped.
    """
    index, kept = axes.choose(plan.axes, plan.shape, name, select)
    pixels = axes.channels_last(_pixels(plan, name, index), kept)
    pixels = resolve(plan, name, pixels, kept, mask=mask)
    return pixel_types.upright(pixels, plan.orientation)


def resolve(
    plan: tiff.Plan, name: str, pixels: np.ndarray, kept: str, *, mask: bool
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


def n_decoded(plan: tiff.Plan, index: axes.Index) -> int:
    """How many values are decoded to give a plane: those of its pages."""
    if not plan.is_paged:
        return plan.series.size
    n_lead = plan.n_lead
    return axes.n_taken(plan.shape[:n_lead], index[:n_lead]) * math.prod(
        plan.shape[n_lead:]
    )


def chosen(
    plan: tiff.Plan, index: axes.Index, page: Callable[[int], np.ndarray]
) -> np.ndarray:
    """What `index` takes of a paged series, of whose pages only those it needs.

    page(i) gives page `i`, or rows of it.
    """
    lead, inner = index[: plan.n_lead], index[plan.n_lead :]
    lengths = plan.shape[: plan.n_lead]
    wanted = [axes.positions(*of) for of in zip(lead, lengths, strict=True)]
    pages = [
        axes.take(
            page(int(np.ravel_multi_index(at, lengths) if at else 0)), inner
        )
        for at in itertools.product(*wanted)
    ]
    n_kept = [
        len(entries)
        for entries, part in zip(wanted, lead, strict=True)
        if not isinstance(part, int)
    ]
    return np.stack(pages).reshape(*n_kept, *pages[0].shape)


def read_rows(
    plan: tiff.Plan, name: str, i: int, top: int, bottom: int
) -> np.ndarray:
    """Rows of plane `i` of a series that is one array in the file."""
    series, at = plan.series, plan.axes.index("Y")
    shape = (bottom - top, *plan.shape[at + 1 :])
    tif = plan.page.parent
    dtype = series.dtype.newbyteorder(tif.byteorder)
    row = math.prod(shape[1:]) * dtype.itemsize
    tif.filehandle.seek(series.dataoffset + (i * plan.shape[at] + top) * row)
    data = tif.filehandle.read((bottom - top) * row)
    return np.frombuffer(whole(data, shape[0] * row, name), dtype).reshape(
        shape
    )


def whole(data: bytes, n_bytes: int, name: str) -> bytes:
    """The data, or an ImageError where there are fewer."""
    if len(data) < n_bytes:
        raise images.ImageError(
            f"{name}: truncated, its data end early; copy it again"
        )
    return data


def _pixels(plan: tiff.Plan, name: str, index: axes.Index) -> np.ndarray:
    if plan.is_flat:
        n_rows = plan.shape[plan.axes.index("Y")]
        return chosen(
            plan, index, lambda i: read_rows(plan, name, i, 0, n_rows)
        )
    try:
        if plan.is_paged:
            pages = plan.series.pages
            return chosen(plan, index, lambda i: pages[i].asarray())
        return axes.take(plan.series.asarray(), index)
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
        return axes.take(np.asarray(image), index)


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
