"""Every jit of training: the state and the step.

A state is a dict of pytrees: `step` int32, `params` and `stats` (the network's
`nnx.Param` and `nnx.BatchStat`), `opt` (optax), and `ema` and `swa`
(`averages`), averaged params and their stats, or None. The step is a pure
function of (state, batch): its randomness comes from (seed, step), so a
restored state goes on bit for bit.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from seg import config as config_lib
from seg import models, normalize
from seg.train import augment, averages, losses, mesh, optim, parts

State = dict[str, Any]
Step = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]
Measure = Callable[[nnx.State, nnx.State, int, Any], nnx.State]

_AUGMENT, _DROPOUT = 0, 1  # tell apart the random streams of a step

# What runs once need not run fast: compiled in 3 s, where it took 14 (U-Net of
# 1.9 M parameters, two CPU cores).
_ONCE = {"xla_backend_optimization_level": 1}


def create(
    config: config_lib.Config,
    n_steps: int,
    devices: jax.sharding.Mesh,
    per_epoch: int = 1,
) -> tuple[State, Step]:
    """A fresh state, on all devices, and the compiled step for it.

    The step takes (state, batch), gives (new state, {"loss", "grad_norm"}) and
    uses the old state's memory. A batch has `image`, `stats`, `weight`, and
    what the heads learn, as in `seg.data.pipeline`; `per_epoch` are the steps
    of an epoch.

    Raises ConfigError where loss and classes, batch and devices, tile and
    network, or rates and network do not fit.
    """
    network = check(config)
    if config.train.batch_size % devices.size:
        raise config_lib.ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be divided "
            f"over {devices.size} devices; choose a multiple of {devices.size}"
        )
    tx = optim.build(config.optim, n_steps)
    frozen = parts.is_frozen(parts.parse(config.optim.rates))
    everywhere = mesh.replicated(devices)

    def fresh() -> State:
        model = models.build(config.model, nnx.Rngs(config.train.seed))
        params = nnx.state(model, nnx.Param)
        stats = nnx.state(model, nnx.BatchStat)
        both = {"params": params, "stats": stats}
        count = {"n": jnp.zeros((), jnp.int32)}
        return {
            "step": jnp.zeros((), jnp.int32),
            **both,
            "opt": tx.init(nnx.split_state(params, frozen, ...)[1]),
            "ema": jax.tree.map(jnp.copy, both) if config.optim.ema else None,
            "swa": jax.tree.map(jnp.copy, both | count)
            if config.optim.swa
            else None,
        }

    state = jax.jit(
        fresh,
        out_shardings=everywhere,
        compiler_options=_ONCE
        if devices.devices.flat[0].platform == "cpu"
        else None,
    )()
    step = jax.jit(
        functools.partial(
            _step,
            nnx.graphdef(network),
            tx,
            config,
            n_steps,
            frozen,
            averages.taken(config.optim, n_steps, per_epoch),
        ),
        donate_argnums=0,
        out_shardings=everywhere,
    )
    return state, step


def check(config: config_lib.Config) -> nnx.Module:
    """The network without numbers, where tile, loss and rates fit it.

    Its frozen parts are in prediction mode. Raises ConfigError.
    """
    losses.check_terms(config.loss, config.model.n_classes)
    network = _abstract(config)
    _check_tile(config.data.tile, network.stride)
    rates = parts.parse(config.optim.rates)
    parts.check(rates, nnx.state(network, nnx.Param))
    return network


def create_measure(
    config: config_lib.Config, devices: jax.sharding.Mesh
) -> Measure:
    """The compiled pass that measures statistics of batch normalisation.

    From (params, stats, k, batch) it gives the statistics s with the moments
    m of batch k = 0, 1, ... in their mean, s <- s + (m - s) / (k + 1). The
    batch passes as it did in step k of the training, augmented and with
    dropout: the weights were learned with such moments, and the running
    averages of a training are of such moments too. Those of frozen parts stay.
    """
    network = _abstract(config)
    for _, norm in parts.norms(network):
        norm.momentum = 0.0  # the moments of the batch alone
    graph = nnx.graphdef(network)

    def measure(
        params: nnx.State, stats: nnx.State, k: jax.Array, batch: Any
    ) -> nnx.State:
        image, _, key = _tiles(config, k, batch)
        model = nnx.merge(graph, params, stats, copy=True)
        _, found = _forward(model, image, key)
        return jax.tree.map(
            lambda s, m: jnp.where(k == 0, m, s + (m - s) / (k + 1)),
            stats,
            found,
        )

    return jax.jit(measure, out_shardings=mesh.replicated(devices))


def _abstract(config: config_lib.Config) -> nnx.Module:
    """The network without numbers, its frozen parts in prediction mode."""
    network = nnx.eval_shape(lambda: models.build(config.model, nnx.Rngs(0)))
    parts.freeze(network, parts.parse(config.optim.rates))
    return network


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
    frozen: Callable[..., bool],
    averaged: range,
    state: State,
    batch: dict[str, jax.Array],
) -> tuple[State, dict[str, jax.Array]]:
    image, truth, key = _tiles(config, state["step"], batch)
    fixed, learned = nnx.split_state(state["params"], frozen, ...)

    def objective(learned: nnx.State) -> tuple[jax.Array, nnx.State]:
        params = nnx.merge_state(fixed, learned)
        model = nnx.merge(graph, params, state["stats"], copy=True)
        parts.warm_up(model, config.model, state["step"])
        outputs, stats = _forward(model, image, key)
        loss = losses.total(
            outputs,
            truth["classes"],
            batch["weight"],
            config.loss,
            state["step"] / n_steps,
            truth.get("objects"),
            truth.get("near"),
        )
        return loss, stats

    (loss, stats), grads = jax.value_and_grad(objective, has_aux=True)(learned)
    updates, opt = tx.update(grads, state["opt"], learned)
    learned = optax.apply_updates(learned, updates)
    params = nnx.merge_state(fixed, learned)
    ema, swa = state["ema"], state["swa"]
    if ema is not None:
        ema = optim.ema_update(
            ema,
            {"params": params, "stats": stats},
            config.optim.ema,
            state["step"],
        )
    if swa is not None:
        swa = averages.update(swa, params, state["step"] + 1, averaged)
    after = {
        "step": state["step"] + 1,
        "params": params,
        "stats": stats,
        "opt": opt,
        "ema": ema,
        "swa": swa,
    }
    return after, {"loss": loss, "grad_norm": optax.tree.norm(grads)}


def _tiles(
    config: config_lib.Config, at: jax.Array, batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """(image, truth, key) of step `at`: scaled, augmented, its randomness."""
    key = jax.random.fold_in(jax.random.key(config.train.seed), at)
    how = normalize.scaling(config.data)
    image = normalize.apply(batch["image"], batch["stats"], how.by_image)
    kind = config.model.objects
    names = ("classes",) if kind == "none" else ("classes", "labels")
    truth = {name: batch[name] for name in names}
    if config.train.augment:
        image, truth = augment.augment(
            jax.random.fold_in(key, _AUGMENT), image, truth, config.augment
        )
    if kind != "none":
        truth["objects"] = losses.apart.target(truth["labels"], kind)
        if config.loss.touching:
            truth["near"] = losses.apart.near(truth["labels"])
    return normalize.by_tile(image, how), truth, key


def _forward(
    model: nnx.Module, image: jax.Array, key: jax.Array
) -> tuple[dict[str, jax.Array], nnx.State]:
    """The network's outputs, and its statistics afterwards."""
    rngs = nnx.Rngs(dropout=jax.random.fold_in(key, _DROPOUT))
    return model(image, rngs=rngs), nnx.state(model, nnx.BatchStat)


def weights(state: State) -> nnx.State:
    """What prediction uses of a state: the averaged weights if there are."""
    averaged = averages.has_begun(state["swa"])
    return own_weights(state["ema"] or (state["swa"] if averaged else state))


def own_weights(state: State) -> nnx.State:
    """The weights of a step itself, whatever averages there are."""
    return nnx.merge_state(state["params"], state["stats"])


def started(state: State, network: nnx.Module) -> State:
    """A fresh state with the weights of a network in place of its own."""

    def put(old: Any, kind: type[nnx.Variable]) -> Any:
        return jax.tree.map(  # no two of them share memory that a step uses up
            lambda x, y: jax.make_array_from_process_local_data(
                x.sharding, np.array(y, x.dtype)
            ),
            old,
            nnx.state(network, kind),
        )

    def both(tree: dict[str, Any] | None) -> dict[str, Any] | None:
        if tree is None:
            return None
        return tree | {
            "params": put(tree["params"], nnx.Param),
            "stats": put(tree["stats"], nnx.BatchStat),
        }

    ends = {"ema": both(state["ema"]), "swa": both(state["swa"])}
    return both(state) | ends
