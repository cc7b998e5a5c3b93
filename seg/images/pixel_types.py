"""Decoded pixels to the few types that the rest works with, and upright."""

import numpy as np

from seg import images


def luma(image: np.ndarray) -> np.ndarray:
    """[H, W, 1] of red, green and blue (Rec. 601), in the dtype of the image.

    Equal channels give exactly their value.
    """
    red, green, blue = np.moveaxis(image, -1, 0)
    if image.dtype == np.float32:
        return (0.299 * red + 0.587 * green + 0.114 * blue)[..., None]
    weighted = (
        299 * red.astype(np.uint32)
        + 587 * green.astype(np.uint32)
        + 114 * blue.astype(np.uint32)
    )
    return ((weighted + 500) // 1000).astype(image.dtype)[..., None]


def storable(pixels: np.ndarray, name: str) -> np.ndarray:
    """Converts to uint8, uint16 or float32, the values unchanged."""
    kind = pixels.dtype.kind
    if kind == "b":
        return pixels.astype(np.uint8) * 255
    if kind in "iu" and pixels.dtype not in (np.uint8, np.uint16):
        low, high = int(pixels.min()), int(pixels.max())
        fits = low >= 0 and high <= np.iinfo(np.uint16).max
        pixels = pixels.astype(np.uint16 if fits else np.float32)
    elif kind == "f":
        with np.errstate(over="ignore"):  # to infinity, which is found below
            pixels = pixels.astype(np.float32)
        bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
        if bad:
            raise images.ImageError(
                f"{name}: {bad} values are NaN or infinite; replace them"
            )
    elif kind not in "iu":
        raise images.ImageError(
            f"{name}: pixels of type {pixels.dtype}; save real numbers"
        )
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("=")))


def _one_channel(pixels: np.ndarray, name: str, lossy: bool) -> np.ndarray:
    """[H, W] of a mask [H, W, C] whose channels are equal."""
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    first = pixels[..., :1]
    # JPEG's colour is never exactly grey
    spread = np.abs(pixels.astype(np.int64) - first).max()
    if pixels.shape[-1] == 3 and lossy and spread <= 48:
        return luma(pixels)[..., 0]
    if spread:
        raise images.ImageError(
            f"{name}: a mask in colours, its {pixels.shape[-1]} channels "
            "differ; save class or object numbers in one channel"
        )
    return first[..., 0]


def codes(pixels: np.ndarray, name: str, lossy: bool) -> np.ndarray:
    """A mask [H, W] of whole numbers; raises ImageError."""
    return _integers(_one_channel(pixels, name, lossy), name)


def _integers(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "f":
        whole = pixels.astype(np.int64, copy=False)
        if not np.array_equal(whole, pixels):
            raise images.ImageError(
                f"{name}: a mask with fractions or NaN; save whole numbers"
            )
        pixels = whole
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("=")))


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
