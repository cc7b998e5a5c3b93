"""Whether a config can run, asked once, before anything starts."""

import math
from typing import Any

from seg.config import scaling
from seg.config.errors import ConfigError
from seg.config.flat import fields
from seg.config.knob import Range
from seg.config.knobs import Config
from seg.config.training import Optim

# synthetic: the default, before `seg verify` has found the layout
_NAMED = ("labelme", "outlines", "synthetic")


def check(config: Config) -> Config:
    """Returns the config, or raises ConfigError naming knob and remedy."""
    for path, value, field in fields(config):
        _check_one(path, value, field.metadata["allowed"])
    if config.data.val_frac + config.data.test_frac >= 1:
        raise ConfigError("data.val_frac + data.test_frac leave no training")
    if config.data.folds == 1 or config.data.fold >= (config.data.folds or 1):
        raise ConfigError(
            f"data.fold={config.data.fold} of data.folds={config.data.folds}; "
            "give two folds or more, and one of 0 to data.folds - 1"
        )
    layout = config.data.layout
    if config.data.aliases and layout not in _NAMED:
        raise ConfigError(
            f"data.aliases={','.join(config.data.aliases)}, but the files of "
            f"data.layout={layout} name no classes; leave it empty"
        )
    low, high = config.augment.scale_range
    if not 0 < low <= high:
        raise ConfigError(
            f"augment.scale_range={low},{high}; give two positive numbers, "
            "the smaller one first"
        )
    _check_optim(config.optim)
    _check_scaling(config)
    _check_encoder(config)
    _check_intensities(config)
    _check_classes(config)
    _check_loss(config)
    return config


def _check_one(
    path: str, value: Any, allowed: Range | tuple[Any, ...] | None
) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{path}={number}; it must be finite")
    if isinstance(allowed, tuple) and value not in allowed:
        options = ", ".join(
            "unset" if one is None else str(one) for one in allowed
        )
        raise ConfigError(f"{path}={value!r}; choose one of {options}")
    if isinstance(allowed, Range) and not (
        value is None or allowed.holds(value)
    ):
        raise ConfigError(f"{path}={value}; it must {allowed.text}")


def _check_optim(optim: Optim) -> None:
    if optim.ema and optim.swa:
        raise ConfigError(
            f"optim.ema={optim.ema} and optim.swa={optim.swa} are two averages "
            "of the weights; set one of them to 0"
        )
    if optim.cycles > 1 and optim.schedule != "cosine":
        raise ConfigError(
            f"optim.cycles={optim.cycles} with optim.schedule="
            f"{optim.schedule}; only a cosine has cycles"
        )


def _check_scaling(config: Config) -> None:
    data, n_channels = config.data, config.model.in_channels
    scaling.steps(data.normalize)
    for name in ("mean", "std"):
        values = getattr(data, name)
        if len(values) not in (0, n_channels):
            raise ConfigError(
                f"data.{name}={values}; give one value for each of "
                f"model.in_channels={n_channels}, or none"
            )
    if len(data.std) != len(data.mean) or min(data.std, default=1) <= 0:
        raise ConfigError(
            f"data.mean={data.mean} and data.std={data.std}; give both, and "
            "deviations > 0, or neither"
        )
    for other in ("resize", "pixel_size"):
        if data.rescale and getattr(data, other):
            raise ConfigError(
                f"data.rescale={data.rescale} gives every image a size of its "
                f"own, and data.{other}={getattr(data, other)} one to all; set "
                "one of them to 0"
            )
    if data.rescale and data.split == "tiles":
        raise ConfigError(
            f"data.rescale={data.rescale} measures the objects of whole "
            "images, data.split=tiles cuts them; use one of the two"
        )
    if data.resize and data.tile > data.resize:
        raise ConfigError(
            f"data.tile={data.tile} is larger than the images of "
            f"data.resize={data.resize}; choose data.tile={data.resize}"
        )


def _check_encoder(config: Config) -> None:
    """ImageNet's weights expect what [0, 1] becomes in the network."""
    steps = config.data.normalize
    if config.model.encoder and not scaling.is_to_one(steps):
        raise ConfigError(
            f"data.normalize={steps!r}: the weights of model.encoder want "
            "intensities in [0, 1]; take range, minmax or percentile"
        )


def _check_intensities(config: Config) -> None:
    if not (scaling.is_raw(config.data.normalize) and config.train.augment):
        return
    for name in ("brightness", "gamma", "noise", "invert", "colour"):
        if getattr(config.augment, name):
            raise ConfigError(
                f"augment.{name} is meant for intensities in [0, 1], and "
                f"data.normalize={config.data.normalize} leaves them as they "
                f"are; choose another scaling, or augment.{name}=0"
            )


def _check_classes(config: Config) -> None:
    names, n_classes = config.classes, config.model.n_classes
    if len(names) != max(n_classes, 2):
        raise ConfigError(
            f"classes has {len(names)} names, model.n_classes={n_classes} "
            f"needs {max(n_classes, 2)}; list the background first"
        )
    if len({*names, ""}) <= len(names):
        raise ConfigError(f"classes={names}; each needs a name of its own")
    n_drawn = config.synthetic.n_classes
    if config.data.layout == "synthetic" and n_drawn > len(names):
        raise ConfigError(
            f"synthetic.n_classes={n_drawn} draws more classes than the "
            f"{len(names)} of classes={names}; name them all"
        )
    if config.predict.diameter and config.predict.pixel_size:
        raise ConfigError(
            f"predict.diameter={config.predict.diameter} and "
            f"predict.pixel_size={config.predict.pixel_size}; give one of them"
        )
    if len(config.predict.calibration) not in (0, 2):
        raise ConfigError(
            f"predict.calibration={config.predict.calibration}; give slope and "
            "offset, or nothing"
        )
    for name in ("min_area", "margin"):
        values = getattr(config.predict, name)
        if len(values) not in (1, len(names) - 1) or min(values) < 0:
            raise ConfigError(
                f"predict.{name}={values}; give one value >= 0, or "
                f"{len(names) - 1}, one for each foreground class"
            )


def _check_loss(config: Config) -> None:
    weights, n_names = config.loss.class_weights, len(config.classes)
    if weights and (len(weights) != n_names or not _are_weights(weights)):
        raise ConfigError(
            f"loss.class_weights={weights}; give {n_names} weights >= 0, one "
            f"for each of classes={config.classes}, or none"
        )
    if not _are_weights(config.loss.tversky):
        raise ConfigError(
            f"loss.tversky={config.loss.tversky}; give two weights >= 0, of "
            "false positives and false negatives, not both 0"
        )


def _are_weights(values: tuple[float, ...]) -> bool:
    return min(values) >= 0 and max(values) > 0
