"""seg's side of the comparisons, by the code that the commands run."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from seg import config as config_lib

Side = tuple[Callable[[], Any], dict[str, Any]]


def network(dtype: str, width: int = 32) -> config_lib.Config:
    """A plain U-Net with batch normalisation; 32 is 7.76 M parameters."""
    return config_lib.Config(
        model=config_lib.Model(
            name="unet_small",
            width=width,
            norm="batch",
            dropout=0.0,
            dtype=dtype,
        ),
        data=config_lib.Data(normalize="none"),
        loss=config_lib.Loss(terms="binary_cross_entropy + dice"),
        optim=config_lib.Optim(clip_norm=0.0, schedule="constant"),
        train=config_lib.Train(augment=False),
    )


def batch(batch_size: int, side: int) -> dict[str, np.ndarray]:
    """Noise and its blobs; the same for both sides."""
    rng = np.random.default_rng(0)
    shape = (batch_size, side, side, 1)
    return {
        "image": rng.uniform(0, 1, shape).astype(np.float32),
        "classes": rng.integers(0, 2, shape[:3]).astype(np.uint8),
        "stats": np.zeros((batch_size, 1, 7), np.float32),
        "weight": np.ones(batch_size, np.float32),
    }


def train_step(
    folder: pathlib.Path, *, dtype: str, batch_size: int, side: int, width: int
) -> Side:
    """One step of `seg.train.step`, the input on the device already."""
    from seg import compiler
    from seg.train import mesh, step

    compiler.configure()
    import jax

    config = config_lib.replace(
        network(dtype, width), {"train.batch_size": batch_size}
    )
    devices = mesh.make()
    state, advance = step.create(config, 1000, devices)
    data = batch(batch_size, side)
    _hand_over(folder, state, data)
    on_device = mesh.put(devices, data)
    # compiled once more for the memory it needs; the cache makes it quick
    held = {"state": state}

    def once() -> float:
        held["state"], metrics = advance(held["state"], on_device)
        return float(metrics["loss"])

    first = once()
    return once, {
        **_about(),
        "first_loss": first,
        "parameters": sum(
            x.size for x in jax.tree.leaves(held["state"]["params"])
        ),
        "loss_after": [once() for _ in range(2)],
    }


def predict(
    folder: pathlib.Path, *, dtype: str, batch_size: int, side: int, width: int
) -> Side:
    """A batch of tiles through `seg.predict.engine`, from and to NumPy."""
    from flax import nnx

    from seg import models
    from seg.predict.engine import xla

    config = network(dtype, width)
    model = models.build(config.model, nnx.Rngs(0))
    state = {
        "params": nnx.state(model, nnx.Param),
        "stats": nnx.state(model, nnx.BatchStat),
    }
    data = batch(batch_size, side)
    _hand_over(folder, state, data)
    run = xla.Xla(model, config.data.normalize)
    stats = data["stats"][0]
    found = run.run(data["image"], stats)
    np.save(folder / "probabilities.npy", found)
    return lambda: run.run(data["image"], stats), _about()


def _hand_over(
    folder: pathlib.Path, state: dict[str, Any], data: dict[str, np.ndarray]
) -> None:
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(
        {key: state[key] for key in ("params", "stats")}
    )
    named = {
        "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path): (
            np.asarray(value)
        )
        for path, value in leaves
    }
    np.savez(folder / "weights.npz", **named)
    np.savez(folder / "batch.npz", **data)


def _about() -> dict[str, Any]:
    import jax

    return {
        "program": f"seg, jax {jax.__version__}",
        "threads": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
