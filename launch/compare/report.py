"""The files of a comparison.

table.csv        a row a run, all its metrics
curves_*.png     the monitored metrics and the training loss over the steps
compare.html     both on a page, with what the runs make of the same images
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from launch.compare import knobs as knobs_lib
from launch.compare import page, remarks, table
from launch.compare import runs as runs_lib
from seg import config as config_lib
from seg.evaluate.plots import canvas, sweeps

_LOSS = "train/loss"
_WIDE = 6  # knobs in the table of scores; more of them have their own

Runs = Sequence[runs_lib.Run]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written: the table as Markdown, remarks, files."""

    text: str
    remarks: list[str]
    files: list[pathlib.Path]


def make(runs: Runs, out: pathlib.Path) -> Report:
    """Writes the files."""
    metric, lower = runs_lib.leading(runs)
    runs = runs_lib.ranked(runs, metric, lower)
    same_data = len(remarks.by_data(runs)) == 1
    knobs = knobs_lib.telling(
        knobs_lib.differing([run.config for run in runs]), same_data=same_data
    )
    rows = [_row(run, knobs) for run in runs]
    files = [out / "table.csv"]
    table.write_csv(files[0], rows, knobs)
    monitors = list(dict.fromkeys([metric, *(run.monitor for run in runs)]))
    near = ["data"] * (not same_data) + knobs * (len(knobs) <= _WIDE)
    lines = table.cells(rows, near, monitors)
    texts = [table.markdown(lines, 1 + len(near))]
    notes = remarks.of(runs, metric, knobs)
    curves = []
    if canvas.available():
        drawn = (_curves(runs, m, out) for m in (*monitors, _LOSS))
        curves = list(filter(None, drawn))
    parts = [
        page.table(lines[0], lines[1:], best=same_data),
        page.notes(notes),
        page.pictures("Over the steps", curves),
        *_images(runs),
    ]
    if len(knobs) > _WIDE:
        lines = _beside(runs, rows, knobs)
        texts.append(table.markdown(lines, len(lines[0])))
        parts.append(page.heading("What differs"))
        parts.append(page.table(lines[0], lines[1:], best=False))
    files += [*curves, out / "compare.html"]
    page.make(files[-1], f"{len(runs)} runs: {remarks.named(runs)}", parts)
    return Report("\n".join(texts), notes, files)


def _row(run: runs_lib.Run, knobs: Iterable[str]) -> table.Row:
    flat = config_lib.to_flat(run.config)
    return {
        "name": run.name,
        "folder": str(run.folder),
        "data": run.data,
        **{knob: flat[knob] for knob in knobs},
        **run.metrics,
        "parameters": run.n_parameters,
        "minutes": run.minutes and round(run.minutes, 2),
        "status": run.status,
    }


def _beside(
    runs: Runs, rows: Sequence[table.Row], knobs: Iterable[str]
) -> list[list[str]]:
    """A row a knob, a column a run."""
    lines = [["", *(run.name for run in runs)]]
    for knob in knobs:
        lines.append([knob, *(table.shown(row[knob]) for row in rows)])
    return lines


def _curves(runs: Runs, metric: str, out: pathlib.Path) -> pathlib.Path | None:
    """A picture of a metric over the steps, if any run has recorded it."""
    courses = {
        run.name: [course] for run in runs if (course := run.course(metric))[0]
    }
    if not courses:
        return None
    lower = [
        r.config.train.lower_is_better for r in runs if r.monitor == metric
    ]
    path = out / f"curves_{metric.replace('/', '_')}.png"
    sweeps.courses(
        path,
        courses,
        label=metric,
        lower_is_better=lower[0] if lower else metric == _LOSS,
        order=[run.name for run in runs],
    )
    return path


def _images(runs: Runs) -> list[str]:
    """Of each data set what its runs made of the same images."""
    parts = []
    groups = remarks.by_data(runs)
    for digest, group in groups.items():
        split, shown = runs_lib.pictures(group)
        title = f"The {'same ' * (len(shown) > 1)}{split} images"
        if len(groups) > 1:
            title += f", of the data {digest or 'unknown'}"
        parts.append(page.side_by_side(title, shown))
    return parts
