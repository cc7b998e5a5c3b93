"""Measurements in micrometres, beside those in pixels.

Of a column `*_px`, an area becomes `*_um2` and another length `*_um`; `row`
and `col` become `row_um` and `col_um`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

Size = tuple[float, float]
"""Of a pixel: (row, column), micrometres."""


def columns(names: Iterable[str]) -> dict[str, str]:
    """The columns that have one in micrometres, and the name of that."""
    return {
        name: f"{name}_um"
        if name in ("row", "col")
        else name[:-2] + ("um2" if "area" in name else "um")
        for name in names
        if name in ("row", "col") or name.endswith("_px")
    }


def measured(row: Mapping[str, Any], size: Size | None) -> dict[str, Any]:
    """A row of a table with what it has in pixels in micrometres too.

    None where there is no value, no size, or a length in pixels that are not
    square, which may lie in any direction. A column that is there stays.
    """
    made = {
        name: _converted(row[source], source, size)
        for source, name in columns(row).items()
        if name not in row
    }
    return {**row, **made}


def _converted(value: Any, source: str, size: Size | None) -> float | None:
    if value is None or size is None:
        return None
    if source in ("row", "col"):
        return float(value) * size[source == "col"]
    if "area" in source:
        return float(value) * size[0] * size[1]
    if not math.isclose(*size, rel_tol=1e-3):
        return None
    return float(value) * size[0]


def side(size: Size) -> float:
    """Of a square pixel that is as large."""
    return math.sqrt(size[0] * size[1])
