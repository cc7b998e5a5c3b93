"""Probabilities become blobs: separated, filtered, measured objects.

Probabilities are float [H, W, K]: K > 1 channels in the order of the class
names, background first (the largest wins), or K = 1, the probability of the
one foreground class. Every class is closed, separated and filtered on its own;
where closings of two classes meet, a pixel stays with the class it had, and a
background pixel goes to the class that comes first. Coordinates are (row,
column); boxes are half-open, with the margin, clipped to the image.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from seg import config
from seg.images import formats
from seg.predict import measures, objects, shapes

_SURE = 1e-6  # nearer to 0 and 1 all mean probabilities are alike


@dataclasses.dataclass(frozen=True)
class Blobs:
    """The objects of one image.

    labels int32 [H, W], ids 1..N in raster order of the first pixels;
    classes uint8 [H, W], the class of each object's pixels; table, one dict
    for each object in the order of the ids, keyed by the columns of
    `seg.images.formats.FIELDS` but for the image's name.
    """

    labels: np.ndarray
    classes: np.ndarray
    table: list[dict[str, Any]]


def classes_from(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Class of each pixel: uint8 [H, W].

    K = 1: 1 where the probability is above threshold. K > 1: the largest, of
    equal ones the first. Raises UserError where a probability is NaN.
    """
    if np.isnan(probabilities.max()):  # max passes a NaN on
        raise config.UserError(
            "the model gives NaN; its weights are damaged or its training "
            "diverged: use another checkpoint"
        )
    if probabilities.shape[2] == 1:
        return (probabilities[:, :, 0] > threshold).astype(np.uint8)
    return probabilities.argmax(2).astype(np.uint8)


def closing(mask: np.ndarray, side: int) -> np.ndarray:
    """Binary closing of mask [H, W] by a square of this side, px.

    The image is an excerpt of an endless plane that is empty outside, so no
    object shrinks at the border (`scipy.ndimage.binary_closing` takes all but
    256 px of a 30x30 object in a corner with side 29). Five by five and n
    iterations, as others have it, is side 4 n + 1.
    """
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    closed = np.array(mask, bool)
    if side <= 1 or not len(rows):
        return closed
    # the closing of what lies in a box stays in that box
    box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    part = np.pad(closed[box], side - 1)
    for combine in (np.logical_or, np.logical_and):  # dilate, then erode
        for axis in (0, 1):
            part = _windows(combine, part, side, axis)
    closed[box] = part
    return closed


def _windows(
    combine: Callable[..., np.ndarray], mask: np.ndarray, side: int, axis: int
) -> np.ndarray:
    """Element i combines elements i to i + side - 1; side - 1 fewer.

    Windows of doubled width at each pass: 5 passes for 29 px.
    """
    width = 1
    while width < side:
        step = min(width, side - width)
        n = mask.shape[axis] - step
        head, tail = [slice(None)] * 2, [slice(None)] * 2
        head[axis], tail[axis] = slice(n), slice(step, None)
        mask = combine(mask[tuple(head)], mask[tuple(tail)])
        width += step
    return mask


def detect(
    probabilities: np.ndarray,
    image: np.ndarray | None,
    predict: config.Predict,
    class_names: Sequence[str],
    apart: np.ndarray | None = None,
) -> Blobs:
    """Finds and measures the objects of one image.

    image is [H, W, C], as it was read: `mean_intensity` is its mean over the
    object and the channels, NaN without an image. `probability` is the mean
    probability of the object's class, or what predict.calibration makes of it.
    apart [H, W] is what `objects.learned` takes, for predict.separate=learned.
    Raises ConfigError where K, the class
    names and the knobs by class do not fit together, UserError for a NaN.
    """
    n_classes = len(class_names)
    check_names(probabilities.shape[2], class_names)
    if image is not None and image.shape[:2] != probabilities.shape[:2]:
        raise ValueError(
            f"image {image.shape} and probabilities {probabilities.shape} "
            "differ in rows or columns"
        )
    found = _find(probabilities, predict, n_classes, apart)
    runs, wanted = found.runs, found.wanted
    if predict.drop_border:
        wanted[objects.at_border(found.labels)] = False
    ids = runs.ranks(wanted)
    n = ids.max() + 1
    kinds, probability = np.zeros(n, np.uint8), np.zeros(n)
    kinds[ids] = np.where(ids > 0, found.class_of, 0)
    probability[ids] = found.probability
    runs = runs.renamed(ids)
    labels = runs.painted(np.arange(n, dtype=np.int32))
    table = columns(
        measures.of_labels(labels, image, n - 1),
        kinds[1:],
        probability[1:],
        labels.shape,
        predict,
        class_names,
    )
    return Blobs(labels, runs.painted(kinds), list(measures.rows(table)))


def areas(
    probabilities: np.ndarray,
    predict: config.Predict,
    class_names: Sequence[str],
    apart: np.ndarray | None = None,
) -> np.ndarray:
    """Areas of the objects that `detect` finds, px: int64 [N], in no order.

    Those at the border too, whatever predict.drop_border says.
    """
    found = _find(probabilities, predict, len(class_names), apart)
    return found.area[found.wanted & (found.area > 0)]


