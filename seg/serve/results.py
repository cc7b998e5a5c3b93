"""Maps to objects: again for each threshold, without the network."""

import collections
import dataclasses
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
    """Segmentations, the last few kept; for any thread."""

    def __init__(self) -> None:
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
            while len(self._recent) > _N_RECENT:
                self._recent.popitem(last=False)
        if known is None:
            try:
                future.set_result(_found(stored, predict))
            except BaseException as error:
                self._forget(lambda other: other == key)
                future.set_exception(error)
        return future.result()

    def forget(self, id: str) -> None:
        """Forgets what was found in an image."""
        self._forget(lambda key: key[0] == id)

    def _forget(self, wanted: Callable[[Any], bool]) -> None:
        with self._short:
            for key in [key for key in self._recent if wanted(key)]:
                del self._recent[key]


def _found(
    stored: store.Stored, predict: config_lib.Predict
) -> "predictor.Segmentation":
    use = stored.choice.predictor()
    found = use.objects(
        stored.pixels, stored.probabilities, stored.name, predict=predict
    )
    found = found.measured(stored.pixel_size)
    return dataclasses.replace(found, source=stored.name)
