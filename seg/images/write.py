"""Results to files, whole or not at all, and pictures of results.

Every file is written under a temporary name in its folder and renamed when it
is complete, so that a killed or failed process leaves the old file or none.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage, special

from seg import config

# Colours of the classes 1, 2, ...: bright on grey as on stained images, told
# apart by the colour-blind, and none of them a colour of common stains.
COLOURS = np.array(
    [
        (255, 225, 25),
        (0, 220, 255),
        (255, 80, 200),
        (120, 255, 60),
        (255, 140, 0),
        (150, 130, 255),
        (255, 255, 255),
        (255, 60, 60),
    ],
    np.uint8,
)
_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space, or write elsewhere",
    errno.EDQUOT: "your disk quota is used up; free some space",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EEXIST: "a part of the path is a file; choose another folder",
    errno.EISDIR: "it is a folder; choose another name",
    errno.ENOTEMPTY: "it is a folder; choose another name",
}


class WriteError(config.UserError):
    """A result cannot be written: the place is at fault, not the image."""


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path that becomes `path` if the block succeeds.

    The temporary path lies in the same folder, which is made if missing, and
    has the same suffix; write a file or a folder there. Whatever stood at
    `path` is replaced in one step (a folder is replaced only if empty). If
    the block fails, the temporary file goes and `path` is as before.

    Raises WriteError where the folder cannot be written, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _REMEDIES or _elsewhere(error, temporary):
            raise
        raise WriteError(
            f"cannot write {path}: {_REMEDIES[error.errno]}"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def _elsewhere(error: OSError, temporary: pathlib.Path) -> bool:
    """Whether an error names a file that has nothing to do with the result."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    named = pathlib.Path(error.filename)
    return named not in temporary.parents and not (
        named == temporary or temporary in named.parents
    )


def write_labels(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    pixel_size: tuple[float, float] | None = None,
) -> None:
    """Writes instance ids [H, W] as TIFF, uint16, or uint32 where needed.

    pixel_size: here and below (row, column) in micrometres, None = not known.
    """
    largest = int(labels.max(initial=0))
    kind = np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32
    _write_tiff(path, labels.astype(kind), "YX", pixel_size)


def write_classes(path: str | os.PathLike[str], classes: np.ndarray) -> None:
    """Writes class ids [H, W] as an 8-bit grey PNG, the ids as they are."""
    write_png(path, classes.astype(np.uint8))


def write_probabilities(
    path: str | os.PathLike[str],
    probabilities: np.ndarray,
    pixel_size: tuple[float, float] | None = None,
) -> None:
    """Writes [H, W, K] as float32 TIFF, one page a class (axes CYX)."""
    pages = np.moveaxis(probabilities, -1, 0).astype(np.float32)
    _write_tiff(path, pages, "CYX", pixel_size)


def write_uncertainty(
    path: str | os.PathLike[str],
    probabilities: np.ndarray,
    pixel_size: tuple[float, float] | None = None,
) -> None:
    """Writes `uncertainty` of [H, W, K] as float32 TIFF [H, W]."""
    _write_tiff(path, uncertainty(probabilities), "YX", pixel_size)


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of the class of each pixel, share of the most: float32 [H, W].

    probabilities: [H, W, K]; K = 1 is one sigmoid. Of a mean over views or
    models, it is that of all of them together.
    """
    p = probabilities
    if p.shape[-1] == 1:
        p = np.concatenate([1 - p, p], -1)
    found = special.entr(np.clip(p, 0, 1)).sum(-1) / np.log(p.shape[-1])
    return np.minimum(found, 1).astype(np.float32)


def resolution(pixel_size: tuple[float, float] | None) -> dict[str, Any]:
    """The size of a pixel as options of tifffile: pixels a centimetre.

    Fiji shows it in micrometres, and `about` reads it back.
    """
    if pixel_size is None:
        return {}
    row, col = pixel_size
    return {
        "resolution": (1e4 / col, 1e4 / row),
        "resolutionunit": "CENTIMETER",
    }


def _write_tiff(
    path: str | os.PathLike[str],
    array: np.ndarray,
    axes: str,
    pixel_size: tuple[float, float] | None,
) -> None:
    with whole(path) as temporary:
        tifffile.imwrite(
            temporary,
            array,
            compression="zlib",
            photometric="minisblack",
            metadata={"axes": axes},
            **resolution(pixel_size),
        )


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON values."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes uint8 [H, W] or [H, W, 3] as PNG."""
    with whole(path) as temporary:
        # level 2 takes a third of the time of 6, for an eighth more bytes
        Image.fromarray(image).save(temporary, format="PNG", compress_level=2)


