"""Arrays too large for memory, kept on disk in strips.

A strip is a stretch of rows at full width; all strips of an array have the
same height, but the last, which may have fewer rows. Each is one file, whole
or missing, compressed by zstd at level 1 (measured on labels: 2.5 GB/s in,
3.5 GB/s out). What is read last stays in memory, so that calls that go from
the top down with overlap decode each strip once. Arrays that come out are
read-only, for they may be the kept ones.
"""

import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from seg import config
from seg.images import write

Rows = Callable[[int, int], np.ndarray]
"""Gives rows top to bottom - 1 of an array, [bottom - top, W, C]."""


class Strips:
    """One array [H, W] or [H, W, C] in the folder `folder/name`.

    Strips that are there already stay: `has` tells which, so a job that was
    stopped can go on.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        shape: tuple[int, ...],
        dtype: np.typing.DTypeLike,
        height: int,
    ) -> None:
        if height < 1:
            raise ValueError(f"strips of {height} rows; give at least 1")
        self.folder = pathlib.Path(folder) / name
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.height = height
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Number of strips."""
        return -(-self.shape[0] // self.height)

    def span(self, i: int) -> tuple[int, int]:
        """First row of strip i, and the row below its last."""
        if not 0 <= i < len(self):
            raise IndexError(f"strip {i} of {len(self)}")
        top = i * self.height
        return top, min(top + self.height, self.shape[0])

    def has(self, i: int) -> bool:
        """Strip i was put."""
        return self._path(i).exists()

    def put(self, i: int, array: np.ndarray) -> None:
        """Writes strip i, in the place of an earlier one.

        Raises ValueError for another shape or dtype than the strip's,
        UserError where the folder cannot be written or the disk is full.
        """
        import imagecodecs

        top, bottom = self.span(i)
        shape = (bottom - top, *self.shape[1:])
        if array.shape != shape or array.dtype != self.dtype:
            raise ValueError(
                f"strip {i} is {self.dtype} {shape}, not {array.dtype} "
                f"{array.shape}"
            )
        self._kept.pop(i, None)
        packed = imagecodecs.zstd_encode(np.ascontiguousarray(array), level=1)
        with write.whole(self._path(i)) as temporary:
            temporary.write_bytes(packed)

    def get(self, top: int, bottom: int) -> np.ndarray:
        """Rows top to bottom - 1.

        Raises FileNotFoundError for a strip that was never put, UserError for
        a damaged one.
        """
        if not 0 <= top < bottom <= self.shape[0]:
            raise ValueError(f"rows {top}:{bottom} of {self.shape[0]}")
        first, last = top // self.height, (bottom - 1) // self.height
        self._kept = {
            i: strip for i, strip in self._kept.items() if first <= i <= last
        }
        for i in range(first, last + 1):
            if i not in self._kept:
                self._kept[i] = self._read(i)
        start = first * self.height
        if first == last:
            return self._kept[first][top - start : bottom - start]
        parts = [self._kept[i] for i in range(first, last + 1)]
        parts[-1] = parts[-1][: bottom - last * self.height]
        parts[0] = parts[0][top - start :]
        rows = np.concatenate(parts)
        rows.flags.writeable = False
        return rows

    def remove(self) -> None:
        """Deletes the array from the disk."""
        self._kept.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, i: int) -> pathlib.Path:
        return self.folder / f"{i:06d}.zst"

    def _read(self, i: int) -> np.ndarray:
        import imagecodecs

        top, bottom = self.span(i)
        strip = np.empty((bottom - top, *self.shape[1:]), self.dtype)
        flat = strip.reshape(-1).view(np.uint8)
        packed = self._path(i).read_bytes()
        try:
            size = imagecodecs.zstd_decode(packed, out=flat).size
        except imagecodecs.ZstdError as error:
            size, cause = -1, error
        else:
            cause = None
        if size != flat.size:
            raise config.UserError(
                f"{self._path(i)} is damaged; delete it and start again"
            ) from cause
        strip.flags.writeable = False
        return strip
