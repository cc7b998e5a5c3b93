"""What a sweep has found: a table, two pictures, and the parent's run.

    trials.csv    a row a trial, all its metrics
    table.csv     a row a setting: means over seeds, and their deviations
    parallel.png  the knobs that differ, a line a setting, by score
    curves.png    the monitored metric over the steps, a line a training
    compare.html  all of it on a page, and what the best make of the same images

A spread is the sample standard deviation over the seeds.
"""

import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.compare import knobs as knobs_lib
from launch.compare import page, table, workdir
from launch.sweep import plan as plan_lib
from launch.sweep import results, same, share
from seg import config as config_lib
from seg.evaluate.plots import canvas, sweeps
from seg.train import tracking

_ORDER = ("done", "running", "stopped", "waiting", "failed")
_TITLES = {
    "parallel.png": "What differs, and the score",
    "curves.png": "Over the steps",
}


def rows(
    found: Sequence[results.Result], plan: plan_lib.Plan, *, pooled: bool
) -> list[table.Row]:
    """Rows of the table, the best first.

    pooled: trials that differ in their seed only are one row, with the mean
    of each metric over those that are done, and its spread as NAME_std.
    """
    groups: dict[Any, list[results.Result]] = {}
    for at, each in enumerate(found):
        rest = dict(each.trial.changes)
        if pooled:
            rest.pop(plan_lib.SEED, None)
        groups.setdefault(repr(rest) if pooled else at, []).append(each)
    lower = plan.base.train.lower_is_better
    monitor = plan.base.train.monitor
    made = [_row(group, plan, pooled) for group in groups.values()]

    def key(row: table.Row) -> tuple:
        score = row.get(monitor)
        if score is None:
            return 1, _ORDER.index(row["status"].partition(" ")[0])
        return 0, score if lower else -score

    return sorted(made, key=key)


def _row(
    group: list[results.Result], plan: plan_lib.Plan, pooled: bool
) -> table.Row:
    first = group[0]
    done = [each for each in group if each.status == "done"]
    seeds = pooled and plan_lib.SEED in plan.knobs
    trial = plan.setting(first.trial) if seeds else first.trial
    row: table.Row = {"trial": trial.name}
    flat = config_lib.to_flat(plan.config(first.trial))
    for knob in plan.knobs:
        if not (seeds and knob == plan_lib.SEED):
            row[knob] = flat[knob]
    if seeds:
        row["seeds"] = len(done)
    names = dict.fromkeys(name for each in done for name in each.metrics)
    for name in names:
        values = [e.metrics[name] for e in done if name in e.metrics]
        row[name] = statistics.fmean(values)
        if seeds:
            row[f"{name}_std"] = (
                statistics.stdev(values) if len(values) > 1 else math.nan
            )
    row["parameters"] = first.n_parameters
    row["minutes"] = round(sum(each.minutes for each in group), 2)
    row["status"] = _summary([each.status for each in group])
    row["error"] = "; ".join(filter(None, (each.why for each in group)))
    return row


def _summary(statuses: list[str]) -> str:
    if len(set(statuses)) == 1:
        return statuses[0]
    return ", ".join(
        f"{name} {statuses.count(name)}" for name in _ORDER if name in statuses
    )


def text(rows: Sequence[table.Row], plan: plan_lib.Plan) -> str:
    """The table in Markdown: `cells`, aligned."""
    n_knobs = sum(knob in row for knob in plan.knobs for row in rows[:1])
    return table.markdown(cells(rows, plan), n_knobs)


def cells(rows: Sequence[table.Row], plan: plan_lib.Plan) -> list[list[str]]:
    """A header and the rows; see `table.cells`."""
    return table.cells(rows, plan.knobs, [plan.base.train.monitor])


