"""Objects in the files of other programs -> label images.

    labels, classes     PNG, TIFF, .npy, the labels of an OME-Zarr
    LabelMe             NAME.json
    COCO                one JSON for many images: polygons and run lengths
    GeoJSON             QuPath's: polygons, a feature an object
    ImageJ              .roi, or a zip of them
    Kaggle              CSV of ImageId and EncodedPixels

Some do not say how large their image
is: then the image is needed. Of what is drawn, pixels belong to an object by
the rules of `seg.data.shapes`.

Whatever is wrong with a file, the error is an ImageError of one line: file,
place in it, what, remedy.
"""

import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from seg import images
from seg.data import arrays, labelme, masks, shapes
from seg.data.annotations import coco, geojson, rois, runs
from seg.data.annotations.drawn import Object, Size
from seg.images import read, slide, slide_zarr

SizeOf = Callable[[str, Size], Size]


class Labelled(NamedTuple):
    """The objects of one image.

    image: its name, as the file says, else the file's own. labels int32
    [H, W], ids 1..N; names: the class of each.
    """

    image: str
    labels: np.ndarray
    names: list[str]


def read_all(
    path: pathlib.Path, size_of: SizeOf, overlaps: str = "error"
) -> Iterator[Labelled]:
    """The labelled images of a file.

    Parameters
    ----------
    path : file, or folder of an OME-Zarr.
    size_of : gives (H, W) of an image by its name and by the size that the
        file says, (0, 0) where it does not; may raise UserError.
    overlaps : where objects overlap: error, or the first or the smallest has
        the pixels.
    """
    name = str(path)
    if slide_zarr.is_zarr(path):
        with slide.open_slide(path) as opened:
            read.check_pixels(name, opened.shape[0] * opened.shape[1])
            mask = opened.rows(0, opened.shape[0])[..., 0]
        yield _from_mask(path.stem, mask.astype(np.int64), False, name)
        return
    with read.explained(name):
        content = path.read_bytes()
    if content[:4] == b"PK\3\4" or content[:4] == b"Iout":
        found = rois.objects(content, name)
        shape = size_of(path.stem.removesuffix("_rois"), (0, 0))
        yield _painted(path.stem, found, shape, overlaps, name)
    elif path.suffix.lower() == ".csv":
        for image, found in runs.objects(content, name).items():
            shape = size_of(image, (0, 0))
            yield _painted(image, found, shape, overlaps, name)
    elif path.suffix.lower() in (".json", ".geojson"):
        yield from _from_json(path, content, size_of, overlaps)
    elif path.suffix.lower() == arrays.SUFFIX:
        mask = arrays.read_labels(content, name=name)
        yield _from_mask(path.stem, mask, False, name)
    else:
        lossy = read.read_header(content, name=name).lossy
        mask = read.read_mask(content, name=name)
        yield _from_mask(path.stem, mask, lossy, name)


def _from_mask(
    image: str, mask: np.ndarray, lossy: bool, name: str
) -> Labelled:
    """Ids are taken as they are; of 0 and 1, or 0 and 255, the components."""
    if lossy:
        raise images.ImageError(
            f"{name}: object ids in a JPEG, which changes them; save PNG or "
            "TIFF"
        )
    if mask.min(initial=0) < 0:
        raise images.ImageError(f"{name}: negative values; save ids from 0")
    highest = int(mask.max(initial=0))
    if highest == 1 or (highest == 255 and not np.any(mask % 255)):
        foreground = (mask > 0).astype(np.uint8)
        labels = masks.interpret(foreground, 2, lossy=False).labels
    else:
        labels = masks.sequential(mask)
    image = image.removesuffix("_labels").removesuffix("_classes")
    return Labelled(image, labels, ["object"] * int(labels.max(initial=0)))


def _from_json(
    path: pathlib.Path, content: bytes, size_of: SizeOf, overlaps: str
) -> Iterator[Labelled]:
    name = str(path)
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        detail = " ".join(str(error).split())[:80]
        raise images.ImageError(
            f"{name}: not JSON ({detail}); save it again"
        ) from error
    if isinstance(found, dict) and "shapes" in found:
        yield _from_labelme(path, content, size_of, overlaps)
    elif isinstance(found, dict) and "annotations" in found:
        for image, said, objects in coco.images(found, name):
            shape = size_of(image, said)
            yield _painted(image, objects, shape, overlaps, name)
    else:
        objects = geojson.objects(found, name)
        shape = size_of(path.stem, (0, 0))
        yield _painted(path.stem, objects, shape, overlaps, name)


def _from_labelme(
    path: pathlib.Path, content: bytes, size_of: SizeOf, overlaps: str
) -> Labelled:
    try:
        annotation = labelme.parse(content)
    except labelme.FormError as error:
        raise images.ImageError(f"{path}: {error}") from error
    image = annotation.image_path.replace("\\", "/").rpartition("/")[2]
    names = sorted({shape.label for shape in annotation.shapes})
    names = [name for name in names if name not in labelme.SPECIAL]
    ids = labelme.SPECIAL | {name: i for i, name in enumerate(names, 1)}
    shape = size_of(image or path.stem, annotation.size)
    truth, wrong = labelme.truth(annotation, shape, ids, overlaps)
    if wrong:
        raise images.ImageError(f"{path}: {wrong[0]}")
    first = np.unique(truth.labels, return_index=True)
    kinds = truth.classes.ravel()[
        [at for label, at in zip(*first, strict=True) if label]
    ]
    return Labelled(
        image or path.stem, truth.labels, [names[k - 1] for k in kinds]
    )


def _painted(
    image: str,
    objects: Sequence[Object],
    shape: Size,
    overlaps: str,
    name: str,
) -> Labelled:
    """Raises ImageError for what cannot be drawn, or overlaps."""
    regions = []
    for one in objects:
        try:
            region = one.draw(shape)
        except shapes.ShapeError as error:
            raise images.ImageError(f"{name}: {one.where}: {error}") from error
        if not region.inside.any():
            raise images.ImageError(
                f"{name}: {one.where}: no middle of a pixel is inside; draw "
                "it larger, or remove it"
            )
        regions.append(region)
    merged = masks.merge(regions, shape, overlaps)
    if merged.overlap_px and overlaps == "error":
        raise images.ImageError(
            f"{name}: {_overlapping(objects, regions, shape)} overlap; mend "
            "them, or give --overlaps=first or smallest"
        )
    names = [objects[i].name for i in merged.regions]
    return Labelled(image, merged.labels, names)


def _overlapping(
    objects: Sequence[Object], regions: Sequence[masks.Region], shape: Size
) -> str:
    """Two objects that do."""
    owner = np.full(shape, -1)
    for i, (row, col, inside) in enumerate(regions):
        box = np.s_[row : row + len(inside), col : col + inside.shape[1]]
        others = owner[box][inside]
        if (others >= 0).any():
            return f"{objects[others.max()].where} and {objects[i].where}"
        owner[box][inside] = i
    return "objects"
