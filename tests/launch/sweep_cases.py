"""Sweeps in folders, left as trainings would leave them."""

import json
import pathlib

from launch.sweep import plan, share, work
from seg import config

BASE = config.replace(config.Config(), {"track.uri": "none"})
GRID = {"model.name": ["unet", "fcn8"], "optim.learning_rate": [1e-3, 3e-3]}
SPACE = {
    "search": "tpe", "trials": 12, "optim.learning_rate": ("log", 1e-4, 1e-2),
    "model.dropout": ("uniform", 0, 0.5), "model.depth": ("int", 2, 4),
    "predict.min_area": [(3,), (5,)],
}  # fmt: skip


def opened(folder, swept=GRID, base=BASE, **settings):
    """A sweep that another process might have open, too."""
    opened = share.Sweep(
        plan.make(base, swept, **settings.pop("plan", {})),
        pathlib.Path(folder),
        **{"tiles": "pack.npz"} | settings,
    )
    opened.open({"experiment": "e.py", "sweep": json.loads(json.dumps(swept))})
    return opened


def finish(job, dice, minutes=2.0, **scores):
    """Leaves a folder as a training does that reached this score."""
    job.folder.mkdir(parents=True, exist_ok=True)
    work._ask(job)
    state = work.State({stage: minutes for stage in job.stages})
    if "train" in job.stages:
        work.bundle(job).mkdir()
        metrics = {"val/dice": dice, "train/loss": 1.0}
        metrics |= scores
        meta = {"metrics": metrics, "n_parameters": 1234}
        text = json.dumps({"meta": meta})
        (work.bundle(job) / "model.json").write_text(text)
    elif job.training:
        work._adopt(job)
    for split in {"val", "test"}.intersection(job.stages):
        (job.folder / split).mkdir()
        found = {f"{split}/dice": dice - 0.1 * (split == "test")}
        text = json.dumps({"metrics": found | scores})
        (job.folder / split / "scores.json").write_text(text)
    job.write(state)


def claims(sweep, n):
    """Names of n jobs claimed one after the other, all held meanwhile."""
    if not n:
        return []
    with sweep.next() as (job, _):
        return [job and job.name, *claims(sweep, n - 1)]
