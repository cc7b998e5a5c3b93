"""Decodes PNG, JPEG, BMP and WebP with Pillow: what `read` uses for them."""

from typing import BinaryIO

import numpy as np
from PIL import Image

from seg import images
from seg.images import pixel_types

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_ORIENTATION = 0x0112
_EXIF_BYTES = 1 << 16
_RGB_LIKE = ("CMYK", "YCbCr", "LAB", "RGBA", "RGBX", "RGBa", "PA")
_GREY_LIKE = ("LA", "La")


def open_file(file: BinaryIO, name: str) -> Image.Image:
    """Opens a file; Pillow reads the header only.

    Raises ImageError for an animation. The previews inside the photograph of
    a phone (MPO) are none.
    """
    image = Image.open(file, formats=_FORMATS)
    moves = image.format in ("PNG", "WEBP")
    if moves and getattr(image, "n_frames", 1) > 1:
        raise images.ImageError(
            f"{name}: an animated {image.format}; save the frame you want as "
            "a file"
        )
    return image


def is_lossy(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the packing has changed the pixels; nothing is decoded."""
    if image.format != "WEBP":
        return image.format in ("JPEG", "MPO")
    here, position, kind = file.tell(), 12, b""
    # the frame comes after the chunks of an extended file
    while kind not in (b"VP8 ", b"VP8L"):
        file.seek(position)
        start = file.read(8)
        if len(start) < 8:
            break
        kind = start[:4]
        length = int.from_bytes(start[4:], "little")
        position += 8 + length + length % 2
    file.seek(here)
    return kind == b"VP8 "


def orientation(image: Image.Image, file: BinaryIO) -> int:
    """The EXIF orientation, 1 where there is none; nothing is decoded."""
    if image.format != "PNG":
        return image.getexif().get(_ORIENTATION, 1)
    # Pillow decodes a PNG to look for EXIF behind the pixels
    exif = Image.Exif()
    exif.load(_png_exif(file))
    return exif.get(_ORIENTATION, 1)


def _png_exif(file: BinaryIO) -> bytes:
    here = file.tell()
    position = 8
    while True:
        file.seek(position)
        start = file.read(8)
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        if len(start) < 8 or kind == b"IEND":
            content = b""
            break
        if kind == b"eXIf":
            content = file.read(min(length, _EXIF_BYTES))
            break
        position += 12 + length
    file.seek(here)
    return content


def decode(
    image: Image.Image, file: BinaryIO, name: str, *, mask: bool
) -> np.ndarray:
    """The pixels as [H, W, C], upright, without alpha.

    Palettes become RGB; for a mask, the codes stay.
    """
    depth, kind = 8, None
    if image.format == "PNG":
        file.seek(24)
        depth, kind = file.read(2)
    turned = orientation(image, file)
    if depth == 16 and kind != 0:
        return pixel_types.upright(_deep_png(file, name), turned)
    if image.mode == "P" and not mask:
        # by RGBA, as a palette may carry its transparency in bytes
        image = image.convert("RGBA").convert("RGB")
    elif mask and image.mode in ("RGBA", "LA") and _only_alpha(image):
        raise images.ImageError(
            f"{name}: the mask is in the alpha channel; save it as grey"
        )
    if image.mode in _RGB_LIKE:
        image = image.convert("RGB")
    elif image.mode in _GREY_LIKE:
        image = image.convert("L")
    pixels = np.asarray(image)
    if mask and kind == 0 and depth in (2, 4):
        # Pillow scales these codes to 0 to 255
        pixels = pixels // (85 if depth == 2 else 17)
    return pixel_types.upright(pixels.reshape(*pixels.shape[:2], -1), turned)


def _only_alpha(image: Image.Image) -> bool:
    """Whether alpha varies, and nothing else does."""
    *colours, alpha = image.getextrema()
    return all(low == high for low, high in colours) and alpha[0] != alpha[1]


def _deep_png(file: BinaryIO, name: str) -> np.ndarray:
    """A PNG of 16-bit colour or with alpha: Pillow would keep 8 bits."""
    try:
        import imagecodecs
    except ImportError as error:
        raise images.ImageError(
            f"{name}: a PNG of 16-bit colour needs imagecodecs (pip install "
            "imagecodecs), or save it as TIFF"
        ) from error
    file.seek(0)
    pixels = imagecodecs.png_decode(file.read())
    return pixels[..., : 3 if pixels.shape[-1] > 2 else 1]
