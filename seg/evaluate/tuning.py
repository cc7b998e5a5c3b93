"""The settings of prediction that score best on validation images.

The network runs once over each image; what follows it is tried in many ways:
one knob at a time, over and over, until none helps. Then objects are
calibrated, and the least of their probabilities is chosen: of those that score
alike the smallest, since a model is less sure of images unlike these.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from seg import config as config_lib
from seg.evaluate import calibration, report
from seg.predict import predictor

_GRIDS: dict[str, tuple[Any, ...]] = {
    "threshold": tuple(n / 100 for n in range(25, 80, 5)),
    "prominence": (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3),
    "min_area": ((0,), (6,), (12,), (20,), (30,), (50,), (80,)),
    "min_probability": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
}
_SURE = "min_probability"  # it is of calibrated objects
_ROUNDS = 3
_ALIKE = 1e-3  # of a score; intervals over images are far wider


@dataclasses.dataclass(frozen=True)
class Seen:
    """A record, and what the network made of its image: [H, W, channels]."""

    record: dict[str, Any]
    channels: np.ndarray


def knobs(config: config_lib.Config) -> list[str]:
    """The fields of `config.Predict` that are worth trying for a model.

    The least probability, of objects that are calibrated, is not among them.
    """
    names = ["min_area"] if len(config.predict.min_area) == 1 else []
    if config.model.n_classes == 1:
        names.insert(0, "threshold")
    if config.predict.separate == "learned":
        names.insert(0, "prominence")
    return names


def score(
    use: predictor.Predictor,
    seen: Iterable[Seen],
    predict: config_lib.Predict,
    split: str = "val",
    **kwargs: Any,
) -> report.Report:
    """`report.evaluate` of a model with these settings; kwargs are its own."""
    seen, again = itertools.tee(seen)

    def found(_: dict[str, Any]) -> predictor.Segmentation:
        one = next(again)
        record = one.record
        return use.objects(record["image"], one.channels, record["id"], predict)

    records = (one.record for one in seen)
    return report.evaluate(found, records, use.classes, split, **kwargs)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What tuning has found.

    Parameters
    ----------
    predict : the best settings.
    value : their score.
    rows : all that were tried, with their scores, the model's own first.
    before, after : calibration errors of the mean probability and of
        `predict.calibration`, see `calibration.crossed`; NaN without objects.
    """

    predict: config_lib.Predict
    value: float
    rows: list[dict[str, Any]]
    before: float
    after: float


def tune(
    use: predictor.Predictor, seen: Sequence[Seen], monitor: str
) -> Chosen:
    """The settings with the largest score, and their calibration.

    monitor: a score without its split, the least of an error. Raises
    ConfigError for one that there is not.
    """
    if monitor == "ece":
        raise config_lib.ConfigError(
            "--monitor=ece; objects are calibrated after they are chosen"
        )
    search = _Search(use, seen, monitor)
    names = knobs(use.config)
    plain = dataclasses.replace(
        use.config.predict, calibration=(), min_probability=0.0
    )
    best = search.best(plain, names)
    found = score(use, seen, best, intervals=False)
    everything = calibration.pooled(found.outcomes)
    if not len(everything):
        return Chosen(best, search.value(best), search.rows, np.nan, np.nan)
    how = calibration.fit(everything)
    best = dataclasses.replace(best, calibration=how)
    again = [name for name in names if name == "min_area"]  # they work alike
    best = search.lenient(search.best(best, [_SURE, *again]))
    errors = calibration.crossed(found.outcomes)
    return Chosen(best, search.value(best), search.rows, *errors)


class _Search:
    """Settings, and what they score; `rows` has each that was tried, once."""

    def __init__(
        self, use: predictor.Predictor, seen: Sequence[Seen], monitor: str
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._use, self._seen, self._monitor = use, seen, monitor
        self._names = [*knobs(use.config), _SURE]
        self._known: dict[config_lib.Predict, float] = {}
        lower = config_lib.Train(monitor=monitor).lower_is_better
        self._better = min if lower else max

    def best(
        self, start: config_lib.Predict, names: Sequence[str]
    ) -> config_lib.Predict:
        """The best settings; of equal ones the first, as `start`."""
        self.value(start)
        best = start
        for _ in range(_ROUNDS):
            before = best
            for name in names:
                tried = [
                    dataclasses.replace(best, **{name: one})
                    for one in _GRIDS[name]
                ]
                best = self._better([best, *tried], key=self.value)
            if best == before:
                break
        return best

    def lenient(self, best: config_lib.Predict) -> config_lib.Predict:
        """Those, with the least probability that scores as well as theirs."""
        for least in _GRIDS[_SURE]:
            tried = dataclasses.replace(best, min_probability=least)
            if abs(self.value(tried) - self.value(best)) <= _ALIKE:
                return tried
        return best

    def value(self, predict: config_lib.Predict) -> float:
        """The score of settings."""
        if not predict.min_probability:  # no object's probability matters
            predict = dataclasses.replace(predict, calibration=())
        if predict not in self._known:
            found = score(self._use, self._seen, predict, intervals=False)
            self._known[predict] = _value(found, self._monitor)
            tried = {name: getattr(predict, name) for name in self._names}
            if "min_area" in tried:  # of the one value
                (tried["min_area"],) = tried["min_area"]
            self.rows.append({**tried, self._monitor: self._known[predict]})
        return self._known[predict]


def _value(found: report.Report, monitor: str) -> float:
    name = f"{found.split}/{monitor}"
    if name not in found.metrics:
        names = [known.partition("/")[2] for known in found.metrics]
        raise config_lib.ConfigError(
            config_lib.unknown("--monitor", monitor, names)
        )
    return found.metrics[name]
