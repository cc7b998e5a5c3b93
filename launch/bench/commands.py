"""`seg predict` as it is called: its time, its memory, its shares.

The bundle has been used before, so that it holds the graph that its engine
needs and JAX has compiled what it compiles: first use is not what is measured.
It computes in bfloat16 on a GPU, and on a CPU in what its engine chooses.
"""

import contextlib
import csv
import importlib
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from launch.bench import duel, material, ours


def cold(folder: pathlib.Path, **settings: Any) -> duel.Side:
    """The command on a folder, from the start of its process to its end."""
    arguments = _folder(folder, **settings)

    def once() -> None:
        _run("seg", *arguments)

    once()
    return once, lambda: _tell(arguments)


def warm(folder: pathlib.Path, **settings: Any) -> duel.Side:
    """The same in a process that goes on: only the second call counts."""
    arguments = _folder(folder, **settings)
    once = _in_process(arguments)
    once()
    return once, lambda: _tell(arguments)


def maps(
    folder: pathlib.Path,
    *,
    n_images: int,
    side: int,
    width: int,
    tile: int,
    batch_size: int,
    device: str,
) -> duel.Side:
    """From one file to the class of each pixel, in memory, objects left out."""
    import seg
    from seg.predict import blobs

    (path,) = material.images(folder, n_images, side).iterdir()
    bundle = material.model(folder, width, _dtype(device))
    use = seg.load(bundle, tile=tile, batch_size=batch_size)
    held: dict[str, np.ndarray] = {}

    def once() -> None:
        found = use.probabilities(path)
        held["classes"] = blobs.classes_from(
            found, use.config.predict.threshold
        )

    once()

    def tell() -> dict[str, Any]:
        np.save(folder / "classes.npy", held["classes"])
        return _about(bundle)

    return once, tell


def post_share(
    folder: pathlib.Path, *, goal: float, **settings: Any
) -> duel.Side:
    """What closing, filtering, labelling and measuring take of the time.

    The processor's seconds of their thread, over the clock's of the command:
    meanwhile the network has the next image.
    """
    del goal
    from seg.predict import blobs

    arguments = _folder(folder, **settings)
    call = _in_process(arguments)
    spent: list[float] = []
    detect = blobs.detect

    def timed(*arguments: Any, **settings: Any) -> blobs.Blobs:
        with _clock(spent, time.thread_time):
            return detect(*arguments, **settings)

    blobs.detect = timed

    def once() -> float:
        spent.clear()
        total: list[float] = []
        with _clock(total):
            call()
        if not spent:
            raise RuntimeError("seg predict no longer calls blobs.detect")
        return sum(spent) / sum(total)

    once()
    return once, lambda: _tell(arguments)


def goal(folder: pathlib.Path, *, goal: float, **of_ours: Any) -> duel.Side:
    """A number to be kept below, in place of a peer."""
    del folder, of_ours
    return lambda: goal, lambda: {"program": "the goal", "threads": "-"}


def memory_large(
    folder: pathlib.Path, *, sides: list[int], width: int
) -> duel.Side:
    """GB at the peak of the command on the largest slide."""
    return _memory(folder, sides[-1], width)


def memory_small(
    folder: pathlib.Path, *, sides: list[int], width: int
) -> duel.Side:
    """GB at the peak of the command on the smallest."""
    return _memory(folder, sides[0], width)


def _memory(folder: pathlib.Path, side: int, width: int) -> duel.Side:
    _run("seg", *_slide(folder, min(side, 512), width))  # first use
    report = folder / "peak.txt"
    arguments = _slide(folder, side, width)
    seconds: list[float] = []

    def once() -> float:
        with _clock(seconds):
            _run("launch.bench.peak", str(report), *arguments)
        return int(report.read_text()) / 1e9

    return once, lambda: _tell_slide(arguments, side, seconds)


def scale_large(
    folder: pathlib.Path, *, sides: list[int], width: int
) -> duel.Side:
    """Mpx/s of the largest slide; in the end those between run, once each."""
    once, tell = _speed(folder, sides[-1], width)

    def with_those_between() -> dict[str, Any]:
        told, notes = tell(), []
        for side in sides[1:-1]:
            between, tell_of_it = _speed(folder, side, width)
            between()
            notes.append(tell_of_it()["note"])
        return told | {"note": "; ".join([*notes, told["note"]])}

    return once, with_those_between


