"""What the page draws of an image: a picture, and whose pixel is whose.

Of a large image the page gets every n-th row and column; numbers are those of
the whole image all the same.
"""

import io
import math

import numpy as np
from PIL import Image

from seg.images import write

PIXELS = 6_000_000  # of a view at most; a telephone can still draw them


def step(shape: tuple[int, ...]) -> int:
    """Rows and columns of the image for one of the view."""
    return max(1, math.ceil((shape[0] * shape[1] / PIXELS) ** 0.5))


def shape(of: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of the view of an image."""
    n = step(of)
    return -(-of[0] // n), -(-of[1] // n)


def picture(pixels: np.ndarray, side: int = 0) -> bytes:
    """A PNG of an image [H, W, C], stretched as `write.display` does.

    side: px that the longer side has at most; 0 = as the view.
    """
    n = step(pixels.shape)
    if side:
        n = max(n, math.ceil(max(pixels.shape[:2]) / side))
    shown = write.display(pixels)
    if (shown == shown[..., :1]).all():  # a third of the bytes
        shown = shown[..., 0]
    drawn = Image.fromarray(shown)
    file = io.BytesIO()
    drawn.reduce(n).save(file, "PNG", compress_level=1)
    return file.getvalue()


def labels(ids: np.ndarray) -> bytes:
    """The view's ids, row by row, uint32 little endian."""
    n = step(ids.shape)
    return ids[::n, ::n].astype("<u4").tobytes()
