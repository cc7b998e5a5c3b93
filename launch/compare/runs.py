"""The runs that a command line names, and what each has come to."""

import dataclasses
import functools
import glob
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from launch.compare import workdir
from seg import config as config_lib

SPLITS = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, read from its folder.

    Parameters
    ----------
    config : its knobs; those of prediction as its scores were measured.
    metrics : of the best validation, and of the evaluations of this model.
    minutes : of its training; None: unknown.
    data : digest of the images that it was trained on; empty: unknown.
    outdated : splits whose scores are of an earlier model; they are left out.
    """

    name: str
    folder: pathlib.Path
    config: config_lib.Config
    status: str
    metrics: dict[str, float]
    n_parameters: int | None
    minutes: float | None
    data: str
    outdated: tuple[str, ...]
    records: workdir.Records = dataclasses.field(repr=False)

    @property
    def monitor(self) -> str:
        """The metric by which its best model is chosen."""
        return self.config.train.monitor

    @property
    def step(self) -> int:
        """The last step of which anything was recorded."""
        return max((r.get("step", 0) for r in self.records), default=0)

    def score(self, metric: str) -> float | None:
        """Its value of a metric, if that is a number."""
        value = self.metrics.get(metric)
        return None if value is None or math.isnan(value) else value

    def course(self, metric: str) -> tuple[list[int], list[float]]:
        """(Steps, values) of a metric over the training."""
        return workdir.course(self.records, metric)


def find(words: Iterable[str]) -> list[pathlib.Path]:
    """The folders of the runs that are meant, each once.

    words: run folders, folders of runs (as a sweep's), or patterns of both.
    Folders of comparisons are passed over.

    Raises
    ------
    UserError : there is no run where one is meant.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for word in words:
        for folder in _meant(word):
            found.setdefault(folder.resolve(), folder)
    if not found:
        raise config_lib.UserError(
            "which runs? give their folders, as runs/a runs/b, or one that "
            "holds them"
        )
    return list(found.values())


def _meant(word: str) -> list[pathlib.Path]:
    path = pathlib.Path(word).expanduser()
    if path.exists() or not glob.has_magic(word):
        return _inside(path)
    paths = sorted(map(pathlib.Path, glob.glob(str(path))))
    runs = [run for path in paths if path.is_dir() for run in _those_of(path)]
    if not runs:
        raise config_lib.UserError(f"{word}: no run matches it")
    return runs


def _inside(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.is_dir():
        what = "no folder" if path.exists() else "no such folder"
        raise config_lib.UserError(f"{path}: {what}; give runs' folders")
    runs = _those_of(path)
    if not runs and not (path / "compare.html").is_file():
        raise config_lib.UserError(
            f"{path} is no run, and holds none: neither has a config.json of "
            "launch.train; give the folders of runs"
        )
    return runs


def _those_of(path: pathlib.Path) -> list[pathlib.Path]:
    if _is_run(path):
        return [path]
    return sorted(child for child in path.iterdir() if _is_run(child))


def _is_run(path: pathlib.Path) -> bool:
    # a tracker writes a config.json, too
    signs = "data_digest", "bundle", "checkpoints"
    return (path / "config.json").is_file() and any(
        (path / sign).exists() for sign in signs
    )


def read_all(folders: Sequence[pathlib.Path]) -> list[Run]:
    """The runs; raises UserError where a config cannot be read."""
    return [
        _read(name, folder)
        for name, folder in zip(_names(folders), folders, strict=True)
    ]


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
    """The folders' own names, or as many of those above as tell them apart."""
    places = [folder.resolve() for folder in folders]
    names = [place.name for place in places]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath(places)
    return [place.relative_to(above).as_posix() for place in places]


def _read(name: str, folder: pathlib.Path) -> Run:
    path = folder / "config.json"
    try:
        config = config_lib.from_json(path.read_text())
    except config_lib.ConfigError as error:
        raise config_lib.UserError(
            f"{path}: {error}; was it trained by another version of seg?"
        ) from error
    records = workdir.records(config, folder)
    about = workdir.about(folder)
    outdated = tuple(
        split
        for split in SPLITS
        if _is_outdated(split, records, about.get("step"))
    )
    splits = [split for split in SPLITS if split not in outdated]
    return Run(
        name=name,
        folder=folder,
        config=_as_scored(config, folder, splits),
        status=workdir.status(folder, records),
        metrics=workdir.metrics(folder, splits),
        n_parameters=about.get("n_parameters"),
        minutes=workdir.seconds(folder, records) / 60 or None,
        data=_digest(folder, about),
        outdated=outdated,
        records=records,
    )


def _is_outdated(
    split: str, records: workdir.Records, step: int | None
) -> bool:
    """Whether the last evaluation was of another model than the best now."""
    # an evaluation's numbers alone have intervals
    steps = [
        record["step"]
        for record in records
        if record["kind"] == "metrics"
        and any(
            name.startswith(f"{split}/") and name.endswith("_low")
            for name in record["values"]
        )
    ]
    return bool(steps) and steps[-1] != step


def _as_scored(
    config: config_lib.Config, folder: pathlib.Path, splits: Iterable[str]
) -> config_lib.Config:
    """The config with the settings of prediction of the scores; the test's."""
    for split in splits:
        told: dict[str, Any] = workdir.evaluation(folder, split)
        known = config_lib.to_flat(config)
        settings = {
            knob: value
            for knob, value in told.get("settings", {}).items()
            if knob in known
        }
        config = config_lib.replace(config, settings)
    return config


def _digest(folder: pathlib.Path, about: dict[str, Any]) -> str:
    note = workdir.training(folder) / "data_digest"
    return (
        note.read_text().strip()
        if note.exists()
        else about.get("data_digest", "")
    )


def leading(runs: Sequence[Run]) -> tuple[str, bool]:
    """(Metric that most runs monitor, whether its lowest value is the best)."""
    monitor = statistics.mode(run.monitor for run in runs)
    (first, *_) = (run for run in runs if run.monitor == monitor)
    return monitor, first.config.train.lower_is_better


def ranked(runs: Sequence[Run], metric: str, lower: bool) -> list[Run]:
    """By a metric, the best first; those without it last."""
    key = functools.partial(Run.score, metric=metric)
    scored = [run for run in runs if key(run) is not None]
    rest = [run for run in runs if key(run) is None]
    return sorted(scored, key=key, reverse=not lower) + rest


def pictures(
    runs: Sequence[Run],
) -> tuple[str, dict[str, list[pathlib.Path]]]:
    """(Split, pictures by run) of images that the models of today have seen."""
    current = {run.name: run.folder for run in runs if not run.outdated}
    return workdir.overlays(current)
