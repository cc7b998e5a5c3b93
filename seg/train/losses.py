"""What training minimises: weighted sums of segmentation losses on logits.

Every term has the signature ``term(logits, classes, mask, loss) -> scalar``:

    logits   float [B, H, W, K]; K == 1 is one sigmoid (foreground), K > 1 a
             softmax over the classes. Computed in float32 whatever comes in.
    classes  uint8 [B, H, W]; for K == 1 every class above 0 is foreground.
    mask     float [B, H, W], 0 where a pixel is ignored. Such a pixel changes
             neither value nor gradient, not even with logits of NaN. Lovasz
             asks only whether it is above 0; the others weigh with it.
    loss     the knobs, `config.Loss`.

The value is a float32 scalar, finite for finite logits, and 0 where nothing is
annotated. Averages are (sum, count) pairs that are divided last.

    term                  K == 1             K > 1
    cross_entropy         sigmoid            softmax
    binary_cross_entropy  sigmoid            -
    dice                  sigmoid            softmax, mean over classes
    focal                 sigmoid            softmax
    lovasz_softmax        -                  softmax, mean over classes
    lovasz_hinge          the signed logit   -
    lovasz_sigmoid        sigmoid            -

`Loss.classes` chooses the classes of Dice and Lovasz: all, those listed, or
(present) those with a true pixel in the group, be it the batch or, with
`Loss.per_image`, each image. For K == 1 the one class is 1, so a group without
foreground is left out by "present" and counts with "all" and "1".

The Lovasz family is in the letters of Berman et al. 2018; see `lovasz`.
"""

import math
import re

import jax
import jax.numpy as jnp
from jax import lax

from seg import config
from seg.train import lovasz

IGNORE = 255
"""The class of a pixel that is not annotated."""

_SMOOTH = 2.0
"""Added above and below in Dice: two empties agree. optax's 1, doubled."""


def total(outputs, classes, weight, loss: config.Loss, progress):
    """The weighted sum `loss.terms` over a batch.

    Parameters
    ----------
    outputs
        what a model gives: {"classes": logits [B, H, W, K]} and, with deep
        supervision, "aux": a list of logits [B, H / s, W / s, K]. Each of
        those is held against every s-th pixel and weighs 1 / s, the main
        output 1, all over their sum.
    weight
        float [B], 0 for the samples that only fill up the batch.
    progress
        the share of all steps that is done, float32 in [0, 1).
    """
    del progress
    mask = jnp.where(classes == IGNORE, 0.0, weight[:, None, None])
    value = _sum(outputs["classes"], classes, mask, loss)
    sizes = 1.0
    for logits in outputs.get("aux", ()):
        s = classes.shape[1] // logits.shape[1]
        part = _sum(logits, classes[:, ::s, ::s], mask[:, ::s, ::s], loss)
        value, sizes = value + part / s, sizes + 1 / s
    return value if sizes == 1 else value / sizes


def _sum(logits, classes, mask, loss: config.Loss):
    return sum(
        factor * TERMS[name](logits, classes, mask, loss)
        for factor, name in parse(loss.terms)
    )


def cross_entropy(logits, classes, mask, loss: config.Loss):
    """-log p_y, averaged over the pixels of the batch."""
    del loss
    return _mean(-_log_p_true(logits, classes, mask), mask)


def binary_cross_entropy(logits, classes, mask, loss: config.Loss):
    """`cross_entropy`, of a sigmoid only."""
    return cross_entropy(logits, classes, mask, loss)


def focal(logits, classes, mask, loss: config.Loss):
    """-(1 - p_y)^gamma log p_y (Lin et al. 2017), averaged over the pixels."""
    log_p = _log_p_true(logits, classes, mask)
    # the power's gradient at 0 is infinite for gamma < 1
    q = jnp.maximum(-jnp.expm1(log_p), 1e-12)
    return _mean(-(q**loss.focal_gamma) * log_p, mask)


def dice(logits, classes, mask, loss: config.Loss):
    """1 - (2 I + s) / (P + T + s) of a class, averaged over the classes.

    P, T and I are the sums of probability, truth and their product over the
    batch or image; s = 2. Milletari et al. 2016, and optax.losses.dice_loss.
    """
    axes = (1, 2) if loss.per_image else (0, 1, 2)
    losses, n_true = [], []
    truth = _truth(classes, mask, logits.shape[-1])
    p = _probabilities(_planes(logits, mask))
    for k in _chosen(loss, logits.shape[-1]):
        i = jnp.sum(jnp.where(truth[k], p[k] * mask, 0), axes)
        t = jnp.sum(jnp.where(truth[k], mask, 0), axes)
        both = jnp.sum(p[k] * mask, axes) + t
        losses.append(1 - (2 * i + _SMOOTH) / (both + _SMOOTH))
        n_true.append(t)
    return _over_classes(losses, n_true, jnp.sum(mask, axes), loss)


def lovasz_softmax(logits, classes, mask, loss: config.Loss):
    """Lovasz extension of the Jaccard loss at the softmax's errors.

    m_i(c) = 1 - f_i(c) where c is the true class of pixel i, else f_i(c), for
    the probabilities f (Berman et al. 2018).
    """
    truth = _truth(classes, mask, logits.shape[-1])
    f = _probabilities(_planes(logits, mask))
    m = [jnp.where(y, 1 - q, q) for q, y in zip(f, truth, strict=True)]
    return _lovasz(m, truth, mask, loss)


