"""Maps to objects: again for each threshold, without the network."""

import collections
import dataclasses
import math
import sys
import threading
import typing
from collections.abc import Callable
from concurrent import futures
from typing import Any

from seg import config as config_lib
from seg.predict import physical
from seg.serve import store

if typing.TYPE_CHECKING:
    from seg.predict import predictor

_N_RECENT = 3  # segmentations kept: the page asks for each in several parts
_KNOBS = (
    "threshold", "min_area", "min_probability", "separate", "fill_holes",
    "drop_border",
)  # fmt: skip
_MOST = 2**53  # px; an area that no object has


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be changed after the network; None = as the model has it.

    The first fields are those of `config.Predict`.
    min_area_um2: instead of min_area, for images whose pixel size is known.
    pixel_size: micrometres, of images that do not know their own.
    """

    threshold: float | None = None
    min_area: tuple[int, ...] | None = None
    min_probability: float | None = None
    separate: str | None = None
    fill_holes: bool | None = None
    drop_border: bool | None = None
    min_area_um2: tuple[float, ...] | None = None
    pixel_size: float | None = None

    def size(self, known: physical.Size | None) -> physical.Size | None:
        """The pixel size of an image, of which this is known."""
        given = self.pixel_size
        return known or ((given, given) if given else None)

    def of(
        self, config: config_lib.Config, size: physical.Size | None = None
    ) -> config_lib.Predict:
        """These settings for a model, and an image of this pixel size.

        Raises UserError where they are wrong.
        """
        changes: dict[str, Any] = {
            f"predict.{field}": getattr(self, field)
            for field in _KNOBS
            if getattr(self, field) is not None
        }
        if size and self.min_area_um2:
            changes["predict.min_area"] = tuple(
                _pixels(area, size) for area in self.min_area_um2
            )
        changed = config_lib.check(config_lib.replace(config, changes))
        return changed.predict

    def on(self, stored: store.Stored) -> config_lib.Predict:
        """These settings for an image; raises UserError as `of` does."""
        return self.of(stored.choice.config, self.size(stored.pixel_size))


class Results:
    """Segmentations, the last few kept; for any thread.

    Parameters
    ----------
    budget : bytes that those kept take together; one alone may be larger.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._recent: collections.OrderedDict[
            tuple[str, config_lib.Predict, physical.Size | None],
            futures.Future[predictor.Segmentation],
        ] = collections.OrderedDict()
        self._short = threading.Lock()

    def of(
        self, stored: store.Stored, settings: Settings
    ) -> "predictor.Segmentation":
        """The objects of an image by these settings.

        Raises UserError where they do not fit the model.
        """
        predict = settings.on(stored)
        size = settings.size(stored.pixel_size)
        key = stored.id, predict, size
        with self._short:
            known = self._recent.get(key)
            future = known or futures.Future()
            self._recent[key] = future
            self._recent.move_to_end(key)
        if known is None:
            try:
                future.set_result(_found(stored, predict, size))
            except BaseException as error:
                self._forget(lambda other: other == key)
                future.set_exception(error)
            self._trim()
        return future.result()

    @property
    def n_bytes(self) -> int:
        """Memory that those take which are kept."""
        with self._short:
            return self._n_bytes()

    def forget(self, id: str) -> None:
        """Forgets what was found in an image."""
        self._forget(lambda key: key[0] == id)

    def retain(self, is_known: Callable[[str], bool]) -> None:
        """Forgets what was found in images of other ids.

        Such are left by who goes before his upload is answered, and by images
        that go while a request for them waits.
        """
        self._forget(lambda key: not is_known(key[0]))

    def clear(self) -> None:
        """Forgets all."""
        self._forget(lambda key: True)

    def _trim(self) -> None:
        with self._short:
            while len(self._recent) > _N_RECENT or (
                len(self._recent) > 1 and self._n_bytes() > self._budget
            ):
                self._recent.popitem(last=False)

    def _n_bytes(self) -> int:
        return sum(
            _size(future.result())
            for future in self._recent.values()
            if future.done()
        )

    def _forget(self, wanted: Callable[[Any], bool]) -> None:
        with self._short:
            for key in [key for key in self._recent if wanted(key)]:
                del self._recent[key]


def _pixels(area: float, size: physical.Size) -> int:
    """The least whole number of pixels that are this many square micrometres.

    An area of n pixels is n of them, whatever its last digit says.
    """
    of_one = max(size[0] * size[1], sys.float_info.min)
    return math.ceil(min(area / of_one * (1 - 1e-9), _MOST))


def _size(found: "predictor.Segmentation") -> int:
    """Bytes of a segmentation, whose map is counted with its image."""
    n_bytes = found.classes.nbytes + found.labels.nbytes
    for row in found.table[:1]:  # all are alike
        of_one = sys.getsizeof(row) + sum(map(sys.getsizeof, row.values()))
        n_bytes += len(found.table) * of_one
    return n_bytes


def _found(
    stored: store.Stored,
    predict: config_lib.Predict,
    size: physical.Size | None,
) -> "predictor.Segmentation":
    use = stored.choice.predictor()
    found = use.objects(
        stored.pixels, stored.probabilities, stored.name, predict=predict
    )
    found = found.measured(size)
    return dataclasses.replace(found, source=stored.name)
