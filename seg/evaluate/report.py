"""Whole images: predict, score, and pictures of where it went wrong.

`evaluate` takes any function from a record to what was found in it, so a
model, a baseline and a stranger's result are scored alike. It looks at one
image at a time and keeps counts only (and, for the pictures, the few worst and
best images, scaled to the screen). It knows nothing of MLflow: the caller
hands `Report.metrics` and the files to a tracker.

Records are dicts with `image` [H, W, C], `classes` uint8 [H, W] (255 = not
annotated), `labels` int [H, W] (None, or no such key: no objects known), `id`
and `group`. What was found has `.classes` uint8 [H, W], `.labels` int32 [H, W]
and `.table`, as `seg.predict` gives it.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seg import config
from seg.evaluate import artifacts, calibration, matching, metrics

_HEADLINES = (
    "dice", "iou", "miou", "miou_image", "ap50", "ap50_image", "ap75",
    "ap_mean", "ap_mean_image", "f1", "pq", "aji", "boundary_f",
    "count_error", "ece", "accuracy",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores of one split.

    Parameters
    ----------
    split : its name, which the metrics begin with.
    metrics : {"test/dice": ...}, by the names of `metrics` and `matching`.
    intervals : 95 % bootstrap intervals (low, high) over images, by the same
        names; empty if not asked for.
    rows : scores by image, with `artifacts.IMAGE_FIELDS`.
    files : what was written, as {path: folder of the artifact}.
    settings : what the scores were measured with, JSON values.
    outcomes : of the objects of each image, see `calibration`.
    """

    split: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    rows: list[dict[str, Any]]
    files: dict[pathlib.Path, str] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outcomes: list[np.ndarray] = dataclasses.field(default_factory=list)

    def summary(self, names: Sequence[str] | None = None) -> str:
        """A table of scores in Markdown; by default of all of them."""
        return summary({self.split: self}, names)


