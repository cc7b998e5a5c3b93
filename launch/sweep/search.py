"""The next point of a search, by optuna's samplers.

A proposal is a function of the search's seed, its number, and the trials
before it with their scores. Nothing of optuna's is kept on the disk: the
folders of the trials are the truth, and a search that was killed, goes on as
if it had not been.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

from launch.sweep import plan as plan_lib
from seg import config as config_lib

_TRIES = 50  # draws that give known points, before the space is exhausted


def propose(
    search: plan_lib.Search,
    known: Sequence[tuple[plan_lib.Changes, float | None, bool]],
    lower: bool,
) -> plan_lib.Changes | None:
    """The next point, None if none is found that is new.

    Parameters
    ----------
    known : (point, score, ended) of the trials so far, by number; a score of
        None or NaN says that it failed, or has not ended.
    lower : whether low scores are good.
    """
    optuna = library()
    space = {k: _distribution(optuna, v) for k, v in search.space.items()}
    seed = (search.seed * 1_000_003 + len(known)) % 2**32
    sampler = {
        # running trials count as bad ones, so that several processes spread
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=seed, constant_liar=True
        ),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }[search.method]()
    study = optuna.create_study(
        direction="minimize" if lower else "maximize", sampler=sampler
    )
    for point, score, ended in known:
        study.add_trial(_frozen(optuna, search, space, point, score, ended))
    points = [_encoded(search, point) for point, _, _ in known]
    for _ in range(_TRIES):
        trial = study.ask(space)
        params = {k: _short(v, space[k]) for k, v in trial.params.items()}
        if params not in points:
            return _decoded(search, params)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return None


def _short(value: Any, values: Any) -> Any:
    """A number of a few digits in place of seventeen, within its range.

    Four of its own, and as many as tell a thousandth of the range.
    """
    if not isinstance(value, float):
        return value
    least = min(values.high - values.low, abs(value) or math.inf)
    short = round(value, 3 - math.floor(math.log10(least)))
    return min(max(short, values.low), values.high)


def library() -> Any:
    """The optuna module, quiet."""
    try:
        import optuna
    except ImportError as error:
        raise config_lib.UserError(
            f"optuna cannot be imported ({error}); pip install optuna, or let "
            "SWEEP be a grid"
        ) from error
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna


def _distribution(optuna: Any, values: Any) -> Any:
    make = optuna.distributions
    if isinstance(values, list):
        return make.CategoricalDistribution(range(len(values)))
    kind, low, high = values
    if kind == "int":
        return make.IntDistribution(low, high)
    return make.FloatDistribution(low, high, log=kind == "log")


def _frozen(
    optuna: Any,
    search: plan_lib.Search,
    space: dict[str, Any],
    point: plan_lib.Changes,
    score: float | None,
    ended: bool,
) -> Any:
    state, value = optuna.trial.TrialState.RUNNING, None
    if ended and score is not None and math.isfinite(score):
        state, value = optuna.trial.TrialState.COMPLETE, score
    elif ended:
        state = optuna.trial.TrialState.FAIL
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=_encoded(search, point),
        distributions=space,
    )


# optuna's choices are numbers, texts and None; a knob's may be tuples, so a
# choice is known by its place in the list.


def _encoded(
    search: plan_lib.Search, point: plan_lib.Changes
) -> dict[str, Any]:
    found = {}
    for knob, values in search.space.items():
        if isinstance(values, list):
            found[knob] = values.index(point[knob])
        else:
            found[knob] = (int if values[0] == "int" else float)(point[knob])
    return found


def _decoded(
    search: plan_lib.Search, params: dict[str, Any]
) -> plan_lib.Changes:
    return {
        knob: values[params[knob]] if isinstance(values, list) else params[knob]
        for knob, values in search.space.items()
    }
