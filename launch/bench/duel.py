"""Two programs in turn, each in a process of its own.

A side is a function that is called once with its settings, does all that is
done once (imports, weights, compilation, a few runs to get warm), and returns
what is timed and what is to be said of it:

    def side(folder: pathlib.Path, **settings) -> tuple[Callable[[], Any], dict]

Both sides get one folder to hand over weights and inputs: ours is prepared
first. The sides then run in turn, ours first in every even round, so that a
slow spell of the machine meets both; medians are compared. A side has the
environment that its own entry point would give it, and nothing of the other's.

Seconds are what is compared, or, with `value`, the numbers that the two return.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

_WARM_RUNS = 3
# An idle thread pool spins for a while before it sleeps.
_PAUSE_S = 0.3


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison, as it is written to the JSON file.

    ours and peer are medians of `runs` runs in `unit`; ratio > 1 means that
    seg is ahead. `about` says what was compared and what each side told.
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
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, function, str(folder), str(warm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **environment,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        self._settings = json.dumps(settings)

    def start(self) -> dict[str, Any]:
        """Lets it get ready; what it says of itself."""
        return self._ask(self._settings)

    def run(self, figure: str) -> float:
        """The "seconds" of one run, or the "value" that it gave."""
        time.sleep(_PAUSE_S)
        return self._ask("run")[figure]

    def _ask(self, line: str) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # told below
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        while answer := self._process.stdout.readline():
            if answer.startswith("{"):
                return json.loads(answer)
        raise RuntimeError(
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
    each: int = 1,
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
    each : a run is this many of what the seconds stand for.
    value : "less" or "more" is better of the number that a run returns, which
        is then the figure; empty = its seconds are.
    warm : runs before the first that counts.
    environment : what our entry point has in its environment.
    settings : what both sides are called with.
    """
    environment = environment or {}
    sides: list[_Side] = []
    told: list[dict[str, Any]] = []
    found: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        try:
            for function, given in ((ours, environment), (peer, {})):
                at = pathlib.Path(folder)
                sides.append(_Side(function, settings, at, warm, given))
                told.append(sides[-1].start())
            for turn in range(runs):
                for i in (0, 1) if turn % 2 == 0 else (1, 0):
                    got = sides[i].run("value" if value else "seconds")
                    found[i].append(got if value else got / each)
        finally:
            for side in sides:
                side.close()
    medians = [statistics.median(numbers) for numbers in found]
    ratio = medians[1] / medians[0]
    about = {
        **settings,
        "ours": told[0],
        "peer": told[1],
        "ours_environment": environment,
        "spread": [max(numbers) / min(numbers) for numbers in found],
    }
    return Row(
        name,
        *([work / seconds for seconds in medians] if work else medians),
        unit,
        1 / ratio if value == "more" else ratio,
        runs,
        about,
    )


def _serve(function: str, folder: str, warm: str) -> None:
    module, _, name = function.partition(":")
    settings = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    make = getattr(importlib.import_module(module), name)
    once, about = make(pathlib.Path(folder), **settings)
    for _ in range(int(warm)):
        once()
    print(json.dumps(about), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        value = once()
        told = {"seconds": time.perf_counter() - began}
        if isinstance(value, float):
            told["value"] = value
        print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
