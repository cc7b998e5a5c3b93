"""What the trials of a sweep have come to, read from their folders."""

import dataclasses
import json
import math
import pathlib
from typing import Any

from launch.sweep import plan as plan_lib
from launch.sweep import work
from seg import locks
from seg.train import tracking


@dataclasses.dataclass(frozen=True)
class Result:
    """A trial and what it has come to.

    Parameters
    ----------
    status : done, running, failed, stopped (a rerun goes on) or waiting.
    metrics : of the best validation, and of the test; by their names.
    minutes : of its training, all resumptions together; where that is
        shared, of its evaluations.
    """

    trial: plan_lib.Trial
    status: str
    metrics: dict[str, float]
    score: float | None
    n_parameters: int | None
    minutes: float
    why: str = ""


def result(trial: plan_lib.Trial, job: work.Job) -> Result:
    """What a trial has come to; call it with the sweep's lock held."""
    metrics, n_parameters = _metrics(job)
    status, why = _status(job)
    value = metrics.get(job.config.train.monitor)
    return Result(
        trial=trial,
        status=status,
        metrics=metrics,
        score=None if value is None or math.isnan(value) else value,
        n_parameters=n_parameters,
        minutes=_minutes(job),
        why=why,
    )


def score(job: work.Job) -> float | None:
    """The monitored metric of a job, None where there is none yet."""
    return _metrics(job)[0].get(job.config.train.monitor)


def _metrics(job: work.Job) -> tuple[dict[str, float], int | None]:
    """(Metrics by name, parameters of the network.)"""
    about = _json(work.bundle(job) / "model.json").get("meta", {})
    found = {} if job.training else dict(about.get("metrics", {}))
    for split in ("val", "test"):
        if split in job.stages and split in job.state().minutes:
            found |= _json(job.folder / split / "scores.json")["metrics"]
    numbers = {
        name: float(value)
        for name, value in found.items()
        if value is not None
        and name.startswith(("val/", "test/", "model/", "perf/"))
    }
    return numbers, about.get("n_parameters")


def _minutes(job: work.Job) -> float:
    spent = job.state().minutes
    if job.training:
        return sum(spent.get(split, 0.0) for split in ("val", "test"))
    # the last checkpoint knows of resumptions, too
    seconds = map(_seconds, job.folder.glob("checkpoints/*/manifest.json"))
    return max(seconds, default=60 * spent.get("train", 0.0)) / 60


def _seconds(manifest: pathlib.Path) -> float:
    """What a training had taken; 0 where its files come or go just now."""
    try:
        return json.loads(manifest.read_text())["body"]["meta"]["seconds"]
    except (OSError, ValueError, KeyError):
        return 0.0


def _status(job: work.Job) -> tuple[str, str]:
    state = job.state()
    if job.is_done():
        return "done", ""
    if _is_held(job):
        return "running", ""
    if state.failures:
        return "failed", state.why
    if job.training:
        needs, why = _status(job.training)
        if needs != "done":
            return needs, why
    if (job.folder / "asked.json").exists():
        return "stopped", ""
    return "waiting", ""


def _is_held(job: work.Job) -> bool:
    if not job.lock.exists():
        return False
    try:
        with locks.held(job.lock, wait=False):
            return False
    except locks.BusyError:
        return True


def course(job: work.Job) -> list[tuple[int, dict[str, float]]]:
    """(Step, values) of all that a job's training has recorded."""
    job = job.training or job
    track = job.config.track
    mark = "run_id" if track.uri.startswith("jsonl:") else "spool.jsonl"
    if not (job.folder / mark).exists():
        return []
    return tracking.history(tracking.build(track, job.folder))


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
