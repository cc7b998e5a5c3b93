"""Label arrays in `.npy` files, read without running anything that is in them.

A file is refused from its header, before any memory is taken: arrays of
objects, which are pickles and could run code; other numbers than integers;
other shapes than [H, W] or [H, W, 1]; more than `read.MAX_PIXELS`; and a
header that promises another number of bytes than the file has.
"""

import ast
import io
import math

import numpy as np

from seg import images
from seg.images import read

SUFFIX = ".npy"
# by version: how many bytes say the length of the header, and who reads it
_HEADERS = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}
_MAX_HEADER = 10_000  # bytes, as NumPy's


def read_labels(content: bytes, *, name: str) -> np.ndarray:
    """The labels [H, W] of a `.npy` file: integers as stored; bools as 0, 1.

    Raises ImageError.
    """
    file = io.BytesIO(content)
    shape, dtype = _header(file, name)
    if dtype.hasobject:
        raise images.ImageError(
            f"{name}: not read, an array of objects (a pickle) could run "
            "code; save plain integers with numpy.save"
        )
    if dtype.kind not in "biu":
        raise images.ImageError(
            f"{name}: labels of type {dtype}; save integers"
        )
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) != 2 or min(shape) < 1:
        raise images.ImageError(
            f"{name}: labels of shape {shape}; save one number a pixel, "
            "[rows, columns]"
        )
    read.check_pixels(name, min(math.prod(shape), 2**63))
    n_bytes = len(content) - file.tell()
    if n_bytes != math.prod(shape) * dtype.itemsize:
        raise images.ImageError(
            f"{name}: {n_bytes} bytes for labels of shape {shape} and type "
            f"{dtype}, cut short or damaged; copy or save it again"
        )
    file.seek(0)
    labels = np.lib.format.read_array(file, allow_pickle=False).reshape(shape)
    if dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.max() > np.iinfo(np.int64).max:  # uint64 mixes with no other
        raise images.ImageError(
            f"{name}: labels up to {labels.max()}; save smaller ones"
        )
    native = np.int64 if dtype.itemsize == 8 else dtype.newbyteorder("=")
    return np.ascontiguousarray(labels, native)


def _header(file: io.BytesIO, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype; the file then stands at the first value."""
    try:
        n_bytes, parse = _HEADERS[np.lib.format.read_magic(file)]
        start = file.tell()
        length = int.from_bytes(file.read(n_bytes), "little")
        # NumPy would try to mend what is no literal, as if of Python 2
        ast.literal_eval(file.read(min(length, _MAX_HEADER)).decode("latin1"))
        file.seek(start)
        shape, _, dtype = parse(file, max_header_size=_MAX_HEADER)
    # what readers of literals raise for a damaged one
    except (
        *(ValueError, KeyError, TypeError, SyntaxError, EOFError),
        *(MemoryError, RecursionError),
    ) as error:
        detail = " ".join(str(error).split())[:80]
        raise images.ImageError(
            f"{name}: not a .npy file of numbers ({detail}); save it with "
            "numpy.save"
        ) from error
    return shape, dtype
