"""An image as the network sees it, larger or smaller than it is, and why.

So that objects are as large as those of the training. Strips of rows go in and
out, so that memory does not grow with the image.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from seg import config as config_lib
from seg.data import targets
from seg.images import resize

MOST = 16
"""How many times larger or smaller an image is seen, at most."""

Rows = Callable[[int, int], np.ndarray]
Place = tuple[int, int, int, int]  # top, bottom, left, right

_LOG = logging.getLogger(__name__)
_LOOK = 256  # least side of a place where the size of objects is looked for
_WIDE = 4  # and how many objects of the training would lie side by side there
_SMALL = 1024  # an image up to this side is looked at as a whole, px
_ROWS = 256  # of a strip at the image's own size, at most
_FEW = 3  # fewer objects tell nothing of their size
# As the training's is a size that is so many times smaller or larger. Small
# objects that touch are told apart better where they are seen larger.
_SMALLER, _LARGER = 1.4, 3.0
_LOOKS = 3  # more, at most
_FAR = 0.25, 0.125  # zooms that count where objects cover so many times more
_FAR_MORE = 4
_ENLARGED = 4  # times at most that an image is enlarged without being told


@dataclasses.dataclass(frozen=True)
class View:
    """An image of (H, W) whose sides are `zoom` times as long."""

    whole: tuple[int, int]
    zoom: float

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) that the network sees."""
        rows, cols = (max(1, round(n * self.zoom)) for n in self.whole)
        return rows, cols

    def rows(self, rows: Rows) -> Rows:
        """Reads the image at that size; `rows` reads it as it is."""
        return lambda top, bottom: resize.strip(
            rows, self.whole, self.shape, top, bottom
        )

    def first(self, start: int) -> int:
        """The first row of the view that row `start` of the image needs."""
        return int(resize.reach(self.shape[0], self.whole[0])[0][start])

    def back(
        self, stream: Iterator[tuple[int, np.ndarray]], start: int = 0
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Strips [h, w, K] of the view as strips of the image, from `start` on.

        The stream's first strip holds row `first(start)`.
        """
        firsts, ends = resize.reach(self.shape[0], self.whole[0])
        held, kept = None, 0  # rows of the view, and which comes first
        for top, strip in stream:
            if held is None:
                held, kept = strip, top
            else:
                held = np.concatenate([held, strip])
            end = int(np.searchsorted(ends, kept + len(held), "right"))

            def rows(top, bottom, held=held, kept=kept):
                return held[top - kept : bottom - kept]

            while start < end:
                stop = min(start + _ROWS, end)
                yield (
                    start,
                    resize.strip(rows, self.shape, self.whole, start, stop),
                )
                start = stop
            if start < self.whole[0]:
                held = held[firsts[start] - kept :]
                kept = int(firsts[start])


def known_zoom(
    config: config_lib.Config, pixel_size: float | None = None
) -> float:
    """What the settings say, or else the image; 0 where they say nothing.

    pixel_size: by the image's metadata, micrometres. It counts where the model
    knows its own and `predict.rescale` allows it.

    Raises UserError where the model does not know what the settings ask for,
    or where what they say is absurd.
    """
    predict, data = config.predict, config.data
    if predict.diameter is not None:
        name, given, trained = "diameter", predict.diameter, data.diameter
        zoom = trained / given
    elif predict.pixel_size and data.pixel_size and not data.resize:
        name, given, trained = "pixel_size", predict.pixel_size, data.pixel_size
        zoom = given / trained
    else:
        return _by_metadata(config, pixel_size)
    if data.resize:
        raise config_lib.UserError(
            f"predict.{name}={given:g}, but the model sees every image at "
            f"{data.resize} x {data.resize} px (data.resize); leave it out"
        )
    if not trained:
        raise config_lib.UserError(
            f"predict.{name}={given:g}, but the model does not know that of "
            f"its training (data.{name}=0); leave it out, or resize the image"
        )
    if not 1 / MOST <= zoom <= MOST:
        raise config_lib.UserError(
            f"predict.{name}={given:g}, and the model has learned {trained:g}: "
            f"more than {MOST} times another size; check its unit"
        )
    return zoom


def _by_metadata(config: config_lib.Config, pixel_size: float | None) -> float:
    trained = config.data.pixel_size
    usable = config.predict.rescale and not config.data.resize
    if not (pixel_size and trained and usable):
        return 0.0
    zoom = pixel_size / trained
    if 1 / MOST <= zoom <= MOST:
        return zoom
    _LOG.warning(
        "by its metadata a px of the image is %g um, and the model has learned "
        "%g: more than %d times another size is not believed; give "
        "--predict.pixel_size",
        pixel_size,
        trained,
        MOST,
    )
    return 0.0


class _Look(NamedTuple):
    """What was found in the places of an image that is seen at a zoom.

    areas: of the objects, px of the image. n_px: of the places together; side:
    the least of theirs. trained: how wide objects of the training are.
    """

    zoom: float
    areas: np.ndarray
    n_px: int
    side: int
    trained: float

    @property
    def diameter(self) -> float:
        """How wide the objects are, px of the image; 0 without any."""
        return targets.diameter(self.areas)

    def seen(self, diameter: float | np.ndarray) -> float | np.ndarray:
        """How wide the network sees that, in widths of the training."""
        return self.zoom * diameter / self.trained

    @property
    def likely(self) -> np.ndarray:
        """The areas of those objects that do not look too small."""
        wide = np.sqrt(4 / np.pi * self.areas)
        return self.areas[self.seen(wide) >= 1 / _SMALLER]

    @property
    def covered(self) -> float:
        """The share of the places in likely objects."""
        return float(self.likely.sum()) / self.n_px


def at_first_sight(
    shape: tuple[int, int],
    trained: float,
    look: Callable[[Place, float], np.ndarray],
) -> float:
    """The zoom of an image of this (H, W), from what is found in it.

    Of objects far larger than the training's a network sees parts, or nothing.
    So what looks too large is looked at once more, as much smaller as it
    looked; and where hardly any are likely, the image is seen from far away as
    well, which counts if they cover far more of it then. Several that are
    likely are believed, for cells may look from afar as nuclei do.

    look: the areas of the objects in a place of it that is seen so much
        larger, in px of the image. It is asked for all of a small image, and
        of a large one for five places.
    """

    def looked(zoom: float) -> _Look:
        places = _places(shape, trained, zoom)
        areas = np.concatenate([look(place, zoom) for place in places])
        sides = [(end - top, right - left) for top, end, left, right in places]
        n_px = sum(rows * cols for rows, cols in sides)
        return _Look(zoom, areas, n_px, min(map(min, sides)), trained)

    found = looked(1.0)
    if len(found.likely) < _FEW:
        far = max(map(looked, _FAR), key=lambda one: one.covered)
        if far.covered > _FAR_MORE * found.covered:
            found = far
    for _ in range(_LOOKS):
        # of more than half the side: the model does not know these images
        strange = found.diameter > found.side / 2
        if strange or (len(found.areas) < _FEW and found.zoom == 1):
            return 1.0
        seen = found.seen(found.diameter)
        zoom = found.zoom
        if not seen or 1 / _SMALLER <= seen <= _LARGER:
            break
        zoom = min(max(zoom / seen, 1 / MOST), _ENLARGED)
        if zoom >= found.zoom:
            break
        found = looked(zoom)
    if zoom != 1:
        _LOG.info(
            "objects look %.1f px wide, those of the training were %.1f: the "
            "image is seen %.2f times as large",
            found.diameter,
            trained,
            zoom,
        )
    return zoom


def _places(shape: tuple[int, int], trained: float, zoom: float) -> list[Place]:
    """All of a small image; the middle of a large one and of its quarters."""
    side = math.ceil(max(_LOOK, _WIDE * trained) / zoom)
    if max(shape) <= max(_SMALL, side):
        return [(0, shape[0], 0, shape[1])]

    def part(length: int, share: float) -> tuple[int, int]:
        start = max(round(length * share) - side // 2, 0)
        return start, min(start + side, length)

    shares = [(0.5, 0.5)]
    shares += [(row, col) for row in (0.25, 0.75) for col in (0.25, 0.75)]
    return [(*part(shape[0], r), *part(shape[1], c)) for r, c in shares]
