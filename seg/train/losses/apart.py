"""What the second head is taught: the map that keeps objects apart."""

import jax
import jax.numpy as jnp
from jax.scipy import special

from seg.train.losses import planes


def apart(logits, target, mask):
    """Cross entropy of a sigmoid with a target between 0 and 1, less its least.

    The mean of two means by weight, over the pixels of objects and over the
    others, which are far more. 0 where the map is the target.

    Parameters
    ----------
    logits
        float [B, H, W, 1].
    target
        uint8 [B, H, W] of `seg.data.targets.of_objects`, 255 for 1.
    mask
        float [B, H, W], 0 where a pixel is ignored, whatever its logit.
    """
    (z,) = planes.of_logits(logits, mask)
    p = target.astype(jnp.float32) / 255
    entropy = -special.xlogy(p, p) - special.xlogy(1 - p, 1 - p)
    value = jax.nn.softplus(z) - p * z - entropy
    inside = mask * (target > 0)
    return (planes.mean(value, inside) + planes.mean(value, mask - inside)) / 2
