"""The settings of prediction that score best on validation images.

The network runs once over each image; what follows it is tried in many ways:
one knob at a time, over and over, until none helps.
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
}
_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Seen:
    """A record, and what the network made of its image: [H, W, channels]."""

    record: dict[str, Any]
    channels: np.ndarray


def knobs(config: config_lib.Config) -> list[str]:
    """The fields of `config.Predict` that are worth trying for a model."""
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
    predict, rows = _best(use, seen, monitor)
    found = score(use, seen, predict, intervals=False)
    value, by_image = _value(found, monitor), found.outcomes
    everything = calibration.pooled(by_image)
    if not len(everything):
        return Chosen(predict, value, rows, np.nan, np.nan)
    how = calibration.fit(everything)
    predict = dataclasses.replace(predict, calibration=how)
    return Chosen(predict, value, rows, *calibration.crossed(by_image))


def _best(
    use: predictor.Predictor, seen: Sequence[Seen], monitor: str
) -> tuple[config_lib.Predict, list[dict[str, Any]]]:
    """Of equal settings the first, which the model had."""
    names = knobs(use.config)
    known: dict[config_lib.Predict, float] = {}
    rows: list[dict[str, Any]] = []

    def value(predict: config_lib.Predict) -> float:
        if predict not in known:
            known[predict] = _value(
                score(use, seen, predict, intervals=False), monitor
            )
            tried = {name: getattr(predict, name) for name in names}
            if "min_area" in tried:  # of the one value
                (tried["min_area"],) = tried["min_area"]
            rows.append({**tried, monitor: known[predict]})
        return known[predict]

    better = min if config_lib.Train(monitor=monitor).lower_is_better else max
    best = dataclasses.replace(use.config.predict, calibration=())
    value(best)
    for _ in range(_ROUNDS):
        before = best
        for name in names:
            tried = [
                dataclasses.replace(best, **{name: one}) for one in _GRIDS[name]
            ]
            best = better([best, *tried], key=value)
        if best == before:
            break
    return best, rows


def _value(found: report.Report, monitor: str) -> float:
    name = f"{found.split}/{monitor}"
    if name not in found.metrics:
        names = [known.partition("/")[2] for known in found.metrics]
        raise config_lib.ConfigError(
            config_lib.unknown("--monitor", monitor, names)
        )
    return found.metrics[name]