def evaluate(
    predict: Callable[[Mapping[str, Any]], Any],
    records: Iterable[Mapping[str, Any]],
    class_names: Sequence[str],
    split: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    n_overlays: int = 8,
    intervals: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Scores `predict` on every record.

    Foreground Dice and IoU are means over images; those of the classes are
    pooled over all pixels, and `miou_image` is the mean over images of each
    one's mean IoU; objects are matched whatever their class, and left
    out of images that have no `labels`; `ece` is how far their probabilities
    are from being the share that is right (`calibration`). What was found
    mostly on pixels that are not annotated counts neither for nor against.

    Parameters
    ----------
    predict : from a record to what was found in its image.
    class_names : background first.
    folder : where to write overlays/, curves/, objects.csv, images.csv,
        scores.json and summary.md; None: nothing is written.
    n_overlays : images drawn, half of them the worst, half the best.
    intervals : bootstrap, a second or two.
    settings : see `Report`.

    Raises
    ------
    UserError
        if there is no record, or the folder cannot be written.
    """
    counts, matchings, rows, objects, outcomes = [], [], [], [], []
    gallery = artifacts.Gallery(n_overlays if folder is not None else 0)
    for record in records:
        found = predict(record)
        truth = record["classes"]
        labels, true_labels = _annotated(record, found)
        matched = None
        if true_labels is not None:
            matched = matching.match(true_labels, labels)
            matchings.append(matched)
            outcomes.append(calibration.outcomes(found, true_labels, labels))
        counts.append(metrics.confusion(found.classes, truth, len(class_names)))
        rows.append(_row(record, found, matched))
        if folder is not None:
            objects += artifacts.object_rows(
                record["id"], found, true_labels, labels
            )
            gallery.offer(rows[-1], record, found, true_labels, labels)
    if not rows:
        raise config.UserError(
            f"no image to evaluate in the split {split!r}; prepare the data "
            "with a larger share for it"
        )
    scores, bounds = _scores(rows, counts, matchings, class_names, intervals)
    if len(outcome := calibration.pooled(outcomes)):
        scores["ece"] = calibration.error(outcome)
    report = Report(
        split,
        {f"{split}/{name}": value for name, value in scores.items()},
        {f"{split}/{name}": pair for name, pair in bounds.items()},
        rows,
        settings=settings or {},
        outcomes=outcomes,
    )
    if folder is not None:
        files = artifacts.write_all(
            pathlib.Path(folder), report, objects, gallery, matchings
        )
        report = dataclasses.replace(report, files=files)
    return report


def summary(
    reports: Mapping[str, Report], names: Sequence[str] | None = None
) -> str:
    """Scores side by side, in Markdown: one column a report, by its title.

    names: scores without their split, in this order; None: all that there
    are, the headlines first.
    """
    scores = {
        title: {
            _tail(name): (value, report.intervals.get(name))
            for name, value in report.metrics.items()
        }
        for title, report in reports.items()
    }
    known = dict.fromkeys(name for named in scores.values() for name in named)
    if names is None:
        names = [name for name in _HEADLINES if name in known]
        names += [name for name in known if name not in names]
    table = [["score", *scores]]
    for name in names:
        cells = [
            _cell(*named.get(name, (math.nan, None)))
            for named in scores.values()
        ]
        table.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    table.insert(
        1, ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    )
    lines = [
        " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "".join(f"| {line} |\n" for line in lines)


def _tail(name: str) -> str:
    return name.partition("/")[2]


def _cell(value: float, bounds: tuple[float, float] | None) -> str:
    if math.isnan(value):
        return ""
    if bounds is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"


def _annotated(
    record: Mapping[str, Any], found: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """(labels, true labels) where annotated, 0 elsewhere.

    An object that lies for more than half where nothing is annotated is
    nobody's error: it goes. Of the others the annotated part counts.
    """
    labels, true_labels = found.labels, record.get("labels")
    unknown = record["classes"] == metrics.NOT_ANNOTATED
    if unknown.any():
        area = np.bincount(labels.ravel())
        hidden = np.bincount(labels[unknown], minlength=len(area))
        gone = 2 * hidden > area
        labels = np.where(unknown | gone[labels], 0, labels)
        if true_labels is not None:
            true_labels = np.where(unknown, 0, true_labels)
    return labels, true_labels


def _row(
    record: Mapping[str, Any], found: Any, matched: matching.Matching | None
) -> dict[str, Any]:
    """Scores of one image, by `artifacts.IMAGE_FIELDS`."""
    dice, iou = metrics.foreground(found.classes, record["classes"])
    n_rows, n_cols = record["classes"].shape
    row = {
        "image": record["id"], "group": record["group"],
        "rows": n_rows, "cols": n_cols, "dice": dice, "iou": iou,
    }  # fmt: skip
    if matched is not None:
        scores = matching.scores([matched])
        row |= {"n_true": matched.n_true, "n_found": matched.n_found}
        for name in ("ap50", "ap_mean", "f1", "pq", "count_error"):
            row[name] = scores[name]
    return row


def _scores(
    rows: Sequence[Mapping[str, Any]],
    counts: Sequence[np.ndarray],
    matchings: Sequence[matching.Matching],
    class_names: Sequence[str],
    intervals: bool,
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """(scores, intervals) of all images together, without the split."""
    of_images = ("dice", "iou", "miou_image")
    means = np.array(
        [
            (row["dice"], row["iou"], metrics.scores(count)["miou"])
            for row, count in zip(rows, counts, strict=True)
        ]
    )
    pooled = metrics.scores(np.sum(counts, axis=0), class_names)
    scores = dict(zip(of_images, _mean(means).tolist(), strict=True))
    scores |= pooled
    if matchings:
        scores |= matching.scores(matchings)
    if not intervals:
        return scores, {}

    def pool(drawn: np.ndarray) -> list[float]:
        return list(metrics.scores(drawn.sum(0), class_names).values())

    bounds = {}
    for names, values, statistic in (
        (of_images, means, _mean),
        (pooled, np.array(counts), pool),
    ):
        low, high = metrics.bootstrap(values, statistic)
        ends = zip(low.tolist(), high.tolist(), strict=True)
        bounds |= dict(zip(names, ends, strict=True))
    if matchings:
        bounds |= matching.intervals(matchings)
    return scores, bounds


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the images that have a score; NaN where none has."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), math.nan)
