"""The results of a prediction as files: their names, and the object table.

A table is a list of rows, one dict an object, with the columns `FIELDS` (and
any others after them). Coordinates are (row, column) in pixels from the top
left; a box is half open, `row0 <= row < row1`; areas are in pixels.
"""

import csv
import importlib.util
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seg import config
from seg.images import slide_write, vectors, write

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
    "perimeter_px",
    "circularity",
    "diameter_px",
    "major_axis_px",
    "minor_axis_px",
    "angle_deg",
    "extent",
    "at_border",
    "nearest_px",
    "min_intensity",
    "max_intensity",
    "std_intensity",
    "total_intensity",
)
IMAGE_FIELDS = (
    "image",
    "rows",
    "cols",
    "n_objects",
    "median_area_px",
    "covered",
    "probability",
    "doubt",
    "pixel_size_um",
)
_TEXT = ("image", "class")
_WHOLE = ("label", "area_px", "at_border")  # and the boxes' corners
_ROWS = 2**16  # of a Parquet table, at a time
_OVERVIEW = 4096  # px, the longer side of a slide's overlay at most


class Format(NamedTuple):
    """How one kind of result is named and written.

    name: of the file; `{stem}` stands for the image's. Without it there is
        one file for all images.
    write: called with (path, image, segmentation) for each image, or with
        (path, rows) once. A segmentation has `.labels`, `.classes`,
        `.probabilities` and `.table`, as `seg.predict` gives it.
    write_slide: called with (path, found) for an image that is worked on by
        strips; found is what `predict.streaming` gives. None: it is not
        written for such an image.
    slide_name: of that file, where it is another.
    of_images: its rows are images, with `IMAGE_FIELDS`, not objects.
    by_hand: people change it, so that a file that this program has not
        written, or not last, is left as it is.
    needs: a library that only this format needs, and the extra it is in.
    uses_map: it needs `.probabilities`.
    uses_image: it needs the image, which is else None where there is none.
    part: of one file for all images, what an image adds to it, JSON values,
        from (image, segmentation); `write` is then called with (path, pairs of
        the image's name and its part).
    """

    name: str
    write: Callable[..., None]
    write_slide: Callable[..., None] | None = None
    slide_name: str = ""
    of_images: bool = False
    part: Callable[..., Any] | None = None
    by_hand: bool = False
    needs: tuple[str, str] = ()
    uses_map: bool = False
    uses_image: bool = False

    def file(self, stem: str, by_strips: bool = False) -> str:
        """The name of an image's file, or of its part, which is hidden."""
        if self.part:
            return f".seg/{stem}.{self.name}.part"
        name = self.slide_name if by_strips else ""
        return (name or self.name).format(stem=stem)

    @property
    def is_shared(self) -> bool:
        """Whether there is one file for all images."""
        return "{stem}" not in self.name

    @property
    def per_image(self) -> bool:
        """Whether every image has a file of its own, or a part of one."""
        return not self.is_shared or self.part is not None


def chosen(text: str) -> list[str]:
    """The names of formats with commas between; UserError where not all can."""
    names = list(dict.fromkeys(text.replace(" ", "").split(",")))
    for name in names:
        if name not in FORMATS:
            raise config.UserError(config.unknown("format", name, FORMATS))
        if FORMATS[name].needs:
            library, extra = FORMATS[name].needs
            if importlib.util.find_spec(library) is None:
                raise config.UserError(
                    f"--formats={name} needs {library}; pip install "
                    f"'seg[{extra}]', or leave it out"
                )
    return names


