"""Every knob of an experiment, as frozen dataclasses.

A `Config` is built once (by an experiment file, then flags), checked once
(`check`), and handed down by part: a function that needs `config.optim` takes
an `Optim`. Each field is a `knob(default, help)`; the help names the unit. The
same text is the flag's help, so a fact about a knob stands here and nowhere
else. `None` in a model's knob means "as the architecture's source has it".
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class UserError(ValueError):
    """What a user can mend. The message is one line: what, where, remedy.

    Every command prints it without a traceback and exits with status 2.
    """


class ConfigError(UserError):
    """A configuration that cannot run."""


def knob(default: Any, text: str) -> Any:
    """A dataclass field with its one line of help."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    name: str = knob("unet", "architecture, a key of seg.models.MODELS")
    in_channels: int = knob(1, "channels of the image: 1 grey, 3 colour")
    n_classes: int = knob(1, "outputs of the class head; 1 = one sigmoid")
    width: int | None = knob(None, "channels of the first level")
    depth: int | None = knob(None, "number of 2x down-samplings")
    stem: int | None = knob(
        None, "side of the pixel blocks that the first level sees as one, px"
    )
    norm: str | None = knob(None, "normalisation: batch, group or none")
    dropout: float | None = knob(None, "dropout, a fraction in [0, 1)")
    dtype: str = knob("float32", "compute type: float32 or bfloat16")


@dataclasses.dataclass(frozen=True)
class Data:
    """Labelled images, how they are split, and how tiles are cut."""

    layout: str = knob(
        "synthetic",
        "how the files lie: synthetic, dsb2018, stardist or folders",
    )
    path: str = knob("", "folder or zip with the images (not for synthetic)")
    dir: str = knob("data", "folder for prepared records")
    sha256: str = knob("", "expected sha256 of a zip at path; empty = any")
    overlaps: str = knob(
        "error", "masks of two objects overlap: error, first or smallest"
    )
    split: str = knob(
        "auto", "auto = as the data set publishes it, else group; or group"
    )
    val_frac: float = knob(0.15, "share of the images for validation")
    test_frac: float = knob(0.15, "share of the images for the test")
    split_seed: int = knob(42, "seed of the split")
    normalize: str = knob(
        "percentile",
        "intensity scaling by image: percentile (1 to 99.8), standard, "
        "minmax, range (of the dtype) or none",
    )
    tile: int = knob(256, "side of a training tile, px")
    overlap: float = knob(0.25, "least overlap of two tiles, share of a side")
    per_image: int = knob(
        0,
        "tiles of an image in an epoch, at most, so that large images do "
        "not outweigh small ones; 0 = all",
    )
    object_rich: float = knob(
        0.0, "share of the tiles that are cut around a random object instead"
    )
    gap: int = knob(
        0, "px of background taught between touching objects: 0, 1 or 2"
    )
    cache_mib: int = knob(512, "decoded images kept in host memory, MiB")


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Drawn images with exact masks (data.layout=synthetic)."""

    kind: str = knob("nuclei", "what is drawn: nuclei, cells or beads")
    n_train: int = knob(48, "training images")
    n_val: int = knob(8, "validation images")
    n_test: int = knob(12, "test images")
    height: int = knob(256, "rows of an image, px")
    width: int = knob(256, "columns of an image, px")
    n_objects: int = knob(40, "objects to place in an image")
    diameter: float = knob(24.0, "median diameter of an object, px")
    touching: float = knob(0.3, "share of the objects placed against another")
    n_classes: int = knob(2, "classes with the background (cells: 3 or 4)")
    noise: float = knob(0.08, "noise, share of the intensity range")
    blur: float = knob(1.0, "sigma of the point spread function, px")
    shading: float = knob(0.3, "strength of the uneven light")
    seed: int = knob(0, "seed of the drawing")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of a training tile; image and mask move together."""

    flip: float = knob(0.5, "probability of a flip along each axis")
    quarter_turns: bool = knob(True, "turn by a random multiple of 90 degrees")
    rotate: float = knob(0.0, "probability of a rotation by any angle")
    rotate_degrees: float = knob(180.0, "largest angle of a rotation, degrees")
    scale: float = knob(0.0, "probability of a change of scale")
    scale_range: tuple[float, float] = knob((0.8, 1.25), "range of the scale")
    crop_pad: float = knob(0.0, "probability of cropping or padding a side")
    crop_pad_frac: float = knob(0.2, "most that is cropped, share of a side")
    fill: float = knob(0.0, "value outside the tile, after normalisation")
    brightness: float = knob(0.1, "largest offset, share of the range")
    contrast: float = knob(0.2, "largest change of the contrast, a share")
    gamma: float = knob(0.2, "largest exponent, as |log2 gamma|")
    blur: float = knob(0.0, "probability of a Gaussian blur")
    blur_sigma: float = knob(1.5, "largest sigma of a blur, px")
    noise: float = knob(0.02, "largest standard deviation of added noise")
    invert: float = knob(0.0, "probability of an inversion of intensities")


