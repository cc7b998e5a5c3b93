"""What a network starts from: another model, ImageNet's weights, or chance."""

import dataclasses
import logging
import os
import pathlib

import numpy as np

from seg import config as config_lib
from seg.predict import bundle
from seg.train import checkpoint, parts, step

ENCODER = "encoder_sha256"  # in a workdir: the file that it started from
MODEL = "started_from"  # in a workdir: the digest of the model
_log = logging.getLogger(__name__)


def start(
    config: config_lib.Config,
    state: step.State,
    workdir: pathlib.Path,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[step.State, dict[str, str]]:
    """A fresh state with the weights that the config names.

    The second is what to note of them in the workdir, {name: digest}. A
    training that goes on from a checkpoint needs their files no more.

    Raises
    ------
    UserError : a file cannot be used, or does not fit the network.
    """
    if config.train.start:
        return _from_model(config, state, workdir, checkpoints)
    return _with_encoder(config, state, workdir, checkpoints)


def _noted(path: pathlib.Path, checkpoints: checkpoint.Checkpoints) -> str:
    """What an earlier run, from which this one goes on, has noted."""
    resumes = checkpoints.latest() is not None
    return path.read_text().strip() if resumes and path.exists() else ""


def _from_model(
    config: config_lib.Config,
    state: step.State,
    workdir: pathlib.Path,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[step.State, dict[str, str]]:
    path = config.train.start
    before = _noted(workdir / MODEL, checkpoints)
    if before:
        return state, {MODEL: before}
    if not os.path.isdir(path):
        raise config_lib.ConfigError(
            f"train.start={path}: no such model; give the folder of a bundle"
        )
    found = bundle.load(path)
    fresh = bundle.from_model(config, step.weights(state))
    fits = {
        name: array
        for name, array in found.weights.items()
        if name in fresh.weights and fresh.weights[name].shape == array.shape
    }
    n_fitting = sum(array.size for array in fits.values())
    n_all = sum(array.size for array in fresh.weights.values())
    if 2 * n_fitting < n_all:
        raise config_lib.ConfigError(
            f"train.start={path}: only {n_fitting:,} of {n_all:,} weights fit "
            f"model.name={config.model.name}; take the model's own network "
            f"({found.config.model.name}, width {found.config.model.width})"
        )
    weights = {
        name: np.asarray(fits.get(name, array), np.float32)
        for name, array in fresh.weights.items()
    }
    network = bundle.model(dataclasses.replace(fresh, weights=weights))
    left = sorted(fresh.weights.keys() - fits.keys())
    chance = f"; by chance: {', '.join(left)}" if left else ""
    _log.info("starts from the weights of %s%s", path, chance)
    return step.started(state, network), {MODEL: bundle.digest(found)}


def _with_encoder(
    config: config_lib.Config,
    state: step.State,
    workdir: pathlib.Path,
    checkpoints: checkpoint.Checkpoints,
) -> tuple[step.State, dict[str, str]]:
    path, resumes = config.model.encoder, checkpoints.latest() is not None
    if not path:
        if "encoder" in state["params"] and not resumes:
            _check_it_learns(config)
            _log.info(
                "%s: its encoder trains from scratch; model.encoder=FILE "
                "starts it from ImageNet's weights",
                config.model.name,
            )
        return state, {}
    before = _noted(workdir / ENCODER, checkpoints)
    if before and not os.path.exists(path) and checkpoints.restore(state):
        return state, {ENCODER: before}
    from seg.models import pretrained  # it reads HDF5

    network = bundle.model(bundle.from_model(config, step.weights(state)))
    sha256 = pretrained.load(network, path)
    if not resumes:
        _log.info("the encoder starts from %s, sha256 %s", path, sha256)
    return step.started(state, network), {ENCODER: before or sha256}


def _check_it_learns(config: config_lib.Config) -> None:
    if not parts.factor(parts.parse(config.optim.rates), "encoder"):
        raise config_lib.ConfigError(
            "optim.rates freeze the encoder at weights of chance; give "
            "--model.encoder=FILE.h5, or --optim.rates= to train it"
        )
