"""An image as the network sees it, larger or smaller than it is.

Strips of rows go in and out, so that memory does not grow with the image.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from seg import config as config_lib
from seg.images import resize

MOST = 16
"""How many times larger or smaller an image is seen, at most."""

Rows = Callable[[int, int], np.ndarray]


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
            stop = int(np.searchsorted(ends, kept + len(held), "right"))
            if stop <= start:
                continue
            yield (
                start,
                resize.strip(
                    lambda top, bottom, held=held, kept=kept: held[
                        top - kept : bottom - kept
                    ],
                    self.shape,
                    self.whole,
                    start,
                    stop,
                ),
            )
            start = stop
            if start < self.whole[0]:
                held = held[firsts[start] - kept :]
                kept = int(firsts[start])


def known_zoom(config: config_lib.Config) -> float:
    """What the settings say; 0 where they say nothing.

    Raises UserError where the model does not know what they ask for, or where
    what they say is absurd.
    """
    predict, data = config.predict, config.data
    if predict.diameter is not None:
        name, given, trained = "diameter", predict.diameter, data.diameter
        zoom = trained / given
    elif predict.pixel_size is not None:
        name, given, trained = "pixel_size", predict.pixel_size, data.pixel_size
        zoom = given / trained if trained else 0
    else:
        return 0.0
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
