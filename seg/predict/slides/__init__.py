"""Objects of a slide: those of `blobs.detect`, found in strips.

A slide is an image too large for memory. It is worked on in strips, stretches
of rows at full width, from the top down and several times over; between two
passes the labels lie on disk. Memory is that of a few strips, and about 400
bytes for each object. Labels, classes and the whole numbers of the table equal
those of `blobs.detect` of the whole image, whatever the height of the strips;
means and shapes equal them to rounding. One thing differs: the watershed
leaves components whole whose bounding box holds more than
`separation.LARGEST_CUT` px, and says so in the log.

639,201 objects of 32768x32768 px in strips of 512 rows: 33 s on one core and
0.7 GiB, probabilities and image at hand; with the watershed as long again as
`objects.watershed` takes for as many objects (0.2 ms each).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from seg import config
from seg.predict import blobs, measures, strips
from seg.predict.slides import layer, separation, table


class SlideBlobs:
    """The objects of one slide, 1..N in raster order of the first pixels.

    Labels lie in the scratch folder until `remove`; strips have the height of
    those that `detect` was given.
    """

    def __init__(
        self,
        found: layer.Layer,
        kinds: np.ndarray,
        columns: dict[str, np.ndarray],
    ) -> None:
        self.n_objects = len(kinds) - 1
        self._found = found
        self._kinds = kinds
        self._columns = columns

    def labels(self) -> Iterator[np.ndarray]:
        """Strips [h, W] from the top down: int32, int64 from 2^31 objects."""
        dtype = np.int32 if self.n_objects < 2**31 else np.int64
        for i in range(len(self._found)):
            labels, ids = self._found.strip(i)
            yield ids.astype(dtype)[labels]

    def classes(self) -> Iterator[np.ndarray]:
        """The class of each object's pixels: uint8 [h, W], top down."""
        for i in range(len(self._found)):
            labels, ids = self._found.strip(i)
            yield self._kinds[ids][labels]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `Blobs.table`, in the order of the ids."""
        return measures.rows(self._columns)

    def remove(self) -> None:
        """Deletes the labels from the scratch folder; rows stay."""
        self._found.remove()


def detect(
    classes: strips.Strips,
    probabilities: strips.Rows,
    image: strips.Rows | None,
    predict: config.Predict,
    class_names: Sequence[str],
    folder: str | os.PathLike[str],
    on_strip: Callable[[], None] = lambda: None,
    apart: strips.Rows | None = None,
) -> SlideBlobs:
    """Finds and measures the objects of a slide.

    classes: uint8 [H, W], as `blobs.classes_from` gives them. probabilities
    and image: (top, bottom) -> those rows of what `blobs.detect` takes.
    folder: a scratch folder for this slide alone. on_strip is called before
    each strip of each pass; what it raises ends the work. apart: rows of what
    `blobs.detect` takes by that name. Raises ConfigError where the class names
    do not fit the knobs or the probabilities.
    """
    n_classes = len(class_names)
    least = blobs.by_class("predict.min_area", predict.min_area, n_classes)
    blobs.by_class("predict.margin", predict.margin, n_classes)
    blobs.check_names(probabilities(0, 1).shape[2], class_names)
    layers = [
        separation.separate(classes, k, predict, folder, on_strip, apart)
        for k in range(1, n_classes)
    ]
    if len(layers) == 1:
        found = layers[0]
        known = found.objects()
        class_of = np.ones(len(known.area), np.uint8)
    else:
        found = layer.Layer(folder, "objects", classes.shape, classes.height)
        class_of = _combine(classes, layers, least, found, on_strip)
        known = found.objects()
        class_of = class_of[: len(known.area)]
    wanted = known.area >= np.maximum(np.take(least, class_of), 1)
    if predict.min_probability:
        mean = table.mean_probabilities(
            found, class_of, probabilities, on_strip
        )
        wanted &= blobs.sure(mean, predict)
    wanted[0] = False
    if predict.drop_border:
        wanted &= ~known.border
    kept = np.flatnonzero(wanted)
    kept = kept[np.argsort(known.first[kept])]
    ids = np.zeros(len(wanted), np.int64)
    ids[kept] = np.arange(1, len(kept) + 1)
    found.relabel(ids)
    kinds = np.append(np.uint8(0), class_of[kept])
    columns = table.measure(
        found, kinds, probabilities, image, predict, class_names, on_strip
    )
    return SlideBlobs(found, kinds, columns)


def _combine(
    classes: strips.Strips,
    layers: Sequence[layer.Layer],
    least: Sequence[int],
    found: layer.Layer,
    on_strip: Callable[[], None],
) -> np.ndarray:
    """Objects of all classes in one layer; class by id, uint8 [N + 1].

    Where two classes meet: as in `blobs`. Removes the classes' layers.
    """
    class_of = [np.zeros(1, np.uint8)]
    offsets = [0]
    for k, own in enumerate(layers, 1):
        area = own.objects().area
        ids = np.arange(len(area))
        own.relabel(np.where(area >= least[k], ids, 0))
        class_of.append(np.full(len(area) - 1, k, np.uint8))
        offsets.append(offsets[-1] + len(area) - 1)
    for i in range(len(found)):
        on_strip()
        raw = classes.get(*classes.span(i))
        labels, tables, n = np.zeros(raw.shape, np.int32), [[0]], 0
        for k, own in enumerate(layers, 1):
            there, ids = own.strip(i)
            place = (there > 0) & ((raw == k) | (labels == 0))
            np.add(there, n, out=labels, where=place)
            n += len(ids) - 1
            tables.append(ids[1:] + offsets[k - 1])
        found.put(i, labels, np.concatenate(tables))
    for own in layers:
        own.remove()
    return np.concatenate(class_of)
