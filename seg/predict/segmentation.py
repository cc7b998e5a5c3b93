"""What was found in an image."""

import dataclasses
import os
from typing import Any

import numpy as np

from seg.images import formats
from seg.predict import physical


class Table(list[dict[str, Any]]):
    """Rows of objects, one dict each, with the columns `formats.FIELDS`."""

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as CSV."""
        formats.write_table(path, self)


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
