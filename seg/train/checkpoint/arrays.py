"""The arrays of a checkpoint, between a pytree and orbax's files.

Orbax sees a flat dict of arrays by "/"-joined path: then any pytree can be
stored (optax's named tuples, nnx states), and the paths are the names that a
message about differing leaves gives.
"""

import contextlib
import math
import pathlib
from typing import Any

import jax
import numpy as np


def flat(tree: Any) -> dict[str, Any]:
    """The leaves by path: arrays (keys as their data), or their shapes."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in found:
            raise ValueError(f"two leaves of the state are called {name!r}")
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        elif not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            leaf = np.asarray(leaf)
        found[name] = leaf
    return found


def kinds(leaves: dict[str, Any]) -> dict[str, list]:
    """The [dtype, shape] of each leaf, as JSON can hold it."""
    return {k: [str(v.dtype), list(v.shape)] for k, v in leaves.items()}


def differences(saved: dict[str, list], here: dict[str, list]) -> list[str]:
    """What keeps a checkpoint's leaves from fitting, a phrase for each."""

    def text(kind: list) -> str:
        return f"{kind[0]}{kind[1]}"

    lines = [
        f"{name} is {text(saved[name])} there, {text(kind)} here"
        for name, kind in here.items()
        if name in saved and saved[name] != kind
    ]
    for side, these, those in (("here", here, saved), ("there", saved, here)):
        lines += [
            f"{name} {text(kind)} is only {side}"
            for name, kind in these.items()
            if name not in those
        ]
    return lines


def write(path: pathlib.Path, leaves: dict[str, Any]) -> None:
    """Stores the arrays in a new folder and waits until they are there.

    One process does it, where each of several has all of every array.
    """
    import orbax.checkpoint as ocp

    path.parent.mkdir(parents=True, exist_ok=True)
    if jax.process_count() > 1:  # orbax would have the others write as well
        leaves = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    with contextlib.closing(_checkpointer()) as orbax:
        orbax.save(path, args=ocp.args.PyTreeSave(_not_empty(leaves)))


def read(path: pathlib.Path, template: Any) -> Any:
    """The tree that was stored, in the types and shardings of `template`."""
    import orbax.checkpoint as ocp

    wanted = flat(template)
    stored = _not_empty(wanted)
    args = {
        name: ocp.RestoreArgs(restore_type=np.ndarray)
        if isinstance(leaf, np.ndarray)
        else ocp.ArrayRestoreArgs(sharding=_sharding(leaf))
        for name, leaf in stored.items()
    }
    with contextlib.closing(_checkpointer()) as orbax:
        found = orbax.restore(
            path, args=ocp.args.PyTreeRestore(item=stored, restore_args=args)
        )
    for name in wanted.keys() - stored.keys():
        found[name] = _empty(wanted[name])
    leaves, treedef = jax.tree.flatten(template)
    return treedef.unflatten(
        _like(old, found[name])
        for old, name in zip(leaves, wanted, strict=True)
    )


def _checkpointer() -> Any:
    """Orbax in this process, which waits for no other."""
    import orbax.checkpoint as ocp

    processes = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
    )
    # Compression takes 8 % off a U-Net's state and six times as long.
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(
            use_compression=False, multiprocessing_options=processes
        ),
        multiprocessing_options=processes,
    )


def _not_empty(leaves: dict[str, Any]) -> dict[str, Any]:
    # orbax refuses arrays of size zero; their shape is all there is to them
    return {k: v for k, v in leaves.items() if math.prod(v.shape)}


def _empty(leaf: Any) -> Any:
    zeros = np.zeros(leaf.shape, leaf.dtype)
    if isinstance(leaf, np.ndarray):
        return zeros
    return jax.device_put(zeros, _sharding(leaf))


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    device = jax.local_devices()[0]
    return leaf.sharding or jax.sharding.SingleDeviceSharding(device)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _like(old: Any, new: Any) -> Any:
    """A restored leaf as the kind of thing that the template has."""
    if _is_key(old):
        return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old))
    if isinstance(old, np.generic):
        return new[()]
    if isinstance(old, bool | int | float | complex):
        return type(old)(new.item())
    return new
