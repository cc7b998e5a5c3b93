"""What a run's folder has come to, read from its files.

Nothing in the folder is changed, so that a training may go on in it meanwhile,
and it may be another's. A folder whose `bundle` is a link, as those of a sweep
over predict.*, has been scored with the model of the training that it points
to.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seg import config as config_lib
from seg import locks
from seg.train import tracking

Records = Sequence[dict[str, Any]]


def training(folder: pathlib.Path) -> pathlib.Path:
    """The folder in which the run's model was trained: mostly its own."""
    bundle = folder / "bundle"
    return bundle.resolve().parent if bundle.is_symlink() else folder


def about(folder: pathlib.Path) -> dict[str, Any]:
    """What the best model so far tells of itself; empty without a model."""
    return _json(folder / "bundle" / "model.json").get("meta", {})


def evaluation(folder: pathlib.Path, split: str) -> dict[str, Any]:
    """What launch.evaluate wrote of a split; empty where it did not."""
    return _json(folder / split / "scores.json")


def metrics(folder: pathlib.Path, splits: Iterable[str]) -> dict[str, float]:
    """Metrics of the best validation, and of the evaluations of these splits.

    What another folder's training measured is not this one's.
    """
    own = training(folder) == folder
    found = dict(about(folder).get("metrics", {})) if own else {}
    for split in splits:
        found |= evaluation(folder, split).get("metrics", {})
    return {
        name: float(value)
        for name, value in found.items()
        if value is not None
        and name.startswith(("val/", "test/", "model/", "perf/"))
    }


def overlays(
    folders: Mapping[str, pathlib.Path],
) -> tuple[str, dict[str, list[pathlib.Path]]]:
    """(Split, pictures by run) of images that every evaluation shows.

    The split is that of which most runs have some; of equals it is the test.
    """
    found = {
        split: {
            name: files
            for name, folder in folders.items()
            if (files := sorted(folder.glob(f"{split}/overlays/first_*.png")))
        }
        for split in ("test", "val")
    }
    split = max(found, key=lambda split: len(found[split]))
    return split, found[split]


def records(config: config_lib.Config, folder: pathlib.Path) -> Records:
    """All that the training has recorded; none where it cannot be found."""
    return tracking.records(config.track, training(folder))


def course(found: Records, metric: str) -> tuple[list[int], list[float]]:
    """(Steps, values) of one metric, a step once."""
    points = {
        step: values[metric]
        for step, values in tracking.points(found)
        if metric in values
    }
    return sorted(points), [points[step] for step in sorted(points)]


def seconds(folder: pathlib.Path, found: Records = ()) -> float:
    """What the training has taken, all resumptions together; 0: unknown.

    Where its checkpoints are gone, its records tell.
    """
    # the last checkpoint knows of resumptions, too
    files = training(folder).glob("checkpoints/*/manifest.json")
    return max(map(_seconds, files), default=0.0) or _recorded(found)


def _seconds(manifest: pathlib.Path) -> float:
    """What a training had taken; 0 where its files come or go just now."""
    try:
        return json.loads(manifest.read_text())["body"]["meta"]["seconds"]
    except (OSError, ValueError, KeyError):
        return 0.0


def _recorded(found: Records) -> float:
    """From each start of the training to the last metrics that it told."""
    total, began, last = 0, None, 0
    for record in found:
        if record["kind"] == "metrics":
            last = record["time"]
        elif record["kind"] in ("start", "finish"):
            if began is not None:
                total += last - began
            starts = record["kind"] == "start" and not record.get("joins")
            began = last = record["time"] if starts else None
    return (total + (last - began if began is not None else 0)) / 1000


def status(folder: pathlib.Path, found: Records) -> str:
    """done, running, failed or stopped: the same command goes on."""
    if (folder / "done").exists():
        return "done"
    if locks.is_held(training(folder) / "lock"):
        return "running"
    ends = [record["status"] for record in found if record["kind"] == "finish"]
    return "failed" if ends[-1:] == ["FAILED"] else "stopped"


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
