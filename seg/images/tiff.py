"""Opens TIFF, with axes by name: what `read` and `slide` use for TIFF files.

The axes come from the file's own metadata (OME, ImageJ, tifffile) or from its
tags; nothing is guessed from the sizes. `tiff_pixels` decodes.
"""

import contextlib
import contextvars
import logging
import math
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import tifffile

from seg import images

_ORIENTATION = 0x0112

# tifffile logs what it could read in spite of a defect. While a file is open
# here, the log is kept, not printed: some of these defects are data lost.
_LOST = ("invalid page offset", "series metadata invalid or corrupted")
_complaints: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "complaints", default=None
)


def _keep(record: logging.LogRecord) -> bool:
    kept = _complaints.get()
    if kept is None:
        return True
    kept.append(record.getMessage())
    return False


logging.getLogger("tifffile").addFilter(_keep)


class Plan(NamedTuple):
    """What a file holds, known from its header alone."""

    series: tifffile.TiffPageSeries
    axes: str
    shape: tuple[int, ...]
    orientation: int

    @property
    def page(self) -> tifffile.TiffPage:
        """The page that stands for all pages of the series."""
        return self.series.keyframe

    @property
    def is_flat(self) -> bool:
        """Whether the planes lie one after another, as they are, in a file."""
        return self.series.dataoffset is not None

    @property
    def n_lead(self) -> int:
        """How many axes count planes that can be read one by one."""
        if self.is_flat:
            return self.axes.index("Y")
        return len(self.shape) - len(self.page.shape)

    @property
    def is_paged(self) -> bool:
        """Whether the first axes count planes, and the last are a plane's."""
        if self.is_flat:
            return True
        page, n_lead = self.page, self.n_lead
        return (
            page.axes.count("Y") == 1
            and self.shape[n_lead:] == page.shape
            and self.axes[n_lead + page.axes.index("Y")] == "Y"
            and self.axes[n_lead + page.axes.index("X")] == "X"
            and math.prod(self.shape[:n_lead]) == len(self.series.pages)
        )


@contextlib.contextmanager
def opened(file: BinaryIO, name: str, size: int) -> Iterator[Plan]:
    """Opens a file of `size` bytes and finds its one image.

    Raises ImageError where there are several, or none, or a page is cut off.
    """
    with listening(), load(file, name, size) as plan:
        yield plan


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Keeps what tifffile logs in this block, for `load` to look at."""
    token = _complaints.set([])
    try:
        yield
    finally:
        _complaints.reset(token)


@contextlib.contextmanager
def load(file: BinaryIO, name: str, size: int) -> Iterator[Plan]:
    """`opened`, for a file that stays open; to be entered in `listening`."""
    # OME-XML can name other files; an untrusted one could name any
    with tifffile.TiffFile(
        file, name=os.path.basename(name), _multifile=False
    ) as tif:
        _check_text(tif, name)
        plan = _plan(tif, name)
        _check_whole(plan, name, size)
        yield plan


def _check_text(tif: tifffile.TiffFile, name: str) -> None:
    """Refuses XML that defines entities: they can name files, or explode."""
    text = tif.pages.first.description
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise images.ImageError(
            f"{name}: its metadata define entities of XML (DOCTYPE), which no "
            "microscope writes; save it again without"
        )


def _plan(tif: tifffile.TiffFile, name: str) -> Plan:
    if not tif.series:
        raise images.ImageError(f"{name}: no image in this TIFF; save it again")
    first, *others = tif.series
    # thumbnails, labels and pyramid levels are smaller; siblings are data
    siblings = [s for s in others if 2 * s.size > first.size]
    if siblings:
        raise images.ImageError(
            f"{name}: holds {1 + len(siblings)} images in one TIFF; save each "
            "as a file of its own"
        )
    if first.axes.count("Y") != 1 or first.axes.count("X") != 1:
        raise images.ImageError(
            f"{name}: axes {first.axes} are not an image's; save it with Y "
            "and X"
        )
    tag = first.keyframe.tags.get(_ORIENTATION)
    orientation = 1 if tag is None else int(tag.value)
    return Plan(first, first.axes, tuple(first.shape), orientation)


def _check_whole(plan: Plan, name: str, size: int) -> None:
    """Raises ImageError where pages or their data are missing.

    tifffile would leave the pages out, or return zeros for the data.
    """
    if None in plan.series.pages:
        raise images.ImageError(
            f"{name}: pages are missing, or in other files that its OME "
            "metadata name; save the image as one file"
        )
    # tifffile would fill up what is missing of the strips, one by one
    if any(
        len(page.dataoffsets) < math.prod(page.chunked)
        for page in plan.series.pages
    ):
        raise images.ImageError(
            f"{name}: corrupt, it declares more strips than it has; save it "
            "again"
        )
    spans = [
        offset + count
        for page in plan.series.pages
        for offset, count in zip(
            page.dataoffsets, page.databytecounts, strict=False
        )
    ]
    complaints = _complaints.get() or []
    lost = any(text in line for line in complaints for text in _LOST)
    if plan.is_flat:
        spans.append(plan.series.dataoffset + plan.series.nbytes)
    if lost or max(spans, default=0) > size:
        raise images.ImageError(
            f"{name}: truncated, its data reach beyond the end of the file "
            f"({size} bytes); copy it again"
        )
