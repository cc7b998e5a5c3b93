"""Every knob of an experiment, as frozen dataclasses.

A `Config` is built once (by an experiment file, then flags), checked once
(`check`), and handed down by part: a function that needs `config.optim` takes
an `Optim`.

    knobs    the dataclasses: defaults, help, ranges; data and training are
             files of their own
    knob     what one of them is
    flat     by dotted path: to and from flat dicts and JSON, changes
    scaling  the steps of data.normalize
    checks   what cannot run is refused
    errors   UserError, and what a misspelled name may have meant
"""

from seg.config.checks import check
from seg.config.data import Data, Synthetic
from seg.config.errors import ConfigError, UserError, nearest, unknown
from seg.config.flat import (
    diff,
    from_json,
    leaves,
    replace,
    to_flat,
    to_json,
)
from seg.config.knobs import Config, Mesh, Model, Predict, Track
from seg.config.training import Augment, Loss, Optim, Train

__all__ = [
    "Augment",
    "Config",
    "ConfigError",
    "Data",
    "Loss",
    "Mesh",
    "Model",
    "Optim",
    "Predict",
    "Synthetic",
    "Track",
    "Train",
    "UserError",
    "check",
    "diff",
    "from_json",
    "leaves",
    "nearest",
    "replace",
    "to_flat",
    "to_json",
    "unknown",
]
