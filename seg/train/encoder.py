"""What a network starts from: weights of a file for its encoder, or none."""

import logging
import os
import pathlib

from seg import config as config_lib
from seg.predict import bundle
from seg.train import checkpoint, parts, step

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
    path, record = config.model.encoder, workdir / RECORD
    resumes = checkpoints.latest() is not None
    if not path:
        if "encoder" in state["params"] and not resumes:
            _check_it_learns(config)
            _log.info(
                "%s: its encoder trains from scratch; model.encoder=FILE "
                "starts it from ImageNet's weights",
                config.model.name,
            )
        return state, ""
    before = record.read_text().strip() if resumes and record.exists() else ""
    if before and not os.path.exists(path) and checkpoints.restore(state):
        return state, before
    from seg.models import pretrained  # it reads HDF5

    network = bundle.model(bundle.from_model(config, step.weights(state)))
    sha256 = pretrained.load(network, path)
    if not resumes:
        _log.info("the encoder starts from %s, sha256 %s", path, sha256)
    return step.started(state, network), before or sha256


def _check_it_learns(config: config_lib.Config) -> None:
    if not parts.factor(parts.parse(config.optim.rates), "encoder"):
        raise config_lib.ConfigError(
            "optim.rates freeze the encoder at weights of chance; give "
            "--model.encoder=FILE.h5, or --optim.rates= to train it"
        )
