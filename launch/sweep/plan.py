"""What a sweep consists of: an experiment's SWEEP, checked, as trials.

SWEEP stands beside get_config() and is one of

    {"model.name": ["unet", "segnet"], "optim.learning_rate": [1e-3, 3e-3]}
    [{"model.name": "unet", "model.width": 32}, {"model.name": "segnet"}]
    {"search": "tpe", "trials": 20, "optim.learning_rate": ("log", 1e-4, 1e-2),
     "model.dropout": ("uniform", 0, 0.5), "model.depth": ("int", 2, 4),
     "loss.terms": ["dice", "cross_entropy + dice"]}

a grid, whose trials are all combinations; a list of exactly these trials; a
search, "tpe" or "random" (optuna's samplers; "seed": 0 if not given). The
knobs that a trial does not name are get_config()'s.

Trials that differ in predict.* only share one training.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.compare import knobs as knobs_lib
from launch.sweep import names
from launch.sweep import values as values_lib
from seg import config as config_lib

METHODS = ("tpe", "random")
SEED = knobs_lib.SEED
_OPTIONS = ("search", "trials", "seed")
_N_TRIALS = 20  # of a search that does not say

Changes = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of a sweep: its name, and the knobs that are not the base's."""

    name: str
    changes: Changes


@dataclasses.dataclass(frozen=True)
class Search:
    """A space from which each trial is drawn by what is known of the others.

    Parameters
    ----------
    space : knob to the list of its choices or (kind, low, high).
    """

    method: str
    n_trials: int
    seed: int
    space: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked sweep: the base, and its trials or how they are found."""

    base: config_lib.Config
    knobs: tuple[str, ...]  # that SWEEP varies
    trials: tuple[Trial, ...] = ()
    search: Search | None = None

    @property
    def shared(self) -> bool:
        """Whether trials share trainings, and are scored by evaluations."""
        return any(knob.startswith("predict.") for knob in self.knobs)

    def config(self, trial: Trial) -> config_lib.Config:
        """The whole config of a trial."""
        return config_lib.replace(self.base, trial.changes)

    def samples(self) -> list[config_lib.Config]:
        """Configs in which each value of a knob is seen once, at least."""
        if not self.search:
            return [self.config(trial) for trial in self.trials]
        return [
            config_lib.replace(self.base, {knob: value})
            for knob, values in self.search.space.items()
            for value in (values if isinstance(values, list) else values[1:])
        ]

    def training(self, trial: Trial) -> Trial:
        """What a trial needs to be trained, where trainings are shared."""
        changes = {
            knob: value
            for knob, value in trial.changes.items()
            if not knob.startswith("predict.")
        }
        return self.named(changes)

    def setting(self, trial: Trial) -> Trial:
        """What trials have in common that differ in their seed only."""
        if SEED not in trial.changes:
            return trial
        return self.named({k: v for k, v in trial.changes.items() if k != SEED})

    def named(self, changes: Changes, number: str = "") -> Trial:
        """A trial with its name; see `names`."""
        seed = self.base.train.seed
        return Trial(names.name(changes, self.knobs, seed, number), changes)


def make(
    base: config_lib.Config,
    sweep: Any,
    *,
    seeds: Sequence[int] = (),
    n_trials: int = 0,
) -> Plan:
    """The plan of a SWEEP.

    Parameters
    ----------
    seeds : each trial is repeated with these; none: with the base's alone.
    n_trials : how many at most, the first ones; of a search, in all. 0: all.

    Raises
    ------
    ConfigError : a knob is unknown, a value does not fit, a config cannot run,
        two trials are the same; naming it.
    """
    if isinstance(sweep, Mapping) and "search" in sweep:
        if seeds:
            raise config_lib.ConfigError(
                "--seeds is for grids and lists; repeat the best trial of a "
                "search with them"
            )
        search = _search(base, sweep, n_trials)
        plan = Plan(base, tuple(search.space), search=search)
    else:
        points = _grid(base, sweep) if _is_grid(sweep) else _list(base, sweep)
        knobs = tuple(dict.fromkeys(knob for p in points for knob in p))
        if seeds:
            points = _repeated(points, knobs, seeds)
            knobs = tuple(dict.fromkeys([*knobs, SEED]))
        plan = Plan(base, knobs)
        trials = _distinct(base, map(plan.named, points))
        plan = dataclasses.replace(plan, trials=trials[: n_trials or None])
    if plan.shared and base.train.monitor.endswith("loss"):
        raise config_lib.ConfigError(
            f"SWEEP varies predict.*, and train.monitor={base.train.monitor} "
            "does not depend on it; monitor a score, as val/dice"
        )
    return plan


def _is_grid(sweep: Any) -> bool:
    if not isinstance(sweep, Mapping | list | tuple) or not sweep:
        raise config_lib.ConfigError(
            f"SWEEP={sweep!r:.50}; write a dict of lists (a grid), a list of "
            "dicts (trials), or a dict with 'search'"
        )
    return isinstance(sweep, Mapping)


def _grid(base: config_lib.Config, sweep: Mapping[str, Any]) -> list[Changes]:
    for knob in sweep:
        if knob in _OPTIONS:
            raise config_lib.ConfigError(
                f"SWEEP has {knob!r} but no 'search'; add 'search': 'tpe'"
            )
    choices = [
        values_lib.choices(base, knob, values) for knob, values in sweep.items()
    ]
    points = itertools.product(*choices)
    return [
        values_lib.cast(base, dict(zip(sweep, p, strict=True))) for p in points
    ]


def _list(base: config_lib.Config, sweep: Sequence[Any]) -> list[Changes]:
    for at, point in enumerate(sweep):
        if not isinstance(point, Mapping):
            raise config_lib.ConfigError(
                f"SWEEP[{at}]={point!r:.50}; each trial is a dict of knobs"
            )
        for knob in point:
            values_lib.check_knob(knob)
    return [values_lib.cast(base, dict(point)) for point in sweep]


def _search(
    base: config_lib.Config, sweep: Mapping[str, Any], n_trials: int
) -> Search:
    method = sweep["search"]
    if method not in METHODS:
        raise config_lib.ConfigError(
            config_lib.unknown("search", str(method), METHODS)
        )
    space = {k: v for k, v in sweep.items() if k not in _OPTIONS}
    if not space:
        raise config_lib.ConfigError("SWEEP searches, but names no knob")
    for knob, values in space.items():
        if isinstance(values, tuple):
            values_lib.check_range(base, knob, values)
        else:
            space[knob] = values_lib.choices(base, knob, values)
    numbers = {
        "trials": n_trials or sweep.get("trials", _N_TRIALS),
        "seed": sweep.get("seed", 0),
    }
    for name, value in numbers.items():
        if type(value) is not int or value < (name == "trials"):
            raise config_lib.ConfigError(
                f"SWEEP {name}={value!r}; give a whole number"
            )
    return Search(method, numbers["trials"], numbers["seed"], space)


def _repeated(
    points: list[Changes], knobs: Iterable[str], seeds: Sequence[int]
) -> list[Changes]:
    if SEED in knobs:
        raise config_lib.ConfigError(
            f"SWEEP varies {SEED} already; leave --seeds out"
        )
    return [point | {SEED: seed} for point in points for seed in seeds]


def _distinct(
    base: config_lib.Config, trials: Iterable[Trial]
) -> tuple[Trial, ...]:
    """The trials with names of their own, none of which is there twice."""
    configs: dict[config_lib.Config, str] = {}
    found: dict[str, Trial] = {}
    for trial in trials:
        config = config_lib.replace(base, trial.changes)
        if config in configs:
            raise config_lib.ConfigError(
                f"SWEEP: two trials are the same, {configs[config]} and "
                f"{trial.name}"
            )
        name = configs[config] = trial.name
        if name in found:  # they differ in signs that names do without
            name = names.distinct(name, trial.changes)
        found[name] = Trial(name, trial.changes)
    return tuple(found.values())
