"""The table of runs that are compared, as cells, Markdown and CSV.

A row is a dict: knobs and metrics by their names ("val/dice"; its spread as
"val/dice_std"), "parameters", "minutes", "status", and what else its file
shall hold. What a row does not have is an empty cell.
"""

import csv
import io
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from launch.compare import knobs as knobs_lib
from seg.images import write
from seg.train import tracking

_SHOWN = ("dice", "miou", "ap50")
_COSTS = {  # shown where networks are compared
    "model/gmac": "GMAC",
    "perf/tiles_per_second": "tiles/s",
    "perf/predict_mpx_per_second": "Mpx/s",
    "perf/peak_memory_mib": "MiB",
}
Row = dict[str, Any]


def cells(
    rows: Sequence[Row], knobs: Iterable[str], monitors: Iterable[str]
) -> list[list[str]]:
    """A header and the rows: what differs, and the scores that matter.

    Of runs whose networks differ also what these cost: multiply-adds of a
    tile, tiles a second in training, megapixels a second in validation, and
    the most memory of the training.

    monitors: the metrics by which the best model of a run was chosen.
    """
    known = {name for row in rows for name in row}
    splits = (f"{split}/{name}" for split in ("val", "test") for name in _SHOWN)
    scores = [n for n in dict.fromkeys([*monitors, *splits]) if n in known]
    knobs = [knob for knob in knobs if knob in known]
    short = knobs_lib.labels(knobs)
    named = [name for name in ("name",) if name in known]
    counted = [name for name in ("seeds",) if name in known]
    works = {row["model/gmac"] for row in rows if "model/gmac" in row}
    costs = [name for name in _COSTS if name in known and len(works) > 1]
    header = [
        *named, *(short[knob] for knob in knobs), *counted, *scores,
        "parameters", *(_COSTS[name] for name in costs), "minutes", "status",
    ]  # fmt: skip
    lines = [header]
    for row in rows:
        line = [row[name] for name in named]
        line += [shown(row[knob]) for knob in knobs]
        line += [str(row[name]) for name in counted]
        line += [_score(row, name) for name in scores]
        line.append(_filled("{:,}", row["parameters"]))
        line += [_rounded(row.get(name)) for name in costs]
        line += [_filled("{:.1f}", row["minutes"]), row["status"]]
        lines.append(line)
    return lines


def shown(value: Any) -> str:
    """The value of a knob in a cell."""
    return tracking.text(value) or "none"


def _filled(pattern: str, value: float | None) -> str:
    return "" if value is None else pattern.format(value)


def _score(row: Row, name: str) -> str:
    value, spread = row.get(name), row.get(f"{name}_std", math.nan)
    if value is None or math.isnan(value):
        return ""
    return f"{value:.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


def _rounded(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(lines: Sequence[Sequence[str]], n_left: int) -> str:
    """Cells, aligned; the first n_left columns and the last are texts."""
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
    path: pathlib.Path, rows: Sequence[Row], knobs: Iterable[str]
) -> None:
    """All columns of all rows."""
    known = dict.fromkeys(name for row in rows for name in row)
    last = ("parameters", "minutes", "status", "error")
    names = [name for name in known if name not in last]
    names += [name for name in last if name in known]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        told = {k: tracking.text(row[k]) for k in knobs if k in row}
        writer.writerow(row | told)
    with write.whole(path) as part:
        part.write_text(buffer.getvalue(), encoding="utf-8")
