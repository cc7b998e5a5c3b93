"""What a file says of itself, from its header alone."""

import os
import pathlib
import re
from typing import NamedTuple

from seg.images import axes, metadata, read, slide, slide_zarr, tiff, vendors

_NUCLEAR = re.compile(
    r"DAPI|hoechst|H33342|H33258|DRAQ ?5|TO-?PRO|SYTOX|SiR-?DNA|Nuc(Blue|Red)|"
    r"7-?AAD|propidium|H2B|histone|nucle(us|i|ar)",
    re.IGNORECASE,
)


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

    @property
    def of_nuclei(self) -> int | None:
        """The one channel whose name is that of a stain of nuclei."""
        found = [
            i for i, name in enumerate(self.channels) if _NUCLEAR.search(name)
        ]
        return found[0] if len(found) == 1 else None

    def planes(
        self, name: str, select: str = "", project: str = ""
    ) -> list[axes.Plane]:
        """As `axes.planes`; name: of the file in messages."""
        if not self.letters:
            return [axes.Plane("", select)]  # reading it will tell
        return axes.planes(self.letters, self.lengths, name, select, project)


def read_about(source: str | os.PathLike[str] | bytes) -> About:
    """Reads what a file, its bytes, or the folder of an OME-Zarr image says.

    Raises ImageError.
    """
    if not isinstance(source, bytes) and slide_zarr.is_zarr(
        pathlib.Path(source)
    ):
        return _of_zarr(pathlib.Path(source))
    with read.opened(source) as (file, name, n_bytes):
        if vendors.is_vendor(source):
            stack = vendors.open_file(source, name)
            return About(stack.shape, *stack[3:])
        if not read.is_tiff(file, name):
            return About(read.read_header(source).shape)
        with tiff.opened(file, name, n_bytes) as plan:
            size, channels = metadata.of_tiff(plan)
            shape = _sides(plan.axes, plan.shape)
            if plan.orientation in (5, 6, 7, 8):
                shape, size = shape[::-1], size and size[::-1]
            by_strips = slide.by_strips(plan)
            return About(
                shape, plan.axes, plan.shape, channels, size, by_strips
            )


def _of_zarr(path: pathlib.Path) -> About:
    with read.explained(str(path)):
        level = slide_zarr.level_0(path, str(path))
        lengths = tuple(level.array.shape)
        size, channels = metadata.of_zarr(
            level.axes, lengths, level.multiscale, level.omero
        )
    shape = _sides(level.axes, lengths)
    by_strips = slide.is_large(level.axes, lengths)
    return About(shape, level.axes, lengths, channels, size, by_strips)


def _sides(letters: str, lengths: tuple[int, ...]) -> tuple[int, int]:
    return lengths[letters.index("Y")], lengths[letters.index("X")]
