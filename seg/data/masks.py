"""What the numbers of a mask file mean: classes and objects.

`interpret` decides for each mask by its values and by `n`, the number of
classes with the background (`len(config.classes)`). With more than two, values
are always class ids, never objects; only with two are there object ids:

| values | n = 2 | n > 2 |
|---|---|---|
| 0 and 255 (or noise around them, as JPEG makes) | 255 is class 1 | error |
| up to n - 1 | class ids | class ids |
| these and 255, in 8 bits | 255 = not annotated | 255 = not annotated |
| others | object ids, if hardly any object is in pieces | error |

Whether two objects with the ids 1 and 2 are meant, or two classes, no mask can
say: name as many classes as the masks have. Colours are no values: the indices
of a palette are the ids, other colours are refused by `images.read`.

Class ids say nothing of objects: the objects are then the connected regions of
a class, diagonal steps included. Where a value could mean two things, it is an
error that says which, never a guess.

`instances` takes all values for object ids, because the layout says so, and
refuses those that cannot be any: negative ones, those of a JPEG, and masks of
classes, which would become one object a class.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

UNKNOWN = 255  # the class of pixels that are not annotated
_LOW, _HIGH = 64, 191  # noise on 0 and on 255 stays outside of these
# Regions to an id, on average, beyond which they are no ids: those of tracked
# cells, with all their specks, have 1.3.
_PIECES = 3


class Truth(NamedTuple):
    """classes uint8 [H, W], 255 not annotated; labels int32 [H, W].

    overlap_px: pixels in the masks of several objects, which one of them got.
    """

    classes: np.ndarray
    labels: np.ndarray
    overlap_px: int = 0


class MaskError(ValueError):
    """A mask that could mean two things, or nothing: "what; remedy"."""


def interpret(mask: np.ndarray, n_classes: int, *, lossy: bool) -> Truth:
    """Classes and objects of a mask [H, W] of integers.

    lossy: the file is a JPEG, its values are near what was meant.

    Raises MaskError.
    """
    values = np.unique(mask)
    if values.size == 0 or values[0] < 0:
        raise MaskError("negative values; save ids from 0")
    if lossy or _is_noisy(mask):
        return _from_classes(_denoised(mask, n_classes))
    if set(values.tolist()) <= {0, 255} and values[-1] == 255:
        if n_classes > 2:
            raise MaskError(
                f"only 0 and 255, but there are {n_classes} classes; save "
                "class ids"
            )
        return _from_classes((mask == 255).astype(np.uint8))
    known = values[values != 255] if mask.dtype.itemsize == 1 else values
    if known.max(initial=0) < n_classes:
        return _from_classes(mask.astype(np.uint8))
    if n_classes > 2:
        raise MaskError(
            f"the value {known.max()}, but there are {n_classes} classes; "
            "save class ids below that, or name all classes"
        )
    _check_ids(mask, values)
    return from_ids(mask)


def instances(mask: np.ndarray, *, lossy: bool) -> Truth:
    """Classes and objects of a mask [H, W] whose values are object ids.

    Raises MaskError where they cannot be.
    """
    if lossy:
        raise MaskError(
            "object ids in a JPEG, which changes them; save ids as PNG or "
            "TIFF, or set data.layout=folders if it is black and white"
        )
    values = np.unique(mask)
    if values[0] < 0:
        raise MaskError("negative values; save ids from 0")
    ids = values[values > 0]
    n_regions = _n_regions(mask)
    # an only object may have any id, be it 255, and a piece apart; but 0 and
    # 255 with several regions is how a single class is saved
    only_255 = ids.tolist() == [255]
    if n_regions > (1 if only_255 else _PIECES * len(ids)):
        what = "0 and 255" if only_255 else f"{len(ids)} values besides 0"
        raise MaskError(
            f"{what} in {n_regions} regions are classes, not object ids; set "
            "data.layout=folders, or save each object with an id of its own"
        )
    return from_ids(mask)


def from_ids(mask: np.ndarray) -> Truth:
    """Classes and objects of a mask of object ids, all of class 1."""
    return Truth((mask > 0).astype(np.uint8), sequential(mask))


class Region(NamedTuple):
    """One object: the upper left corner of its box, and bool [h, w] in it."""

    row: int
    col: int
    inside: np.ndarray


def single(mask: np.ndarray, *, lossy: bool) -> Region:
    """The object of a mask of one: 0 and one other value, or noisy.

    Raises MaskError.
    """
    region = _cropped(_denoised(mask, 2) if lossy else mask)
    found = region.inside[region.inside != 0]
    if found.size and found.min() != found.max():
        if not _is_noisy(mask):
            some = ", ".join(map(str, np.unique(found)[:4]))
            raise MaskError(
                f"several values ({some} ...) in the mask of one object; save "
                "it as 0 and 255"
            )
        region = _cropped(_denoised(mask, 2))
    return region._replace(inside=region.inside != 0)


def _cropped(mask: np.ndarray) -> Region:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return Region(0, 0, mask[:0, :0])
    box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return Region(int(rows[0]), int(cols[0]), box)


class Merged(NamedTuple):
    """labels int32 [H, W]; the pixels that lie in several masks.

    regions: int [N], the position of the region that label i + 1 is of.
    """

    labels: np.ndarray
    overlap_px: int
    regions: np.ndarray


def merge(
    regions: Sequence[Region], shape: tuple[int, int], policy: str
) -> Merged:
    """One label image of single objects.

    policy: where objects overlap, the "smallest" takes the pixels; else the
        first keeps them.
    """
    order = list(range(len(regions)))
    if policy == "smallest":
        order.sort(key=lambda i: np.count_nonzero(regions[i].inside))
    labels = np.zeros(shape, np.int32)
    shared = np.zeros(shape, bool)
    for i in order:
        row, col, inside = regions[i]
        box = np.s_[row : row + inside.shape[0], col : col + inside.shape[1]]
        shared[box] |= inside & (labels[box] > 0)
        labels[box][inside & (labels[box] == 0)] = i + 1
    left = np.flatnonzero(np.bincount(labels.ravel())[1:])
    return Merged(sequential(labels), int(np.count_nonzero(shared)), left)


def painted(
    drawn: Sequence[tuple[int, Region]], shape: tuple[int, int], policy: str
) -> tuple[Truth, list[str]]:
    """One image of (class, region), and what is wrong: "what; remedy".

    Background and what is ignored are on top of all objects, whatever the
    order. policy: data.overlaps.
    """
    objects = [(k, region) for k, region in drawn if 0 < k < UNKNOWN]
    merged = merge([region for _, region in objects], shape, policy)
    wrong = []
    if merged.overlap_px and policy == "error":
        wrong.append(
            f"its objects overlap in {merged.overlap_px} px; mend them, or "
            "set data.overlaps to first or smallest"
        )
    labels = merged.labels
    of_region = np.array([k for k, _ in objects], np.uint8)
    classes = np.append(np.uint8(0), of_region[merged.regions])[labels]
    for k, (row, col, inside) in drawn:
        if k in (0, UNKNOWN):
            box = np.s_[row : row + len(inside), col : col + inside.shape[1]]
            classes[box][inside] = k
            labels[box][inside] = 0
    return Truth(classes, sequential(labels), merged.overlap_px), wrong


def sequential(labels: np.ndarray) -> np.ndarray:
    """int32 labels 1 .. n without holes, in the order of the ids."""
    largest = int(labels.max(initial=0))
    if largest > 4 * labels.size + 1000:  # sparse ids: too large for a table
        ids, inverse = np.unique(labels, return_inverse=True)
        first = 0 if ids[0] == 0 else 1
        return (inverse.reshape(labels.shape) + first).astype(np.int32)
    present = np.zeros(largest + 1, np.int32)
    present[labels.ravel()] = 1
    present[0] = 0
    return (np.cumsum(present, dtype=np.int32) * present)[labels]


def _from_classes(classes: np.ndarray) -> Truth:
    labels = np.zeros(classes.shape, np.int32)
    n_objects = 0
    for k in np.unique(classes[(classes > 0) & (classes != UNKNOWN)]):
        # with diagonals, as objects are told apart in predictions
        regions, n = ndimage.label(classes == k, np.ones((3, 3), int))
        labels[regions > 0] = regions[regions > 0] + n_objects
        n_objects += n
    return Truth(classes, labels)


def _is_noisy(mask: np.ndarray) -> bool:
    """Whether the values are 0 and 255 with noise, and cannot be ids.

    Ids have no gap of 127 in their middle, but for a lone 255.
    """
    if not _HIGH < mask.max(initial=0) <= 255:
        return False
    counts = np.bincount(mask.ravel(), minlength=256)
    return (
        np.count_nonzero(counts) > 3
        and counts[:_LOW].any()
        and counts[_HIGH + 1 : 255].any()
        and not counts[_LOW : _HIGH + 1].any()
    )


def _denoised(mask: np.ndarray, n_classes: int) -> np.ndarray:
    if n_classes > 2:
        raise MaskError(
            f"a noisy mask (JPEG) for {n_classes} classes; save class ids as "
            "PNG or TIFF"
        )
    # the edges of objects blur in JPEG, but only the edges
    unsure = np.count_nonzero((mask >= _LOW) & (mask <= _HIGH)) / mask.size
    if mask.max() > 255 or unsure > 0.05 or 1 < mask.max() < _LOW:
        raise MaskError(
            "a lossy mask (JPEG) that is not black and white; save it as PNG "
            "or TIFF"
        )
    return (mask >= (128 if mask.max() > 1 else 1)).astype(np.uint8)


def _check_ids(mask: np.ndarray, values: np.ndarray) -> None:
    """Raises MaskError where the values may be something else than ids.

    An object is one region, seldom several; classes and grey levels are many.
    """
    above = values[values > 0]
    n_regions = _n_regions(mask)
    if n_regions > (1.5 * len(above) + 1 if len(above) > 1 else 1):
        raise MaskError(
            f"{len(above)} values up to {above[-1]} in {n_regions} regions, "
            "are they objects?; save each object with an id of its own, a "
            "mask as 0 and 255, or name all classes"
        )
    if mask.dtype.itemsize == 1 and above[-1] == 255 and above[-2] < 200:
        raise MaskError(
            f"ids up to {above[-2]} and 255, an object or not annotated?; "
            "save object ids in 16 bits"
        )


def _n_regions(mask: np.ndarray) -> int:
    """How many connected regions of one value there are, diagonals included."""
    from skimage import measure  # a second to import, and seldom needed

    return int(measure.label(mask, connectivity=2).max())
