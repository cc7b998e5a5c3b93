"""An image with its masks: read together, checked together.

`examine` finds all that is wrong with a pair, and its record where nothing is;
`load` is the same for those who want the record, or the first defect as an
error. So what `seg verify` lists is exactly what training would refuse.
"""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from seg import config as config_lib
from seg import images
from seg.data import annotations, arrays, files, labelme, masks
from seg.images import read

# what names say of the bytes: the ending of a file, and how it must begin
_MAGIC = {
    ".png": (b"\x89PNG",),
    ".jpg": (b"\xff\xd8",),
    ".jpeg": (b"\xff\xd8",),
    ".bmp": (b"BM",),
    ".tif": (b"II", b"MM"),
    ".tiff": (b"II", b"MM"),
    ".webp": (b"RIFF",),
}


class Defect(NamedTuple):
    """One thing that is wrong: in which file, what, and what to do."""

    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; {self.remedy}"


class Pair(NamedTuple):
    """An image and its mask files, by their names in the tree.

    kind: "objects", a file an object; "ids", object ids; "values", whatever
        the values say (see `masks`); "labelme", a JSON file, which is the
        image as well where that is embedded; "outlines", what `drawn` has.
    split: as published, "" where nothing is.
    """

    id: str
    image: str
    masks: tuple[str, ...]
    kind: str
    split: str = ""
    drawn: annotations.Source | None = None

    @property
    def embedded(self) -> bool:
        """Whether the image lies in the file of its masks."""
        return self.image in self.masks


def image_bytes(tree: files.Tree, pair: Pair) -> bytes:
    """The file of the image, also where it is embedded in another.

    Raises ImageError.
    """
    content = tree.read(pair.image)
    if not pair.embedded:
        return content
    try:
        return labelme.parse(content).image
    except labelme.FormError as error:
        raise images.ImageError(f"{pair.image}: {error}") from error


def read_image(tree: files.Tree, pair: Pair) -> np.ndarray:
    """The image as stored, [H, W, C]. Raises ImageError."""
    return read.read_image(image_bytes(tree, pair), name=pair.image)


def image_shape(tree: files.Tree, pair: Pair) -> tuple[int, int]:
    """(H, W) of the image, which is not decoded. Raises ImageError."""
    content = image_bytes(tree, pair)
    return read.read_header(content, name=pair.image).shape


def mark(tree: files.Tree, pair: Pair) -> tuple[int, int]:
    """Bytes and CRC-32 of the image: equal for equal images."""
    if not pair.embedded:
        return tree.size(pair.image), tree.crc(pair.image)
    content = image_bytes(tree, pair)
    return len(content), zlib.crc32(content)


def load(
    tree: files.Tree, pair: Pair, config: config_lib.Config
) -> dict[str, Any]:
    """`image` [H, W, C] with C = model.in_channels, and `masks.Truth`'s.

    Raises ImageError for the first defect.
    """
    record, defects = examine(tree, pair, config)
    if record is None:
        raise images.ImageError(str(defects[0]))
    return record


def examine(
    tree: files.Tree, pair: Pair, config: config_lib.Config
) -> tuple[dict[str, Any] | None, list[Defect]]:
    """The record of a pair, None if there are defects, and all defects."""
    defects: list[Defect] = []
    image = _image(tree, pair, defects)
    drawn = pair.kind in ("labelme", "outlines")
    found = [] if drawn else _masks(tree, pair, defects)
    if image is None:
        return None, defects
    for mask in found:
        defects += _misfits(image, mask)
    pixels = image.pixels
    try:
        pixels = read.as_channels(pixels, config.model.in_channels)
    except images.ImageError as error:
        defects.append(defect(pair.image, error))
    shape = pixels.shape[:2]
    if drawn:
        truth = _annotated(tree, pair, shape, config, defects)
    elif not defects:
        truth = _truth(pair, found, shape, config, defects)
    if defects:
        return None, defects
    return {"image": pixels, **truth._asdict()}, []


class _File(NamedTuple):
    name: str
    pixels: np.ndarray
    lossy: bool
    orientation: int


def _image(tree: files.Tree, pair: Pair, defects: list[Defect]) -> _File | None:
    """The image, None where it cannot be read; adds to the defects."""
    try:
        content = image_bytes(tree, pair)
        found = _decoded(pair.image, content, read.read_image)
    except images.ImageError as error:
        defects.append(defect(pair.image, error))
        return None
    defects += _misnamed(pair.image, content)
    return found


