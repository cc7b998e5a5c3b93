"""Objects as polygons and run lengths, in the files of other programs.

    GeoJSON    QuPath: detections with class and measurements
    ImageJ     Fiji's ROI Manager: a zip of ROIs
    COCO       polygons, or run lengths for objects with holes
    LabelMe    polygons to correct by hand, and to train on again
    Kaggle     run lengths, column by column, a row an object

x is the column and y the row, in px; (0, 0) is the upper left corner of the
image, so that the middle of its first pixel is at (.5, .5).
"""

import base64
import collections
import io
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from seg.images import outlines, write

Polygons = Sequence[outlines.Polygon]

_MEASURES = {
    "area_px": "Area px^2", "area_um2": "Area um^2",
    "perimeter_px": "Perimeter px", "perimeter_um": "Perimeter um",
    "circularity": "Circularity", "major_axis_px": "Major axis px",
    "minor_axis_px": "Minor axis px", "eccentricity": "Eccentricity",
    "solidity": "Solidity", "mean_intensity": "Mean intensity",
    "probability": "Probability",
}  # fmt: skip


def write_geojson(path: pathlib.Path, image: np.ndarray, found: Any) -> None:
    """Writes a FeatureCollection, a feature an object, as QuPath reads it."""
    polygons = outlines.of_labels(found.labels)
    features = [_feature(row, polygons[row["label"]]) for row in found.table]
    write.write_json(path, {"type": "FeatureCollection", "features": features})


def _feature(row: Mapping[str, Any], polygons: Polygons) -> dict[str, Any]:
    parts = [
        [_closed(ring) for ring in (part.outer, *part.holes)]
        for part in polygons
    ]
    several = len(parts) > 1
    return {
        "type": "Feature",
        "geometry": {
            "type": "MultiPolygon" if several else "Polygon",
            "coordinates": parts if several else parts[0],
        },
        "properties": {
            "objectType": "detection",
            "name": str(row["label"]),
            "classification": {"name": row["class"]},
            "measurements": {
                title: float(row[name])
                for name, title in _MEASURES.items()
                if row.get(name) is not None and np.isfinite(row[name])
            },
        },
    }


def _closed(ring: np.ndarray) -> list[list[int]]:
    """(x, y) of a ring, the first again at its end."""
    return [*_points(ring), *_points(ring[:1])]


def _points(ring: np.ndarray) -> list[list[int]]:
    return ring[:, ::-1].tolist()


def write_rois(path: pathlib.Path, image: np.ndarray, found: Any) -> None:
    """Writes a zip of ImageJ ROIs, an object each, named by its id.

    Traced ones; objects with holes or of several parts are composite.
    """
    import roifile

    polygons = outlines.of_labels(found.labels)
    rois = []
    for label, parts in polygons.items():
        rings = [ring for part in parts for ring in (part.outer, *part.holes)]
        if len(rings) == 1:
            roi = roifile.ImagejRoi.frompoints(
                rings[0][:, ::-1], name=f"{label:05d}"
            )
            roi.roitype = roifile.ROI_TYPE.TRACED
        else:
            roi = _composite(rings, f"{label:05d}")
        rois.append(roi)
    with write.whole(path) as temporary:
        # an existing file would be added to
        roifile.roiwrite(temporary, rois, mode="w")


def _composite(rings: Sequence[np.ndarray], name: str) -> Any:
    import roifile

    steps = []
    for ring in rings:
        points = np.insert(ring[:, ::-1], 0, 1, axis=1)  # go on to there
        points[0, 0] = 0  # begin there
        steps += [*points.ravel().tolist(), 4]  # close
    every = np.concatenate(rings)
    (top, left), (bottom, right) = every.min(0).tolist(), every.max(0).tolist()
    roi = roifile.ImagejRoi()
    roi.roitype, roi.name = roifile.ROI_TYPE.RECT, name
    roi.top, roi.left, roi.bottom, roi.right = top, left, bottom, right
    roi.multi_coordinates = np.array(steps, np.float32)
    roi.shape_roi_size = len(steps)
    return roi


def write_labelme(path: pathlib.Path, image: np.ndarray, found: Any) -> None:
    """Writes an annotation of LabelMe, a shape an object.

    A polygon through the middles of the pixels at an object's border, which
    LabelMe and `seg.data.labelme` fill to the same pixels. What no one polygon
    can be, having holes or several parts, is a mask, which LabelMe knows since
    5.4. The image is named, not copied, but where it is no file of its own, as
    a plane of a stack.
    """
    polygons = outlines.of_labels(found.labels)
    shapes = []
    for row in found.table:
        label, parts = row["label"], polygons[row["label"]]
        shape = {"label": row["class"], "group_id": None, "flags": {}}
        inner = _inset(parts[0].outer)
        if _fills(inner, found.labels, label, parts):
            shape |= {"shape_type": "polygon", "points": _points(inner)}
        else:
            shape |= _mask(found.labels, label, parts)
        shapes.append(shape)
    rows, cols = found.labels.shape
    about = {
        "version": "5.5.0", "flags": {}, "shapes": shapes,
        "imagePath": found.source,
        "imageData": None if found.source else _png(_shown(image)),
        "imageHeight": rows, "imageWidth": cols,
    }  # fmt: skip
    write.write_json(path, about)


def _shown(image: np.ndarray) -> np.ndarray:
    """The image as it is where a PNG of 8 bits can be that."""
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        return write.display(image)
    return image[..., 0] if image.shape[-1] == 1 else image


