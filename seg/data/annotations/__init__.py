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

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from seg import images
from seg.data import arrays, labelme, masks, shapes
from seg.data.annotations import coco, geojson, rois, runs
from seg.data.annotations.drawn import EMPTY, Object, Size, truth
from seg.images import read, slide, slide_zarr

SizeOf = Callable[[str, Size], Size]
OUTLINES = (".json", ".geojson", ".csv", ".zip", ".roi")


class Labelled(NamedTuple):
    """The objects of one image.

    image: its name, as the file says, else the file's own. labels int32
    [H, W], 1..N; names: the class of each; ids: int64 [N], those of a label
    image, else 1..N.
    """

    image: str
    labels: np.ndarray
    names: list[str]
    ids: np.ndarray


class Source(NamedTuple):
    """An image's objects, before they are drawn.

    file: where they stand. image: the image's name, as the file says, else the
    file's own. said: (H, W) of the image by the file, (0, 0) where it does not
    say, None of a label image, which has a size of its own. named: whether the
        image's name is known: the file says it, or is called after it.
    objects: what is drawn; None of a label image, and of LabelMe's shapes.
    path: the image's name with its folders, where the file says those.
    """

    file: str
    image: str
    said: Size | None
    draw: Callable[[Size, str], Labelled]
    named: bool = True
    objects: Sequence[Object] | None = None
    path: str = ""

    def truth(
        self, shape: Size, names: dict[str, int], policy: str
    ) -> tuple[masks.Truth, list[str]]:
        """`drawn.truth` of the objects."""
        return truth(self.objects or (), shape, names, policy)

    def read(self, size_of: SizeOf, overlaps: str = "error") -> Labelled:
        """The objects.

        size_of: gives (H, W) by the image's name and by what the file says;
            may raise UserError.
        overlaps: where objects overlap: error, or the first or the smallest
            has the pixels.
        """
        with read.explained(self.file):
            if self.said is None:
                return self.draw((0, 0), overlaps)
            shape = size_of(self.image, self.said)
            read.check_pixels(self.file, shape[0] * shape[1])
            return self.draw(shape, overlaps)


def read_all(path: pathlib.Path) -> list[Source]:
    """What is in a file, or in the folder of an OME-Zarr: an entry an image."""
    name = str(path)
    with read.explained(name):
        if slide_zarr.is_zarr(path):
            return [_mask(path, functools.partial(_of_zarr, path))]
        content = path.read_bytes()
        suffix = path.suffix.lower()
        if rois.may_be_in(content) or suffix in (".csv", ".json", ".geojson"):
            return _outlined(path, content)
        if suffix == arrays.SUFFIX:
            decode = functools.partial(arrays.read_labels, content, name=name)
        else:
            decode = functools.partial(_of_image, content, name)
        return [_mask(path, decode)]


def outlines(name: str, content: bytes) -> list[Source]:
    """What is drawn in a file of `OUTLINES`, an entry an image.

    None of a table that has no run lengths, and of a zip without ROIs. Raises
    ImageError.
    """
    path = pathlib.PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix == ".csv" and not runs.are_in(content):
        return []
    if suffix == ".zip" and not rois.are_zipped(content):
        return []
    with read.explained(name):
        return _outlined(path, content)


def _outlined(path: pathlib.PurePath, content: bytes) -> list[Source]:
    name = str(path)
    if rois.may_be_in(content):
        objects = rois.objects(content, name)
        image = path.stem.removesuffix("_rois")
        return [_drawn(name, image, (0, 0), objects, image != path.stem)]
    if path.suffix.lower() == ".csv":
        return [
            _drawn(name, image, (0, 0), objects)
            for image, objects in runs.objects(content, name).items()
        ]
    return _from_json(path, content)


def stem_of(image: str) -> str:
    """The name of an image without the suffix that image files have.

    A dot may stand in a name: of 0.5mM_a nothing is cut.
    """
    path = pathlib.PurePosixPath(image)
    return path.stem if path.suffix.lower() in read.SUFFIXES else image


def _drawn(
    file: str,
    image: str,
    said: Size,
    objects: Sequence[Object],
    named: bool = True,
) -> Source:
    def draw(shape: Size, overlaps: str) -> Labelled:
        return _painted(image, objects, shape, overlaps, file)

    return Source(file, image, said, draw, named, objects)