@dataclasses.dataclass(frozen=True)
class Loss:
    """What training minimises."""

    terms: str = knob(
        "cross_entropy + dice",
        "weighted sum, as 'cross_entropy + 0.5*lovasz_softmax'; terms: "
        "cross_entropy, binary_cross_entropy, dice, focal, lovasz_softmax, "
        "lovasz_hinge, lovasz_sigmoid",
    )
    per_image: bool = knob(False, "Lovasz and Dice by image, then averaged")
    classes: str = knob(
        "present", "classes of Lovasz and Dice: present, all, or as '1,2'"
    )
    focal_gamma: float = knob(2.0, "focusing exponent of the focal loss")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser and its schedule."""

    name: str = knob("adamw", "adam, adamw or sgd")
    learning_rate: float = knob(1e-3, "peak learning rate")
    schedule: str = knob("cosine", "after the warm-up: cosine or constant")
    warmup_frac: float = knob(0.05, "warm-up, share of all steps")
    weight_decay: float = knob(1e-4, "decoupled weight decay (adamw)")
    momentum: float = knob(0.9, "momentum (sgd)")
    nesterov: bool = knob(True, "Nesterov's momentum (sgd)")
    clip_norm: float = knob(1.0, "largest global gradient norm; 0 = off")
    ema: float = knob(0.0, "decay of the averaged weights; 0 = off")


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, how often, and from which seed."""

    batch_size: int = knob(8, "tiles in a step, over all devices")
    epochs: int = knob(10, "passes over all training tiles")
    steps: int = knob(0, "steps in all; 0 = from epochs")
    seed: int = knob(0, "seed of weights, order and augmentation")
    augment: bool = knob(True, "augment the training tiles")
    log_every: int = knob(10, "steps between two log points")
    eval_every: int = knob(0, "steps between two validations; 0 = an epoch")
    checkpoint_every: int = knob(0, "steps between saves; 0 = each validation")
    keep: int = knob(2, "checkpoints kept, beside the best")
    monitor: str = knob("val/dice", "metric that chooses the best checkpoint")
    mode: str = knob(
        "auto", "the best is the max or the min; auto = min for losses, errors"
    )
    patience: int = knob(0, "validations without a better one; 0 = no stop")
    deterministic: bool = knob(False, "same bits on a GPU, at some cost")
    resume_changed: bool = knob(
        False, "resume although config or data differ from the checkpoint's"
    )


@dataclasses.dataclass(frozen=True)
class Predict:
    """From an image to objects."""

    tile: int = knob(256, "side of a window, px")
    overlap: float = knob(0.25, "least overlap of two windows, share of a side")
    batch_size: int = knob(4, "windows in a batch")
    tta: int = knob(1, "views averaged: 1, 2 (flip), 4 (turns) or 8 (both)")
    threshold: float = knob(0.5, "foreground probability (one sigmoid)")
    closing: int = knob(0, "side of the square closing, px; 0 = none")
    separate: str = knob("components", "objects by components or watershed")
    connectivity: int = knob(
        2, "pixels of an object touch: 1 = by an edge, 2 = or by a corner"
    )
    watershed_sigma: float = knob(2.0, "smoothing of the distance, px")
    watershed_distance: int = knob(5, "least distance of two seeds, px")
    gap: int = knob(
        0, "gaps between objects that are closed after separation, px wide"
    )
    min_area: tuple[int, ...] = knob(
        (0,), "least area, px: one value, or one for each foreground class"
    )
    fill_holes: bool = knob(False, "fill the holes of objects")
    drop_border: bool = knob(False, "drop objects that touch the border")
    margin: tuple[int, ...] = knob(
        (0,), "px around a box: one value, or one for each foreground class"
    )