def _png(image: np.ndarray) -> str:
    """The file of an image, in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _inset(ring: np.ndarray) -> np.ndarray:
    """A ring half a pixel further inside: float [V, 2]."""
    into = np.sign(ring - np.roll(ring, 1, 0))
    out = np.roll(into, -1, 0)
    # to the right of (row, col) = (0, 1), eastwards, is (1, 0), the south
    right = np.stack([into[:, 1] + out[:, 1], -(into[:, 0] + out[:, 0])], 1)
    inner = ring + right / 2
    # at the end of a stretch of one pixel's width two vertices are one
    return inner[(inner != np.roll(inner, 1, 0)).any(1)]


def _fills(
    ring: np.ndarray, labels: np.ndarray, label: int, parts: Polygons
) -> bool:
    """Whether LabelMe makes an object's pixels of a ring; it asks Pillow."""
    if len(ring) < 3:
        return False
    rows, cols = box = _box(parts)
    own = labels[box] == label
    drawn = Image.new("L", own.shape[::-1])
    points = ring[:, ::-1] - (cols.start, rows.start)
    ImageDraw.Draw(drawn).polygon(points.ravel().tolist(), 1, 1)
    return np.array_equal(np.asarray(drawn) > 0, own)


def _box(parts: Polygons) -> tuple[slice, slice]:
    """Rows and columns that an object lies in."""
    every = np.concatenate([part.outer for part in parts])
    (top, left), (bottom, right) = every.min(0).tolist(), every.max(0).tolist()
    return slice(top, bottom), slice(left, right)


def _mask(labels: np.ndarray, label: int, parts: Polygons) -> dict[str, Any]:
    """A mask of LabelMe: its box, from pixel to pixel, and a PNG."""
    rows, cols = box = _box(parts)
    return {
        "shape_type": "mask",
        "points": [
            [float(cols.start), float(rows.start)],
            [float(cols.stop - 1), float(rows.stop - 1)],
        ],
        "mask": _png((labels[box] == label).astype(np.uint8)),
    }


def _runs(
    labels: np.ndarray, label: int, parts: Polygons
) -> tuple[np.ndarray, np.ndarray]:
    """(first pixel, length) of an object's runs, column by column."""
    rows, cols = _box(parts)
    own = np.pad(labels[rows, cols] == label, ((1, 1), (0, 0)))
    change = np.diff(own.T.astype(np.int8), axis=1)  # [columns, rows + 1]
    col, row = np.nonzero(change == 1)
    first = (cols.start + col) * labels.shape[0] + rows.start + row
    length = np.nonzero(change == -1)[1] - row
    # what goes on at the top of the next column is one run
    begins = np.ones(len(first), bool)
    begins[1:] = first[1:] != first[:-1] + length[:-1]
    at = np.flatnonzero(begins)
    return first[at], np.add.reduceat(length, at)


def coco_part(image: np.ndarray, found: Any) -> dict[str, Any]:
    """What `write_coco` needs of an image."""
    polygons = outlines.of_labels(found.labels)
    rows, cols = found.labels.shape
    objects = []
    for row in found.table:
        parts = polygons[row["label"]]
        y, x = _box(parts)
        certain = row.get("probability")
        objects.append(
            {
                "class": row["class"],
                "area": row["area_px"],
                **({} if certain is None else {"score": certain}),
                "bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start],
                "segmentation": _counts(found.labels, row["label"], parts)
                if any(part.holes for part in parts)
                else [np.ravel(_points(part.outer)).tolist() for part in parts],
            }
        )
    return {
        "file_name": os.path.basename(found.source),
        "height": rows,
        "width": cols,
        "objects": objects,
    }


def _counts(labels: np.ndarray, label: int, parts: Polygons) -> dict[str, Any]:
    """COCO's run lengths: background, object, background, ..."""
    first, length = _runs(labels, label, parts)
    ends = np.stack([first, first + length], 1).ravel()
    counts = np.diff(ends, prepend=0, append=labels.size).tolist()
    return {"size": list(labels.shape), "counts": counts}


def write_coco(
    path: pathlib.Path, parts: Iterable[tuple[str, Mapping[str, Any]]]
) -> None:
    """Writes all images' objects as one COCO data set, classes by name.

    parts: (name of the image, what `coco_part` made of it).
    """
    parts = list(parts)
    files = collections.Counter(part["file_name"] for _, part in parts)
    names = {one["class"] for _, part in parts for one in part["objects"]}
    kinds = {name: k for k, name in enumerate(sorted(names), 1)}
    images, annotations = [], []
    for i, (name, part) in enumerate(parts, 1):
        images.append(
            {
                "id": i,
                # of two folders: each by the name that is its own
                "file_name": part["file_name"]
                if files[part["file_name"]] == 1
                else name + os.path.splitext(part["file_name"])[1],
                "height": part["height"],
                "width": part["width"],
            }
        )
        for one in part["objects"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": kinds[one["class"]],
                    "iscrowd": 0,
                    **{key: one[key] for key in one if key != "class"},
                }
            )
    categories = [{"id": k, "name": name} for name, k in kinds.items()]
    about = {
        "info": {"description": "objects found by seg"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    write.write_json(path, about)


def rle_part(image: np.ndarray, found: Any) -> list[str]:
    """Kaggle's run lengths of each object of an image."""
    polygons = outlines.of_labels(found.labels)
    lengths = []
    for row in found.table:
        label = row["label"]
        runs = _runs(found.labels, label, polygons[label])
        pairs = zip(*(part.tolist() for part in runs), strict=True)
        lengths.append(" ".join(f"{at + 1} {n}" for at, n in pairs))
    return lengths


def rle_rows(
    parts: Iterable[tuple[str, Sequence[str]]],
) -> list[dict[str, str]]:
    """Rows of Kaggle's table; of an image without objects, an empty one."""
    return [
        {"ImageId": name, "EncodedPixels": lengths}
        for name, every in parts
        for lengths in (every or [""])
    ]
