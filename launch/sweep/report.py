"""What a sweep has found: a table, two pictures, and the parent's run.

    trials.csv    a row a trial, all its metrics
    table.csv     a row a setting: means over seeds, and their deviations
    parallel.png  the knobs that differ, a line a setting, by score
    curves.png    the monitored metric over the steps, a line a training
    compare.html  all of it on a page, and what the best make of the same images

A spread is the sample standard deviation over the seeds.
"""

import csv
import io
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.sweep import names as names_lib
from launch.sweep import page, results, same, share
from launch.sweep import plan as plan_lib
from seg import config as config_lib
from seg.evaluate.plots import canvas, sweeps
from seg.images import write
from seg.train import tracking

_SHOWN = ("dice", "miou", "ap50")  # in the printed table
_COSTS = {  # there too, where networks are compared
    "model/gmac": "GMAC",
    "perf/tiles_per_second": "tiles/s",
    "perf/predict_mpx_per_second": "Mpx/s",
    "perf/peak_memory_mib": "MiB",
}
_ORDER = ("done", "running", "stopped", "waiting", "failed")
_TITLES = {
    "parallel.png": "What differs, and the score",
    "curves.png": "Over the steps",
}
Row = dict[str, Any]


def rows(
    found: Sequence[results.Result], plan: plan_lib.Plan, *, pooled: bool
) -> list[Row]:
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
    table = [_row(group, plan, pooled) for group in groups.values()]

    def key(row: Row) -> tuple:
        score = row.get(monitor)
        if score is None:
            return 1, _ORDER.index(row["status"].partition(" ")[0])
        return 0, score if lower else -score

    return sorted(table, key=key)


def _row(group: list[results.Result], plan: plan_lib.Plan, pooled: bool) -> Row:
    first = group[0]
    done = [each for each in group if each.status == "done"]
    seeds = pooled and plan_lib.SEED in plan.knobs
    trial = plan.setting(first.trial) if seeds else first.trial
    row: Row = {"trial": trial.name}
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


def text(table: Sequence[Row], plan: plan_lib.Plan) -> str:
    """The table in Markdown: `cells`, aligned."""
    lines = cells(table, plan)
    n_knobs = sum(knob in row for knob in plan.knobs for row in table[:1])
    return _aligned(lines, n_knobs)


def cells(table: Sequence[Row], plan: plan_lib.Plan) -> list[list[str]]:
    """A header and the rows: what differs, and the scores that matter.

    Of trials whose networks differ also what these cost: multiply-adds of a
    tile, tiles a second in training, megapixels a second in validation, and
    the most memory of the training.
    """
    monitor = plan.base.train.monitor
    known = {name for row in table for name in row}
    scores = [
        name
        for name in dict.fromkeys(
            [monitor, *(f"{s}/{m}" for s in ("val", "test") for m in _SHOWN)]
        )
        if name in known
    ]
    knobs = [knob for knob in plan.knobs if knob in known]
    short = names_lib.labels(knobs)
    counted = [name for name in ("seeds",) if name in known]
    works = {row["model/gmac"] for row in table if "model/gmac" in row}
    costs = [name for name in _COSTS if name in known and len(works) > 1]
    header = [
        *(short[knob] for knob in knobs), *counted, *scores, "parameters",
        *(_COSTS[name] for name in costs), "minutes", "status",
    ]  # fmt: skip
    lines = [header]
    for row in table:
        line = [tracking.text(row[knob]) or "none" for knob in knobs]
        line += [str(row[name]) for name in counted]
        line += [_cell(row, name) for name in scores]
        n_parameters = row["parameters"]
        line.append("" if n_parameters is None else f"{n_parameters:,}")
        line += [_rounded(row.get(name)) for name in costs]
        line += [f"{row['minutes']:.1f}", row["status"]]
        lines.append(line)
    return lines


def _cell(row: Row, name: str) -> str:
    value, spread = row.get(name), row.get(f"{name}_std", math.nan)
    if value is None or math.isnan(value):
        return ""
    return f"{value:.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


def _rounded(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(lines: list[list[str]], n_left: int) -> str:
    """Markdown; the first n_left columns and the last are texts."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [*range(n_left), len(widths) - 1]
    rule = [
        "-" * width if i in left else "-" * (width - 1) + ":"
        for i, width in enumerate(widths)
    ]
    return "".join(
        "| "
        + " | ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |\n"
        for line in (lines[0], rule, *lines[1:])
    )


def write_csv(
    path: pathlib.Path, table: Sequence[Row], knobs: Iterable[str]
) -> None:
    """All columns; what a row does not have is empty."""
    last = ("parameters", "minutes", "status", "error")
    names = dict.fromkeys(name for row in table for name in row)
    names = [*(name for name in names if name not in last), *last]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in table:
        told = {k: tracking.text(row[k]) for k in knobs if k in row}
        writer.writerow(row | told)
    with write.whole(path) as part:
        part.write_text(buffer.getvalue(), encoding="utf-8")


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
    for path, table in (
        (files[0], pooled),
        (files[1], rows(found, sweep.plan, pooled=False)),
    ):
        write_csv(path, table, sweep.plan.knobs)
    if canvas.available():
        files += _pictures(sweep, found, pooled)
    header, *lines = cells(pooled, sweep.plan)
    files.append(sweep.workdir / "compare.html")
    page.make(
        files[-1],
        f"{sweep.workdir.name}: {len(pooled)} settings",
        header,
        lines,
        {_TITLES[path.name]: path for path in files if path.name in _TITLES},
        _overlays(sweep, found),
    )
    return text(pooled, sweep.plan), found, files


def _overlays(
    sweep: share.Sweep, found: Iterable[results.Result]
) -> dict[str, list[pathlib.Path]]:
    """Pictures of images that all settings have seen, of the best first.

    A setting is shown by the first of its seeds.
    """
    lower = sweep.plan.base.train.lower_is_better
    scored = [each for each in found if each.score is not None]
    shown: dict[str, list[pathlib.Path]] = {}
    for each in sorted(scored, key=lambda e: e.score, reverse=not lower):
        folder = sweep.job(each.trial).folder
        for split in ("test", "val"):
            files = sorted(folder.glob(f"{split}/overlays/first_*.png"))
            if files:
                shown.setdefault(sweep.plan.setting(each.trial).name, files)
                break
    return shown


def _pictures(
    sweep: share.Sweep, found: Iterable[results.Result], pooled: list[Row]
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
        short = names_lib.labels(knobs)
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
        points = {
            step: values[monitor]
            for step, values in results.course(job)
            if monitor in values
        }
        if points:
            trained = plan.training(each.trial) if job.training else each.trial
            name = plan.setting(trained).name
            line = sorted(points), [points[step] for step in sorted(points)]
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
