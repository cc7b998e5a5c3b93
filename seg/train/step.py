"""Every jit of training: the state and the step.

A state is a dict of pytrees: `step` int32, `params` and `stats` (the network's
`nnx.Param` and `nnx.BatchStat`), `opt` (optax), and `ema`, the averaged params
and stats, or None. The step is a pure function of (state, batch): its
randomness comes from (seed, step), so a restored state goes on bit for bit.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seg import config as config_lib
from seg import models, normalize
from seg.train import augment, losses, mesh, optim

State = dict[str, Any]
Step = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]

_AUGMENT, _DROPOUT = 0, 1  # tell apart the random streams of a step


def create(
    config: config_lib.Config, n_steps: int, devices: jax.sharding.Mesh
) -> tuple[State, Step]:
    """A fresh state, on all devices, and the compiled step for it.

    The step takes (state, batch), gives (new state, {"loss", "grad_norm"}) and
    uses the old state's memory. A batch has `image`, `classes`, `stats` and
    `weight` as in `seg.data.pipeline`.

    Raises ConfigError where loss and classes, batch and devices, or tile and
    network do not fit.
    """
    losses.check_terms(config.loss, config.model.n_classes)
    if config.train.batch_size % devices.size:
        raise config_lib.ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be divided "
            f"over {devices.size} devices; choose a multiple of {devices.size}"
        )
    tx = optim.build(config.optim, n_steps)
    network = nnx.eval_shape(lambda: models.build(config.model, nnx.Rngs(0)))
    _check_tile(config.data.tile, network.stride)
    graph = nnx.graphdef(network)
    everywhere = mesh.replicated(devices)

    def fresh() -> State:
        model = models.build(config.model, nnx.Rngs(config.train.seed))
        params = nnx.state(model, nnx.Param)
        stats = nnx.state(model, nnx.BatchStat)
        ema = {"params": params, "stats": stats} if config.optim.ema else None
        return {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "stats": stats,
            "opt": tx.init(params),
            "ema": jax.tree.map(jnp.copy, ema),
        }

    state = jax.jit(fresh, out_shardings=everywhere)()
    step = jax.jit(
        functools.partial(_step, graph, tx, config, n_steps),
        donate_argnums=0,
        out_shardings=everywhere,
    )
    return state, step


def _check_tile(side: int, stride: int) -> None:
    if side % stride:
        below = side // stride * stride
        sides = [str(n) for n in (below, below + stride) if n]
        raise config_lib.ConfigError(
            f"data.tile={side} is no multiple of the network's stride "
            f"{stride}; choose {' or '.join(sides)}"
        )


def _step(
    graph: nnx.GraphDef,
    tx: optax.GradientTransformation,
    config: config_lib.Config,
    n_steps: int,
    state: State,
    batch: dict[str, jax.Array],
) -> tuple[State, dict[str, jax.Array]]:
    key = jax.random.fold_in(jax.random.key(config.train.seed), state["step"])
    image = normalize.apply(
        batch["image"], batch["stats"], config.data.normalize
    )
    classes = batch["classes"]
    if config.train.augment:
        image, masks = augment.augment(
            jax.random.fold_in(key, _AUGMENT),
            image,
            {"classes": classes},
            config.augment,
        )
        classes = masks["classes"]

    def objective(params: nnx.State) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graph, params, state["stats"], copy=True)
        rngs = nnx.Rngs(dropout=jax.random.fold_in(key, _DROPOUT))
        loss = losses.total(
            model(image, rngs=rngs),
            classes,
            batch["weight"],
            config.loss,
            state["step"] / n_steps,
        )
        return loss, nnx.state(model, nnx.BatchStat)

    (loss, stats), grads = jax.value_and_grad(objective, has_aux=True)(
        state["params"]
    )
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    ema = state["ema"]
    if ema is not None:
        ema = optim.ema_update(
            ema,
            {"params": params, "stats": stats},
            config.optim.ema,
            state["step"],
        )
    after = {
        "step": state["step"] + 1,
        "params": params,
        "stats": stats,
        "opt": opt,
        "ema": ema,
    }
    return after, {"loss": loss, "grad_norm": optax.tree.norm(grads)}


def weights(state: State) -> nnx.State:
    """What prediction uses of a state: the averaged weights if there are."""
    source = state["ema"] or state
    return nnx.merge_state(source["params"], source["stats"])
