"""What is asked for of a cloud."""

import pathlib

from launch.cloud import plan
from seg import config

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLOUD = ROOT / "launch/cloud"


def order(**changes):
    knobs = changes.pop("config", {})
    known = {
        "config": config.replace(config.Config(), knobs),
        "experiment": str(ROOT / "experiments/demo.py"),
        "workdir": "demo",
        "checkpoint_bucket": "gs://kept-here",
        "tracking_uri": "http://mlflow.example.org:5000",
    }
    return plan.Order(**known | changes)
