"""A slide becomes objects by strips, and goes on where a killed run was.

The network's maps are kept on disk, strip by strip, in a folder of work: class
and foreground probabilities (16 bits) of every pixel. What is there when a run
begins is not computed again. `slides.detect` then finds the objects; they are
those that `Predictor` finds in the whole image, and so are their tables but
for the mean probability, which is within 1e-5. While a strip is written and its
components are labelled, a thread makes the next one.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from seg import normalize
from seg.images import read, slide, write
from seg.predict import blobs, predictor, slides
from seg.predict import strips as strips_lib

Path = pathlib.Path

_LOG = logging.getLogger(__name__)
_PIXELS = 16_000_000  # of a strip, about
_FULL = np.iinfo(np.uint16).max
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found in a slide; arrays come as strips from the top down.

    shape: (H, W). Ids are 1 to n_objects.
    """

    shape: tuple[int, int]
    n_objects: int
    labels: Callable[[], Iterator[np.ndarray]]
    classes: Callable[[], Iterator[np.ndarray]]
    probabilities: Callable[[], Iterator[np.ndarray]]
    image: Callable[[], Iterator[np.ndarray]]
    rows: Callable[[], Iterator[dict[str, Any]]]
    n_classes: int
    pixel_size: tuple[float, float] | None = None


