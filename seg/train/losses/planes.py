"""What the terms share: a plane for each class, and averages over them.

A plane is an array [B, H, W]; a list of planes is faster here than one array
[B, H, W, K], whose last axis is too short for a vector.
"""

import jax
import jax.numpy as jnp
from jax import lax

from seg import config

IGNORE = 255
"""The class of a pixel that is not annotated."""


def chosen(loss: config.Loss, n_classes: int) -> list[int]:
    """The output planes that Dice and Lovasz look at, by `Loss.classes`.

    Raises ConfigError for a list that does not fit.
    """
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


def of_logits(logits, mask) -> list:
    """The logits of each class in float32, 0 where the pixel is ignored."""
    # where, not a product: NaN * 0 is NaN, and so is its gradient
    return [
        jnp.where(mask > 0, logits[..., k].astype(jnp.float32), 0)
        for k in range(logits.shape[-1])
    ]


def of_truth(classes, mask, n_classes: int) -> list:
    """For each class, bool: annotated and of that class."""
    if n_classes == 1:
        return [(classes > 0) & (mask > 0)]
    return [(classes == k) & (mask > 0) for k in range(n_classes)]


def shifted(planes) -> tuple[list, list, jax.Array]:
    """Logits less their largest, the exponentials of that, and their sum."""
    top = planes[0]
    for z in planes[1:]:
        top = jnp.maximum(top, z)
    z = [plane - lax.stop_gradient(top) for plane in planes]
    e = [jnp.exp(plane) for plane in z]
    return z, e, sum(e)


def probabilities(planes) -> list:
    """The sigmoid of one plane of logits, the softmax of more."""
    if len(planes) == 1:
        return [jax.nn.sigmoid(planes[0])]
    _, e, norm = shifted(planes)
    return [plane / norm for plane in e]


def mean(values, weights):
    """Weighted mean; 0 where all weights are 0."""
    count = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(count > 0, count, 1)


def over_classes(losses, n_true, n_annotated, loss: config.Loss):
    """Mean over the classes of a group, then over the groups that have any.

    losses, n_true: a list over classes of [G] (or of scalars); n_annotated [G].
    """
    least = 0 if loss.classes == "present" else -1
    here = [((n > least) & (n_annotated > 0)) * 1.0 for n in n_true]
    value = sum(a * b for a, b in zip(losses, here, strict=True))
    count = sum(here)
    return mean(value / jnp.maximum(count, 1), (count > 0) * 1.0)
