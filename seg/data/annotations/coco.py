"""COCO's data sets: images, and annotations by polygons or run lengths."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from seg import images as images_lib
from seg.data import masks, shapes
from seg.data.annotations import drawn, runs

Image = tuple[str, drawn.Size, list[drawn.Object]]


def images(found: dict[str, Any], name: str) -> Iterator[Image]:
    """(file name, (H, W), objects) of the images. Raises ImageError."""
    try:
        kinds = {
            one["id"]: str(one["name"]) for one in found.get("categories", [])
        }
        listed = {
            one["id"]: (
                str(one["file_name"]),
                (int(one.get("height") or 0), int(one.get("width") or 0)),
            )
            for one in found["images"]
        }
        of: dict[Any, list[drawn.Object]] = {i: [] for i in listed}
        for number, one in enumerate(found["annotations"], 1):
            where = f"annotation {one.get('id', number)}"
            if one["image_id"] not in of:
                raise images_lib.ImageError(
                    f"{name}: {where} is of image {one['image_id']}, which is "
                    "not listed; add it to images"
                )
            kind = kinds.get(one.get("category_id"), "object")
            draw = _drawn(one.get("segmentation"), f"{name}: {where}")
            crowd = bool(one.get("iscrowd"))
            of[one["image_id"]].append(drawn.Object(where, kind, draw, crowd))
    except images_lib.ImageError:  # which is a ValueError
        raise
    except (
        KeyError, TypeError, AttributeError, ValueError, OverflowError
    ) as error:  # fmt: skip
        raise images_lib.ImageError(
            f"{name}: not as COCO has it ({type(error).__name__}: {error}); "
            "it wants images, annotations and categories"
        ) from error
    for i, (file_name, size) in listed.items():
        yield file_name.replace("\\", "/"), size, of[i]


def _drawn(found: Any, where: str):
    if isinstance(found, dict):
        return functools.partial(_counted, found, where)
    if not isinstance(found, list) or not found:
        raise images_lib.ImageError(
            f"{where} has no segmentation; boxes alone are no objects here"
        )
    rings = []
    for part in found:
        if not isinstance(part, list) or len(part) % 2:
            raise images_lib.ImageError(
                f"{where}: a polygon of an odd number of numbers; write x and "
                "y in turn"
            )
        pairs = [*zip(part[::2], part[1::2], strict=True)]
        rings += drawn.rings([pairs], where)

    def draw(shape: drawn.Size) -> masks.Region:
        return shapes.union([shapes.polygon(ring, shape) for ring in rings])

    return draw


def _counted(
    found: dict[str, Any], where: str, shape: drawn.Size
) -> masks.Region:
    """Runs of background, object, background, ...; perhaps as text."""
    counts = found.get("counts")
    if isinstance(counts, str):
        counts = _decoded(counts)
    try:
        lengths = np.array(counts, np.int64).reshape(-1)
        size = tuple(int(side) for side in found["size"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise shapes.ShapeError(
            "run lengths that are no whole numbers; save it again"
        ) from error
    if size != tuple(shape) or lengths.sum() != shape[0] * shape[1]:
        raise shapes.ShapeError(
            f"run lengths of {lengths.sum()} px for {size}, the image has "
            f"{shape[0]}x{shape[1]}; is it of another image?"
        )
    ends = np.cumsum(lengths)
    n = len(lengths) // 2
    start, stop = ends[::2][:n], ends[1::2]
    return runs.region(start, stop - start, shape)


def _decoded(text: str) -> list[int]:
    """Counts of COCO's text: 5 bits a letter, the sixth says that it goes on;
    from the fourth count on each is less the one two before.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii", "replace"):
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    return counts
