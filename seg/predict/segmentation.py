"""What was found in an image."""

import dataclasses
import html
import os
from typing import Any

import numpy as np

from seg.images import formats
from seg.predict import physical

_N_SHOWN = 5  # rows
_SHOWN = (
    "label", "class", "probability", "area_px", "area_um2", "row", "col",
    "mean_intensity",
)  # fmt: skip


class Table(list[dict[str, Any]]):
    """Rows of objects, one dict each, with the columns `formats.FIELDS`.

    A list like any other, but that it shows its first rows only.

    Examples
    --------
    >>> Table({"image": "a.tif", "label": i, "area_px": 9.5} for i in range(7))
    7 objects, 3 columns:
      label  area_px
          0      9.5
          1      9.5
          2      9.5
          3      9.5
          4      9.5
        ...
    """

    def __repr__(self) -> str:
        if not self:
            return self._title()
        names, cells = self._shown()
        cells = [names, *cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "".join(
                f"  {cell:>{width}}"
                for cell, width in zip(row, widths, strict=True)
            )
            for row in cells
        ]
        if len(self) > _N_SHOWN:
            lines.append(f"  {'...':>{widths[0]}}")
        return "\n".join([f"{self._title()}:", *lines])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        parts = [f"<p>{html.escape(self._title())}</p>"]
        if self:
            names, cells = self._shown()
            if len(self) > _N_SHOWN:
                cells.append(["..."] * len(names))
            parts += ["<table>", _line(names, "th")]
            parts += [_line(row, "td") for row in cells]
            parts.append("</table>")
        return "\n".join(parts)

    def _title(self) -> str:
        n = f"{len(self)} object{'s' * (len(self) != 1)}"
        return f"{n}, {len(self[0])} columns" if self else n

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        """Some columns, by name, and their cells in the first rows."""
        names = [name for name in _SHOWN if name in self[0]] or [*self[0]]
        rows = self[:_N_SHOWN]
        return names, [
            [_cell(row.get(name, "")) for name in names] for row in rows
        ]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as CSV."""
        formats.write_table(path, self)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _line(cells: list[str], tag: str) -> str:
    inside = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """What was found in an image.

    Parameters
    ----------
    classes : uint8 [H, W], index into the predictor's `classes`.
    labels : int32 [H, W], 0 background, then one id an object.
    table : one row an object.
    probabilities : float32 [H, W, K] where asked for, else None.
    source : the image's file, for results that name it.
    pixel_size : (row, column) in micrometres, None where it is not known.
    """

    classes: np.ndarray
    labels: np.ndarray
    table: Table
    probabilities: np.ndarray | None = None
    source: str = ""
    pixel_size: tuple[float, float] | None = None

    def measured(
        self, pixel_size: tuple[float, float] | None
    ) -> "Segmentation":
        """The same, its table in micrometres too where the size is known."""
        if pixel_size is None:
            return self
        rows = (physical.measured(row, pixel_size) for row in self.table)
        return dataclasses.replace(
            self, table=Table(rows), pixel_size=pixel_size
        )

    def without_map(self) -> "Segmentation":
        """The same, but for the probabilities, which need most memory."""
        return dataclasses.replace(self, probabilities=None)