def write_table(
    path: str | pathlib.Path,
    rows: Iterable[Mapping[str, Any]],
    fields: Sequence[str] = FIELDS,
) -> None:
    """Writes rows as CSV: `fields` first, then what else the rows have.

    Floats keep eight digits; None and NaN become empty cells. Of rows that
    come one by one, more perhaps than fit into memory, the first must have all
    keys, or it is a ValueError.
    """
    if isinstance(rows, Sequence):
        keys = [key for row in rows for key in row]
    else:
        rows, ahead = itertools.tee(rows)
        keys = list(next(ahead, ()))
        del ahead  # or all rows would be kept for it
    columns = dict.fromkeys([*fields, *keys])
    known = columns.keys()
    with (
        write.whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            if not row.keys() <= known:
                raise ValueError(f"{path}: keys {row.keys() - known} are new")
            writer.writerow([_cell(row.get(column)) for column in columns])


def write_parquet(
    path: str | pathlib.Path, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Writes rows of objects as Parquet, with the columns of `write_table`.

    Rows must have the same keys, all of them. None and NaN become nulls.
    """
    import pyarrow
    from pyarrow import parquet

    rows, ahead = itertools.tee(rows)
    first = next(ahead, {})
    del ahead
    columns = dict.fromkeys([*FIELDS, *first])
    schema = pyarrow.schema(
        [(name, _type(name, first.get(name))) for name in columns]
    )
    with (
        write.whole(path) as temporary,
        parquet.ParquetWriter(temporary, schema) as file,
    ):
        while part := list(itertools.islice(rows, _ROWS)):
            arrays = [
                pyarrow.array(
                    (row.get(name) for row in part), kind, from_pandas=True
                )
                for name, kind in zip(columns, schema.types, strict=True)
            ]
            file.write_batch(pyarrow.record_batch(arrays, schema=schema), _ROWS)


def _type(name: str, value: Any) -> str:
    if name in _TEXT or isinstance(value, str):
        return "string"
    whole = name in _WHOLE or name.startswith("bbox_")
    return "int64" if whole else "float64"


def read_table(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Reads a CSV of `write_table` back.

    Cells become int or float where they are numbers, None where empty; the
    image and the class stay text. Raises UserError for a file that is no
    table, or a row with more or fewer cells than the header.
    """
    return list(iter_table(path))


def iter_table(path: str | pathlib.Path) -> Iterator[dict[str, Any]]:
    """As `read_table`, row by row."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = next(lines)
            for number, line in enumerate(lines, start=2):
                if len(line) != len(header):
                    raise config.UserError(
                        f"{path}, line {number}: {len(line)} cells, the "
                        f"header has {len(header)}; the file may be cut short"
                    )
                yield {
                    key: _value(key, cell)
                    for key, cell in zip(header, line, strict=True)
                }
    except (OSError, UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise config.UserError(f"{path}: not a CSV table ({error})") from error


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


def _slide_tiff(path: pathlib.Path, found: Any, *of: Any) -> None:
    slide_write.write_tiff(path, *of, pixel_size=found.pixel_size)


def _slide_labels(path: pathlib.Path, found: Any) -> None:
    _slide_tiff(path, found, found.labels(), found.shape, _ids(found))


def _ids(found: Any) -> np.dtype:
    return np.dtype(np.uint16 if found.n_objects < 1 << 16 else np.uint32)


def _slide_classes(path: pathlib.Path, found: Any) -> None:
    _slide_tiff(path, found, found.classes(), found.shape, np.uint8)


def _slide_probabilities(path: pathlib.Path, found: Any) -> None:
    shape, strips = (*found.shape, found.n_classes), found.probabilities()
    if found.n_classes == 1:
        shape, strips = found.shape, (strip[..., 0] for strip in strips)
    _slide_tiff(path, found, strips, shape, np.float32)


def _slide_uncertainty(path: pathlib.Path, found: Any) -> None:
    strips = map(write.uncertainty, found.probabilities())
    _slide_tiff(path, found, strips, found.shape, np.float32)


def _slide_zarr(path: pathlib.Path, found: Any) -> None:
    slide_write.write_zarr(
        path,
        found.labels(),
        found.shape,
        _ids(found),
        labels=True,
        pixel_size=found.pixel_size,
    )


def _slide_overlay(path: pathlib.Path, found: Any) -> None:
    """Every n-th pixel of the slide, so that it fits a screen."""
    step = -(-max(found.shape) // _OVERVIEW)
    whole = []
    for stream in (found.image(), found.labels(), found.classes()):
        top, parts = 0, []
        for strip in stream:
            # a view would keep all of the strip
            parts.append(strip[-top % step :: step, ::step].copy())
            top += len(strip)
        whole.append(np.concatenate(parts))
    write.write_png(path, write.overlay(*whole))


FORMATS: dict[str, Format] = {
    "labels": Format(
        "{stem}_labels.tif",
        lambda path, image, found: write.write_labels(
            path, found.labels, found.pixel_size
        ),
        _slide_labels,
    ),
    "classes": Format(
        "{stem}_classes.png",
        lambda path, image, found: write.write_classes(path, found.classes),
        _slide_classes,
        "{stem}_classes.tif",
    ),
    "overlay": Format(
        "{stem}_overlay.png",
        lambda path, image, found: write.write_png(
            path, write.overlay(image, found.labels, found.classes)
        ),
        _slide_overlay,
        uses_image=True,
    ),
    "boxes": Format(
        "{stem}_boxes.png",
        lambda path, image, found: write.write_png(
            path, write.boxes(image, found.labels, found.classes, found.table)
        ),
        uses_image=True,
    ),
    "crops": Format(
        "{stem}_crops",
        lambda path, image, found: write.write_crops(path, image, found.table),
        uses_image=True,
    ),
    "probabilities": Format(
        "{stem}_probabilities.tif",
        lambda path, image, found: write.write_probabilities(
            path, found.probabilities, found.pixel_size
        ),
        _slide_probabilities,
        uses_map=True,
    ),
    "uncertainty": Format(
        "{stem}_uncertainty.tif",
        lambda path, image, found: write.write_uncertainty(
            path, found.probabilities, found.pixel_size
        ),
        _slide_uncertainty,
        uses_map=True,
    ),
    "omezarr": Format(
        "{stem}.zarr",
        lambda path, image, found: slide_write.write_zarr(
            path,
            [found.labels],
            found.labels.shape,
            np.uint32,
            labels=True,
            pixel_size=found.pixel_size,
        ),
        _slide_zarr,
        needs=("zarr", "slides"),
    ),
    "geojson": Format("{stem}.geojson", vectors.write_geojson),
    "roi": Format("{stem}_rois.zip", vectors.write_rois),
    "labelme": Format("{stem}.json", vectors.write_labelme, by_hand=True),
    "coco": Format("coco.json", vectors.write_coco, part=vectors.coco_part),
    "rle": Format(
        "rle.csv",
        lambda path, parts: write_table(
            path, vectors.rle_rows(parts), ("ImageId", "EncodedPixels")
        ),
        part=vectors.rle_part,
    ),
    "csv": Format("objects.csv", write_table),
    "parquet": Format(
        "objects.parquet", write_parquet, needs=("pyarrow", "parquet")
    ),
    "images": Format(
        "images.csv",
        lambda path, rows: write_table(path, rows, IMAGE_FIELDS),
        of_images=True,
    ),
}
