"""The terms that compare regions: Dice and its kin.

For each class three sums over the batch, or over each image: I of the
probabilities where the class is true, P of all its probabilities, T of its
true pixels. The false positives are P - I, the false negatives T - I.
"""

import jax.numpy as jnp

from seg import config
from seg.train.losses import planes

_SMOOTH = 2.0
"""Added above and below in Dice: two empties agree. optax's 1, doubled."""


def dice(logits, classes, mask, loss: config.Loss):
    """1 - (2 I + s) / (P + T + s) of a class, averaged over the classes.

    s = 2. Milletari et al. 2016, and optax.losses.dice_loss.
    """
    return _mean_of(_dice, logits, classes, mask, loss)


def log_cosh_dice(logits, classes, mask, loss: config.Loss):
    """log cosh of a class's `dice` (Jadon 2020), averaged over the classes."""

    def term(i, p, t):
        # cosh x = 1 + 2 sinh^2(x / 2), whose logarithm is exact near 0 too
        return jnp.log1p(2 * jnp.sinh(_dice(i, p, t) / 2) ** 2)

    return _mean_of(term, logits, classes, mask, loss)


def tversky(logits, classes, mask, loss: config.Loss):
    """1 - (I + s) / (I + a (P - I) + b (T - I) + s), averaged over the classes.

    (a, b) = `Loss.tversky`, of the false positives and the false negatives, as
    in Salehi et al. 2017; s = 1, so that a = b = 1/2 is `dice`.
    """

    def term(i, p, t):
        return _tversky(i, p, t, loss)

    return _mean_of(term, logits, classes, mask, loss)


def focal_tversky(logits, classes, mask, loss: config.Loss):
    """`tversky` of a class to the power 1 / tversky_gamma, averaged.

    Abraham and Khan 2019, who sum over the classes.
    """

    def term(i, p, t):
        # the power's gradient at 0 is infinite for gamma > 1
        x = jnp.maximum(_tversky(i, p, t, loss), 1e-12)
        return x ** (1 / loss.tversky_gamma)

    return _mean_of(term, logits, classes, mask, loss)


def generalized_dice(logits, classes, mask, loss: config.Loss):
    """1 - (2 sum_k w_k I_k + s) / (sum_k w_k (P_k + T_k) + s), w_k ~ 1 / T_k^2.

    Sudre et al. 2017; one sigmoid has two classes here, as in the paper. w is
    1 for the rarest class, s = 2: the `dice` of that class where it is alone.
    A class without a true pixel, which has no finite w, is as rare as the
    rarest, or left out by classes=present.
    """
    found = _sums(logits, classes, mask, loss, both=True)
    rarest = jnp.inf
    for _, _, t in found:
        rarest = jnp.minimum(rarest, jnp.where(t > 0, t, jnp.inf))
    rarest = jnp.where(rarest < jnp.inf, rarest, 1)
    above = below = _SMOOTH
    for i, p, t in found:
        w = (rarest / jnp.maximum(t, rarest)) ** 2
        if loss.classes == "present":
            w = jnp.where(t > 0, w, 0)
        above, below = above + w * 2 * i, below + w * (p + t)
    annotated = jnp.sum(mask, _axes(loss)) > 0
    return planes.mean(1 - above / below, annotated * 1.0)


def _dice(i, p, t):
    return 1 - (2 * i + _SMOOTH) / (p + t + _SMOOTH)


def _tversky(i, p, t, loss: config.Loss):
    a, b = loss.tversky
    s = _SMOOTH / 2
    return 1 - (i + s) / (i + a * (p - i) + b * (t - i) + s)


def _mean_of(term, logits, classes, mask, loss: config.Loss):
    """Mean of term(I, P, T) over the classes, then over the groups."""
    found = _sums(logits, classes, mask, loss)
    return planes.over_classes(
        [term(i, p, t) for i, p, t in found],
        [t for _, _, t in found],
        jnp.sum(mask, _axes(loss)),
        loss,
    )


def _sums(logits, classes, mask, loss: config.Loss, both=False) -> list:
    """(I, P, T) of each chosen class: scalars, or [B] by image.

    both: one sigmoid gives two classes.
    """
    axes, n_classes = _axes(loss), logits.shape[-1]
    truth = planes.of_truth(classes, mask, n_classes)
    prob = planes.probabilities(planes.of_logits(logits, mask))
    if both and n_classes == 1:
        n_classes = 2
        truth = [(classes == 0) & (mask > 0), *truth]
        prob = [1 - prob[0], *prob]
    found = []
    for k in planes.chosen(loss, n_classes):
        i = jnp.sum(jnp.where(truth[k], prob[k] * mask, 0), axes)
        t = jnp.sum(jnp.where(truth[k], mask, 0), axes)
        found.append((i, jnp.sum(prob[k] * mask, axes), t))
    return found


def _axes(loss: config.Loss) -> tuple[int, ...]:
    return (1, 2) if loss.per_image else (0, 1, 2)