def segment(
    use: "predictor.Predictor",
    source: Path,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    select: str = "",
    pixel_size: tuple[float, float] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Found:
    """Segments a slide.

    Parameters
    ----------
    use : the predictor.
    source : file, or folder of an OME-Zarr image.
    folder : for the maps; what other settings have left there is removed.
        The result reads from it.
    settings : JSON values that decide the result, the file's state too.
    select : the plane of a stack.
    pixel_size : (row, column), micrometres; None = not known.
    check : called before each strip; may raise to stop.

    Raises
    ------
    UserError
        for an image that cannot be read, a full disk, or a model that wants
        the whole image at once.
    """
    use.check_strips()
    _claim(folder, settings)
    with slide.open_slide(source, select=select) as image:
        shape = image.shape
        height = max(64, min(shape[0], _PIXELS // shape[1]))
        stats = _stats(use, image, folder, height, check)
    n_classes = use.config.model.n_classes
    n_kept = max(n_classes - 1, 1)
    learned = use.config.model.objects != "none"
    classes = _Coming(folder, "map", shape, np.uint8, height)
    maps = strips_lib.Strips(
        folder, "probability", (*shape, n_kept + learned), np.uint16, height
    )

    def probabilities(top: int, bottom: int) -> np.ndarray:
        kept = maps.get(top, bottom)[..., :n_kept].astype(np.float32) / _FULL
        if n_classes == 1:
            return kept
        background = np.maximum(1 - kept.sum(-1, keepdims=True), 0)
        return np.concatenate([background, kept], -1)

    def apart(top: int, bottom: int) -> np.ndarray:
        return maps.get(top, bottom)[..., n_kept].astype(np.float32) / _FULL

    with (
        slide.open_slide(source, select=select) as image,
        contextlib.closing(
            _missing(use, image, stats, classes, maps, str(source), pixel_size)
        ) as classes.coming,
    ):
        classes.get(0, 1)  # and the probabilities there
        found = slides.detect(
            classes,
            probabilities,
            image.rows,
            use.config.predict,
            use.classes,
            folder,
            check,
            apart if learned else None,
        )

    def pixels() -> Iterator[np.ndarray]:
        with slide.open_slide(source, select=select) as image:
            yield from map(image.rows, *_ends(shape[0], height))

    def checked(
        strips: Callable[[], Iterator[Any]],
    ) -> Callable[[], Iterator[Any]]:
        def stream() -> Iterator[Any]:
            for strip in strips():
                check()
                yield strip

        return stream

    return Found(
        shape,
        found.n_objects,
        checked(found.labels),
        checked(found.classes),
        checked(lambda: map(probabilities, *_ends(shape[0], height))),
        checked(pixels),
        found.rows,
        max(n_classes, 1),
        pixel_size,
    )


def _ends(n_rows: int, height: int) -> tuple[list[int], list[int]]:
    tops = list(range(0, n_rows, height))
    return tops, [*tops[1:], n_rows]


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Empties a folder that was left by other settings."""
    text = json.dumps(settings, sort_keys=True)
    note = folder / "settings.json"
    if note.is_file() and note.read_text(encoding="utf-8") == text:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with write.whole(note) as temporary:
        temporary.write_text(text, encoding="utf-8")


class _Coming(strips_lib.Strips):
    """Strips that are put when they are first asked for, from the top down.

    coming: puts them; gives the row below those that are there, until all are.
    """

    coming: Iterator[int] = iter(())
    _end = 0

    def get(self, top: int, bottom: int) -> np.ndarray:
        """As `Strips.get`; raises what `coming` raises, too."""
        while self._end < bottom:
            self._end = next(self.coming, self.shape[0])
        return super().get(top, bottom)


def _missing(
    use: "predictor.Predictor",
    image: slide.Slide,
    stats: np.ndarray,
    classes: strips_lib.Strips,
    maps: strips_lib.Strips,
    name: str,
    pixel_size: tuple[float, float] | None,
) -> Iterator[int]:
    """Runs the network from the first strip on that is not kept."""
    kept = (classes.has(i) and maps.has(i) for i in range(len(classes)))
    first = next((i for i, has in enumerate(kept) if not has), len(classes))
    yield first * classes.height
    made = _made(
        use, image, stats, first, classes.height, maps.shape[-1], pixel_size
    )
    told = 0
    with contextlib.closing(_ahead(made)) as strips:
        for i, (raw, probabilities) in enumerate(strips, first):
            maps.put(i, probabilities)
            classes.put(i, raw)
            done = 10 * (i + 1) // len(classes)
            if done > told:
                told = done
                _LOG.info("%s: %d %% through the network", name, 10 * done)
            if i + 1 < len(classes):  # else it ends, and lets go of the arrays
                yield classes.span(i)[1]


def _made(
    use: "predictor.Predictor",
    image: slide.Slide,
    stats: np.ndarray,
    first: int,
    height: int,
    n_kept: int,
    pixel_size: tuple[float, float] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Strips from the network: classes, and the probabilities to be kept."""
    stream = use.strips(
        image.rows,
        image.shape,
        stats,
        start=first * height,
        pixel_size=pixel_size,
    )
    for strip in _cut(stream, first * height, height, image.shape[0]):
        probabilities, _ = use.split(strip)
        raw = blobs.classes_from(probabilities, use.config.predict.threshold)
        yield raw, np.rint(strip[..., -n_kept:] * _FULL).astype(np.uint16)


def _ahead(stream: Iterator[_T]) -> Iterator[_T]:
    """Yields what a stream does; a thread makes the next while one is used."""
    with contextlib.closing(stream), futures.ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, stream, None)
        while (item := coming.result()) is not None:
            coming = worker.submit(next, stream, None)
            yield item


def _stats(
    use: "predictor.Predictor",
    image: slide.Slide,
    folder: Path,
    height: int,
    check: Callable[[], None],
) -> np.ndarray:
    """`normalize.measure` of the slide; kept, as it reads all of it."""
    path = folder / "stats.npy"
    if path.is_file():
        stats = np.load(path)
        if stats.shape[-1] == len(normalize.COLUMNS):  # of this version
            return stats
    n_channels = use.config.model.in_channels
    tops, ends = _ends(image.shape[0], height)

    def channels() -> Iterator[np.ndarray]:
        for top, bottom in zip(tops, ends, strict=True):
            check()
            yield read.as_channels(image.rows(top, bottom), n_channels)

    stats = normalize.measure_strips(channels, image.dtype)
    with write.whole(path) as temporary:
        np.save(temporary, stats)
    return stats


def _cut(
    stream: Iterator[tuple[int, np.ndarray]], first: int, height: int, end: int
) -> Iterator[np.ndarray]:
    """Cuts strips of any heights anew: `height` rows each from row `first` on.

    The stream begins at or above it, and ends at row `end`.
    """
    strip, n = np.empty(0), 0
    for top, rows in stream:
        rows = rows[max(first - top, 0) :]
        while len(rows):
            if n == len(strip):
                shape = min(height, end - first), *rows.shape[1:]
                strip, n = np.empty(shape, rows.dtype), 0
            part, rows = rows[: len(strip) - n], rows[len(strip) - n :]
            strip[n : n + len(part)] = part
            n += len(part)
            first += len(part)
            if n == len(strip):
                yield strip