def lovasz_hinge(logits, classes, mask, loss: config.Loss):
    """Lovasz extension of the Jaccard loss at the hinge's errors.

    m_i = max(1 - F_i y_i, 0) for the logit F and y = +1 or -1 (Berman et al.
    2018), with the ReLU of the authors' code.
    """
    truth = _truth(classes, mask, 1)
    (z,) = _planes(logits, mask)
    m = jnp.maximum(1 - jnp.where(truth[0], z, -z), 0)
    return _lovasz([m], truth, mask, loss)


def lovasz_sigmoid(logits, classes, mask, loss: config.Loss):
    """`lovasz_softmax` of the one class of a sigmoid."""
    truth = _truth(classes, mask, 1)
    (z,) = _planes(logits, mask)
    m = jax.nn.sigmoid(jnp.where(truth[0], -z, z))
    return _lovasz([m], truth, mask, loss)


TERMS = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "dice": dice,
    "focal": focal,
    "lovasz_softmax": lovasz_softmax,
    "lovasz_hinge": lovasz_hinge,
    "lovasz_sigmoid": lovasz_sigmoid,
}
_SIGMOID_ONLY = ("binary_cross_entropy", "lovasz_hinge", "lovasz_sigmoid")
_SOFTMAX_ONLY = ("lovasz_softmax",)


def parse(terms: str) -> list[tuple[float, str]]:
    """'dice + 0.5*focal' -> [(1.0, 'dice'), (0.5, 'focal')].

    Raises ConfigError for an unknown name or a factor that is not a positive
    number.
    """
    found = []
    # a plus in 1e+2 is no sum
    for term in re.split(r"(?<![0-9.][eE])\+", terms):
        factor, star, name = term.rpartition("*")
        name = name.strip()
        if name not in TERMS:
            raise config.ConfigError(
                f"loss.terms={terms!r}: " + config.unknown("term", name, TERMS)
            )
        found.append((_factor(factor, terms) if star else 1.0, name))
    return found


def _factor(text: str, terms: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise config.ConfigError(
            f"loss.terms={terms!r}: {text.strip()!r} is not a positive number; "
            "write a term as 0.5*dice"
        )
    return value


def check_terms(loss: config.Loss, n_classes: int) -> None:
    """Raises ConfigError where the loss does not fit the model's outputs."""
    for _, name in parse(loss.terms):
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
    _chosen(loss, n_classes)


def _chosen(loss: config.Loss, n_classes: int) -> list[int]:
    """The output planes that Dice and Lovasz look at."""
    known = [1] if n_classes == 1 else list(range(n_classes))
    if loss.classes in ("present", "all"):
        return list(range(n_classes))
    try:
        listed = [int(item) for item in loss.classes.split(",")]
    except ValueError:
        listed = []
    if not listed or len(set(listed)) < len(listed) or set(listed) - {*known}:
        raise config.ConfigError(
            f"loss.classes={loss.classes!r}; write present, all, or a list of "
            f"{','.join(map(str, known))}"
        )
    return [known.index(k) for k in listed]


def _planes(logits, mask) -> list:
    """The logits of each class [B, H, W], 0 where the pixel is ignored."""
    # where, not a product: NaN * 0 is NaN, and so is its gradient
    return [
        jnp.where(mask > 0, logits[..., k].astype(jnp.float32), 0)
        for k in range(logits.shape[-1])
    ]


def _truth(classes, mask, n_classes: int) -> list:
    """For each plane, bool [B, H, W]: annotated and of that class."""
    if n_classes == 1:
        return [(classes > 0) & (mask > 0)]
    return [(classes == k) & (mask > 0) for k in range(n_classes)]


def _shifted(planes) -> tuple[list, list, jax.Array]:
    """Logits less their largest, the exponentials of that, and their sum."""
    top = planes[0]
    for z in planes[1:]:
        top = jnp.maximum(top, z)
    z = [plane - lax.stop_gradient(top) for plane in planes]
    e = [jnp.exp(plane) for plane in z]
    return z, e, sum(e)


def _probabilities(planes) -> list:
    if len(planes) == 1:
        return [jax.nn.sigmoid(planes[0])]
    _, e, norm = _shifted(planes)
    return [plane / norm for plane in e]


def _log_p_true(logits, classes, mask):
    """log of the probability of the true class, [B, H, W]."""
    planes = _planes(logits, mask)
    if len(planes) == 1:
        (z,) = planes
        return -jax.nn.softplus(jnp.where(classes > 0, -z, z))
    z, _, norm = _shifted(planes)
    picked = sum(jnp.where(classes == k, plane, 0) for k, plane in enumerate(z))
    return picked - jnp.log(norm)


def _mean(values, weights):
    """Weighted mean; 0 where all weights are 0."""
    count = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(count > 0, count, 1)


def _over_classes(losses, n_true, n_annotated, loss: config.Loss):
    """Mean over the classes of a group, then over the groups that have any.

    losses, n_true: a list over classes of [G] (or of scalars); n_annotated [G].
    """
    least = 0 if loss.classes == "present" else -1
    here = [((n > least) & (n_annotated > 0)) * 1.0 for n in n_true]
    value = sum(a * b for a, b in zip(losses, here, strict=True))
    count = sum(here)
    return _mean(value / jnp.maximum(count, 1), (count > 0) * 1.0)


def _lovasz(m, truth, mask, loss: config.Loss):
    """Mean of `lovasz.extension` over the chosen classes and the groups."""
    groups = (mask.shape[0] if loss.per_image else 1, -1)
    valid = (mask > 0).reshape(groups)
    losses, n_true = [], []
    for k in _chosen(loss, len(m)):
        y = truth[k].reshape(groups)
        losses.append(
            jax.vmap(lovasz.extension)(m[k].reshape(groups), y, valid)
        )
        n_true.append(jnp.sum(y, 1))
    return _over_classes(losses, n_true, jnp.sum(valid, 1), loss)
