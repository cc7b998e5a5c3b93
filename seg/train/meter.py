"""What is seen of a training while it runs: rates, losses, a progress bar.

A `Meter` takes the metrics of each step as they are on the device, and looks
at them only when it logs, so that the device is never waited for in between.
It is also where a loss that is not finite is found.
"""

import collections
import json
import logging
import math
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from seg import config as config_lib

_IN_FLIGHT = 2  # steps that may run behind the one being prepared
_log = logging.getLogger(__name__)


class NotFinite(config_lib.UserError):
    """The loss or its gradient became NaN or infinite."""


def peak_memory_mib() -> float:
    """The most memory so far: the device's where it tells, else the process'.

    The latter is the resident set, which holds data and compiler too.
    """
    told = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in told:
        return told["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class Meter:
    """Collects, logs and shows; a context that clears its bar at the end.

    Parameters
    ----------
    n_steps, start : steps in all, and where this process begins.
    batch_size : tiles of a step.
    learning_rate : from a step to its rate.
    workdir : where `nonfinite.json` is left.
    window : of an earlier meter, whose steps are logged with the next ones.
    """

    def __init__(
        self,
        n_steps: int,
        start: int,
        *,
        batch_size: int,
        learning_rate: Callable[[int], Any],
        tracker: Any,
        workdir: pathlib.Path,
        window: Iterable[tuple[int, Mapping[str, float]]] = (),
    ):
        self._n_steps, self._at = n_steps, start
        self._batch_size = batch_size
        self._learning_rate = learning_rate
        self._tracker = tracker
        self._workdir = workdir
        self._pending: list[tuple[int, Any, Mapping[str, Any]]]
        self._pending = [(at, (), values) for at, values in window]
        self._resumed = len(self._pending)
        self._running: collections.deque[jax.Array] = collections.deque()
        self._notes: dict[str, float] = {}
        self._rates: list[float] = []
        self._waited = 0.0
        self._paused = 0.0
        self._since = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and jax.process_index() == 0:
            try:
                import tqdm
            except ImportError:  # a node that only trains may have none
                return
            self._bar = tqdm.tqdm(
                total=n_steps, initial=start, unit="step", dynamic_ncols=True
            )

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, with the time that is spent waiting for them noted."""
        iterator = iter(batches)
        while True:
            began = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - began
            yield batch

    def add(self, at: int, ids: Any, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of the step that led to `at`."""
        self._pending.append((at, ids, metrics))
        self._running.append(metrics["loss"])
        if len(self._running) > _IN_FLIGHT:
            self._running.popleft().block_until_ready()
        if self._bar is not None:
            self._bar.update()

    def note(self, name: str, value: float) -> None:
        """Shows this value from now on, as the last validation's score."""
        self._notes[name] = value

    def pause(self, seconds: float) -> None:
        """Leaves time that was spent on something else out of the rates."""
        self._paused += seconds

    def log(self) -> None:
        """Logs the mean since the last time.

        Raises NotFinite, with the tiles of the batch in `nonfinite.json`, when
        a step since then was not finite.
        """
        if not self._pending:
            return
        window = self.window()
        self._pending = []
        metrics = [values for _, values in window]
        at = window[-1][0]
        now = time.monotonic()
        seconds = max(now - self._since - self._paused, 1e-9)
        values = {
            f"train/{name}": float(np.mean([m[name] for m in metrics]))
            for name in metrics[0]
        }
        values["train/learning_rate"] = float(self._learning_rate(at - 1))
        n_steps, self._resumed = len(window) - self._resumed, 0
        rate = n_steps * self._batch_size / seconds
        self._rates.append(rate)
        values["perf/tiles_per_second"] = rate
        values["perf/data_wait_frac"] = min(self._waited / seconds, 1.0)
        self._since, self._waited, self._paused = now, 0.0, 0.0
        self._tracker.metrics(at, values)
        self._show(at, values["train/loss"], rate)

    def costs(self) -> dict[str, float]:
        """The usual speed so far and the most memory, for comparisons."""
        found = {"perf/peak_memory_mib": peak_memory_mib()}
        if self._rates:
            found["perf/tiles_per_second"] = float(np.median(self._rates))
        return found

    def window(self) -> list[tuple[int, dict[str, float]]]:
        """(step, metrics) of the steps that are not logged yet.

        Raises NotFinite, as `log` does: nothing that is not finite is saved.
        """
        found = []
        for at, ids, values in self._pending:
            numbers = {k: float(v) for k, v in jax.device_get(values).items()}
            if not all(map(math.isfinite, numbers.values())):
                raise self._not_finite(at, ids, numbers)
            found.append((at, numbers))
        return found

    def _show(self, at: int, loss: float, rate: float) -> None:
        shown = {"loss": f"{loss:.4f}"}
        shown |= {name: f"{value:.4f}" for name, value in self._notes.items()}
        shown["tiles/s"] = f"{rate:.1f}"
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        left = (self._n_steps - at) * self._batch_size / rate
        shown["left"] = f"{left / 60:.1f} min"
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        _log.info("step %d/%d  %s", at, self._n_steps, text)

    def _not_finite(
        self, at: int, ids: Any, values: Mapping[str, Any]
    ) -> NotFinite:
        # every process knows the tiles of its own share
        share = jax.process_index() or ""
        path = self._workdir / f"nonfinite{share}.json"
        found = {name: str(value) for name, value in values.items()}
        about = {"step": at, "tiles": [str(i) for i in ids], **found}
        path.write_text(json.dumps(about, indent=1) + "\n")
        bad = next(k for k, v in values.items() if not math.isfinite(v))
        return NotFinite(
            f"{bad} is {values[bad]} at step {at}; its tiles are listed in "
            f"{path}; lower optim.learning_rate or look at these images"
        )
