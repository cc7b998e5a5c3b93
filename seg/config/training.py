"""Knobs of the training: augmentation, loss, optimiser, length."""

import dataclasses

from seg.config.knob import (
    BELOW_ONE,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Range,
    knob,
)


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
    elastic: float = knob(
        0.0, "probability of an elastic deformation", FRACTION
    )
    elastic_px: float = knob(
        6.0, "largest move of a point of its grid, px", NOT_NEGATIVE
    )
    elastic_spacing: int = knob(
        32, "distance of two points of its grid, px", POSITIVE
    )
    reflect: bool = knob(
        False,
        "a tile that was moved is continued by its reflection, not by fill, "
        "which nobody has annotated",
    )
    fill: float = knob(0.0, "value outside the tile, after normalisation")
    colour: float = knob(
        0.0,
        "largest change of a colour channel by itself: of its gain, a share, "
        "and half of that of its offset",
        BELOW_ONE,
    )
    grey: float = knob(
        0.0, "probability that a colour image loses its colour", FRACTION
    )
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
        "weighted sum, as 'cross_entropy + 0.5*lovasz_softmax', and others "
        "later, as 'cross_entropy, from 0.4: lovasz_softmax'; terms: "
        "cross_entropy, binary_cross_entropy, boundary_cross_entropy, focal, "
        "dice, generalized_dice, log_cosh_dice, tversky, focal_tversky, "
        "lovasz_softmax, lovasz_hinge, lovasz_symmetric, lovasz_sigmoid",
    )
    per_image: bool = knob(
        False,
        "Lovasz and Dice by image, then averaged; see loss.classes for images "
        "without objects",
    )
    classes: str = knob(
        "present",
        "classes of Lovasz and Dice: all, as '1,2', or present = those in the "
        "batch (per_image: the image), so that without objects they are 0",
    )
    class_weights: tuple[float, ...] = knob(
        (), "weight of each class in the cross entropies; empty = equal"
    )
    hinge: str = knob(
        "relu", "errors of Lovasz' hinge: relu or elu (+ 1)", ("relu", "elu")
    )
    focal_gamma: float = knob(
        2.0, "focusing exponent of the focal loss", NOT_NEGATIVE
    )
    tversky: tuple[float, float] = knob(
        (0.3, 0.7), "Tversky's weights of false positives and false negatives"
    )
    tversky_gamma: float = knob(
        4 / 3, "focal Tversky is Tversky's to the power 1 / this", POSITIVE
    )
    objects: float = knob(
        1.0, "weight of what model.objects learns, beside the terms", POSITIVE
    )
    touching: float = knob(
        0.0,
        "what a pixel beside another object counts more there, falling to 0 "
        "over five pixels",
        NOT_NEGATIVE,
    )
    boundary_width: int = knob(
        11,
        "side of the window that sees a boundary, px",
        Range(
            "be positive and odd, the window having a middle",
            lambda x: x > 0 and x % 2 == 1,
        ),
    )
    boundary_weight: float = knob(
        2.0, "more weight of a pixel at a boundary", NOT_NEGATIVE
    )


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser and its schedule."""

    name: str = knob(
        "adamw",
        "adam, adamw, muon or sgd",
        ("adam", "adamw", "muon", "sgd"),
    )
    learning_rate: float = knob(1e-3, "peak learning rate", POSITIVE)
    schedule: str = knob(
        "cosine",
        "after the warm-up: cosine or constant",
        ("cosine", "constant"),
    )
    warmup_frac: float = knob(0.05, "warm-up, share of all steps", FRACTION)
    weight_decay: float = knob(
        1e-4, "decoupled weight decay (adamw, muon)", NOT_NEGATIVE
    )
    cycles: int = knob(
        1, "cosine cycles; a snapshot ends each, if more than one", POSITIVE
    )
    momentum: float = knob(0.9, "momentum (sgd)", BELOW_ONE)
    nesterov: bool = knob(True, "Nesterov's momentum (sgd)")
    clip_norm: float = knob(
        1.0, "largest global gradient norm; 0 = off", NOT_NEGATIVE
    )
    unit_gradients: bool = knob(
        False,
        "divide the gradient of each tensor by its own L2 norm, in place of "
        "clip_norm",
    )
    rates: tuple[str, ...] = knob(
        (),
        "factors of the learning rate by part of the network, as "
        "'encoder=0.1'; the longest path that a weight is in holds; 0 = "
        "frozen, running statistics too",
    )
    ema: float = knob(0.0, "decay of the averaged weights; 0 = off", BELOW_ONE)
    swa: float = knob(
        0.0,
        "share of the steps, the last ones, whose weights are averaged; 0 = "
        "off; batch statistics are measured anew for them",
        BELOW_ONE,
    )
    swa_every: int = knob(
        0,
        "steps between two weights of that average; 0 = an epoch",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, how often, and from which seed."""

    batch_size: int = knob(8, "tiles in a step, over all devices", POSITIVE)
    epochs: int = knob(10, "passes over all training tiles", POSITIVE)
    steps: int = knob(0, "steps in all; 0 = from epochs", NOT_NEGATIVE)
    seed: int = knob(0, "seed of weights, order and augmentation", NOT_NEGATIVE)
    augment: bool = knob(True, "augment the training tiles")
    start: str = knob(
        "", "folder of the model whose weights it starts from; empty = chance"
    )
    log_every: int = knob(10, "steps between two log points", POSITIVE)
    eval_every: int = knob(
        0, "steps between two validations; 0 = an epoch", NOT_NEGATIVE
    )
    eval_images: int = knob(
        0,
        "validation images that are scored, evenly chosen; 0 = all",
        NOT_NEGATIVE,
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

    @property
    def lower_is_better(self) -> bool:
        """Whether the smallest value of `monitor` is the best."""
        if self.mode != "auto":
            return self.mode == "min"
        return self.monitor.endswith(("loss", "error"))