@dataclasses.dataclass(frozen=True)
class Track:
    """Where the run is recorded."""

    uri: str = knob(
        "",
        "MLflow's URI; jsonl:DIR = spool without MLflow; none = nothing; "
        "empty = MLFLOW_TRACKING_URI, else sqlite:///mlflow.db",
    )
    experiment: str = knob("seg", "name of the experiment in MLflow")
    run_name: str = knob("", "name of the run; empty = the workdir's")
    n_overlays: int = knob(8, "images drawn in the artifacts")


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    model: Model = Model()
    data: Data = Data()
    synthetic: Synthetic = Synthetic()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optim: Optim = Optim()
    train: Train = Train()
    predict: Predict = Predict()
    track: Track = Track()
    classes: tuple[str, ...] = knob(
        ("background", "nucleus"), "names of the classes, background first"
    )


def leaves(config: Config = Config()) -> Iterator[tuple[str, Any, Any, str]]:
    """Yields (dotted path, value, type, help) of every knob."""
    yield from _leaves(config, "")


def _leaves(part: Any, prefix: str) -> Iterator[tuple[str, Any, Any, str]]:
    hints = typing.get_type_hints(type(part))
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            text = field.metadata["help"]
            yield prefix + field.name, value, hints[field.name], text


def to_flat(config: Config) -> dict[str, Any]:
    """The knobs by dotted path."""
    return {path: value for path, value, _, _ in leaves(config)}


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """A config with the knobs at these dotted paths changed.

    Values are converted to the knob's type (JSON lists to tuples, ints to
    floats). Raises ConfigError for an unknown path or a value that does not
    fit, naming both.
    """
    kinds = {path: kind for path, _, kind, _ in leaves(config)}
    for path, value in changes.items():
        if path not in kinds:
            raise ConfigError(unknown("knob", path, kinds))
        config = _set(config, path.split("."), _cast(path, value, kinds[path]))
    return config


def _set(part: Any, keys: list[str], value: Any) -> Any:
    if len(keys) > 1:
        value = _set(getattr(part, keys[0]), keys[1:], value)
    return dataclasses.replace(part, **{keys[0]: value})


