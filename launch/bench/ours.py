"""seg's side of the comparisons, by the code that the commands run."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from launch.bench import duel
from seg import config as config_lib


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
    **of_the_peer: Any,
) -> duel.Side:
    """Steps of `seg.train.step`, the input on the device already.

    The host waits for the device once in n of them, as training does.
    """
    del of_the_peer
    from seg import compiler
    from seg.predict import bundle
    from seg.train import mesh, step

    compiler.configure()
    config = config_lib.replace(
        network(dtype, width, architecture), {"train.batch_size": batch_size}
    )
    devices = mesh.make()
    state, advance = step.create(config, 1000, devices)
    data = batch(batch_size, side)
    weights = bundle.from_model(config, step.weights(state)).weights
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "batch.npz", **data)
    on_device = mesh.put(devices, data)
    held = {"state": state}

    def once(n: int = 1) -> float:
        for _ in range(n):
            held["state"], held["metrics"] = advance(held["state"], on_device)
        return float(held["metrics"]["loss"])

    first = {"first loss": once()}
    first["gradient norm"] = float(held["metrics"]["grad_norm"])
    later = {f"loss of step {i}": once() for i in (2, 3)}
    about = {
        "computes_in": dtype,
        "parameters": n_parameters(weights),
        "found": first | later,
    }
    return once, lambda: ran_on() | about


def predict(
    folder: pathlib.Path,
    *,
    dtype: str,
    batch_size: int,
    side: int,
    width: int,
    architecture: str = "unet_small",
    resident: bool = False,
    **of_the_peer: Any,
) -> duel.Side:
    """A batch of tiles by the engine that `auto` takes, from and to NumPy.

    With `resident`, n of them by JAX, input and result on the device.
    """
    del of_the_peer
    from flax import nnx

    from seg import models
    from seg.predict import bundle, engine, export
    from seg.predict.engine import graphs, xla

    chosen = "jax" if resident else engine.choose("auto")
    # an exported graph is float32; its engine is told what to compute in
    config = network(
        dtype if chosen == "jax" else "float32", width, architecture
    )
    model = models.build(config.model, nnx.Rngs(0))
    data = batch(batch_size, side)
    made = bundle.from_model(config, model)
    np.savez(folder / "weights.npz", **made.weights)
    np.savez(folder / "batch.npz", **data)
    if chosen == "jax":
        run = xla.Xla(model, config.data.normalize)
    else:
        hint = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        run = graphs.ENGINES[chosen](export.onnx(made), model.stride, hint)
    stats = data["stats"][0]
    np.save(folder / "probabilities.npy", run.run(data["image"], stats))
    about = {
        "engine": chosen,
        "computes_in": computes_in(run, config),
        "parameters": n_parameters(made.weights),
    }
    once = _on_device(model, config, data) if resident else None
    return (
        once or (lambda: run.run(data["image"], stats)),
        lambda: ran_on() | about,
    )


def _on_device(
    model: Any, config: config_lib.Config, data: dict[str, np.ndarray]
) -> Callable[[int], None]:
    """n calls of the program that the engine of JAX runs, without transfers."""
    import jax

    from seg.predict.engine import xla

    graph, state = xla.split(model)
    state, image, stats = jax.device_put((state, data["image"], data["stats"]))

    def once(n: int = 1) -> None:
        for _ in range(n):
            found = xla._compiled(
                graph, config.data.normalize, state, image, stats
            )
        found.block_until_ready()

    return once


def computes_in(run: Any, config: config_lib.Config) -> str:
    """The type that an engine computes in, once it has run.

    OpenVINO says it of each program: what it is asked for it may decline.
    """
    if run.name == "jax":
        return config.model.dtype
    if run.name == "onnx":
        return "float32"
    *_, program = run._compiled.values()
    found = program.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"bf16": "bfloat16", "f32": "float32"}[found]


def objects(folder: pathlib.Path, *, side: int, n_objects: int) -> duel.Side:
    """A probability map to labels and a table: `seg.predict.blobs`."""
    from seg.predict import blobs

    map_, image = discs(side, n_objects)
    np.savez(folder / "map.npz", map=map_, image=image)
    settings = config_lib.Predict()
    names = ("background", "nucleus")

    def once() -> blobs.Blobs:
        return blobs.detect(map_, image, settings, names)

    found = once()
    columns = {c: [row[c] for row in found.table] for c in found.table[0]}
    np.savez(folder / "found.npz", labels=found.labels, **columns)
    about = {"program": "seg", "threads": 1, "objects": len(found.table)}
    return once, lambda: about


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


def n_parameters(weights: Mapping[str, np.ndarray]) -> int:
    """All of them, the statistics of batch normalisation too."""
    return sum(array.size for array in weights.values())


def ran_on() -> dict[str, Any]:
    """Of this process; a GPU's peak is that with compilation, see README."""
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