def _masks(tree: files.Tree, pair: Pair, defects: list[Defect]) -> list[_File]:
    """Those masks that can be read; adds to the defects."""
    found = []
    for name in pair.masks:
        try:
            content = tree.read(name)
            if name.lower().endswith(arrays.SUFFIX):
                labels = arrays.read_labels(content, name=name)
                found.append(_File(name, labels, False, 1))
                continue
            found.append(_decoded(name, content, read.read_mask))
        except images.ImageError as error:
            defects.append(defect(name, error))
            continue
        defects += _misnamed(name, content)
    return found


def _decoded(
    name: str, content: bytes, decode: Callable[..., np.ndarray]
) -> _File:
    header = read.read_header(content, name=name)
    pixels = decode(content, name=name)
    return _File(name, pixels, header.lossy, header.orientation)


def _misnamed(name: str, content: bytes) -> Iterator[Defect]:
    ending = name[name.rfind(".") :].lower()
    if not content.startswith(_MAGIC.get(ending, b"")):
        (true, *_) = (k for k in _MAGIC if content.startswith(_MAGIC[k]))
        yield Defect(name, f"its contents are {true}", "rename or convert it")


def _misfits(image: _File, mask: _File) -> Iterator[Defect]:
    of_image, of_mask = image.pixels.shape[:2], mask.pixels.shape
    if of_image != of_mask:
        yield Defect(
            mask.name,
            f"{of_mask[0]}x{of_mask[1]} px, its image {image.name} has "
            f"{of_image[0]}x{of_image[1]}",
            "save both in one size, nothing is resized here",
        )
    if image.orientation != mask.orientation:
        # some programs draw masks on the turned image, some on the stored one
        yield Defect(
            image.name,
            f"turned by EXIF (orientation {image.orientation}), its mask "
            f"{mask.name} is not (orientation {mask.orientation})",
            "save both upright, without the tag",
        )


def _truth(
    pair: Pair,
    found: list[_File],
    shape: tuple[int, int],
    config: config_lib.Config,
    defects: list[Defect],
) -> masks.Truth | None:
    if pair.kind == "objects":
        return _objects(pair, found, shape, config.data.overlaps, defects)
    (mask,) = found
    try:
        if pair.kind == "ids":
            return masks.instances(mask.pixels, lossy=mask.lossy)
        n_classes = len(config.classes)
        return masks.interpret(mask.pixels, n_classes, lossy=mask.lossy)
    except masks.MaskError as error:
        defects.append(defect(mask.name, error))
        return None


def _annotated(
    tree: files.Tree,
    pair: Pair,
    shape: tuple[int, int],
    config: config_lib.Config,
    defects: list[Defect],
) -> masks.Truth | None:
    """What is drawn on the image; None where it cannot be read."""
    (name,) = pair.masks
    if pair.drawn:
        size, draw = pair.drawn.said, pair.drawn.truth
    else:
        try:
            annotation = labelme.parse(tree.read(name))
        except (labelme.FormError, images.ImageError) as error:
            defects.append(defect(name, error))
            return None
        size = annotation.size
        draw = functools.partial(labelme.truth, annotation)
    if any(
        said not in (0, side) for said, side in zip(size, shape, strict=True)
    ):
        defects.append(
            Defect(
                name,
                "drawn on an image of {}x{} px, ".format(*size)
                + f"{pair.image} has {shape[0]}x{shape[1]}",
                "annotate this image, nothing is resized here",
            )
        )
        return None
    names = labelme.classes_of(config)
    truth, wrong = draw(shape, names, config.data.overlaps)
    defects += [defect(name, ValueError(line)) for line in wrong]
    return truth


def _objects(
    pair: Pair,
    found: list[_File],
    shape: tuple[int, int],
    policy: str,
    defects: list[Defect],
) -> masks.Truth:
    regions = []
    for mask in found:
        try:
            regions.append(masks.single(mask.pixels, lossy=mask.lossy))
        except masks.MaskError as error:
            defects.append(defect(mask.name, error))
    merged = masks.merge(regions, shape, policy)
    if merged.overlap_px and policy == "error":
        defects.append(
            Defect(
                pair.image,
                f"masks of its objects overlap in {merged.overlap_px} px",
                "mend them, or set data.overlaps to first or smallest",
            )
        )
    return masks.from_ids(merged.labels)._replace(overlap_px=merged.overlap_px)


def defect(name: str, error: Exception) -> Defect:
    """Takes the message "name: what; remedy" apart."""
    text = str(error).removeprefix(f"{name}: ")
    what, _, remedy = text.rpartition("; ")
    return Defect(name, what or text, remedy if what else "replace the file")
