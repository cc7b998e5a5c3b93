"""What a network starts from: weights of a file for its encoder, or none."""

import logging
import os
import pathlib

from seg import config as config_lib
from seg.predict import bundle
from seg.train import checkpoint, step

RECORD = "encoder_sha256"  # in a workdir: the file that it started from
_log = logging.getLogger(__name__)


def start(
    config: config_lib.Config,
    state: step.State,
    workdir: pathlib.Path,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[step.State, str]:
    """A fresh state with `model.encoder` in place, and the file's sha256.

    Without a file the state is as it was, and the sha256 empty. A training
    that goes on from a checkpoint needs the file no more: it has the sha256
    from the workdir.

    Raises
    ------
    UserError : the file cannot be used, or the network has no encoder.
    """
    path, has_encoder = config.model.encoder, "encoder" in state["params"]
    record = workdir / RECORD
    if not path:
        if has_encoder and checkpoints.latest() is None:
            _log.info(
                "%s: its encoder trains from scratch; model.encoder=FILE "
                "starts it from ImageNet's weights",
                config.model.name,
            )
        return state, ""
    if not has_encoder:
        raise config_lib.ConfigError(
            f"model.encoder={path}, but model.name={config.model.name} has no "
            "encoder to load it into; leave it empty, or choose a network "
            "that has one"
        )
    before = record.read_text().strip() if record.exists() else ""
    if before and not os.path.exists(path) and checkpoints.restore(state):
        return state, before
    from seg.models import pretrained  # it reads HDF5

    network = bundle.model(bundle.from_model(config, step.weights(state)))
    sha256 = pretrained.load(network, path)
    _log.info("%s starts from %s, sha256 %s", config.model.name, path, sha256)
    return step.started(state, network), before or sha256
