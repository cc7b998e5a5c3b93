"""Parts of a network that learn at rates of their own, or not at all.

`optim.rates` names a part by its path in the network's state, as "encoder" or
"down.0.conv1"; of several that a weight is in, the longest one holds. Factor
0 freezes a part as Keras' `trainable=False` does: its weights stay, without
gradient or decay, and its batch normalisation uses and keeps its running
statistics. Dropout goes on.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seg import config

Rates = Mapping[str, float]  # part -> factor of the learning rate


def parse(rates: Iterable[str]) -> Rates:
    """("encoder=0.1",) as {"encoder": 0.1}; ConfigError for what is no such."""
    found: dict[str, float] = {}
    for text in rates:
        name, _, number = text.replace(" ", "").partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if not (name and 0 <= factor < math.inf) or name in found:
            raise config.ConfigError(
                f"optim.rates: {text!r}; give each part once, as "
                "'encoder=0.1', with a factor that is not negative"
            )
        found[name] = factor
    return found


def check(rates: Rates, params: nnx.State) -> None:
    """Raises ConfigError for a part that is not in the network."""
    paths = [path for path, _ in nnx.to_flat_state(params)]
    known = {
        ".".join(map(str, path[:n]))
        for path in paths
        for n in range(1, len(path) + 1)
    }
    for name in rates:
        if name not in known:
            tops = {str(path[0]) for path in paths}
            raise config.ConfigError(
                "optim.rates: "
                + config.unknown(
                    "part", name, known if config.nearest(name, known) else tops
                )
            )
    if not any(factor(rates, ".".join(map(str, path))) for path in paths):
        raise config.ConfigError(
            f"optim.rates={list(rates)} freeze the whole network; leave a part "
            "that learns"
        )


def factor(rates: Rates, name: str) -> float:
    """The factor of the weight or module with this dotted path."""
    inside = [p for p in rates if f"{name}.".startswith(f"{p}.")]
    return rates[max(inside, key=len)] if inside else 1.0


def is_frozen(rates: Rates) -> Callable[[tuple[Any, ...], Any], bool]:
    """A filter of nnx, from (path, value): whether it is in a frozen part."""
    return lambda path, value: not factor(rates, ".".join(map(str, path)))


def scaled(rates: Rates) -> optax.GradientTransformation:
    """Updates times the factors of their parts."""

    def scale(path, update):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return factor(rates, name) * update

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
    )


def freeze(network: nnx.Module, rates: Rates) -> None:
    """Lets the batch normalisation of frozen parts use its running moments."""
    for path, norm in norms(network):
        if not factor(rates, ".".join(map(str, path))):
            norm.use_running_average = True


def warm_up(network: nnx.Module, model: config.Model, at: jax.Array) -> None:
    """Lets running statistics forget their first values early.

    In step `at` = t, the share of the old average is min(m, (1 + t)/(10 + t))
    for a layer's momentum m: of .999, as some sources have it, 250 steps would
    leave .78 of the initial 0 and 1. Those of an encoder from a file stay with
    their own momentum.
    """
    most = (1 + at) / (10 + at)
    for path, norm in norms(network):
        if not (model.encoder and path[:1] == ("encoder",)):
            norm.momentum = jnp.minimum(norm.momentum, most)


def norms(network: nnx.Module) -> list[tuple[tuple[Any, ...], nnx.Module]]:
    """(path, module) of every module that keeps running statistics."""
    return [
        (path, module)
        for path, module in nnx.iter_modules(network)
        if any(isinstance(v, nnx.BatchStat) for v in vars(module).values())
    ]
