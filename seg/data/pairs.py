"""An image with its masks: read together, checked together.

`examine` finds all that is wrong with a pair, and its record where nothing is;
`load` is the same for those who want the record, or the first defect as an
error. So what `seg verify` lists is exactly what training would refuse.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from seg import config as config_lib
from seg import images
from seg.data import files, masks
from seg.images import read

# what names say of the bytes: the ending of a file, and how it must begin
_MAGIC = {
    ".png": (b"\x89PNG",),
    ".jpg": (b"\xff\xd8",),
    ".jpeg": (b"\xff\xd8",),
    ".bmp": (b"BM",),
    ".tif": (b"II", b"MM"),
    ".tiff": (b"II", b"MM"),
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
        the values say (see `masks`).
    split: as published, "" where nothing is.
    """

    id: str
    image: str
    masks: tuple[str, ...]
    kind: str
    split: str = ""


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
    image = _read(tree, pair.image, read.read_image, defects)
    found = [
        mask
        for name in pair.masks
        if (mask := _read(tree, name, read.read_mask, defects)) is not None
    ]
    if image is None:
        return None, defects
    for mask in found:
        defects += _misfits(image, mask)
    pixels = image.pixels
    try:
        pixels = read.as_channels(pixels, config.model.in_channels)
    except images.ImageError as error:
        defects.append(_defect(pair.image, error))
    if defects:
        return None, defects
    truth = _truth(pair, found, pixels.shape[:2], config, defects)
    if truth is None or defects:
        return None, defects
    return {"image": pixels, **truth._asdict()}, []


class _File(NamedTuple):
    name: str
    pixels: np.ndarray
    lossy: bool
    orientation: int


def _read(
    tree: files.Tree,
    name: str,
    decode: Callable[..., np.ndarray],
    defects: list[Defect],
) -> _File | None:
    """The file, None where it cannot be read; adds to the defects."""
    try:
        content = tree.read(name)
        header = read.read_header(content, name=name)
        pixels = decode(content, name=name)
    except images.ImageError as error:
        defects.append(_defect(name, error))
        return None
    ending = name[name.rfind(".") :].lower()
    if not content.startswith(_MAGIC.get(ending, b"")):
        (true, *_) = (k for k in _MAGIC if content.startswith(_MAGIC[k]))
        defects.append(
            Defect(name, f"its contents are {true}", "rename or convert it")
        )
    return _File(name, pixels, header.lossy, header.orientation)


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
    shape: tuple[int, ...],
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
        defects.append(_defect(mask.name, error))
        return None


def _objects(
    pair: Pair,
    found: list[_File],
    shape: tuple[int, ...],
    policy: str,
    defects: list[Defect],
) -> masks.Truth:
    regions = []
    for mask in found:
        try:
            regions.append(masks.single(mask.pixels, lossy=mask.lossy))
        except masks.MaskError as error:
            defects.append(_defect(mask.name, error))
    merged = masks.merge(regions, shape[:2], policy)
    if merged.overlap_px and policy == "error":
        defects.append(
            Defect(
                pair.image,
                f"masks of its objects overlap in {merged.overlap_px} px",
                "mend them, or set data.overlaps to first or smallest",
            )
        )
    return masks.from_ids(merged.labels)._replace(overlap_px=merged.overlap_px)


def _defect(name: str, error: ValueError) -> Defect:
    """Takes the message "name: what; remedy" apart."""
    text = str(error).removeprefix(f"{name}: ")
    what, _, remedy = text.rpartition("; ")
    return Defect(name, what or text, remedy if what else "replace the file")