def scale_small(
    folder: pathlib.Path, *, sides: list[int], width: int
) -> duel.Side:
    """Mpx/s of the smallest slide."""
    return _speed(folder, sides[0], width)


def _speed(folder: pathlib.Path, side: int, width: int) -> duel.Side:
    _in_process(_slide(folder, min(side, 512), width))()  # compiles
    arguments = _slide(folder, side, width)
    call = _in_process(arguments)
    seconds: list[float] = []

    def once() -> float:
        with _clock(seconds):
            call()
        return side**2 / 1e6 / seconds[-1]

    return once, lambda: _tell_slide(arguments, side, seconds)


def _slide(folder: pathlib.Path, side: int, width: int) -> list[str]:
    return _arguments(
        material.slide(folder, side), material.model(folder, width)
    )


def _folder(
    folder: pathlib.Path,
    *,
    n_images: int,
    side: int,
    width: int,
    tile: int,
    batch_size: int,
    device: str,
) -> list[str]:
    return [
        *_arguments(
            material.images(folder, n_images, side),
            material.model(folder, width, _dtype(device)),
        ),
        f"--predict.tile={tile}",
        f"--predict.batch_size={batch_size}",
    ]


def _dtype(device: str) -> str:
    return "bfloat16" if device == "cuda" else "float32"


def _arguments(images: pathlib.Path, model: pathlib.Path) -> list[str]:
    return [
        "predict",
        str(images),
        f"--model={model}",
        f"--out={images.parent / f'out_{images.stem}'}",
        "--formats=labels,csv",
        "--overwrite",
    ]


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def _in_process(arguments: list[str]) -> Callable[[], None]:
    """The command without the start of a process; the last arguments hold."""
    from absl import flags

    name, images, *settings = arguments
    command = importlib.import_module(f"seg.commands.{name}")
    if "model" not in flags.FLAGS:
        command.define()

    def call() -> None:
        flags.FLAGS(["seg", *settings])
        if status := command.main([images]):
            raise RuntimeError(f"seg predict ended with {status}")

    return call


@contextlib.contextmanager
def _clock(
    seconds: list[float], clock: Callable[[], float] = time.perf_counter
) -> Iterator[None]:
    began = clock()
    yield
    seconds.append(clock() - began)


def _tell_slide(
    arguments: list[str], side: int, seconds: list[float]
) -> dict[str, Any]:
    n = side**2
    usual = float(np.median(seconds))
    told = _tell(arguments)
    return told | {
        "program": f"{told['program']}, {side} x {side} px",
        "note": f"{side} px: {usual:.3g} s, {n / 1e6 / usual:.3g} Mpx/s",
        "found": {"foreground": told["area_px"] / n},
    }


def _tell(arguments: list[str]) -> dict[str, Any]:
    """What the last of these calls has found, and by what."""
    _, _, model, out, *_ = (each.partition("=")[2] for each in arguments)
    with (pathlib.Path(out) / "objects.csv").open(newline="") as file:
        areas = [int(row["area_px"]) for row in csv.DictReader(file)]
    return _about(pathlib.Path(model)) | {
        "area_px": sum(areas),
        "found": {"objects": len(areas)},
    }


def _about(model: pathlib.Path) -> dict[str, Any]:
    """Of the side, with the engine that this bundle is run by."""
    from seg import normalize
    from seg.predict import bundle as bundle_lib
    from seg.predict import engine, predictor

    bundle, chosen = bundle_lib.load(model), engine.choose("auto")
    if chosen != "jax":
        bundle = predictor.with_graph(bundle)
    run = predictor.run_by(bundle, chosen)
    tile = np.zeros((1, bundle.stride, bundle.stride, 1), np.uint8)
    run.run(tile, normalize.measure(tile[0]))
    return ours.ran_on() | {
        "engine": chosen,
        "computes_in": ours.computes_in(run, bundle.config),
        "parameters": ours.n_parameters(bundle.weights),
    }
