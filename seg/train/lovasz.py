"""The Lovasz extension of the Jaccard loss: what lies under three losses.

Berman, Rannen Triki and Blaschko, "The Lovasz-Softmax loss: a tractable
surrogate for the optimization of the intersection-over-union measure in neural
networks", CVPR 2018, arXiv:1705.08790. The letters are the paper's.
"""

import jax
import jax.numpy as jnp
from jax import lax

_LAST = 0xFFFFFFFF
"""The largest sort key, of ignored pixels."""


def extension(m, y, valid):
    """Lovasz extension of the Jaccard loss at the errors m >= 0.

    sum_i m_i g_i(m), g_i = J({pi_1..pi_i}) - J({pi_1..pi_(i-1)}), where pi
    sorts m in decreasing order and J(M) = |M| / |{y} u M| is the Jaccard loss
    of mistaking the pixels M (definition 2).

    Parameters: m float [N], y bool [N] (implies valid), valid bool [N].
    Returns a scalar; its gradient with respect to m is g, a subgradient where
    errors tie.
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
