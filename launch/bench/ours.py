"""seg's side of the comparisons, by the code that the commands run."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from seg import config as config_lib

Side = tuple[Callable[[], Any], dict[str, Any]]


def network(
    dtype: str, width: int = 32, name: str = "unet_small"
) -> config_lib.Config:
    """A plain U-Net; the small one with batch norm, 7.76 M parameters at 32.

    `unet` is the classic one, 31.0 M parameters at 64, without normalisation.
    """
    return config_lib.Config(
        model=config_lib.Model(
            name=name,
            width=width,
            norm="batch" if name == "unet_small" else "none",
            dropout=0.0,
            dtype=dtype,
        ),
        data=config_lib.Data(normalize="none"),
        loss=config_lib.Loss(terms="binary_cross_entropy + dice"),
        optim=config_lib.Optim(
            clip_norm=0.0, schedule="constant", warmup_frac=0.0
        ),
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
    folder: pathlib.Path,
    *,
    dtype: str,
    batch_size: int,
    side: int,
    width: int,
    architecture: str = "unet_small",
    steps: int = 1,
    **of_the_peer: Any,
) -> Side:
    """Steps of `seg.train.step`, the input on the device already.

    The host waits for the device once in `steps`, as training does.
    """
    del of_the_peer
    from seg import compiler
    from seg.train import mesh, step

    compiler.configure()
    import jax

    config = config_lib.replace(
        network(dtype, width, architecture), {"train.batch_size": batch_size}
    )
    devices = mesh.make()
    state, advance = step.create(config, 1000, devices)
    data = batch(batch_size, side)
    write_weights(folder, state["params"], state["stats"])
    np.savez(folder / "batch.npz", **data)
    on_device = mesh.put(devices, data)
    held = {"state": state}

    def once(n: int = steps) -> float:
        for _ in range(n):
            held["state"], metrics = advance(held["state"], on_device)
        return float(metrics["loss"])

    first = once(1)
    later = [once(1) for _ in range(2)]
    return once, {
        **_about(),
        "first_loss": first,
        "parameters": sum(
            x.size for x in jax.tree.leaves(held["state"]["params"])
        ),
        "loss_after": later,
    }


def predict(
    folder: pathlib.Path,
    *,
    dtype: str,
    batch_size: int,
    side: int,
    width: int,
    architecture: str = "unet_small",
    **of_the_peer: Any,
) -> Side:
    """A batch of tiles by the engine that `auto` takes, from and to NumPy."""
    del of_the_peer
    from flax import nnx

    from seg import models
    from seg.predict import bundle, engine, export
    from seg.predict.engine import graphs, xla

    chosen = engine.choose("auto")
    # an exported graph is float32; its engine is told what to compute in
    config = network(
        dtype if chosen == "jax" else "float32", width, architecture
    )
    model = models.build(config.model, nnx.Rngs(0))
    data = batch(batch_size, side)
    write_weights(
        folder, nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    )
    np.savez(folder / "batch.npz", **data)
    if chosen == "jax":
        run = xla.Xla(model, config.data.normalize)
    else:
        content = export.onnx(bundle.from_model(config, model))
        hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        run = graphs.ENGINES[chosen](content, model.stride, hint)
    stats = data["stats"][0]
    np.save(folder / "probabilities.npy", run.run(data["image"], stats))
    about = {**_about(), "engine": chosen}
    return lambda: run.run(data["image"], stats), about


def objects(folder: pathlib.Path, *, side: int, n_objects: int) -> Side:
    """A probability map to labels and a table: `seg.predict.blobs`."""
    from seg.predict import blobs

    map_, image = discs(side, n_objects)
    np.savez(folder / "map.npz", map=map_, image=image)
    settings = config_lib.Predict()
    names = ("background", "nucleus")

    def once() -> blobs.Blobs:
        return blobs.detect(map_, image, settings, names)

    found = once()
    np.savez(
        folder / "found.npz",
        labels=found.labels,
        **{
            name: [row[name] for row in found.table]
            for name in ("area_px", "eccentricity", "solidity")
        },
    )
    return once, {"program": "seg", "threads": 1, "objects": len(found.table)}


def discs(side: int, n_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """A map [H, W, 1] with ellipses on a jittered grid, and an image."""
    rng = np.random.default_rng(0)
    per_row = round(n_objects**0.5)
    pitch = side // per_row
    rows, cols = np.mgrid[:pitch, :pitch] - (pitch - 1) / 2
    map_ = np.zeros((side, side, 1), np.float32)
    for i in range(per_row):
        for j in range(per_row):
            a, b = rng.uniform(0.25, 0.48, 2) * pitch
            turn = rng.uniform(0, np.pi)
            along = rows * np.cos(turn) + cols * np.sin(turn)
            across = cols * np.cos(turn) - rows * np.sin(turn)
            inside = (along / a) ** 2 + (across / b) ** 2 < 1
            box = (
                slice(i * pitch, (i + 1) * pitch),
                slice(j * pitch, (j + 1) * pitch),
            )
            map_[(*box, 0)] = 0.1 + 0.8 * inside
    image = rng.integers(0, 255, (side, side, 1), dtype=np.uint8)
    return map_, image


def write_weights(folder: pathlib.Path, params: Any, stats: Any) -> None:
    """`weights.npz` for the peer: by "params/" or "stats/" and their paths."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(
        {"params": params, "stats": stats}
    )
    named = {
        "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path): (
            np.asarray(value)
        )
        for path, value in leaves
    }
    np.savez(folder / "weights.npz", **named)


def _about() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    memory = device.memory_stats() or {}  # the CPU has none
    return {
        "program": f"seg, jax {jax.__version__}",
        "threads": len(os.sched_getaffinity(0)),
        "device": device.device_kind,
        "peak_memory_gb": _gb(memory.get("peak_bytes_in_use")),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _gb(n_bytes: int | None) -> float | str:
    return "-" if n_bytes is None else n_bytes / 1e9
