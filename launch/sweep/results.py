"""What the trials of a sweep have come to, read from their folders."""

import dataclasses
import math

from launch.compare import workdir
from launch.sweep import plan as plan_lib
from launch.sweep import work
from seg import locks


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
    ended = job.state().minutes
    splits = [s for s in ("val", "test") if s in job.stages and s in ended]
    n_parameters = workdir.about(job.folder).get("n_parameters")
    return workdir.metrics(job.folder, splits), n_parameters


def _minutes(job: work.Job) -> float:
    spent = job.state().minutes
    if job.training:
        return sum(spent.get(split, 0.0) for split in ("val", "test"))
    return workdir.seconds(job.folder) / 60 or spent.get("train", 0.0)


def _status(job: work.Job) -> tuple[str, str]:
    state = job.state()
    if job.is_done():
        return "done", ""
    if locks.is_held(job.lock):
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


def course(job: work.Job, metric: str) -> tuple[list[int], list[float]]:
    """(Steps, values) of what a job's training has recorded of a metric."""
    job = job.training or job
    return workdir.course(workdir.records(job.config, job.folder), metric)
