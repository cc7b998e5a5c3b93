"""What an evaluation leaves in a folder: pictures, tables and scores.

    overlays/worst_1.png ... best_1.png   the worst and the best images
    overlays/first_1.png, first_2.png     the first ones, to compare models by
    curves/ap.png                         AP over the IoU threshold
    curves/reliability.png                how often objects are right
    objects.csv  images.csv               a row an object found, a row an image
    scores.json  summary.md               all scores, with their intervals

Every file is written whole. Names do not depend on the images, so that a
second evaluation replaces the first one.
"""

import bisect
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seg.evaluate import calibration, marks, matching, plots
from seg.images import formats, write

IMAGE_FIELDS = (
    "image", "group", "rows", "cols", "n_true", "n_found", "dice", "iou",
    "ap50", "ap_mean", "f1", "pq", "count_error",
)  # fmt: skip
_SIDE = 900  # of a picture, px
_FIRSTS = 2  # images that every model is shown by


def object_rows(
    image: str,
    found: Any,
    true_labels: np.ndarray | None,
    labels: np.ndarray,
) -> list[dict[str, Any]]:
    """A row for each object found: its measures, and how it matches.

    `match` is right, wrong, or not annotated; `iou` and `true_label` are those
    of the true object that it is matched with, at IoU >= 0.5.
    """
    area = np.bincount(found.labels.ravel())
    rows = {
        label: {"label": label, "area_px": int(area[label])}
        for label in np.flatnonzero(area).tolist()
        if label
    }
    for measured in found.table:
        rows[measured["label"]] |= measured
    if true_labels is not None:
        counted = set(np.unique(labels).tolist())
        for label, row in rows.items():
            row["match"] = "wrong" if label in counted else "not annotated"
        for true, label, iou in _matched(true_labels, labels):
            rows[label] |= {"match": "right", "true_label": true, "iou": iou}
    return [row | {"image": image} for row in rows.values()]


def _matched(
    true_labels: np.ndarray, labels: np.ndarray
) -> list[tuple[int, int, float]]:
    """(true id, found id, IoU) of the objects matched at 0.5."""
    pairs = matching.pairs(true_labels, labels)
    area = np.bincount(labels.ravel())
    partner = np.full(len(area), -1, np.int64)  # true id by found id
    partner[pairs[:, 1]] = pairs[:, 0]
    common = labels[partner[labels] == true_labels]
    overlap = np.bincount(common, minlength=len(area))
    true_ids, true_areas = np.unique(true_labels, return_counts=True)
    true_area = true_areas[np.searchsorted(true_ids, pairs[:, 0])]
    both = overlap[pairs[:, 1]]
    iou = both / (true_area + area[pairs[:, 1]] - both)
    return list(zip(*pairs.T.tolist(), iou.tolist(), strict=True))


