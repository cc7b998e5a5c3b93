"""The terms by name, and which of them a model can have."""

from seg import config
from seg.train.losses import lovasz, pixels, planes, regions, schedule

TERMS = {
    "cross_entropy": pixels.cross_entropy,
    "binary_cross_entropy": pixels.binary_cross_entropy,
    "boundary_cross_entropy": pixels.boundary_cross_entropy,
    "focal": pixels.focal,
    "dice": regions.dice,
    "generalized_dice": regions.generalized_dice,
    "log_cosh_dice": regions.log_cosh_dice,
    "tversky": regions.tversky,
    "focal_tversky": regions.focal_tversky,
    "lovasz_softmax": lovasz.lovasz_softmax,
    "lovasz_hinge": lovasz.lovasz_hinge,
    "lovasz_symmetric": lovasz.lovasz_symmetric,
    "lovasz_sigmoid": lovasz.lovasz_sigmoid,
}
_SIGMOID_ONLY = (
    "binary_cross_entropy",
    "lovasz_hinge",
    "lovasz_symmetric",
    "lovasz_sigmoid",
)
_SOFTMAX_ONLY = ("lovasz_softmax",)


def parse(terms: str) -> list[schedule.Phase]:
    """`schedule.parse` of the names that there are."""
    return schedule.parse(terms, TERMS)


def check_terms(loss: config.Loss, n_classes: int) -> None:
    """Raises ConfigError where the loss does not fit the model's outputs."""
    names = [name for phase in parse(loss.terms) for _, name in phase.terms]
    for name in names:
        if name in _SIGMOID_ONLY and n_classes > 1:
            raise config.ConfigError(
                f"loss.terms={loss.terms!r}: {name} needs model.n_classes=1, "
                f"which is {n_classes}; take cross_entropy or lovasz_softmax"
            )
        if name in _SOFTMAX_ONLY and n_classes == 1:
            raise config.ConfigError(
                f"loss.terms={loss.terms!r}: {name} needs model.n_classes of "
                "2 or more, which is 1; take lovasz_hinge or lovasz_sigmoid"
            )
    planes.chosen(loss, n_classes)
