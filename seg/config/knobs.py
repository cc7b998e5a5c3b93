"""Every knob of an experiment: its default, its help, what it may be.

Each field is a `knob(default, help, allowed)`; the help names the unit. The
same text is the flag's help, so a fact about a knob stands here and nowhere
else. `None` in a model's knob means "as the architecture's source has it".
"""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a knob may be."""

    text: str
    holds: Callable[[float], bool]


FRACTION = Range("lie in [0, 1]", lambda x: 0 <= x <= 1)
BELOW_ONE = Range("lie in [0, 1)", lambda x: 0 <= x < 1)
POSITIVE = Range("be positive", lambda x: x > 0)
NOT_NEGATIVE = Range("not be negative", lambda x: x >= 0)


def knob(
    default: Any, text: str, allowed: Range | tuple[Any, ...] | None = None
) -> Any:
    """A field with one line of help and the range, or choices, it allows."""
    return dataclasses.field(
        default=default, metadata={"help": text, "allowed": allowed}
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    name: str = knob("unet", "architecture, a key of seg.models.MODELS")
    in_channels: int = knob(
        1, "channels of the image: 1 grey, 3 colour", POSITIVE
    )
    n_classes: int = knob(
        1, "outputs of the class head; 1 = one sigmoid", POSITIVE
    )
    width: int | None = knob(None, "channels of the first level", POSITIVE)
    depth: int | None = knob(None, "number of 2x down-samplings", NOT_NEGATIVE)
    stem: int | None = knob(
        None,
        "side of the pixel blocks that the first level sees as one, px",
        (None, 1, 2),
    )
    norm: str | None = knob(
        None,
        "normalisation: batch, group or none",
        (None, "batch", "group", "none"),
    )
    dropout: float | None = knob(
        None, "dropout, a fraction in [0, 1)", BELOW_ONE
    )
    dtype: str = knob(
        "float32", "compute type: float32 or bfloat16", ("float32", "bfloat16")
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """Labelled images, how they are split, and how tiles are cut."""

    layout: str = knob(
        "synthetic",
        "how the files lie: synthetic, dsb2018, stardist or folders",
        ("synthetic", "dsb2018", "stardist", "folders"),
    )
    path: str = knob("", "folder or zip with the images (not for synthetic)")
    dir: str = knob("data", "folder for prepared records")
    sha256: str = knob("", "expected sha256 of a zip at path; empty = any")
    overlaps: str = knob(
        "error",
        "masks of two objects overlap: error, first or smallest",
        ("error", "first", "smallest"),
    )
    split: str = knob(
        "auto",
        "auto = as the data set publishes it, else group; or group",
        ("auto", "group"),
    )
    val_frac: float = knob(0.15, "share of the images for validation", FRACTION)
    test_frac: float = knob(0.15, "share of the images for the test", FRACTION)
    split_seed: int = knob(42, "seed of the split", NOT_NEGATIVE)
    normalize: str = knob(
        "percentile",
        "intensity scaling by image: percentile (1 to 99.8), standard, "
        "minmax, range (of the dtype) or none",
        ("percentile", "standard", "minmax", "range", "none"),
    )
    tile: int = knob(256, "side of a training tile, px", POSITIVE)
    overlap: float = knob(
        0.25, "least overlap of two tiles, share of a side", BELOW_ONE
    )
    per_image: int = knob(
        0,
        "tiles of an image in an epoch, at most, so that large images do "
        "not outweigh small ones; 0 = all",
        NOT_NEGATIVE,
    )
    object_rich: float = knob(
        0.0,
        "share of the tiles that are cut around a random object instead",
        FRACTION,
    )
    gap: int = knob(
        0,
        "px of background taught between touching objects: 0, 1 or 2",
        (0, 1, 2),
    )
    cache_mib: int = knob(
        512, "decoded images kept in host memory, MiB", POSITIVE
    )


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Drawn images with exact masks (data.layout=synthetic)."""

    kind: str = knob(
        "nuclei",
        "what is drawn: nuclei, cells or beads",
        ("nuclei", "cells", "beads"),
    )
    n_train: int = knob(48, "training images", POSITIVE)
    n_val: int = knob(8, "validation images", NOT_NEGATIVE)
    n_test: int = knob(12, "test images", NOT_NEGATIVE)
    height: int = knob(256, "rows of an image, px", POSITIVE)
    width: int = knob(256, "columns of an image, px", POSITIVE)
    n_objects: int = knob(40, "objects to place in an image", NOT_NEGATIVE)
    diameter: float = knob(24.0, "median diameter of an object, px", POSITIVE)
    touching: float = knob(
        0.3, "share of the objects placed against another", FRACTION
    )
    n_classes: int = knob(2, "classes with the background (cells: 3 or 4)")
    noise: float = knob(
        0.08, "noise, share of the intensity range", NOT_NEGATIVE
    )
    blur: float = knob(
        1.0, "sigma of the point spread function, px", NOT_NEGATIVE
    )
    shading: float = knob(0.3, "strength of the uneven light", NOT_NEGATIVE)
    seed: int = knob(0, "seed of the drawing", NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of a training tile; image and mask move together."""

    flip: float = knob(0.5, "probability of a flip along each axis", FRACTION)
    quarter_turns: bool = knob(True, "turn by a random multiple of 90 degrees")
    rotate: float = knob(
        0.0, "probability of a rotation by any angle", FRACTION
    )
    rotate_degrees: float = knob(
        180.0, "largest angle of a rotation, degrees", NOT_NEGATIVE
    )
    scale: float = knob(0.0, "probability of a change of scale", FRACTION)
    scale_range: tuple[float, float] = knob((0.8, 1.25), "range of the scale")
    crop_pad: float = knob(
        0.0, "probability of cropping or padding a side", FRACTION
    )
    crop_pad_frac: float = knob(
        0.2,
        "most that is cropped, share of a side",
        Range(
            "lie in [0, 0.5), being cut from both sides", lambda x: 0 <= x < 0.5
        ),
    )
    fill: float = knob(0.0, "value outside the tile, after normalisation")
    brightness: float = knob(
        0.1, "largest offset, share of the range", NOT_NEGATIVE
    )
    contrast: float = knob(
        0.2, "largest change of the contrast, a share", BELOW_ONE
    )
    gamma: float = knob(0.2, "largest exponent, as |log2 gamma|", NOT_NEGATIVE)
    blur: float = knob(0.0, "probability of a Gaussian blur", FRACTION)
    blur_sigma: float = knob(1.5, "largest sigma of a blur, px", NOT_NEGATIVE)
    noise: float = knob(
        0.02, "largest standard deviation of added noise", NOT_NEGATIVE
    )
    invert: float = knob(
        0.0, "probability of an inversion of intensities", FRACTION
    )


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
    focal_gamma: float = knob(
        2.0, "focusing exponent of the focal loss", NOT_NEGATIVE
    )


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser and its schedule."""

    name: str = knob("adamw", "adam, adamw or sgd", ("adam", "adamw", "sgd"))
    learning_rate: float = knob(1e-3, "peak learning rate", POSITIVE)
    schedule: str = knob(
        "cosine",
        "after the warm-up: cosine or constant",
        ("cosine", "constant"),
    )
    warmup_frac: float = knob(0.05, "warm-up, share of all steps", FRACTION)
    weight_decay: float = knob(
        1e-4, "decoupled weight decay (adamw)", NOT_NEGATIVE
    )
    momentum: float = knob(0.9, "momentum (sgd)", BELOW_ONE)
    nesterov: bool = knob(True, "Nesterov's momentum (sgd)")
    clip_norm: float = knob(
        1.0, "largest global gradient norm; 0 = off", NOT_NEGATIVE
    )
    ema: float = knob(0.0, "decay of the averaged weights; 0 = off", BELOW_ONE)


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, how often, and from which seed."""

    batch_size: int = knob(8, "tiles in a step, over all devices", POSITIVE)
    epochs: int = knob(10, "passes over all training tiles", POSITIVE)
    steps: int = knob(0, "steps in all; 0 = from epochs", NOT_NEGATIVE)
    seed: int = knob(0, "seed of weights, order and augmentation", NOT_NEGATIVE)
    augment: bool = knob(True, "augment the training tiles")
    log_every: int = knob(10, "steps between two log points", POSITIVE)
    eval_every: int = knob(
        0, "steps between two validations; 0 = an epoch", NOT_NEGATIVE
    )
    checkpoint_every: int = knob(
        0, "steps between saves; 0 = each validation", NOT_NEGATIVE
    )
    keep: int = knob(2, "checkpoints kept, beside the best", POSITIVE)
    monitor: str = knob("val/dice", "metric that chooses the best checkpoint")
    mode: str = knob(
        "auto",
        "the best is the max or the min; auto = min for losses, errors",
        ("auto", "max", "min"),
    )
    patience: int = knob(
        0, "validations without a better one; 0 = no stop", NOT_NEGATIVE
    )
    deterministic: bool = knob(False, "same bits on a GPU, at some cost")
    resume_changed: bool = knob(
        False, "resume although config or data differ from the checkpoint's"
    )


@dataclasses.dataclass(frozen=True)
class Predict:
    """From an image to objects."""

    tile: int = knob(256, "side of a window, px", POSITIVE)
    overlap: float = knob(
        0.25, "least overlap of two windows, share of a side", BELOW_ONE
    )
    batch_size: int = knob(4, "windows in a batch", POSITIVE)
    tta: int = knob(
        1, "views averaged: 1, 2 (flip), 4 (turns) or 8 (both)", (1, 2, 4, 8)
    )
    threshold: float = knob(
        0.5, "foreground probability (one sigmoid)", FRACTION
    )
    closing: int = knob(
        0, "side of the square closing, px; 0 = none", NOT_NEGATIVE
    )
    separate: str = knob(
        "components",
        "objects by components or watershed",
        ("components", "watershed"),
    )
    connectivity: int = knob(
        2,
        "pixels of an object touch: 1 = by an edge, 2 = or by a corner",
        (1, 2),
    )
    watershed_sigma: float = knob(
        2.0, "smoothing of the distance, px", NOT_NEGATIVE
    )
    watershed_distance: int = knob(
        5, "least distance of two seeds, px", POSITIVE
    )
    gap: int = knob(
        0,
        "gaps between objects that are closed after separation, px wide",
        NOT_NEGATIVE,
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
    n_overlays: int = knob(8, "images drawn in the artifacts", NOT_NEGATIVE)


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