def _cast(path: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: {value!r} is not a list")
        item, rest = typing.get_args(kind)
        if rest is not Ellipsis and len(value) != len(typing.get_args(kind)):
            raise ConfigError(f"{path}: {value!r} needs two values")
        return tuple(_cast(path, v, item) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, kind) or (kind is int and type(value) is bool):
        raise ConfigError(f"{path}: {value!r} is not of type {kind.__name__}")
    return value


def to_json(config: Config) -> str:
    """The whole config as JSON, nested by part."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads `to_json`'s text back; raises ConfigError where it does not fit."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"config is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"config is no JSON object: {text:.50}")
    return replace(Config(), _flatten(tree, ""))


def _flatten(tree: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.")
    return flat


def diff(old: Config, new: Config) -> list[str]:
    """Lines "path: old -> new" for the knobs that differ."""
    before, after = to_flat(old), to_flat(new)
    return [
        f"{path}: {before[path]!r} -> {after[path]!r}"
        for path in before
        if before[path] != after[path]
    ]


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that a misspelled one may stand for, best first.

    A bare last part stands for every path that ends in it.
    """
    known = sorted(known)
    ends = [path for path in known if path.rpartition(".")[2] == name]
    if ends:
        return ends[:3]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    match = difflib.SequenceMatcher(b=name)

    def likeness(candidate: str) -> float:
        match.set_seq1(candidate)
        return match.ratio()

    return [n for n in near if likeness(n) > likeness(near[0]) - 0.1]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a misspelled name, with the nearest right ones."""
    near = nearest(name, known)
    tail = (
        f"did you mean {' or '.join(near)}?"
        if near
        else (f"known: {', '.join(sorted(known))}")
    )
    return f"unknown {what} {name!r}; {tail}"


_CHOICES = {
    "model.norm": (None, "batch", "group", "none"),
    "model.stem": (None, 1, 2),
    "model.dtype": ("float32", "bfloat16"),
    "data.layout": ("synthetic", "dsb2018", "stardist", "folders"),
    "data.overlaps": ("error", "first", "smallest"),
    "data.split": ("auto", "group"),
    "data.normalize": ("percentile", "standard", "minmax", "range", "none"),
    "data.gap": (0, 1, 2),
    "synthetic.kind": ("nuclei", "cells", "beads"),
    "optim.name": ("adam", "adamw", "sgd"),
    "optim.schedule": ("cosine", "constant"),
    "train.mode": ("auto", "max", "min"),
    "predict.tta": (1, 2, 4, 8),
    "predict.separate": ("components", "watershed"),
    "predict.connectivity": (1, 2),
}
_FRACTIONS = (
    "data.val_frac", "data.test_frac", "data.object_rich", "synthetic.touching",
    "augment.flip", "augment.rotate", "augment.scale", "augment.crop_pad",
    "augment.blur", "augment.invert",
    "optim.warmup_frac", "predict.threshold",
)  # fmt: skip
_BELOW_ONE = (
    "data.overlap", "predict.overlap", "optim.ema", "optim.momentum",
    "model.dropout", "augment.contrast",
)  # fmt: skip
_POSITIVE = (
    "model.in_channels", "model.n_classes", "model.width", "data.tile",
    "data.cache_mib", "synthetic.n_train", "synthetic.height",
    "synthetic.width", "synthetic.diameter", "optim.learning_rate",
    "train.batch_size", "train.epochs", "train.log_every", "train.keep",
    "predict.tile", "predict.batch_size", "predict.watershed_distance",
)  # fmt: skip
_NOT_NEGATIVE = (
    "data.per_image", "predict.closing", "predict.gap",
    "predict.watershed_sigma", "train.steps",
    "train.eval_every", "train.checkpoint_every", "train.patience",
    "train.seed", "data.split_seed", "model.depth", "synthetic.seed",
    "synthetic.n_val", "synthetic.n_test", "synthetic.n_objects",
    "synthetic.noise", "synthetic.blur", "synthetic.shading",
    "augment.rotate_degrees", "augment.brightness", "augment.gamma",
    "augment.blur_sigma", "augment.noise", "loss.focal_gamma",
    "optim.weight_decay", "optim.clip_norm", "track.n_overlays",
)  # fmt: skip


def check(config: Config) -> Config:
    """Returns the config, or raises ConfigError naming knob and remedy."""
    flat = to_flat(config)
    for path, choices in _CHOICES.items():
        if flat[path] not in choices:
            options = ", ".join(map(str, choices))
            raise ConfigError(f"{path}={flat[path]!r}; choose one of {options}")
    _check_numbers(flat)
    if config.data.val_frac + config.data.test_frac >= 1:
        raise ConfigError("data.val_frac + data.test_frac leave no training")
    low, high = config.augment.scale_range
    if not 0 < low <= high:
        raise ConfigError(
            f"augment.scale_range={low},{high}; give two positive numbers, "
            "the smaller one first"
        )
    frac = config.augment.crop_pad_frac
    if not 0 <= frac < 0.5:
        raise ConfigError(
            f"augment.crop_pad_frac={frac}; it is cut from both sides and "
            "must lie in [0, 0.5)"
        )
    _check_intensities(config)
    _check_classes(config, flat)
    return config


def _check_intensities(config: Config) -> None:
    if config.data.normalize != "none" or not config.train.augment:
        return
    for name in ("brightness", "gamma", "noise", "invert"):
        if getattr(config.augment, name):
            raise ConfigError(
                f"augment.{name} is meant for intensities in [0, 1], and "
                "data.normalize=none leaves them as they are; choose another "
                f"scaling, or augment.{name}=0"
            )


def _check_numbers(flat: Mapping[str, Any]) -> None:
    for path, value in flat.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{path}={number}; it must be finite")
    for path in _FRACTIONS:
        if not 0 <= flat[path] <= 1:
            raise ConfigError(f"{path}={flat[path]}; it must lie in [0, 1]")
    for path in _BELOW_ONE:
        if flat[path] is not None and not 0 <= flat[path] < 1:
            raise ConfigError(f"{path}={flat[path]}; it must lie in [0, 1)")
    for path in _POSITIVE:
        if flat[path] is not None and flat[path] <= 0:
            raise ConfigError(f"{path}={flat[path]}; it must be positive")
    for path in _NOT_NEGATIVE:
        if flat[path] is not None and flat[path] < 0:
            raise ConfigError(f"{path}={flat[path]}; it must not be negative")


def _check_classes(config: Config, flat: Mapping[str, Any]) -> None:
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
    for path in ("predict.min_area", "predict.margin"):
        if len(flat[path]) not in (1, len(names) - 1) or min(flat[path]) < 0:
            raise ConfigError(
                f"{path}={flat[path]}; give one value >= 0, or "
                f"{len(names) - 1}, one for each foreground class"
            )