def _mask(path: pathlib.Path, decode: Callable[[], np.ndarray]) -> Source:
    image = path.stem.removesuffix("_labels").removesuffix("_classes")

    def draw(shape: Size, overlaps: str) -> Labelled:
        return _from_mask(image, decode(), str(path))

    return Source(str(path), image, None, draw, image != path.stem)


def _of_zarr(path: pathlib.Path) -> np.ndarray:
    with slide.open_slide(path) as opened:
        read.check_pixels(str(path), opened.shape[0] * opened.shape[1])
        return opened.rows(0, opened.shape[0])[..., 0].astype(np.int64)


def _of_image(content: bytes, name: str) -> np.ndarray:
    if read.read_header(content, name=name).lossy:
        raise images.ImageError(
            f"{name}: object ids in a JPEG, which changes them; save PNG or "
            "TIFF"
        )
    return read.read_mask(content, name=name)


def _from_mask(image: str, mask: np.ndarray, name: str) -> Labelled:
    """Ids are kept; of 0 and 1, or 0 and 255, the components are numbered."""
    highest = int(mask.max(initial=0))
    try:
        if highest == 1 or (highest == 255 and not np.any(mask % 255)):
            foreground = (mask > 0).astype(np.uint8)
            labels = masks.interpret(foreground, 2, lossy=False).labels
            ids = np.unique(labels)
        else:
            labels = masks.instances(mask, lossy=False).labels
            ids = np.unique(mask)
    except masks.MaskError as error:
        what = str(error).partition("; ")[0]
        raise images.ImageError(
            f"{name}: no label image ({what}); give one with an id an object"
        ) from error
    ids = ids[ids > 0].astype(np.int64)
    return Labelled(image, labels, ["object"] * len(ids), ids)


def _from_json(path: pathlib.PurePath, content: bytes) -> list[Source]:
    name = str(path)
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        detail = " ".join(str(error).split())[:80]
        raise images.ImageError(
            f"{name}: not JSON ({detail}); save it again"
        ) from error
    if isinstance(found, dict) and "shapes" in found:
        return [_from_labelme(path, content)]
    if isinstance(found, dict) and "annotations" in found:
        return [
            _drawn(name, image.rpartition("/")[2], said, objects)._replace(
                path=image
            )
            for image, said, objects in coco.images(found, name)
        ]
    objects = geojson.objects(found, name)
    return [_drawn(name, path.stem, (0, 0), objects, named=False)]


def _from_labelme(path: pathlib.PurePath, content: bytes) -> Source:
    try:
        annotation = labelme.parse(content)
    except labelme.FormError as error:
        raise images.ImageError(f"{path}: {error}") from error
    image = annotation.image_path.replace("\\", "/").rpartition("/")[2]
    image = image or path.stem
    names = sorted({shape.label for shape in annotation.shapes})
    names = [name for name in names if name not in labelme.SPECIAL]
    check_classes(names, str(path))
    ids = labelme.SPECIAL | {name: i for i, name in enumerate(names, 1)}

    def draw(shape: Size, overlaps: str) -> Labelled:
        truth, wrong = labelme.truth(annotation, shape, ids, overlaps)
        if wrong:
            raise images.ImageError(f"{path}: {wrong[0]}")
        found, at = np.unique(truth.labels, return_index=True)
        kinds = truth.classes.ravel()[at[found > 0]]
        of = [names[k - 1] for k in kinds]
        return Labelled(image, truth.labels, of, np.arange(1, len(of) + 1))

    return Source(str(path), image, annotation.size, draw)


def check_classes(names: Iterable[str], where: str) -> None:
    """Raises ImageError for more classes than a byte has."""
    if (n := len(set(names))) >= masks.UNKNOWN:
        raise images.ImageError(
            f"{where}: {n} classes, at most {masks.UNKNOWN - 1} are told "
            "apart; give objects of one kind one name"
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
            raise images.ImageError(f"{name}: {one.where}: {EMPTY}")
        regions.append(region)
    merged = masks.merge(regions, shape, overlaps)
    if merged.overlap_px and overlaps == "error":
        raise images.ImageError(
            f"{name}: {_overlapping(objects, regions, shape)} overlap; mend "
            "them, or give --overlaps=first or smallest"
        )
    names = [objects[i].name for i in merged.regions]
    return Labelled(image, merged.labels, names, np.arange(1, len(names) + 1))


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
