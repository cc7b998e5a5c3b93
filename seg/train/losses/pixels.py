"""The terms that are averages over the pixels of the batch.

In the cross entropies a pixel also weighs as much as its class, by
`Loss.class_weights` (for one sigmoid: of the background and the foreground).
The average is over the weights, so only their ratios count.
"""

import jax
import jax.numpy as jnp
from jax import lax

from seg import config
from seg.train.losses import planes


def cross_entropy(logits, classes, mask, loss: config.Loss):
    """-log p_y, averaged over the pixels."""
    weight = _by_class(classes, mask, logits.shape[-1], loss)
    return planes.mean(-_log_p_true(logits, classes, mask), weight)


def binary_cross_entropy(logits, classes, mask, loss: config.Loss):
    """`cross_entropy`, of a sigmoid only."""
    return cross_entropy(logits, classes, mask, loss)


def boundary_cross_entropy(logits, classes, mask, loss: config.Loss):
    """`cross_entropy` that weighs the pixels at a boundary more.

    1 + boundary_weight where the square window around a pixel, boundary_width
    px wide, sees annotated pixels of two classes, else 1; as Kaggle's Carvana
    contest of 2017 has it, which blurs the mask to find such pixels.
    """
    if logits.shape[-1] == 1:
        classes = (classes > 0).astype(jnp.uint8)
    near = at_boundary(classes, mask > 0, loss.boundary_width)
    more = mask * jnp.where(near, 1 + loss.boundary_weight, 1)
    weight = _by_class(classes, more, logits.shape[-1], loss)
    return planes.mean(-_log_p_true(logits, classes, mask), weight)


def focal(logits, classes, mask, loss: config.Loss):
    """-(1 - p_y)^gamma log p_y (Lin et al. 2017), averaged over the pixels."""
    log_p = _log_p_true(logits, classes, mask)
    # the power's gradient at 0 is infinite for gamma < 1
    q = jnp.maximum(-jnp.expm1(log_p), 1e-12)
    return planes.mean(-(q**loss.focal_gamma) * log_p, mask)


def at_boundary(classes, valid, side: int):
    """Bool [B, H, W]: the window around a pixel sees two classes.

    Only pixels that are valid are seen. The window is square, its side odd.
    """
    high = _window_max(jnp.where(valid, classes, 0), side)
    low = 255 - _window_max(jnp.where(valid, 255 - classes, 0), side)
    return high > low


def _window_max(x, side: int):
    """The largest value of uint8 [B, H, W] in the window around each pixel.

    Along the columns, then the rows: windows double until two of them, which
    may overlap, cover the one wanted (side 11 of 8 x 256 x 256 on a CPU: 0.6
    against 1.9 ms of reduce_window and 17 of box sums by dots).
    """
    for axis in (1, 2):
        edges = [(0, 0, 0)] * 3
        edges[axis] = (side // 2, side // 2, 0)
        x = lax.pad(x, jnp.uint8(0), edges)
        seen = 1
        while seen < side:
            step = min(seen, side - seen)
            n = x.shape[axis] - step
            x = jnp.maximum(
                lax.slice_in_dim(x, 0, n, axis=axis),
                lax.slice_in_dim(x, step, None, axis=axis),
            )
            seen += step
    return x


def _by_class(classes, mask, n_classes: int, loss: config.Loss):
    """The mask times the weight of each pixel's class."""
    if not loss.class_weights:
        return mask
    if n_classes == 1:
        background, foreground = loss.class_weights
        return mask * jnp.where(classes > 0, foreground, background)
    return mask * sum(
        jnp.where(classes == k, weight, 0)
        for k, weight in enumerate(loss.class_weights)
    )


def _log_p_true(logits, classes, mask):
    """log of the probability of the true class, [B, H, W]."""
    z = planes.of_logits(logits, mask)
    if len(z) == 1:
        return -jax.nn.softplus(jnp.where(classes > 0, -z[0], z[0]))
    z, _, norm = planes.shifted(z)
    picked = sum(jnp.where(classes == k, plane, 0) for k, plane in enumerate(z))
    return picked - jnp.log(norm)
