"""Named arrays as bytes in the safetensors format, with NumPy alone.

Eight bytes of length, a JSON header {name: {dtype, shape, data_offsets}}, then
the data, little-endian (https://huggingface.co/docs/safetensors). Written here
so that a node with nothing but JAX can save and load a model; the tests hold
it against the library, both ways. Nothing in a file is ever executed.
"""

import json
import math
from collections.abc import Mapping

import numpy as np

from seg import config as config_lib

_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_ALIGNMENT = 8


def dump(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as the content of a safetensors file.

    Raises UserError for a dtype that is not in the table above.
    """
    header, chunks, offset = {}, [], 0
    for name, array in sorted(arrays.items()):
        if array.dtype not in _NAMES:
            raise config_lib.UserError(f"{name}: cannot store {array.dtype}")
        code = _NAMES[array.dtype]
        chunk = np.ascontiguousarray(array, _DTYPES[code]).tobytes()
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(chunk)],
        }
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def load(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file's content, read-only.

    Raises UserError where the content is not what the header declares.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < start or start == 8:
        raise config_lib.UserError("not a safetensors file")
    try:
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        return {
            name: _array(content, start, **entry)
            for name, entry in header.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise config_lib.UserError(f"broken safetensors: {error}") from error


def _array(
    content: bytes,
    start: int,
    *,
    dtype: str,
    shape: list[int],
    data_offsets: list[int],
) -> np.ndarray:
    kind = np.dtype(_DTYPES[dtype])
    begin, end = data_offsets
    n = math.prod(shape)
    if (
        not 0 <= begin <= end <= len(content) - start
        or min(shape, default=0) < 0
    ):
        raise ValueError(f"data_offsets {data_offsets} lie outside the file")
    if end - begin != n * kind.itemsize:
        raise ValueError(f"{end - begin} bytes do not fill {dtype}{shape}")
    return np.frombuffer(content, kind, n, start + begin).reshape(shape)
