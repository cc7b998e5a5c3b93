"""The one training story: batch, step, log, evaluate, save, resume, stop.

It knows neither TensorFlow nor MLflow: batches are any iterable of dicts of
numpy arrays, the tracker is anything with `metrics(step, values)`. What it
needs is handed in as a `Job`.
"""

import dataclasses
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from seg import config as config_lib
from seg.train import averages, checkpoint, mesh, optim
from seg.train import meter as meter_lib
from seg.train import step as step_lib
from seg.train import stop as stop_lib

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """What a training consists of.

    Parameters
    ----------
    n_steps : steps in all.
    eval_every : steps between two validations.
    state, step : as `step.create` gives them.
    batches : from a first step to the batches from there to the last step.
    evaluate : from (state, check) to metrics; `check` raises when the training
        shall stop: to be called often, by several processes equally often.
        None: no validation.
    on_best : called with (state, metrics) when a validation is the best yet;
        without validation, whenever one is due.
    settle : from (state, check) to the state that is validated and kept, its
        averaged weights ready to predict.
    cycle_ends : the steps that end a cycle of the learning rate.
    on_cycle : called with (state, k) at the end of cycle k = 1, 2, ...
    signals : what to stop on, an entered context.
    changed : whether config or data differ from those of an earlier run here;
        else a training that is done stays so.
    """

    config: config_lib.Config
    workdir: pathlib.Path
    devices: jax.sharding.Mesh
    n_steps: int
    eval_every: int
    state: step_lib.State
    step: step_lib.Step
    batches: Callable[[int], Iterable[Mapping[str, np.ndarray]]]
    evaluate: Callable[..., Mapping[str, float]] | None
    on_best: Callable[[step_lib.State, Mapping[str, float]], None]
    tracker: Any
    signals: stop_lib.Signals
    changed: bool = False
    settle: Callable[[step_lib.State, Callable[[], None]], step_lib.State] = (
        lambda state, check: state
    )
    cycle_ends: Sequence[int] = ()
    on_cycle: Callable[[step_lib.State, int], None] = lambda state, k: None


@dataclasses.dataclass
class Course:
    """What a resumed run must know beside its state; saved as JSON."""

    validated: int = 0  # the last step that was validated
    monitor: str = ""  # train.monitor and whether its max or min is best
    best: float | None = None  # its value
    best_step: int = 0
    worse: int = 0  # validations since the best one
    averaged: bool = False  # whether they were of averaged weights
    seconds: float = 0.0  # of training, over all resumptions
    done: bool = False
    window: list[Any] = dataclasses.field(default_factory=list)  # not logged


def train(job: Job) -> Course:
    """Trains to the end, or raises.

    Raises
    ------
    Interrupted : SIGTERM or SIGINT came; everything is saved.
    NotFinite : the loss was not finite; `nonfinite.json` names the batch.
    UserError : a checkpoint cannot be used or written.
    """
    knobs = job.config.train
    checkpoints = checkpoint.Checkpoints(
        job.workdir / "checkpoints", knobs.keep
    )

    # ------------------------------------------------- where it left off
    restored = checkpoints.restore(job.state)
    at, state, meta = restored or (0, job.state, {})
    course = Course(**meta)
    if course.done and not job.changed:
        return course
    course.done = False
    monitor = f"{knobs.monitor} {'min' if knobs.lower_is_better else 'max'}"
    if course.monitor not in ("", monitor):  # other scores compare with none
        course.best, course.worse = None, 0
    course.monitor = monitor
    if restored:
        _log.info("resuming at step %d of %d", at, job.n_steps)
    began, before = time.monotonic(), course.seconds
    save_every = knobs.checkpoint_every or job.eval_every
    meter = meter_lib.Meter(
        job.n_steps,
        at,
        batch_size=knobs.batch_size,
        learning_rate=optim.schedule(job.config.optim, job.n_steps),
        tracker=job.tracker,
        workdir=job.workdir,
        window=course.window,
    )

    def save(best: bool = False) -> None:
        course.seconds = before + time.monotonic() - began
        course.window = meter.window()
        checkpoints.save(at, state, dataclasses.asdict(course), best=best)

    with meter:
        batches = meter.waiting(job.batches(min(at, job.n_steps)))
        best = False
        try:
            while True:
                # --------------------------------- validate, save, stop
                # A signal in mid-validation left it to be made up for here.
                finished = at >= job.n_steps
                due = at and (finished or at % job.eval_every == 0)
                due = due and course.validated != at
                if due or at in job.cycle_ends:
                    meter.log()  # nothing that is not finite is ever saved
                    state = _settled(job, state, meter)
                if at in job.cycle_ends:
                    job.on_cycle(state, job.cycle_ends.index(at) + 1)
                if due:
                    best = _validate(job, at, state, course, meter)
                    if knobs.patience and course.worse >= knobs.patience:
                        _log.info(
                            "no better %s in %d validations: step %d of %d "
                            "is the last",
                            knobs.monitor,
                            course.worse,
                            at,
                            job.n_steps,
                        )
                        finished = True
                        if job.config.optim.swa and not course.averaged:
                            _log.warning(
                                "optim.swa had not begun: no weights are "
                                "averaged; train.patience=0 lets it"
                            )
                    if not finished:
                        save(best)
                if finished:
                    break
                job.signals.agree()

                # ------------------------------------------- one step
                batch = dict(next(batches))
                ids = batch.pop("ids")
                state, metrics = job.step(state, mesh.put(job.devices, batch))
                at += 1
                meter.add(at, ids, metrics)
                if at % knobs.log_every == 0:
                    meter.log()
                if at % save_every == 0 and at % job.eval_every:
                    meter.log()
                    save()
            course.done = True
            save(best)
        except stop_lib.Interrupted:
            save()
            raise
    return course


def _settled(
    job: Job, state: step_lib.State, meter: meter_lib.Meter
) -> step_lib.State:
    began = time.monotonic()
    state = job.settle(state, job.signals.agree)
    meter.pause(time.monotonic() - began)
    return state


def _validate(
    job: Job,
    at: int,
    state: step_lib.State,
    course: Course,
    meter: meter_lib.Meter,
) -> bool:
    """Validates the state; whether it is the best so far.

    Averaged weights are compared with averaged ones alone: whoever asks for
    them shall have them.
    """
    averaged = averages.has_begun(state["swa"])
    if averaged != course.averaged:
        course.best, course.worse, course.averaged = None, 0, averaged
    if job.evaluate is None:  # then the last weights are the best known
        course.validated = course.best_step = at
        job.on_best(state, {})
        return True
    began = time.monotonic()
    values = dict(job.evaluate(state, job.signals.agree))
    seconds = time.monotonic() - began
    meter.pause(seconds)
    knobs = job.config.train
    if knobs.monitor not in values:
        raise config_lib.ConfigError(
            config_lib.unknown("train.monitor", knobs.monitor, values)
        )
    # devices of two hosts may differ in the last digit
    value = mesh.of_first(float(values[knobs.monitor]))
    spent = {
        "perf/validation_s": seconds,
        "perf/peak_memory_mib": meter_lib.peak_memory_mib(),
    }
    job.tracker.metrics(at, values | spent)
    meter.note(knobs.monitor, value)
    best = _better(value, course.best, knobs.lower_is_better)
    course.validated = at
    course.worse = 0 if best else course.worse + 1
    if best:
        course.best, course.best_step = value, at
        job.on_best(state, values | meter.costs())
    return best


def _better(value: float, best: float | None, lower: bool) -> bool:
    """Whether a value is the best so far; NaN never is."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if lower else value > best
