"""Two programs in turn, each in a process of its own.

A side is a function that is called once with its settings, does all that is
done once (imports, weights, compilation, a few runs to get warm), and returns
what is timed, and what tells, after the last run, what is to be said of it:

    def side(folder: pathlib.Path, **settings)
        -> tuple[Callable[..., Any], Callable[[], dict]]

Both sides get one folder to hand over weights, inputs and results: ours is
prepared first, and tells first. The sides then run in turn, ours first in every
even round, so that a slow spell of the machine meets both; medians are
compared. A side has the environment that its own entry point would give it, and
nothing of the other's; both see one GPU, the first that the user names.

Seconds are what is compared, or, with `value`, the numbers that the two return.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

# What is timed, and what tells of it afterwards.
Side = tuple[Callable[..., Any], Callable[[], dict[str, Any]]]

_WARM_RUNS = 3
# An idle thread pool spins for a while before it sleeps.
_PAUSE_S = 0.3
_TRIAL = 5  # calls that tell how many fill a run
_DEVICES = "CUDA_VISIBLE_DEVICES"


class Failed(Exception):
    """A side could not be measured; one line says why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison, as it is written to the JSON file.

    ours and peer are medians of `runs` runs in `unit`; ratio > 1 means that
    seg is ahead. `about` says what was compared, what each side told, the
    least and the most of each (`range`), and the load just before.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    runs: int
    about: dict[str, Any]


class _Side:
    """A process that runs one side, on demand."""

    def __init__(
        self,
        function: str,
        settings: dict[str, Any],
        folder: pathlib.Path,
        warm: int,
        environment: dict[str, str],
    ):
        device, *_ = os.environ.get(_DEVICES, "0").split(",")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, function, str(folder), str(warm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                _DEVICES: device,
                **environment,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        self._settings = json.dumps(settings)

    def start(self) -> None:
        """Lets it get ready."""
        self._ask(self._settings)

    def run(self, calls: list[int], figure: str = "seconds") -> float:
        """The "seconds" of one run, or the "value" that it gave.

        calls: what it is called with, the number of calls if there are many.
        """
        time.sleep(_PAUSE_S)
        return self._ask(json.dumps(calls))[figure]

    def tell(self) -> dict[str, Any]:
        """What the side says of itself."""
        return self._ask("tell")

    def _ask(self, line: str) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # told below
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        while answer := self._process.stdout.readline():
            if answer.startswith("{"):
                told = json.loads(answer)
                if "error" in told:
                    raise Failed(told["error"])
                return told
        raise Failed(
            f"a side of the comparison ended with {self._process.wait()}; "
            "its words are above"
        )

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended before
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def compare(
    name: str,
    ours: str,
    peer: str,
    runs: int,
    *,
    work: float = 0,
    fill_s: float = 0,
    value: str = "",
    unit: str = "s",
    warm: int = _WARM_RUNS,
    environment: dict[str, str] | None = None,
    **settings: Any,
) -> Row:
    """Runs "module:function" against "module:function".

    Parameters
    ----------
    work : the figures are work per second (more is better), else seconds.
    fill_s : a run is as many calls as fill these seconds on the faster side,
        `once(n)`, and the seconds are those of one; 0 = one call, `once()`.
    value : "less" or "more" is better of the number that a run returns, which
        is then the figure; empty = its seconds are.
    warm : runs before the first that counts.
    environment : what our entry point has in its environment.
    settings : what both sides are called with.

    Raises
    ------
    Failed : a side raised something, or ended.
    """
    environment = environment or {}
    load = os.getloadavg()[0]
    found: list[list[float]] = [[], []]
    with contextlib.ExitStack() as held:
        folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
        sides: list[_Side] = []
        for function, given in ((ours, environment), (peer, {})):
            sides.append(_Side(function, settings, folder, warm, given))
            held.callback(sides[-1].close)
            sides[-1].start()
        calls = [_calls(sides, fill_s)] if fill_s else []
        for turn in range(runs):
            for i in (0, 1) if turn % 2 == 0 else (1, 0):
                if value:
                    found[i].append(sides[i].run(calls, "value"))
                    continue
                seconds = sides[i].run(calls) / (calls[0] if calls else 1)
                found[i].append(work / seconds if work else seconds)
        told = [side.tell() for side in sides]
    medians = [statistics.median(figures) for figures in found]
    more = value == "more" or bool(work)
    about = {
        **settings,
        "ours": told[0],
        "peer": told[1],
        "ours_environment": environment,
        "range": [[min(figures), max(figures)] for figures in found],
        "calls": calls[0] if calls else 1,
        "load_before": load,
    }
    ratio = medians[0] / medians[1] if more else medians[1] / medians[0]
    return Row(name, *medians, unit, ratio, runs, about)


def _calls(sides: list[_Side], fill_s: float) -> int:
    fastest = min(side.run([_TRIAL]) for side in sides) / _TRIAL
    return max(1, math.ceil(fill_s / fastest))


def _serve(function: str, folder: str, warm: str) -> None:
    module, _, name = function.partition(":")
    settings = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(told: dict[str, Any]) -> None:
        print(json.dumps(told), file=answers, flush=True)

    try:
        make = getattr(importlib.import_module(module), name)
        once, tell = make(pathlib.Path(folder), **settings)
        for _ in range(int(warm)):
            once()
        answer({})
        for line in sys.stdin:
            asked = line.strip()
            answer(tell() if asked == "tell" else _run(once, json.loads(asked)))
    except Exception as error:  # whatever it is, the table shall say it
        text = " ".join(str(error).split())
        answer({"error": f"{type(error).__name__}: {text:.300}"})
        raise


def _run(once: Any, calls: list[int]) -> dict[str, float]:
    began = time.perf_counter()
    value = once(*calls)
    told = {"seconds": time.perf_counter() - began}
    return told | ({"value": value} if isinstance(value, float) else {})


if __name__ == "__main__":
    _serve(*sys.argv[1:])
