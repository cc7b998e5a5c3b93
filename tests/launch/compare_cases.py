"""Folders of runs, as trainings and evaluations leave them."""

import json

import numpy as np
from PIL import Image

from seg import config
from seg.train import tracking

BASE = config.replace(config.Config(), {"track.uri": "sqlite:///mlflow.db"})


def leave(
    folder, changes=(), *, dice=0.5, data="d0", test=None, status="FINISHED"
):
    """A run of 20 steps whose best validation was at the 20th.

    changes: of the config's knobs; dice: None for no model; test: Dice of an
    evaluation with overlays, None for none; status: how the training ended.
    """
    made = config.replace(BASE, dict(changes))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json(made))
    (folder / "data_digest").write_text(f"{data}\n")
    if status == "FINISHED":
        (folder / "done").touch()
    spool = tracker(folder)
    spool.start(made, {})
    for step in (10, 20):
        spool.metrics(step, {"train/loss": 1 / step})
        if dice is not None:
            spool.metrics(step, {made.train.monitor: dice * step / 20})
    if dice is not None:
        model(folder, 20, {"val/dice": dice, made.train.monitor: dice})
    spool.finish(status)
    if test is not None:
        evaluated(folder, test)
    return folder


def tracker(folder):
    """What writes the folder's record, without MLflow."""
    return tracking.JsonlTracker(
        folder / "spool.jsonl", name=folder.name, experiment="seg"
    )


def model(folder, step, metrics):
    """A bundle of which only model.json is there."""
    meta = {"metrics": metrics, "n_parameters": 1234, "step": step}
    (folder / "bundle").mkdir(exist_ok=True)
    (folder / "bundle" / "model.json").write_text(json.dumps({"meta": meta}))


def evaluated(folder, dice, split="test", *, grey=0, settings=(), step=20):
    """What launch.evaluate leaves of a model of this step."""
    (folder / split / "overlays").mkdir(parents=True)
    told = {"metrics": {f"{split}/dice": dice}, "settings": dict(settings)}
    (folder / split / "scores.json").write_text(json.dumps(told))
    pixels = np.full((9, 9), grey, np.uint8)
    for name in ("first_1", "first_2", "worst_1"):
        Image.fromarray(pixels).save(folder / split / f"overlays/{name}.png")
    spool = tracker(folder)
    spool.start(BASE, {}, joins=True)
    spool.metrics(step, told["metrics"], again=True)
    spool.metrics(step, {f"{split}/dice_low": dice - 0.1}, again=True)
    spool.finish("FINISHED")
