"""Learning-rate schedule, optimiser and averaged weights.

Everything counts optimiser steps from 0. Trees may be any pytree of arrays,
an `nnx.State` among them.
"""

import jax
import jax.numpy as jnp
import optax

from seg import config


def schedule(knobs: config.Optim, n_steps: int) -> optax.Schedule:
    """The learning rate of step t = 0 .. n_steps - 1.

    With w = warmup_frac * n_steps, rounded, and the peak r:

        t < w            r (t + 1) / (w + 1)
        then, cosine     r (1 + cos(pi (t - w) / (n_steps - w))) / 2
        then, constant   r

    so that no step has rate 0 and step w has r. Cosine: Loshchilov and Hutter
    2017, without restarts. Raises ConfigError for an unknown name.
    """
    peak, n_warm = knobs.learning_rate, round(knobs.warmup_frac * n_steps)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, max(n_steps - n_warm, 1)),
        "constant": optax.constant_schedule(peak),
    }
    if knobs.schedule not in after:
        raise config.ConfigError(
            "optim.schedule: "
            + config.unknown("schedule", knobs.schedule, after)
        )
    if n_warm == 0:
        return after[knobs.schedule]
    warm = optax.linear_schedule(peak / (n_warm + 1), peak, n_warm)
    return optax.join_schedules([warm, after[knobs.schedule]], [n_warm])


def build(knobs: config.Optim, n_steps: int) -> optax.GradientTransformation:
    """The optimiser: clipping by the global norm, then `optim.name`.

    adamw decays the kernels alone, decoupled from the gradient (Loshchilov and
    Hutter 2019); biases and the scales of norms are pulled to 0 for no gain.
    Raises ConfigError for an unknown name.
    """
    rate = schedule(knobs, n_steps)
    steps = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(
            rate, weight_decay=knobs.weight_decay, mask=_is_kernel
        ),
        "sgd": lambda: optax.sgd(rate, knobs.momentum, knobs.nesterov),
    }
    if knobs.name not in steps:
        raise config.ConfigError(
            "optim.name: " + config.unknown("optimiser", knobs.name, steps)
        )
    step = steps[knobs.name]()
    if knobs.clip_norm > 0:
        return optax.chain(optax.clip_by_global_norm(knobs.clip_norm), step)
    return step


def _is_kernel(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


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
