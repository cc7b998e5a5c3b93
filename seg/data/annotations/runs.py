"""Run lengths, column by column: Kaggle's CSV, and what COCO's are made of."""

import csv
import functools
import io

import numpy as np

from seg import images
from seg.data import masks, shapes
from seg.data.annotations import drawn

_HEADER = ["imageid", "encodedpixels"]


def are_in(content: bytes) -> bool:
    """Whether this is such a table, by its first line."""
    text = content[:100].decode("utf-8-sig", "replace")
    cells = text.partition("\n")[0].replace('"', "").lower().split(",")
    return [cell.strip() for cell in cells[:2]] == _HEADER


def objects(content: bytes, name: str) -> dict[str, list[drawn.Object]]:
    """Objects by image, of a CSV of ImageId and EncodedPixels.

    An image of one empty row has none. Raises ImageError.
    """
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise images.ImageError(
            f"{name}: not a CSV table ({error}); save it again"
        ) from error
    header = [cell.strip().lower() for cell in lines[0][:2]] if lines else []
    if header != _HEADER:
        raise images.ImageError(
            f"{name}: its columns are not ImageId and EncodedPixels; give "
            "labels, or run lengths as Kaggle has them"
        )
    found: dict[str, list[drawn.Object]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        where = f"line {number}"
        of = found.setdefault(line[0], [])
        text = line[1] if len(line) > 1 else ""
        if not text.strip():
            continue
        try:
            numbers = np.array(text.split(), np.int64)
        except (ValueError, OverflowError) as error:
            raise images.ImageError(
                f"{name}: {where}: run lengths that are no whole numbers; "
                "write start and length, in turn"
            ) from error
        if len(numbers) % 2:
            raise images.ImageError(
                f"{name}: {where}: {len(numbers)} numbers; write start and "
                "length, in turn"
            )
        pairs = numbers.reshape(-1, 2)
        of.append(
            drawn.Object(
                where,
                "object",
                functools.partial(region, pairs[:, 0] - 1, pairs[:, 1]),
            )
        )
    return found


def region(
    start: np.ndarray, length: np.ndarray, shape: drawn.Size
) -> masks.Region:
    """The pixels of runs [R] that count down the columns, from 0.

    Raises ShapeError for runs that leave the image.
    """
    size = shape[0] * shape[1]
    wrong = (start < 0) | (length < 0) | (length > size - start)
    if wrong.any():
        raise shapes.ShapeError(
            f"a run from pixel {start[wrong][0] + 1} on, outside the image of "
            f"{shape[0]}x{shape[1]} px; is it of another image?"
        )
    order = np.argsort(start)
    if (length[order][:-1] > np.diff(start[order])).any():
        raise shapes.ShapeError("runs that overlap; write each pixel once")
    whose = np.repeat(np.arange(len(start)), length)
    first = np.cumsum(length) - length
    at = start[whose] + np.arange(len(whose)) - first[whose]
    col, row = np.divmod(at, shape[0])
    if not len(at):
        return masks.Region(0, 0, np.zeros((0, 0), bool))
    top, left = int(row.min()), int(col.min())
    inside = np.zeros((row.max() - top + 1, col.max() - left + 1), bool)
    inside[row - top, col - left] = True
    return masks.Region(top, left, inside)
