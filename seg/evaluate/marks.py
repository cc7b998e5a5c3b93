"""Pictures of what was right, missed and wrong, pixel by pixel.

Label images are int [H, W], 0 background; an object is found if it is matched
at IoU >= 0.5. The three colours are of Okabe and Ito's palette, which the
colour-blind tell apart; they are drawn on the faded, grey image, so that no
colour of a stain is taken for a mark.
"""

from typing import Any

import numpy as np
from PIL import Image

from seg.evaluate import matching
from seg.images import write

RIGHT, MISSED, WRONG = (86, 180, 233), (240, 228, 66), (225, 70, 20)


def truth_overlay(
    image: np.ndarray,
    truth: np.ndarray,
    labels: np.ndarray,
    *,
    side: int | None = None,
) -> np.ndarray:
    """Truth and prediction on the faded image: uint8 [H, W, 3].

    Objects that were found are outlined in RIGHT; true ones that were not are
    filled with MISSED; found ones that are not there are outlined in WRONG.
    So a false merger is seen as several filled objects in one outline. A thin
    fill shows the pixels that are missed or wrong.

    side: scale the picture to this length of its longer side, px.
    """
    pairs = matching.pairs(truth, labels)
    missed_ids = np.setdiff1d(truth, [0, *pairs[:, 0]])
    wrong_ids = np.setdiff1d(labels, [0, *pairs[:, 1]])
    canvas = _faded(picture(image, side))
    truth, labels = (_nearest(x, canvas.shape) for x in (truth, labels))
    missed, wrong = np.isin(truth, missed_ids), np.isin(labels, wrong_ids)
    outside, beside = (labels > 0) & (truth == 0), (truth > 0) & (labels == 0)
    _fill(canvas, missed, MISSED, 0.4)
    _fill(canvas, beside & ~missed, MISSED, 0.3)
    _fill(canvas, outside, WRONG, 0.4)
    _fill(canvas, (labels > 0) & ~wrong & ~missed & ~outside, RIGHT, 0.16)
    width = write.thickness(canvas.shape) + (side is not None)
    for ids, width_of, colour in (
        (np.where(missed, truth, 0), 1, MISSED),
        (np.where(wrong, 0, labels), width, RIGHT),
        (np.where(wrong, labels, 0), width + 1, WRONG),
    ):
        canvas[write.outlines(ids, width_of) > 0] = colour
    return canvas


def class_overlay(
    image: np.ndarray,
    truth: np.ndarray,
    classes: np.ndarray,
    *,
    side: int | None = None,
) -> np.ndarray:
    """The same of class maps [H, W], pixel by pixel, for want of objects.

    A pixel with another class than the true one is WRONG; 255 in the truth is
    not annotated and stays as it is.
    """
    canvas = _faded(picture(image, side))
    truth, classes = (_nearest(x, canvas.shape) for x in (truth, classes))
    known = truth != 255
    missed = known & (truth > 0) & (classes == 0)
    right = known & (classes > 0) & (classes == truth)
    wrong = known & (classes > 0) & (classes != truth)
    for mask, colour in ((right, RIGHT), (missed, MISSED), (wrong, WRONG)):
        _fill(canvas, mask, colour, 0.55)
    return canvas


def objects_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    side: int | None = None,
) -> np.ndarray:
    """Objects tinted and outlined on the image: uint8 [H, W, 3].

    Every object has a colour of its own, or, with `classes` [H, W], that of
    its class as `seg.images.write` gives it.
    """
    canvas = picture(image, side)
    labels = _nearest(labels, canvas.shape)
    kinds, palette = labels, write.object_colours(int(labels.max(initial=0)))
    if classes is not None:
        kinds = _nearest(classes, canvas.shape)
        palette = write.COLOURS[np.arange(-1, 255) % len(write.COLOURS)]
    tint = palette[np.where(labels > 0, kinds, 0)]
    _fill(canvas, labels > 0, tint[labels > 0], 0.25)
    # lines run inside their objects, where the class is known
    inside = labels > 0
    lines = inside & (write.outlines(labels, 3 if side else 1) > 0)
    canvas[lines] = tint[lines]
    return canvas


def picture(image: np.ndarray, side: int | None = None) -> np.ndarray:
    """An image as it is best looked at, uint8 [H, W, 3], scaled to `side`."""
    shown = write.display(image)
    if side is None:
        return shown
    scale = side / max(shown.shape[:2])
    size = [max(1, round(n * scale)) for n in shown.shape[1::-1]]
    how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return np.array(Image.fromarray(shown).resize(size, how))


def _nearest(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows, cols = (
        ((np.arange(n) + 0.5) * size / n).astype(int)
        for n, size in zip(shape, array.shape, strict=False)
    )
    return array[np.ix_(rows, cols)]


def _faded(shown: np.ndarray) -> np.ndarray:
    grey = np.asarray(Image.fromarray(shown).convert("L"), float) * 0.65
    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)


def _fill(
    canvas: np.ndarray, mask: np.ndarray, colour: Any, strength: float
) -> None:
    mixed = canvas[mask] * (1 - strength) + np.array(colour) * strength
    canvas[mask] = mixed.astype(np.uint8)
