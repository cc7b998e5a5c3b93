"""Maps to objects: again for each threshold, without the network."""

import collections
import dataclasses
import sys
import threading
import typing
from collections.abc import Callable
from concurrent import futures
from typing import Any

from seg import config as config_lib
from seg.serve import store

if typing.TYPE_CHECKING:
    from seg.predict import predictor

_N_RECENT = 3  # segmentations kept: the page asks for each in several parts


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be changed after the network; None = as the model has it.

    The fields are those of `config.Predict`.
    """

    threshold: float | None = None
    min_area: tuple[int, ...] | None = None
    separate: str | None = None
    fill_holes: bool | None = None
    drop_border: bool | None = None

    def of(self, config: config_lib.Config) -> config_lib.Predict:
        """These settings for a model; raises UserError where they are wrong."""
        changes: dict[str, Any] = {
            f"predict.{field}": value
            for field, value in vars(self).items()
            if value is not None
        }
        changed = config_lib.check(config_lib.replace(config, changes))
        return changed.predict


class Results:
    """Segmentations, the last few kept; for any thread.

    Parameters
    ----------
    budget : bytes that those kept take together; one alone may be larger.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._recent: collections.OrderedDict[
            tuple[str, config_lib.Predict],
            futures.Future[predictor.Segmentation],
        ] = collections.OrderedDict()
        self._short = threading.Lock()

    def of(
        self, stored: store.Stored, settings: Settings
    ) -> "predictor.Segmentation":
        """The objects of an image by these settings.

        Raises UserError where they do not fit the model.
        """
        predict = settings.of(stored.choice.config)
        key = stored.id, predict
        with self._short:
            known = self._recent.get(key)
            future = known or futures.Future()
            self._recent[key] = future
            self._recent.move_to_end(key)
        if known is None:
            try:
                future.set_result(_found(stored, predict))
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


def _size(found: "predictor.Segmentation") -> int:
    """Bytes of a segmentation, whose map is counted with its image."""
    n_bytes = found.classes.nbytes + found.labels.nbytes
    for row in found.table[:1]:  # all are alike
        of_one = sys.getsizeof(row) + sum(map(sys.getsizeof, row.values()))
        n_bytes += len(found.table) * of_one
    return n_bytes


def _found(
    stored: store.Stored, predict: config_lib.Predict
) -> "predictor.Segmentation":
    use = stored.choice.predictor()
    found = use.objects(
        stored.pixels, stored.probabilities, stored.name, predict=predict
    )
    found = found.measured(stored.pixel_size)
    return dataclasses.replace(found, source=stored.name)