def make(sweep: share.Sweep) -> tuple[str, list[results.Result], list[Any]]:
    """Writes the files: (table as text, results, files that were written)."""
    for job in sweep.jobs():
        same.check_config(job)
    with sweep.lock():
        found = [
            results.result(trial, sweep.job(trial)) for trial in sweep.trials()
        ]
    pooled = rows(found, sweep.plan, pooled=True)
    files = [sweep.workdir / name for name in ("table.csv", "trials.csv")]
    single = rows(found, sweep.plan, pooled=False)
    for path, each in zip(files, (pooled, single), strict=True):
        table.write_csv(path, each, sweep.plan.knobs)
    if canvas.available():
        files += _pictures(sweep, found, pooled)
    header, *lines = cells(pooled, sweep.plan)
    split, overlays = workdir.overlays(_folders(sweep, found))
    title = f"The same {split} images, the best settings first"
    parts = [page.table(header, lines)]
    for path in files:
        if path.name in _TITLES:
            parts.append(page.pictures(_TITLES[path.name], [path]))
    parts.append(page.side_by_side(title, overlays))
    files.append(sweep.workdir / "compare.html")
    name = f"{sweep.workdir.name}: {len(pooled)} settings"
    page.make(files[-1], name, parts)
    return text(pooled, sweep.plan), found, files


def _folders(
    sweep: share.Sweep, found: Iterable[results.Result]
) -> dict[str, pathlib.Path]:
    """The folders of settings with a score, the best first.

    A setting is shown by the first of its seeds.
    """
    lower = sweep.plan.base.train.lower_is_better
    scored = [each for each in found if each.score is not None]
    shown: dict[str, pathlib.Path] = {}
    for each in sorted(scored, key=lambda e: e.score, reverse=not lower):
        name = sweep.plan.setting(each.trial).name
        shown.setdefault(name, sweep.job(each.trial).folder)
    return shown


def _pictures(
    sweep: share.Sweep, found: Iterable[results.Result], pooled: list[table.Row]
) -> list[pathlib.Path]:
    plan, files = sweep.plan, []
    monitor = plan.base.train.monitor
    lower = plan.base.train.lower_is_better
    scored = [row for row in pooled if row.get(monitor) is not None]
    knobs = [
        knob
        for knob in plan.knobs
        if knob != plan_lib.SEED
        and len({repr(row[knob]) for row in scored}) > 1
    ]
    if scored and knobs:
        short = knobs_lib.labels(knobs)
        files.append(sweep.workdir / "parallel.png")
        sweeps.parallel(
            files[-1],
            [{short[knob]: row[knob] for knob in knobs} for row in scored],
            [row[monitor] for row in scored],
            label=monitor,
            lower_is_better=lower,
        )
    courses: dict[str, list[tuple[list[int], list[float]]]] = {}
    for each in found:
        job = sweep.job(each.trial)
        line = results.course(job, monitor)
        if line[0]:
            trained = plan.training(each.trial) if job.training else each.trial
            name = plan.setting(trained).name
            if line not in courses.setdefault(name, []):
                courses[name].append(line)
    if courses:
        files.append(sweep.workdir / "curves.png")
        sweeps.courses(files[-1], courses, label=monitor, lower_is_better=lower)
    return files


class Parent:
    """The run that the trials' runs are part of: one for a sweep.

    It has the knobs that all trials share as params, the best trial's metrics
    by the number of trials done, and the files of the report.
    """

    def __init__(self, sweep: share.Sweep, tags: Mapping[str, str]):
        self._sweep = sweep
        self._tags = dict(tags)
        self.run = ""

    def begin(self) -> None:
        """Makes the run, or finds it; call it with the sweep's lock held."""
        tracker = self._start({})
        self.run = tracker.run
        tracker.finish("")

    def end(
        self, found: Sequence[results.Result], files: Iterable[Any], status: str
    ) -> None:
        """Adds a report; status: see `Tracker.finish`."""
        plan = self._sweep.plan
        scored = [
            e for e in found if e.status == "done" and e.score is not None
        ]
        lower = plan.base.train.lower_is_better
        tags = {"sweep.done": f"{len(scored)} of {len(found)}"}
        best = None
        if scored:
            choose = min if lower else max
            best = choose(scored, key=lambda each: each.score)
            tags["sweep.best"] = best.trial.name
        tracker = self._start(tags)
        if best:
            tracker.metrics(len(scored), best.metrics, again=True)
        for path in files:
            tracker.artifact(path)
        tracker.finish(status)

    def _start(self, tags: dict[str, str]) -> tracking.Tracker:
        sweep = self._sweep
        tracker = tracking.build(sweep.plan.base.track, sweep.workdir)
        tracker.start(
            sweep.plan.base, self._tags | tags, varied=sweep.plan.knobs
        )
        return tracker
