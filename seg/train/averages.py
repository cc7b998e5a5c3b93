"""Stochastic weight averaging: the mean of the weights of the last steps.

Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better
Generalization". The average is a part of the state, `swa`: its `params`, the
`stats` of batch normalisation that belong to them, and `n`, how many weights
are in it. Until the first one is, training predicts with its own weights.

No running average of the statistics belongs to averaged weights: they are
measured anew (`step.measure`) over N_BATCHES batches.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from seg import config
from seg.train import mesh

# Batches that the statistics are the mean of, the first ones of the training's
# order; an epoch's, if that has fewer.
N_BATCHES = 100


def taken(knobs: config.Optim, n_steps: int, per_epoch: int) -> range:
    """The steps, counted from 1, after which the weights are averaged.

    The last step, and every `swa_every`-th (every epoch's) before it, as far
    back as the last `swa` of all steps go.
    """
    n_last = max(1, round(knobs.swa * n_steps)) if knobs.swa else 0
    every = knobs.swa_every or per_epoch
    return range(n_steps, n_steps - n_last, -every)[::-1]


def update(
    swa: dict[str, Any], params: Any, at: jax.Array, steps: range
) -> dict[str, Any]:
    """The average after step `at`, counted from 1, with its new weights p.

    Where `at` is one of `steps`, the n-th, a <- a + (p - a) / n. It counts by
    the step alone, so that a training that is made longer averages anew.
    """
    past = at - steps.start
    n = jnp.maximum(past // steps.step + 1, 0)

    def add(average: Any) -> Any:
        return jax.tree.map(
            lambda a, p: jnp.where(n == 1, p, a + (p - a) / n), average, params
        )

    average = jax.lax.cond(
        (past >= 0) & (past % steps.step == 0),
        add,
        lambda average: average,
        swa["params"],
    )
    return swa | {"params": average, "n": n}


def has_begun(swa: dict[str, Any] | None) -> bool:
    """Whether any weights are in the average."""
    return swa is not None and int(swa["n"]) > 0


def settler(
    measure: Callable[..., Any],
    batches: Callable[[int], Iterable[dict[str, Any]]],
    devices: jax.sharding.Mesh,
) -> Callable[[dict[str, Any], Callable[[], None]], dict[str, Any]]:
    """From (state, check) to the state with its average ready to predict.

    The statistics of batch normalisation, if there are any, are measured for
    the averaged weights; `check` is called before each batch and may raise.

    Parameters
    ----------
    measure : of `step.create_measure`.
    batches : from a number to so many batches, the first ones.
    """

    def settle(
        state: dict[str, Any], check: Callable[[], None]
    ) -> dict[str, Any]:
        swa = state["swa"]
        if not has_begun(swa) or not jax.tree.leaves(swa["stats"]):
            return state
        stats = swa["stats"]
        for k, batch in enumerate(batches(N_BATCHES)):
            check()
            tiles = {n: array for n, array in batch.items() if n != "ids"}
            stats = measure(swa["params"], stats, k, mesh.put(devices, tiles))
        return state | {"swa": swa | {"stats": stats}}

    return settle
