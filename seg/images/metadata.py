"""What files say of themselves: the size of a pixel, the names of channels.

Sizes are (row, column) in micrometres, as the pixels are stored, or None where
the file does not say, says it in no unit of length, or says what is no length
in the specimen: the dots per inch of a camera or a drawing program.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from seg.images import tiff

Size = tuple[float, float]

_MICROMETRES = {
    unit: size
    for units, size in (
        (("m", "meter", "metre"), 1e6),
        (("cm", "centimeter", "centimetre"), 1e4),
        (("mm", "millimeter", "millimetre"), 1e3),
        (("um", "micron", "microns", "micrometer", "micrometre"), 1.0),
        # the micro sign, the Greek letter, and as ImageJ escapes it
        (("\u00b5m", "\u03bcm", "\\u00b5m"), 1.0),
        (("nm", "nanometer", "nanometre"), 1e-3),
        (("a", "\u00e5", "\u212b", "angstrom"), 1e-4),
        (("pm", "picometer", "picometre"), 1e-6),
        (("in", "inch", "inches"), 25400.0),
    )
    for unit in units
}
# Printers have 72 to 1200 dots an inch, pixels of 353 to 21 micrometres.
_PRINTED = ("in", "inch", "inches", "cm")
_LEAST_PRINTED = 20.0


def size(row: Any, col: Any, row_unit: str, col_unit: str) -> Size | None:
    """The size of a pixel, of two lengths in these units."""
    units = [str(unit).strip().lower() for unit in (row_unit, col_unit)]
    try:
        found = [
            float(value) * _MICROMETRES[unit]
            for value, unit in zip((row, col), units, strict=True)
        ]
    except (KeyError, TypeError, ValueError):
        return None
    if not all(math.isfinite(side) and side > 0 for side in found):
        return None
    return found[0], found[1]


def of_tiff(plan: tiff.Plan) -> tuple[Size | None, tuple[str, ...]]:
    """The size of a pixel, and the names of the channels (C), or ()."""
    tif = plan.page.parent
    if tif.is_ome:
        return _of_ome(plan, tif.pages.first.description)
    known = tif.imagej_metadata or {} if tif.is_imagej else {}
    unit = known.get("unit")
    if not tif.is_imagej:
        tag = plan.page.tags.get("ResolutionUnit")
        unit = {2: "inch", 3: "cm"}.get(0 if tag is None else int(tag.value))
    row, col = (_spacing(plan, f"{axis}Resolution") for axis in "YX")
    found = size(row, col, unit, unit) if unit else None
    if found and unit.lower() in _PRINTED and max(found) >= _LEAST_PRINTED:
        found = None
    labels = known.get("Labels", [])
    # of every page, channels first
    n = plan.shape[plan.axes.index("C")] if "C" in plan.axes else 0
    return found, named(labels[:n], n)


def _spacing(plan: tiff.Plan, tag: str) -> float | None:
    """Units a pixel, of a tag that holds pixels a unit."""
    found = plan.page.tags.get(tag)
    try:
        above, below = found.value
        return below / above
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None


def _of_ome(plan: tiff.Plan, text: str) -> tuple[Size | None, tuple[str, ...]]:
    # entities were refused when the file was opened
    pixels = ElementTree.fromstring(text).find("{*}Image/{*}Pixels")
    if pixels is None:
        return None, ()
    about = pixels.attrib
    found = size(
        about.get("PhysicalSizeY"),
        about.get("PhysicalSizeX"),
        about.get("PhysicalSizeYUnit", "um"),
        about.get("PhysicalSizeXUnit", "um"),
    )
    names = [c.get("Name", "") for c in pixels.findall("{*}Channel")]
    n = plan.shape[plan.axes.index("C")] if "C" in plan.axes else 0
    return found, named(names, n)


def of_zarr(
    axes: str,
    shape: Sequence[int],
    multiscale: Mapping[str, Any],
    omero: Mapping[str, Any],
) -> tuple[Size | None, tuple[str, ...]]:
    """As `of_tiff`, from the metadata of OME-Zarr."""
    scale = [1.0] * len(axes)
    for of in (multiscale["datasets"][0], multiscale):
        for change in of.get("coordinateTransformations", ()):
            if len(change.get("scale", ())) == len(axes):
                scale = [
                    a * b for a, b in zip(scale, change["scale"], strict=True)
                ]
    units = [
        axis.get("unit", "") if isinstance(axis, Mapping) else ""
        for axis in multiscale.get("axes", ())
    ]
    row, col = axes.index("Y"), axes.index("X")
    found = size(scale[row], scale[col], units[row], units[col])
    labels = [of.get("label", "") for of in omero.get("channels", ())]
    return found, named(labels, shape[axes.index("C")] if "C" in axes else 0)


def named(names: Sequence[Any], n: int) -> tuple[str, ...]:
    """The names of `n` channels, in one line; () where they are not these."""
    found = tuple(" ".join(str(name).split()) for name in names)
    return found if n and len(found) == n and all(found) else ()
