"""Learning-rate schedule, optimiser and averaged weights.

Everything counts optimiser steps from 0. Trees may be any pytree of arrays,
an `nnx.State` among them.
"""

import jax
import jax.numpy as jnp
import optax

from seg import config
from seg.train import parts as parts_lib


def schedule(knobs: config.Optim, n_steps: int) -> optax.Schedule:
    """The learning rate of step t = 0 .. n_steps - 1.

    With w = warmup_frac * n_steps, rounded, and the peak r:

        t < w            r (t + 1) / (w + 1)
        then, cosine     r (1 + cos(pi (t - a) / (b - a))) / 2
        then, constant   r

    so that no step has rate 0 and step w has r. The cosine's cycle that t is
    in ends at step b, one of `cycle_ends`; a is the end of the one before, and
    w in the first (Loshchilov and Hutter 2017: warm restarts). Raises
    ConfigError for an unknown name, and for cycles that are too short.
    """
    peak, n_warm = knobs.learning_rate, round(knobs.warmup_frac * n_steps)
    ends = cycle_ends(knobs, n_steps) or [n_steps]
    starts = [n_warm, *ends[:-1]]
    after = {
        "cosine": [
            optax.cosine_decay_schedule(peak, max(b - a, 1))
            for a, b in zip(starts, ends, strict=True)
        ],
        "constant": [optax.constant_schedule(peak)],
    }
    if knobs.schedule not in after:
        raise config.ConfigError(
            "optim.schedule: "
            + config.unknown("schedule", knobs.schedule, after)
        )
    parts = after[knobs.schedule]
    if n_warm:
        parts = [optax.linear_schedule(peak / (n_warm + 1), peak, n_warm)]
        parts += after[knobs.schedule]
    else:
        starts = starts[1:]
    if len(parts) == 1:
        return parts[0]
    return optax.join_schedules(parts, starts[: len(parts) - 1])


def cycle_ends(knobs: config.Optim, n_steps: int) -> list[int]:
    """The steps, counted from 1, that end a cosine cycle; none for one cycle.

    Cycles are of equal length, but for rounding, and the last one ends with
    the training; the warm-up is a part of the first. The weights at each end
    are a snapshot (Huang et al. 2017).
    """
    n = knobs.cycles
    if n == 1:
        return []
    ends = [round(k * n_steps / n) for k in range(1, n + 1)]
    n_warm = round(knobs.warmup_frac * n_steps)
    if n > n_steps or n_warm >= ends[0]:
        raise config.ConfigError(
            f"optim.cycles={n} of {n_steps} steps, {n_warm} of them warm-up, "
            "leave a cycle without a step; ask for fewer cycles, or lower "
            "optim.warmup_frac"
        )
    return ends


def build(knobs: config.Optim, n_steps: int) -> optax.GradientTransformation:
    """The optimiser: the gradients are limited, `optim.name`, parts' rates.

    Gradients are clipped by their global norm, or with unit_gradients each
    tensor's is divided by its own, which no clipping before would change;
    momentum and moments are of what comes out. adamw decays the kernels
    alone, decoupled from the gradient (Loshchilov and Hutter 2019); biases and
    the scales of norms are pulled to 0 for no gain. muon decays as adamw does;
    it makes the momentum of each kernel orthogonal, as the matrix from all
    inputs to the outputs (Jordan et al. 2024, "Muon: an optimizer for hidden
    layers in neural networks"), and scales that to the usual size of AdamW's
    updates, so that it takes the same rates (Liu et al. 2025, arXiv:2502.16982,
    section 2.2); the rest is moved by Adam with Nesterov's momentum.
    `optim.rates` scale the whole update, its decay too. Raises ConfigError for
    an unknown name.
    """
    rate = schedule(knobs, n_steps)
    steps = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(
            rate, weight_decay=knobs.weight_decay, mask=_is_kernel
        ),
        "muon": lambda: optax.contrib.muon(
            rate,
            weight_decay=knobs.weight_decay,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,
        ),
        "sgd": lambda: optax.sgd(rate, knobs.momentum, knobs.nesterov),
    }
    if knobs.name not in steps:
        raise config.ConfigError(
            "optim.name: " + config.unknown("optimiser", knobs.name, steps)
        )
    chain = [steps[knobs.name]()]
    if knobs.unit_gradients:
        chain.insert(0, unit_gradients())
    elif knobs.clip_norm > 0:
        chain.insert(0, optax.clip_by_global_norm(knobs.clip_norm))
    if knobs.rates:
        chain.append(parts_lib.scaled(parts_lib.parse(knobs.rates)))
    return optax.chain(*chain) if len(chain) > 1 else chain[0]


def unit_gradients() -> optax.GradientTransformation:
    """Each tensor's gradient divided by its L2 norm; of zeros, zeros.

    Yu, Lin, Salakhutdinov and Carbonell 2017, "Block-normalized gradient
    method", with a tensor as the block.
    """

    def unit(g):
        norm = jnp.linalg.norm(g.ravel())
        return g / jnp.where(norm == 0, 1, norm)

    return optax.stateless(lambda grads, params: jax.tree.map(unit, grads))


def _is_kernel(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _matrices(params):
    """Kernels [..., n_in, n_out] as one matrix of n_out columns; no others."""

    def matrix(p):
        if p.ndim < 2:
            return None
        *inputs, output = range(p.ndim)
        return optax.contrib.MuonDimensionNumbers(tuple(inputs), output)

    return jax.tree.map(matrix, params)


def ema_update(ema_tree, params_tree, decay: float, step):
    """The averaged weights after step t, from the new weights p.

    e <- d e + (1 - d) p,  d = min(decay, (1 + t) / (10 + t))

    The second term, TensorFlow's warm-up of the average, lets the first
    weights be forgotten early. Leaves that are no floats (counters) are
    copied from the weights.
    """
    t = jnp.asarray(step, jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))

    def update(e, p):
        if not jnp.issubdtype(p.dtype, jnp.floating):
            return p
        # this form leaves e as it is, to the last bit, where p equals it
        return (e + (1 - d) * (p - e)).astype(e.dtype)

    return jax.tree.map(update, ema_tree, params_tree)