class _Found(NamedTuple):
    """Objects 1..N of all classes, before those unwanted are dropped."""

    labels: np.ndarray  # int32 [H, W]
    runs: shapes.Runs  # of these: there are far fewer of them than pixels
    class_of: np.ndarray  # uint8 [N + 1]
    area: np.ndarray  # int64 [N + 1], px
    probability: np.ndarray  # mean of their class, float64 [N + 1]
    wanted: np.ndarray  # bool [N + 1]: large and sure enough


def _find(
    probabilities: np.ndarray,
    predict: config.Predict,
    n_classes: int,
    apart: np.ndarray | None,
) -> _Found:
    raw = classes_from(probabilities, predict.threshold)
    least = by_class("predict.min_area", predict.min_area, n_classes)
    labels, class_of = _separate(raw, predict, least, apart)
    runs = shapes.Runs.of(labels)
    area = runs.areas(len(class_of))
    total = sums(runs, class_of, probabilities)
    probability = total / np.maximum(area, 1)
    # once more by area, for what another class took of an object
    wanted = (area >= np.take(least, class_of)) & sure(probability, predict)
    wanted[0] = False
    return _Found(labels, runs, class_of, area, probability, wanted)


def check_names(n_channels: int, class_names: Sequence[str]) -> None:
    """Raises ConfigError where the model does not give these classes."""
    n_classes = max(n_channels, 2)
    if len(class_names) != n_classes:
        raise config.ConfigError(
            f"classes has {len(class_names)} names, the model gives "
            f"{n_classes} classes; list the background first"
        )


def by_class(
    path: str, values: tuple[int, ...], n_classes: int
) -> tuple[int, ...]:
    """The values of a knob by class id; the background's is 0."""
    if len(values) == 1:
        values = values * (n_classes - 1)
    if len(values) != n_classes - 1:
        raise config.ConfigError(
            f"{path}={values}; give one value, or {n_classes - 1}, one for "
            "each foreground class"
        )
    return (0, *values)


def _separate(
    raw: np.ndarray,
    predict: config.Predict,
    least: tuple[int, ...],
    apart: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Objects of all classes: labels int32 [H, W], class by id uint8 [N+1]."""
    labels = np.zeros(raw.shape, np.int32)
    class_of = [np.zeros(1, np.uint8)]
    n_labels = 0
    for k in range(1, len(least)):
        own = raw == k
        mask = closing(own, predict.closing)
        if predict.separate == "watershed":
            found = objects.watershed(
                mask,
                predict.watershed_sigma,
                predict.watershed_distance,
                predict.connectivity,
            )
        elif predict.separate == "learned" and apart is not None:
            found = objects.learned(
                mask, apart, predict.prominence, predict.connectivity
            )
        else:
            found = objects.components(mask, predict.connectivity)
        if predict.gap:
            found = objects.fill_gaps(found, predict.gap)
        if predict.fill_holes:
            found = objects.fill_holes(found)
        n_found = int(found.max())
        if least[k] > 1:
            area = shapes.Runs.of(found).areas(n_found + 1)
            found = objects.keep(found, area >= least[k])
        if n_labels:
            place = (found > 0) & (own | (labels == 0))
            np.add(found, n_labels, out=labels, where=place)
        else:
            labels = found
        n_labels += n_found
        class_of.append(np.full(n_found, k, np.uint8))
    return labels, np.concatenate(class_of)


def sums(
    runs: shapes.Runs, kinds: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """Sum of the probability of its class over each object: float64 [N + 1].

    kinds: the class of each object, uint8 [N + 1]; the background's sum is 0.
    """
    n = len(kinds) - 1
    total = np.zeros(n)
    for k in np.unique(kinds[1:]):
        channel = probabilities[:, :, k if probabilities.shape[2] > 1 else 0]
        total = np.where(kinds[1:] == k, runs.sums(channel, n), total)
    return np.append(0.0, total)


def sure(probability: np.ndarray, predict: config.Predict) -> np.ndarray:
    """Whether objects of these mean probabilities reach the least one."""
    if not predict.min_probability:
        return np.ones(len(probability), bool)
    known = calibrated(probability, predict.calibration)
    return known >= predict.min_probability


def columns(
    found: measures.Measures,
    kinds: np.ndarray,
    probability: np.ndarray,
    shape: tuple[int, int],
    predict: config.Predict,
    class_names: Sequence[str],
) -> dict[str, np.ndarray]:
    """The columns [N] of the table of objects 1..N, in their order.

    kinds: class ids [N]; probability: mean [N]; shape: rows and columns of the
    image.
    """
    margins = by_class("predict.margin", predict.margin, len(class_names))
    margin = np.take(margins, kinds)[:, None]
    table = {
        "label": np.arange(1, len(kinds) + 1),
        "class": np.take(class_names, kinds),
        **measures.columns(found, shape, margin),
        "probability": calibrated(probability, predict.calibration),
    }
    order = dict.fromkeys([*formats.FIELDS, *table])
    return {name: table[name] for name in order if name in table}


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Of mean probabilities, which may be 0 and 1: finite."""
    return special.logit(np.clip(probability, _SURE, 1 - _SURE))


def calibrated(
    probability: np.ndarray, calibration: tuple[float, ...]
) -> np.ndarray:
    """Probabilities of objects of their mean ones; see the knob."""
    if not calibration:
        return probability
    slope, offset = calibration
    return special.expit(slope * log_odds(probability) + offset)
