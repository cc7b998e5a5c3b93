"""Bands of a TIFF: decodes the strips or tiles that some rows touch.

Axes, choices and colours are those of `tiff`, so that a band has the pixels
that `read` gives for these rows.
"""

import concurrent.futures
import math
import os
from typing import Any, NamedTuple

import numpy as np
import tifffile

from seg.images import axes, tiff, tiff_pixels

# Low strips are decoded together: threads get work, and calls are few.
_ROWS = 256
_BYTES = 2**26
_JPEG = (6, 7, 34892, 33007)


def suits(plan: tiff.Plan) -> bool:
    """Whether a file can be decoded by bands, from its header alone."""
    # 5 to 8 turn rows into columns
    if plan.orientation not in (1, 2, 3, 4):
        return False
    if plan.is_flat:
        return True
    return plan.is_paged and _grid(plan.page).n_down > 1


class _Grid(NamedTuple):
    """How the chunks (strips or tiles) of a page lie.

    They are counted by columns, then rows, then depth, then channel.
    """

    height: int
    n_down: int
    n_across: int
    n_planes: int
    n_bytes: int  # of all chunks side by side, in all planes


def _grid(page: tifffile.TiffPage) -> _Grid:
    height, width, depth = page.rowsperstrip, page.imagewidth, 1
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
        depth = page.tiledepth
    height = height if page.is_tiled else min(height, page.imagelength)
    n_down = -(-page.imagelength // height)
    n_across = -(-page.imagewidth // width)
    n_planes = math.prod(page.chunked) // (n_down * n_across)
    n_pixels = n_planes * depth * height * n_across * width * page.shaped[-1]
    n_bytes = n_pixels * page.dtype.itemsize
    return _Grid(height, n_down, n_across, n_planes, n_bytes)


class TiffBands:
    """The rows of a TIFF, `height` at a time, not yet upright.

    shape: (H, W) as stored.
    dtype, n_channels: of `band`.
    n_bytes: that the decoding of one band takes.
    """

    def __init__(self, plan: tiff.Plan, name: str, select: str) -> None:
        self._plan, self._name = plan, name
        self._index, self._kept = axes.choose(
            plan.axes, plan.shape, name, select
        )
        self.shape = (
            plan.shape[plan.axes.index("Y")],
            plan.shape[plan.axes.index("X")],
        )
        self.height, self.n_bytes = self._sizes()
        # one row tells what becomes of the values
        one = np.zeros(
            [
                1 if axis == "Y" else len(axes.positions(part, length))
                for axis, length, part in zip(
                    plan.axes, plan.shape, self._index, strict=True
                )
                if not isinstance(part, int)
            ],
            plan.series.dtype,
        )
        one = self._resolved(one)
        self.dtype, self.n_channels = one.dtype, one.shape[-1]

    def _sizes(self) -> tuple[int, int]:
        """Rows of a band, and bytes that its planes take."""
        plan, n_lead = self._plan, self._plan.n_lead
        if plan.is_flat:
            n_low = 1
            row = math.prod(plan.shape[n_lead + 1 :])
            row *= plan.series.dtype.itemsize
        else:
            grid = _grid(plan.page)
            n_low, row = grid.height, -(-grid.n_bytes // grid.height)
        row *= axes.n_taken(plan.shape[:n_lead], self._index[:n_lead])
        n_rows = max(1, min(_ROWS, _BYTES // row) // n_low) * n_low
        return n_rows, n_rows * row

    def band(self, i: int) -> np.ndarray:
        """Rows [i * height, (i + 1) * height) as [h, W, C]."""
        top = i * self.height
        bottom = min(top + self.height, self.shape[0])
        plan = self._plan

        def rows(i: int) -> np.ndarray:
            if plan.is_flat:
                return tiff_pixels.read_rows(plan, self._name, i, top, bottom)
            return self._read_page(i, top, bottom)

        with tiff.listening():
            return self._resolved(tiff_pixels.chosen(plan, self._index, rows))

    def _resolved(self, planes: np.ndarray) -> np.ndarray:
        pixels = axes.channels_last(planes, self._kept)
        return tiff_pixels.resolve(
            self._plan, self._name, pixels, self._kept, mask=False
        )

    def _read_page(self, i: int, top: int, bottom: int) -> np.ndarray:
        """Rows of page `i`; its chunks are decoded in parallel."""
        page, grid = self._plan.series.pages[i], _grid(self._plan.page)
        first = top // grid.height * grid.n_across
        last = -(-bottom // grid.height) * grid.n_across
        per_plane = grid.n_down * grid.n_across
        indices = [
            plane * per_plane + k
            for plane in range(grid.n_planes)
            for k in range(first, last)
        ]
        return self._decoded(page, indices, top, bottom)

    def _decoded(
        self, page: Any, indices: list[int], top: int, bottom: int
    ) -> np.ndarray:
        key = page.keyframe
        n_separate, n_deep, _, width, n_samples = key.shaped
        out = np.empty(
            (n_separate, n_deep, bottom - top, width, n_samples), key.dtype
        )
        options: dict[str, Any] = {}
        if key.compression in _JPEG:
            options["jpegtables"] = page.jpegtables
            options["jpegheader"] = key.jpegheader

        def place(data: bytes | None, index: int) -> None:
            if data is not None:
                tiff_pixels.whole(data, page.databytecounts[index], self._name)
            chunk, (s, d, y, x, _), size = key.decode(data, index, **options)
            here = out[s, d : d + size[0], y - top :, x:][
                :, : size[1], : size[2]
            ]
            if chunk is None:  # left out on purpose, as `read` takes it
                here[:] = key.nodata
            else:
                here[:] = chunk[tuple(map(slice, here.shape))]

        read = page.parent.filehandle.read_segments(
            [page.dataoffsets[k] for k in indices],
            [page.databytecounts[k] for k in indices],
            indices=indices,
            buffersize=_BYTES,
            flat=False,
        )
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for some in read:
                for _ in pool.map(place, *zip(*some, strict=True)):
                    pass
        shape = list(page.shape)
        shape[key.axes.index("Y")] = bottom - top
        return out.reshape(shape)
