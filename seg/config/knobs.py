"""Every knob of an experiment: the network, prediction, and all together.

`None` in a model's knob means "as the architecture's source has it".
"""

import dataclasses

from seg.config.data import Data, Synthetic
from seg.config.knob import (
    BELOW_ONE,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    knob,
)
from seg.config.training import Augment, Loss, Optim, Train


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
    objects: str = knob(
        "none",
        "what a second head learns, to separate the objects that touch: "
        "distance (to the object's border, up to 5 px), neighbour (the same, "
        "less where another object is near), interior (all but the border) or "
        "none",
        ("none", "distance", "neighbour", "interior"),
    )
    width: int | None = knob(None, "channels of the first level", POSITIVE)
    depth: int | None = knob(None, "number of 2x down-samplings", NOT_NEGATIVE)
    stem: int | None = knob(
        None,
        "side of the pixel blocks that the first level sees as one, px",
        (None, 1, 2),
    )
    encoder: str = knob(
        "",
        "file of ImageNet weights for the encoder, Keras' .h5 or .weights.h5; "
        "empty = from scratch",
    )
    deep_supervision: bool = knob(
        False, "heads on inner levels learn too, where the network has them"
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
class Predict:
    """From an image to objects."""

    tile: int = knob(
        0,
        "side of a window, px; 0 = what an image takes least work with, of 320 "
        "to 576",
        NOT_NEGATIVE,
    )
    overlap: float = knob(
        0.11, "least overlap of two windows, share of a side", BELOW_ONE
    )
    spacing: str = knob(
        "least",
        "windows lie evenly, as the tiles of data.spacing do",
        ("least", "ceil"),
    )
    blend: str = knob(
        "cosine",
        "where windows overlap: cosine = averaged, less towards a border; "
        "mean = averaged alike; last = the later one's",
        ("cosine", "mean", "last"),
    )
    batch_size: int = knob(2, "windows in a batch", POSITIVE)
    tta: int = knob(
        1, "views averaged: 1, 2 (flip), 4 (turns) or 8 (both)", (1, 2, 4, 8)
    )
    rescale: bool = knob(
        True,
        "see an image at the size at which its objects are as large as those "
        "of the training, by what the file says of its pixels, or where "
        "separate=learned finds them 1.4 times smaller or 3 times larger",
    )
    diameter: float | None = knob(
        None, "diameter of the objects in the image, px, if known", POSITIVE
    )
    pixel_size: float | None = knob(
        None,
        "micrometres a px of the image, by default what the file says: sizes "
        "are measured by it, and where data.pixel_size is known the image is "
        "seen at that",
        POSITIVE,
    )
    threshold: float = knob(
        0.5, "foreground probability (one sigmoid)", FRACTION
    )
    closing: int = knob(
        0, "side of the square closing, px; 0 = none", NOT_NEGATIVE
    )
    separate: str = knob(
        "components",
        "objects by components; watershed of their shape; or learned = "
        "watershed of what model.objects has learned",
        ("components", "watershed", "learned"),
    )
    prominence: float = knob(
        0.05,
        "how far a peak of the learned map rises above the pass to a higher "
        "one, to be an object of its own",
        FRACTION,
    )
    calibration: tuple[float, ...] = knob(
        (),
        "slope and offset that make of the log odds of an object's mean "
        "probability those of its being right; empty = the mean as it is; "
        "launch.evaluate --tune finds them",
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
    min_probability: float = knob(
        0.0,
        "least probability of an object, as it stands in the table",
        FRACTION,
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
    parent: str = knob("", "id of the run that this one is part of")
    register: str = knob(
        "",
        "name in MLflow's model registry for the trained model; the best of "
        "that name is its champion",
    )
    n_overlays: int = knob(8, "images drawn in the artifacts", NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The processes and devices that share a training."""

    distributed: bool = knob(
        False,
        "several processes train together, and must find each other: by "
        "JAX_COORDINATOR_ADDRESS, SLURM or the cloud",
    )


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
    mesh: Mesh = Mesh()
    classes: tuple[str, ...] = knob(
        ("background", "nucleus"), "names of the classes, background first"
    )