class Gallery:
    """The worst and the best of many images, as pictures of screen size.

    Half of the n pictures show the lowest scores, the rest the highest: AP
    over all thresholds, or Dice for images without objects. The first images
    are shown too, the same ones for every model.
    """

    def __init__(self, n: int):
        self._n, self._n_worst = n, n // 2
        self._keys: list[tuple] = []  # ascending
        self._entries: list[dict[str, Any]] = []
        self._firsts: list[dict[str, Any]] = []

    def offer(
        self,
        row: Mapping[str, Any],
        record: Mapping[str, Any],
        found: Any,
        true_labels: np.ndarray | None,
        labels: np.ndarray,
    ) -> None:
        """Keeps an image if it is among the worst, the best or the first."""
        if len(self._firsts) < _FIRSTS * bool(self._n):
            self._firsts.append(_drawn(row, record, found, true_labels, labels))
        key = row.get("ap_mean", row["dice"]), row["dice"], row["image"]
        at = bisect.bisect(self._keys, key)
        full = len(self._keys) >= self._n
        if full and at == self._n_worst:
            return  # it lies in the middle
        self._keys.insert(at, key)
        self._entries.insert(
            at, _drawn(row, record, found, true_labels, labels)
        )
        if full:
            del self._keys[self._n_worst], self._entries[self._n_worst]

    def named(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, arguments of `plots.overlay`), from the worst to the best."""
        n = len(self._entries)
        n_worst = min(self._n_worst, n // 2)
        names = [f"worst_{i + 1}" for i in range(n_worst)]
        names += [f"best_{n - i}" for i in range(n_worst, n)]
        named = list(zip(names, self._entries, strict=True))
        for i, entry in enumerate(self._firsts, 1):
            named.append((f"first_{i}", entry))
        return named


def _drawn(
    row: Mapping[str, Any],
    record: Mapping[str, Any],
    found: Any,
    true_labels: np.ndarray | None,
    labels: np.ndarray,
) -> dict[str, Any]:
    """One image as the arguments of `plots.overlay`."""
    image, name, counts = record["image"], row["image"], None
    if len(name) > 28:
        name = f"{name[:16]}…{name[-8:]}"
    title = f"{name}   Dice {row['dice']:.3f}"
    if true_labels is None:
        marked = marks.class_overlay(
            image, record["classes"], found.classes, side=_SIDE
        )
    else:
        title += f"   AP {row['ap50']:.3f} at 0.5, {row['ap_mean']:.3f} mean"
        n_right = len(matching.pairs(true_labels, labels))
        counts = {
            "right": n_right,
            "missed": row["n_true"] - n_right,
            "wrong": row["n_found"] - n_right,
        }
        marked = marks.truth_overlay(image, true_labels, labels, side=_SIDE)
    raw = marks.picture(image, _SIDE)
    return {"raw": raw, "marked": marked, "title": title, "counts": counts}


def write_all(
    folder: pathlib.Path,
    report: Any,
    objects: Sequence[Mapping[str, Any]],
    gallery: Gallery,
    matchings: Sequence[matching.Matching],
) -> dict[pathlib.Path, str]:
    """Writes the files of the module; {path: folder of the artifact}."""
    files = {}

    def path(name: str) -> pathlib.Path:
        place = folder / name
        files[place] = "" if place.parent == folder else place.parent.name
        return place

    if plots.available():
        for name, entry in gallery.named():
            plots.overlay(path(f"overlays/{name}.png"), **entry)
        if matchings:
            _ap_curve(path("curves/ap.png"), report, matchings)
        if len(outcome := calibration.pooled(report.outcomes)):
            plots.reliability(
                path("curves/reliability.png"),
                calibration.reliability(outcome),
                report.metrics[f"{report.split}/ece"],
            )
    else:
        logging.warning("no pictures drawn: matplotlib is not installed")
    formats.write_table(path("objects.csv"), objects)
    formats.write_table(path("images.csv"), report.rows, IMAGE_FIELDS)
    scores = {
        "split": report.split,
        "n_images": len(report.rows),
        "settings": dict(report.settings),
        "metrics": {
            name: None if math.isnan(value) else value
            for name, value in report.metrics.items()
        },
        "intervals": report.intervals,
    }
    text = json.dumps(scores, indent=2, allow_nan=False) + "\n"
    with write.whole(path("scores.json")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with write.whole(path("summary.md")) as temporary:
        temporary.write_text(
            f"# {report.split}: {len(report.rows)} images\n\n"
            + (
                "95 % bootstrap intervals over images.\n\n"
                if report.intervals
                else ""
            )
            + report.summary(),
            encoding="utf-8",
        )
    return files


def _ap_curve(
    path: pathlib.Path, report: Any, matchings: Sequence[matching.Matching]
) -> None:
    thresholds = matchings[0].thresholds
    curves, bounds = {}, {}
    for title, end in (
        ("pooled over objects", ""),
        ("mean over images", "_image"),
    ):
        names = [f"{report.split}/ap{round(100 * t)}{end}" for t in thresholds]
        curves[title] = [report.metrics[name] for name in names]
        if report.intervals:
            bounds[title] = [report.intervals[name] for name in names]
    n_true = sum(m.n_true for m in matchings)
    plots.ap_curve(
        path, thresholds, curves, bounds,
        title=f"{report.split}: {len(matchings)} images, {n_true} objects",
    )  # fmt: skip
