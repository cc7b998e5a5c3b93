"""The terms that are Lovasz extensions of the Jaccard loss, and the extension.

Berman, Rannen Triki and Blaschko, "The Lovasz-Softmax loss: a tractable
surrogate for the optimization of the intersection-over-union measure in neural
networks", CVPR 2018, arXiv:1705.08790. The letters are the paper's.

Each takes logits and makes errors of them itself: probabilities for a softmax
or sigmoid, margins for the hinge.
"""

import jax
import jax.numpy as jnp
from jax import lax

from seg import config
from seg.train.losses import planes

_LAST = 0xFFFFFFFF
"""The largest sort key, of ignored pixels."""


def lovasz_softmax(logits, classes, mask, loss: config.Loss):
    """The extension at the softmax's errors, averaged over the classes.

    m_i(c) = 1 - f_i(c) where c is the true class of pixel i, else f_i(c), for
    the probabilities f.
    """
    truth = planes.of_truth(classes, mask, logits.shape[-1])
    f = planes.probabilities(planes.of_logits(logits, mask))
    m = [jnp.where(y, 1 - q, q) for q, y in zip(f, truth, strict=True)]
    return _mean_of(m, truth, mask, loss)


def lovasz_sigmoid(logits, classes, mask, loss: config.Loss):
    """`lovasz_softmax` of the one class of a sigmoid."""
    truth = planes.of_truth(classes, mask, 1)
    (z,) = planes.of_logits(logits, mask)
    m = jax.nn.sigmoid(jnp.where(truth[0], -z, z))
    return _mean_of([m], truth, mask, loss)


def lovasz_hinge(logits, classes, mask, loss: config.Loss):
    """The extension at the hinge's errors.

    m_i = max(1 - F_i y_i, 0) for the logit F and y = +1 or -1, with the ReLU
    of the authors' code, or with `Loss.hinge` ELU(1 - F_i y_i) + 1, as in
    Kaggle's contests, whose gradient never is 0.
    """
    truth = planes.of_truth(classes, mask, 1)
    return _mean_of([_hinge(logits, mask, truth, loss)], truth, mask, loss)


def lovasz_symmetric(logits, classes, mask, loss: config.Loss):
    """Mean of `lovasz_hinge` of the foreground and of the background.

    The background's is that of -F and -y, whose errors are the same.
    """
    truth = planes.of_truth(classes, mask, 1)
    m = _in_groups(_hinge(logits, mask, truth, loss), loss)
    valid = _in_groups(mask > 0, loss)
    y = _in_groups(truth[0], loss)
    sides = jnp.stack([y, valid & ~y])
    # of both sides at once: the errors, being the same, are sorted once
    each = jax.vmap(jax.vmap(extension), (None, 0, None))(m, sides, valid)
    n_valid = jnp.sum(valid, 1)
    return (
        sum(
            planes.over_classes([value], [jnp.sum(side, 1)], n_valid, loss)
            for value, side in zip(each, sides, strict=True)
        )
        / 2
    )


def _hinge(logits, mask, truth, loss: config.Loss):
    (z,) = planes.of_logits(logits, mask)
    x = 1 - jnp.where(truth[0], z, -z)
    if loss.hinge == "elu":
        # exp of what is chosen alone: the other's overflow would be NaN
        return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))
    return jnp.maximum(x, 0)


def _mean_of(m, truth, mask, loss: config.Loss):
    """Mean of `extension` over the chosen classes, then over the groups."""
    valid = _in_groups(mask > 0, loss)
    losses, n_true = [], []
    for k in planes.chosen(loss, len(m)):
        y = _in_groups(truth[k], loss)
        losses.append(jax.vmap(extension)(_in_groups(m[k], loss), y, valid))
        n_true.append(jnp.sum(y, 1))
    return planes.over_classes(losses, n_true, jnp.sum(valid, 1), loss)


def _in_groups(plane, loss: config.Loss):
    """[G, N]: the pixels of each image, or of the batch."""
    return plane.reshape((plane.shape[0] if loss.per_image else 1, -1))


def extension(m, y, valid):
    """Lovasz extension of the Jaccard loss at the errors m >= 0.

    sum_i m_i g_i(m), g_i = J({pi_1..pi_i}) - J({pi_1..pi_(i-1)}), where pi
    sorts m in decreasing order and J(M) = |M| / |{y} u M| is the Jaccard loss
    of mistaking the pixels M (definition 2).

    Parameters: m float [N], y bool [N] (implies valid), valid bool [N].
    Returns a scalar; its gradient with respect to m is g, a subgradient where
    errors tie.

    Where errors are 0 or 1 it is the Jaccard loss itself: of three pixels of
    an object one is missed, and one outside is taken for it, so that the
    intersection is 2 of a union of 4.

    >>> y = jnp.array([True, True, True, False, False])
    >>> m = jnp.array([0.0, 0.0, 1.0, 1.0, 0.0])
    >>> float(extension(m, y, jnp.ones(5, bool)))
    0.5
    """
    g = _weights(lax.stop_gradient(m), y, valid)
    return jnp.sum(jnp.where(valid, m, 0) * lax.stop_gradient(g))


def _weights(m, y, valid):
    """g of `extension`, in the pixels' own order; any value if not valid.

    Before its turn comes, F of the G true pixels and N others are mistaken: a
    true pixel then adds 1 / (G + N), another (G - F) / ((G + N) (G + N + 1)).
    Differences of J itself, as in the authors' code, lose in float32 what they
    look for when there are a million pixels.
    """
    order = _decreasing(m, valid)
    fg = y[order]
    n_fg = jnp.sum(fg)
    position = jnp.arange(m.size)
    f = jnp.cumsum(fg) - fg
    # float32 from here: the product of two counts leaves int32
    n = (position - f).astype(jnp.float32)
    union = n_fg + n
    rise = jnp.where(fg, 1.0, (n_fg - f) / (union + 1)) / jnp.maximum(union, 1)
    # nothing is true: the first mistake costs all, J jumps from 0 to 1
    rise = jnp.where(n_fg > 0, rise, position == 0)
    return jnp.zeros(m.shape).at[order].set(rise, unique_indices=True)


def _decreasing(m, valid):
    """int32 [N] that sorts m >= 0 in decreasing order, the not valid last.

    On a CPU, XLA sorts one array of integers 4 times as fast as a key with an
    operand (8 x 256 x 256: 29 against 115 ms): key and index share 64 bits.
    """
    # the bits of a float >= 0 are ordered as the float is
    bits = lax.bitcast_convert_type(m, jnp.uint32)
    key = jnp.where(valid, jnp.uint32(0x7FFFFFFF) - bits, jnp.uint32(_LAST))
    return lax.platform_dependent(key, cpu=_order_packed, default=_order_pair)


def _order_packed(key):
    index = jnp.arange(key.size, dtype=jnp.uint32)
    with jax.enable_x64(True):
        wide = key.astype(jnp.uint64) << jnp.uint64(32)
        wide = lax.sort(wide | index.astype(jnp.uint64), is_stable=False)
        return (wide & jnp.uint64(0xFFFFFFFF)).astype(jnp.int32)


def _order_pair(key):
    index = jnp.arange(key.size, dtype=jnp.int32)
    return lax.sort((key, index), num_keys=1, is_stable=False)[1]
