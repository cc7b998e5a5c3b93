"""The results of a prediction as files: their names, and the object table.

A table is a list of rows, one dict an object, with the columns `FIELDS` (and
any others after them). Coordinates are (row, column) in pixels from the top
left; a box is half open, `row0 <= row < row1`; areas are in pixels.
"""

import csv
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from seg import config
from seg.images import write

FIELDS = (
    "image",
    "label",
    "class",
    "area_px",
    "row",
    "col",
    "bbox_row0",
    "bbox_col0",
    "bbox_row1",
    "bbox_col1",
    "mean_intensity",
    "eccentricity",
    "solidity",
    "probability",
)
_TEXT = ("image", "class")


class Format(NamedTuple):
    """How one kind of result is named and written.

    name: of the file; `{stem}` stands for the image's. Without it there is
        one file for all images.
    write: called with (path, image, segmentation) for each image, or with
        (path, rows) once. A segmentation has `.labels`, `.classes`,
        `.probabilities` and `.table`, as `seg.predict` gives it.
    """

    name: str
    write: Callable[..., None]

    @property
    def per_image(self) -> bool:
        """Whether every image has a file of its own."""
        return "{stem}" in self.name


def write_table(
    path: str | pathlib.Path,
    rows: Iterable[Mapping[str, Any]],
    fields: Sequence[str] = FIELDS,
) -> None:
    """Writes rows as CSV: `fields` first, then what else the rows have.

    Floats keep eight digits; None and NaN become empty cells.
    """
    rows = list(rows)
    extra = dict.fromkeys(key for row in rows for key in row)
    columns = [*fields, *(key for key in extra if key not in fields)]
    with (
        write.whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(
            [_cell(row.get(column)) for column in columns] for row in rows
        )


def read_table(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Reads a CSV of `write_table` back.

    Cells become int or float where they are numbers, None where empty; the
    image and the class stay text. Raises UserError for a file that is no
    table, or a row with more or fewer cells than the header.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *lines = csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise config.UserError(f"{path}: not a CSV table ({error})") from error
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise config.UserError(
                f"{path}, line {number}: {len(line)} cells, the header has "
                f"{len(header)}; the file may be cut short"
            )
    return [
        {key: _value(key, cell) for key, cell in zip(header, line, strict=True)}
        for line in lines
    ]


def _cell(value: Any) -> Any:
    # numpy's floats are not all floats, but all of them have .item()
    value = value.item() if hasattr(value, "item") else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else value


def _value(key: str, cell: str) -> Any:
    if key in _TEXT:
        return cell
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


FORMATS: dict[str, Format] = {
    "labels": Format(
        "{stem}_labels.tif",
        lambda path, image, found: write.write_labels(path, found.labels),
    ),
    "classes": Format(
        "{stem}_classes.png",
        lambda path, image, found: write.write_classes(path, found.classes),
    ),
    "overlay": Format(
        "{stem}_overlay.png",
        lambda path, image, found: write.write_png(
            path, write.overlay(image, found.labels, found.classes)
        ),
    ),
    "boxes": Format(
        "{stem}_boxes.png",
        lambda path, image, found: write.write_png(
            path, write.boxes(image, found.labels, found.classes, found.table)
        ),
    ),
    "crops": Format(
        "{stem}_crops",
        lambda path, image, found: write.write_crops(path, image, found.table),
    ),
    "probabilities": Format(
        "{stem}_probabilities.tif",
        lambda path, image, found: write.write_probabilities(
            path, found.probabilities
        ),
    ),
    "csv": Format("objects.csv", write_table),
}
