"""Bands of a TIFF: decodes the strips or tiles that some rows touch.

Axes, choices and colours are those of `tiff`, so that a band has the pixels
that `read` gives for these rows.
"""

import concurrent.futures
import itertools
import math
import os
from typing import Any, NamedTuple

import numpy as np
import tifffile

from seg import images
from seg.images import tiff

# Low strips are decoded together: threads get work, and calls are few.
_ROWS = 256
_BYTES = 2**26
_JPEG = (6, 7, 34892, 33007)


def suits(plan: tiff.Plan) -> bool:
    """Whether a file can be decoded by bands, from its header alone."""
    # 5 to 8 turn rows into columns
    if plan.orientation not in (1, 2, 3, 4):
        return False
    if plan.series.dataoffset is not None:
        return True
    return _is_paged(plan) and _grid(plan.page).n_down > 1


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


def _is_paged(plan: tiff.Plan) -> bool:
    """Whether the last axes are a page's, and the first ones count pages."""
    page = plan.page
    lead = plan.shape[: len(plan.shape) - len(page.shape)]
    return (
        page.axes.count("Y") == 1
        and plan.shape[len(lead) :] == page.shape
        and plan.axes[len(lead) + page.axes.index("Y")] == "Y"
        and plan.axes[len(lead) + page.axes.index("X")] == "X"
        and math.prod(lead) == len(plan.series.pages)
    )


class TiffBands:
    """The rows of a TIFF, `height` at a time, not yet upright.

    shape: (H, W) as stored.
    dtype, n_channels: of `band`.
    n_bytes: that the decoding of one band takes.
    """

    def __init__(
        self, plan: tiff.Plan, name: str, size: int, select: str
    ) -> None:
        self._plan, self._name = plan, name
        index, self._kept = tiff.choose(plan.axes, plan.shape, name, select)
        at = plan.axes.index("Y")
        self.shape = (plan.shape[at], plan.shape[plan.axes.index("X")])
        offset = plan.series.dataoffset
        self._flat = offset is not None
        if self._flat and offset + plan.series.nbytes > size:
            raise images.ImageError(
                f"{name}: truncated, its data reach beyond the end of the "
                f"file ({size} bytes); copy it again"
            )
        # planes lie one after another in a file, or have pages of their own
        n_lead = at if self._flat else len(plan.shape) - len(plan.page.shape)
        self._lead, self._inner = index[:n_lead], index[n_lead:]
        self.height, self.n_bytes = self._sizes()
        # one row tells what becomes of the values
        one = np.zeros(self._planes_shape(1), plan.series.dtype)
        one = self._resolved(one)
        self.dtype, self.n_channels = one.dtype, one.shape[-1]

    def _sizes(self) -> tuple[int, int]:
        """Rows of a band, and bytes that its planes take."""
        if self._flat:
            n_low = 1
            lengths = self._plan.shape[len(self._lead) + 1 :]
            row = math.prod(lengths) * self._plan.series.dtype.itemsize
        else:
            grid = _grid(self._plan.page)
            n_low, row = grid.height, -(-grid.n_bytes // grid.height)
        row *= math.prod(
            length
            for length, part in zip(self._plan.shape, self._lead, strict=False)
            if isinstance(part, slice)
        )
        n_rows = max(1, min(_ROWS, _BYTES // row) // n_low) * n_low
        return n_rows, n_rows * row

    def _planes_shape(self, n_rows: int) -> tuple[int, ...]:
        lengths = zip(
            self._plan.axes,
            self._plan.shape,
            (*self._lead, *self._inner),
            strict=True,
        )
        return tuple(
            n_rows if axis == "Y" else length
            for axis, length, part in lengths
            if isinstance(part, slice)
        )

    def band(self, i: int) -> np.ndarray:
        """Rows [i * height, (i + 1) * height) as [h, W, C]."""
        top = i * self.height
        bottom = min(top + self.height, self.shape[0])
        lengths = self._plan.shape[: len(self._lead)]
        leads = itertools.product(
            *(
                range(length) if isinstance(part, slice) else [part]
                for part, length in zip(self._lead, lengths, strict=True)
            )
        )
        read = self._read_flat if self._flat else self._read_page
        with tiff.listening():
            planes = [
                read(
                    int(np.ravel_multi_index(lead, lengths)) if lead else 0,
                    top,
                    bottom,
                )[self._inner]
                for lead in leads
            ]
        stacked = planes[0] if len(planes) == 1 else np.stack(planes)
        return self._resolved(stacked.reshape(self._planes_shape(bottom - top)))

    def _resolved(self, planes: np.ndarray) -> np.ndarray:
        pixels = tiff.channels_last(planes, self._kept)
        return tiff.resolve(
            self._plan, self._name, pixels, self._kept, mask=False
        )

    def _read_flat(self, i: int, top: int, bottom: int) -> np.ndarray:
        """Rows of plane `i` of a file that is one array."""
        series, at = self._plan.series, self._plan.axes.index("Y")
        shape = (bottom - top, *self._plan.shape[at + 1 :])
        order = self._plan.page.parent.byteorder
        dtype = series.dtype.newbyteorder(order)
        row = math.prod(shape[1:]) * dtype.itemsize
        file = self._plan.page.parent.filehandle
        file.seek(series.dataoffset + (i * self.shape[0] + top) * row)
        data = self._whole(file.read((bottom - top) * row), shape[0] * row)
        return np.frombuffer(data, dtype).reshape(shape)

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
                self._whole(data, page.databytecounts[index])
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

    def _whole(self, data: bytes, n_bytes: int) -> bytes:
        if len(data) < n_bytes:
            raise images.ImageError(
                f"{self._name}: truncated, its data end early; copy it again"
            )
        return data
