"""What a file says of itself, from its header alone."""

import contextlib
import os
import pathlib
from typing import NamedTuple

from seg.images import axes, metadata, read, slide, slide_zarr, tiff


class About(NamedTuple):
    """An image, or a stack of them.

    shape: (H, W), upright.
    letters: one each of what is stored, see `axes`; "" = they have no names,
        as in a PNG. lengths: of these.
    channels: names of the entries of C, or ().
    pixel_size: (row, column), micrometres, upright; None = not known.
    by_strips: whether it is read by strips, see `slide.is_slide`.
    """

    shape: tuple[int, int]
    letters: str = ""
    lengths: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()
    pixel_size: tuple[float, float] | None = None
    by_strips: bool = False

    def planes(
        self, name: str, select: str = "", project: str = ""
    ) -> list[axes.Plane]:
        """As `axes.planes`; name: of the file in messages."""
        if not self.letters:
            return [axes.Plane("", select)]  # reading it will tell
        return axes.planes(self.letters, self.lengths, name, select, project)


def read_about(path: str | os.PathLike[str]) -> About:
    """Reads what a file, or the folder of an OME-Zarr image, says.

    Raises ImageError.
    """
    path, name = pathlib.Path(path), str(path)
    with contextlib.ExitStack() as stack, read.explained(name):
        if slide_zarr.is_zarr(path):
            level = slide_zarr.level_0(path, name)
            lengths = tuple(level.array.shape)
            size, channels = metadata.of_zarr(
                level.axes, lengths, level.multiscale, level.omero
            )
            return About(
                _sides(level.axes, lengths),
                level.axes,
                lengths,
                channels,
                size,
                True,
            )
        file = stack.enter_context(open(path, "rb"))
        n_bytes = read.file_size(file, name)
        if not read.is_tiff(file, name):
            return About(read.read_header(path).shape)
        plan = stack.enter_context(tiff.opened(file, name, n_bytes))
        size, channels = metadata.of_tiff(plan)
        shape = _sides(plan.axes, plan.shape)
        if plan.orientation in (5, 6, 7, 8):
            shape, size = shape[::-1], size and size[::-1]
        by_strips = slide.by_strips(plan)
        return About(shape, plan.axes, plan.shape, channels, size, by_strips)


def _sides(letters: str, lengths: tuple[int, ...]) -> tuple[int, int]:
    return lengths[letters.index("Y")], lengths[letters.index("X")]
