"""`seg predict` as it is called: its time, its memory, its shares.

The bundle has been used before, so that it holds the graph that its engine
needs and JAX has compiled what it compiles: first use is not what is measured.
"""

import contextlib
import csv
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from launch.bench import material

Side = tuple[Callable[[], Any], dict[str, Any]]


def cold(
    folder: pathlib.Path,
    *,
    n_images: int,
    side: int,
    width: int,
    tile: int,
    batch_size: int,
    device: str,
) -> Side:
    """The command on a folder, from the start of its process to its end."""
    del device
    images = material.images(folder, n_images, side)
    arguments = _arguments(folder, images, width, tile, batch_size)

    def once() -> None:
        _run("seg", *arguments)

    once()
    return once, _about(folder)


def warm(
    folder: pathlib.Path,
    *,
    n_images: int,
    side: int,
    width: int,
    tile: int,
    batch_size: int,
    device: str,
) -> Side:
    """The same in a process that goes on: only the second call counts."""
    del device
    images = material.images(folder, n_images, side)
    once = _in_process(_arguments(folder, images, width, tile, batch_size))
    once()
    return once, _about(folder)


def post_share(
    folder: pathlib.Path,
    *,
    n_images: int,
    side: int,
    width: int,
    tile: int,
    batch_size: int,
    goal: float,
) -> Side:
    """What closing, filtering, labelling and measuring take of the time."""
    del goal
    from seg.predict import blobs

    images = material.images(folder, n_images, side)
    call = _in_process(_arguments(folder, images, width, tile, batch_size))
    spent: list[float] = []
    detect = blobs.detect

    def timed(*arguments: Any, **settings: Any) -> blobs.Blobs:
        with _clock(spent):
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
    return once, _about(folder)


def goal(folder: pathlib.Path, *, goal: float, **of_ours: Any) -> Side:
    """A number to be kept below, in place of a peer."""
    del folder, of_ours
    return lambda: goal, {"program": "the goal", "threads": "-"}


def memory_large(folder: pathlib.Path, *, sides: list[int]) -> Side:
    """GB at the peak of the command on the largest slide."""
    return _memory(folder, sides[-1])


def memory_small(folder: pathlib.Path, *, sides: list[int]) -> Side:
    """GB at the peak of the command on the smallest."""
    return _memory(folder, sides[0])


def _memory(folder: pathlib.Path, side: int) -> Side:
    _run("seg", *_slide(folder, min(side, 512)))  # first use
    report = folder / "peak.txt"
    arguments = _slide(folder, side)

    def once() -> float:
        _run("launch.bench.peak", str(report), *arguments)
        return int(report.read_text()) / 1e9

    return once, {"program": f"seg, {side} x {side} px", "threads": "-"}


def scale_large(folder: pathlib.Path, *, sides: list[int]) -> Side:
    """Mpx/s of the largest slide; `about` has those between, once each."""
    once, about = _speed(folder, sides[-1])
    between = {side: _speed(folder, side)[0]() for side in sides[1:-1]}
    return once, {**about, "mpx_per_s_between": between}


def scale_small(folder: pathlib.Path, *, sides: list[int]) -> Side:
    """Mpx/s of the smallest slide."""
    return _speed(folder, sides[0])


def _speed(folder: pathlib.Path, side: int) -> Side:
    _in_process(_slide(folder, min(side, 512)))()  # compiles
    call = _in_process(_slide(folder, side))

    def once() -> float:
        total: list[float] = []
        with _clock(total):
            call()
        return side**2 / 1e6 / sum(total)

    return once, {"program": f"seg, {side} x {side} px", "threads": "-"}


def _slide(folder: pathlib.Path, side: int) -> list[str]:
    return _arguments(folder, material.slide(folder, side), 4)


def _arguments(
    folder: pathlib.Path,
    images: pathlib.Path,
    width: int,
    tile: int = 0,
    batch_size: int = 0,
) -> list[str]:
    windows = [f"--predict.tile={tile}", f"--predict.batch_size={batch_size}"]
    return [
        "predict",
        str(images),
        f"--model={material.model(folder, width)}",
        f"--out={folder / 'out'}",
        "--formats=labels,csv",
        "--overwrite",
        *(windows if tile else []),
    ]


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def _in_process(arguments: list[str]) -> Callable[[], None]:
    """The command without the start of a process; the last arguments hold."""
    from absl import flags

    from seg import __main__ as command

    name, images, *settings = arguments
    if "model" not in flags.FLAGS:
        command.COMMANDS[name].define()

    def call() -> None:
        flags.FLAGS(["seg", *settings])
        if status := command.COMMANDS[name].run([images]):
            raise RuntimeError(f"seg predict ended with {status}")

    return call


@contextlib.contextmanager
def _clock(seconds: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - began)


def _about(folder: pathlib.Path) -> dict[str, Any]:
    import jax

    from seg.predict import engine

    with (folder / "out" / "objects.csv").open(newline="") as file:
        n_objects = sum(1 for _ in csv.reader(file)) - 1
    return {
        "program": f"seg, jax {jax.__version__}",
        "threads": len(os.sched_getaffinity(0)),
        "engine": engine.choose("auto"),
        "objects": n_objects,
    }
