"""What the second head is taught: the map that keeps objects apart."""

import jax
import jax.numpy as jnp
from jax.scipy import special

from seg.train.losses import planes

_DEEP = 5  # px from the border where `distance` ends
_RIM = 2  # px of an object that `interior` leaves out


def target(labels, kind: str):
    """The map that keeps objects apart: float32 [B, H, W] in [0, 1].

    It is made of a tile as the augmentation has left it, so that a pixel is a
    pixel at every scale. 0 outside of objects. "distance": rises with the
    Euclidean distance to the object's border, to 1 from five pixels on; how far
    the middle of a large one is takes a network long to learn and keeps nothing
    apart. "neighbour": the same, and less the nearer another object is, up to
    five pixels, so that it sinks lower between two objects than along a free
    border (after the two distances of Scherr et al., PLOS ONE 15, e0243219).
    "interior": 1 in all of an object but a rim of two pixels.

    labels: int [B, H, W], 0 background; whatever lies beside an object is its
    border, but the tile's end is not, nor what is negative, which nobody knows.
    """
    depth = jnp.sqrt(_depth2(labels))
    if kind == "interior":
        inside = depth > _RIM
    else:
        inside = jnp.clip((depth - 0.5) / (_DEEP - 0.5), 0, 1)
    if kind == "neighbour":
        near = 1 - jnp.sqrt(_gap2(labels)) / (_DEEP + 1)
        inside *= 1 - jnp.maximum(near, 0) ** 2
    return jnp.where(labels > 0, inside, 0).astype(jnp.float32)


def near(labels):
    """How near another object is: float32 [B, H, W] in [0, 1].

    1 in the pixels of an object that lie beside another one, a fifth less with
    each pixel further off, 0 in what is no object; labels as of `target`.
    """
    close = 1 - (jnp.sqrt(_gap2(labels)) - 1) / _DEEP
    return jnp.where(labels > 0, jnp.maximum(close, 0), 0)


def _depth2(labels):
    """Squared distance to the nearest pixel with another label, px.

    Exact up to `_DEEP`, and more than its square beyond. First along the rows;
    then of the rows near by, where the label is still the same, what they have
    found, and where it is another, that pixel.
    """
    far = jnp.float32(_DEEP**2 + _DEEP)
    along = jnp.full(labels.shape, far)
    for offset, other in _beside(labels, 2):
        ends = (other != labels) & (other >= 0)
        along = jnp.where(ends, jnp.minimum(along, offset**2), along)
    found = along
    for (offset, other), (_, there) in zip(
        _beside(labels, 1), _beside(along, 1), strict=True
    ):
        ends = jnp.where(other == labels, there, jnp.where(other < 0, far, 0))
        found = jnp.minimum(found, ends + offset**2)
    return found


def _gap2(labels):
    """Squared distance to the nearest pixel of another object, px.

    Exact up to `_DEEP`, and more than its square beyond. What is nearest in a
    row is not the same for all that lie above it, hence every pixel of a disc.
    """
    found = jnp.full(labels.shape, jnp.float32((_DEEP + 1) ** 2))
    for rows, level in _beside(labels, 1):
        for columns, other in _beside(level, 2):
            away = rows**2 + columns**2
            if 0 < away <= _DEEP**2:
                there = (other != labels) & (other > 0)
                found = jnp.where(there, jnp.minimum(found, away), found)
    return found


def _beside(array, axis: int):
    """(px, the array so many px further along); the end is repeated."""
    pad = [(0, 0)] * 3
    pad[axis] = (_DEEP, _DEEP)
    wide = jnp.pad(array, pad, mode="edge")
    n = array.shape[axis]
    for k in range(2 * _DEEP + 1):
        yield k - _DEEP, jax.lax.slice_in_dim(wide, k, k + n, axis=axis)


def apart(logits, target, mask, weight=1):
    """Cross entropy of a sigmoid with a target between 0 and 1, less its least.

    The mean of two means by weight, over the pixels of objects and over the
    others, which are far more. 0 where the map is the target.

    Parameters
    ----------
    logits
        float [B, H, W, 1].
    target
        float [B, H, W], of the function of this name.
    mask
        float [B, H, W], 0 where a pixel is ignored, whatever its logit.
    weight
        what a pixel of an object counts, float [B, H, W].
    """
    (z,) = planes.of_logits(logits, mask)
    entropy = -special.xlogy(target, target)
    entropy -= special.xlogy(1 - target, 1 - target)
    value = jax.nn.softplus(z) - target * z - entropy
    inside = mask * (target > 0)
    outside = mask - inside
    inside *= weight
    return (planes.mean(value, inside) + planes.mean(value, outside)) / 2
