"""ImageJ's ROIs: a file, or a zip of them.

Their pixels are those that ImageJ itself fills. Outlines drawn by hand cross
themselves a little more often than not, and reach over the image's border:
both mean nothing there, and nothing here.
"""

import contextlib
import io
import zipfile
from collections.abc import Sequence

import numpy as np

from seg import images
from seg.data import masks, shapes
from seg.data.annotations import drawn
from seg.images import read

_MAX_BYTES = 2**28  # of all ROIs in a zip
_BESIDE = "outside of the image; is it of another one?"


def may_be_in(content: bytes) -> bool:
    """Whether these are the bytes of a ROI, or of a zip."""
    return content[:4] in (b"Iout", b"PK\3\4")


def are_zipped(content: bytes) -> bool:
    """Whether these are the bytes of a zip that names a ROI."""
    with contextlib.suppress(zipfile.BadZipFile):
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
        return any(map(_is_roi, names))
    return True  # a broken one: to be named


def objects(content: bytes, name: str) -> list[drawn.Object]:
    """The objects of a file's bytes. Raises ImageError."""
    if content[:4] == b"Iout":
        return [_object(content, "the ROI", name)]
    with read.explained(name), zipfile.ZipFile(io.BytesIO(content)) as file:
        members = [
            member for member in file.infolist() if _is_roi(member.filename)
        ]
        if not members:
            raise images.ImageError(
                f"{name}: a zip without ROIs of ImageJ; give another file"
            )
        if sum(member.file_size for member in members) > _MAX_BYTES:
            raise images.ImageError(
                f"{name}: over {_MAX_BYTES / 1e6:.0f} MB of ROIs; cut it into "
                "parts"
            )
        return [
            _object(file.read(member), member.filename, name)
            for member in members
        ]


def _is_roi(name: str) -> bool:
    # macOS puts a file of its own beside each
    return name.endswith(".roi") and not name.startswith("__MACOSX/")


def _object(content: bytes, where: str, name: str) -> drawn.Object:
    import roifile

    kinds = roifile.ROI_TYPE
    with read.explained(f"{name}: {where}"):
        roi = roifile.ImagejRoi.frombytes(content)
        kind = roi.roitype
        rings = [
            np.array(ring, np.float64) for ring in roi.coordinates(multi=True)
        ]
    if kind in (kinds.LINE, kinds.FREELINE, kinds.POLYLINE, kinds.ANGLE):
        raise images.ImageError(
            f"{name}: {where}: a line, which has no area; draw a polygon"
        )
    if kind in (kinds.POINT, kinds.NOROI):
        raise images.ImageError(
            f"{name}: {where}: {kind.name.lower()}, which has no area; draw "
            "a polygon"
        )
    if (
        roi.options & roifile.ROI_OPTIONS.SPLINE_FIT
        or roi.rounded_rect_arc_size
    ):
        raise images.ImageError(
            f"{name}: {where}: a fitted spline or a rounded rectangle, of "
            "which the file has the corners only; in ImageJ, Edit > Selection "
            "> Create Mask, then Create Selection, and save that"
        )
    rings = drawn.rings(rings, f"{name}: {where}")

    def draw(shape: drawn.Size) -> masks.Region:
        if kind == kinds.OVAL:
            return _oval(roi, shape)
        region = shapes.filled_by_imagej(rings, shape)
        if not region.inside.any() and _is_beside(rings, shape):
            raise shapes.ShapeError(_BESIDE)
        return region

    return drawn.Object(where, "object", draw)


def _is_beside(rings: Sequence[np.ndarray], shape: drawn.Size) -> bool:
    points = np.concatenate(rings)
    return bool(
        (points.max(0) <= 0).any() or (points.min(0) >= shape[::-1]).any()
    )


def _oval(roi, shape: drawn.Size) -> masks.Region:
    """The pixels whose middles are in the ellipse of a box, cut off."""
    rows = np.arange(max(roi.top, 0), min(roi.bottom, shape[0]))
    cols = np.arange(max(roi.left, 0), min(roi.right, shape[1]))
    if not len(rows) or not len(cols):
        raise shapes.ShapeError(_BESIDE)
    y = (2 * rows + 1 - roi.top - roi.bottom) / (roi.bottom - roi.top)
    x = (2 * cols + 1 - roi.left - roi.right) / (roi.right - roi.left)
    inside = x[None] ** 2 + y[:, None] ** 2 <= 1
    return masks.Region(int(rows[0]), int(cols[0]), inside)