def display(image: np.ndarray) -> np.ndarray:
    """An image as it is best looked at: uint8 [H, W, 3].

    Colour in uint8 stays as it is; all else is stretched, channel by channel,
    from its percentile 0.2 to its percentile 99.9, and brightened if it is
    mostly dark, as fluorescence is. Two channels become green and magenta; of
    more than three the first three are shown.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[-1] == 3 and (image == image[..., :1]).all():
        image = image[..., :1]
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return image.copy()
    stretched = [_stretch(channel) for channel in np.moveaxis(image, -1, 0)]
    if len(stretched) == 1:
        stretched *= 3
    elif len(stretched) == 2:
        stretched = [stretched[1], stretched[0], stretched[1]]
    return np.stack(stretched[:3], axis=-1)


def _stretch(channel: np.ndarray) -> np.ndarray:
    # a sample is enough for percentiles, and 30 times faster at 4096 px
    step = max(1, int((channel.size / 250_000) ** 0.5))
    low, middle, high = np.percentile(channel[::step, ::step], (0.2, 50, 99.9))
    spread = max(high - low, 1e-6)
    dark = middle - low < 0.2 * spread
    integers = channel.dtype in (np.uint8, np.uint16)
    # one table for all values is 5 times faster than all pixels in float
    values = np.arange(np.iinfo(channel.dtype).max + 1) if integers else channel
    scaled = np.clip((values.astype(np.float32) - low) / spread, 0, 1)
    shown = (scaled ** (0.7 if dark else 1) * 255 + 0.5).astype(np.uint8)
    return shown[channel] if integers else shown


def thickness(shape: tuple[int, ...]) -> int:
    """Pixels of a line that is seen when the whole image fills a screen."""
    return max(1, round(max(shape[:2]) / 1000))


def outlines(labels: np.ndarray, width: int) -> np.ndarray:
    """The ids of the objects [H, W] along their outlines, 0 elsewhere.

    A line of `width` pixels runs half inside its object, half on the
    background around it; it never covers another object, so touching objects
    show two lines. The border of the image is not a border of an object.
    """
    inside, outside = (width + 1) // 2, width // 2
    size = 2 * inside + 1
    edge = ndimage.maximum_filter(labels, size=size, mode="nearest") != labels
    edge |= ndimage.minimum_filter(labels, size=size, mode="nearest") != labels
    lines = np.where(edge, labels, 0)
    if outside:
        size = 2 * outside + 1
        grown = ndimage.maximum_filter(labels, size=size, mode="nearest")
        lines = np.where(labels == 0, grown, lines)
    return lines


def object_colours(n: int) -> np.ndarray:
    """uint8 [n + 1, 3]: colours by id; neighbouring ids differ strongly."""
    # the golden ratio spreads the hues; from magenta (-60 degrees) by red and
    # green to azure (200), as blue and violet are lost on black and in stains
    hue = (np.arange(n + 1) * 0.618033988749895 % 1.0 * 260 - 60) / 360
    offsets = np.array([0.0, 2 / 3, 1 / 3])
    wheel = np.abs(((hue[:, None] + offsets) % 1.0) * 6 - 3) - 1
    colours = 1 - 0.8 * (1 - np.clip(wheel, 0, 1))
    return (colours * 255).astype(np.uint8)


def overlay(
    image: np.ndarray, labels: np.ndarray, classes: np.ndarray | None = None
) -> np.ndarray:
    """The image with every object outlined, uint8 [H, W, 3].

    Args:
      image: [H, W, C] or [H, W].
      labels: instance ids [H, W], 0 background.
      classes: class ids [H, W]; the line takes the colour of the class. None:
        every object has a colour of its own.
    """
    canvas = display(image)
    areas = np.bincount(labels.ravel())
    found = areas[1:][areas[1:] > 0]
    if not found.size:
        return canvas
    # a line that is wide for the screen must not hide what it surrounds
    widest = max(1, int(np.median(found) ** 0.5 / 8))
    lines = outlines(labels, min(thickness(labels.shape), widest))
    drawn = lines > 0
    if classes is None:
        colours = object_colours(len(areas))
    else:
        colours = _class_colours(labels, classes)
    canvas[drawn] = colours[lines[drawn]]
    return canvas


def _class_colours(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The colour of each id by the class of its pixels, uint8 [N + 1, 3]."""
    kinds = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    kinds[labels.ravel()] = classes.ravel()
    return COLOURS[(np.maximum(kinds, 1) - 1) % len(COLOURS)]


def boxes(
    image: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
    rows: Iterable[Mapping[str, Any]],
) -> np.ndarray:
    """The image with the box and the id of every row, uint8 [H, W, 3].

    Rows are those of `formats.FIELDS`; classes have the colours of `overlay`.
    """
    picture = Image.fromarray(display(image))
    draw = ImageDraw.Draw(picture)
    width = thickness(image.shape)
    font = ImageFont.load_default(size=10 + 2 * width)
    colours = _class_colours(labels, classes).tolist()
    for row in rows:
        colour = tuple(colours[row["label"]])
        box = (
            row["bbox_col0"],
            row["bbox_row0"],
            row["bbox_col1"] - 1,
            row["bbox_row1"] - 1,
        )
        draw.text(
            (box[0] + width + 1, box[1] + width),
            str(row["label"]),
            fill=colour,
            font=font,
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )
        draw.rectangle(box, outline=colour, width=width)
    return np.asarray(picture)


def crops(
    image: np.ndarray, rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, the pixels of its box [h, w, C]) for every row.

    A name is `<class>_<label>`, fit for a file; the pixels are a view.
    """
    for row in rows:
        box = image[
            row["bbox_row0"] : row["bbox_row1"],
            row["bbox_col0"] : row["bbox_col1"],
        ]
        kind = re.sub(r"[^\w-]+", "_", str(row["class"]))
        yield f"{kind}_{row['label']:05d}", box


def write_crops(
    folder: str | os.PathLike[str],
    image: np.ndarray,
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """Writes what is in the box of every row as a PNG of its own.

    All are shown as in the whole image, so that they can be compared. An
    older folder is replaced.
    """
    folder = pathlib.Path(folder)
    shown = display(image)
    with whole(folder) as temporary:
        temporary.mkdir()
        for name, crop in crops(shown, rows):
            write_png(temporary / f"{name}.png", crop)
        if folder.is_dir():
            shutil.rmtree(folder)
