"""The network by JAX itself: on every device, compiled once for each shape.

One program is kept on disk for the next process, and shared by all engines of
one architecture: a validation in the middle of training compiles nothing that
an earlier one has compiled.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seg import compiler, models, normalize
from seg.predict import engine

_LOG = logging.getLogger(__name__)


class Xla(engine.Engine):
    """Probabilities of a network.

    Parameters
    ----------
    model : what `models.build` or `bundle.model` gives. Its weights are taken
        as they are now; later training does not change them.
    how : of `normalize.scaling`, or a string of its steps.

    Calls of `run` that are worth making at a time, by threads, are `n_calls`:
    on an accelerator the next batch is sent while one is computed and fetched;
    a CPU would compute both, in twice the memory.
    """

    name = "jax"

    def __init__(self, model: nnx.Module, how: normalize.Scaling | str):
        compiler.enable_cache()
        super().__init__(model.stride)
        self._how = how
        self._graph, state = split(model)
        self._state = jax.device_put(state)
        self.n_calls = 1 if jax.default_backend() == "cpu" else 2
        self._fits: dict[int, int] = {}  # window -> windows in one call
        self._turns = threading.Semaphore(self.n_calls)
        self._short = threading.Lock()

    def run(self, batch: np.ndarray, stats: np.ndarray) -> np.ndarray:
        """As `Engine.run`; where memory runs out, alone, in halves that fit."""
        batch, stats = engine.as_float(batch, stats)
        if self.n_calls > 1 and batch.shape[1] not in self._fits:
            try:
                with self._turns:
                    return self._call(batch, stats)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not _is_memory(error):
                    raise
                self._fits.setdefault(batch.shape[1], len(batch))
        with self._alone():
            return self._in_parts(batch, stats)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits for the calls that run, and makes others wait."""
        with self._short:
            for _ in range(self.n_calls):
                self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release(self.n_calls)

    def _in_parts(self, batch: np.ndarray, stats: np.ndarray) -> np.ndarray:
        window = batch.shape[1]
        n = self._fits.get(window, len(batch))
        while True:
            try:
                parts = [
                    self._call(batch[i : i + n], stats[i : i + n])
                    for i in range(0, len(batch), n)
                ]
                return parts[0] if len(parts) == 1 else np.concatenate(parts)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not _is_memory(error):
                    raise
                if n == 1:
                    raise engine.OutOfMemory(
                        str(error).splitlines()[0]
                    ) from error
                n = (n + 1) // 2
                self._fits[window] = n
                _LOG.warning(
                    "out of memory: %d windows of %d px at a time", n, window
                )

    def _call(self, batch: np.ndarray, stats: np.ndarray) -> np.ndarray:
        return np.asarray(
            _compiled(self._graph, self._how, self._state, batch, stats)
        )


def split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State]:
    """A network in prediction mode as structure and weights."""
    return nnx.split(models.predicting(model))


def apply(
    graph: nnx.GraphDef,
    how: normalize.Scaling | str,
    state: nnx.State,
    image: jax.Array,
    stats: jax.Array,
) -> jax.Array:
    """Probabilities float32 [B, H, W, K] of float32 [B, H, W, C]; pure.

    stats float32 [B, C, S] of `normalize.measure`, how of `normalize.scaling`.
    A network that has learned to keep objects apart adds a channel: that map,
    in [0, 1].
    """
    image = normalize.apply(image, stats, how)
    outputs = nnx.merge(graph, state)(image)
    logits = outputs["classes"].astype(jnp.float32)
    one = logits.shape[-1] == 1
    found = jax.nn.sigmoid(logits) if one else jax.nn.softmax(logits)
    if "objects" not in outputs:
        return found
    apart = jax.nn.sigmoid(outputs["objects"].astype(jnp.float32))
    return jnp.concatenate([found, _smooth(apart)], -1)


def _smooth(x: jax.Array) -> jax.Array:
    """A Gaussian blur of [B, H, W, 1], sigma 1 px; nothing lies beyond an edge.

    What stem=2 leaves of its 2x2 blocks would be peaks.
    """
    line = jnp.array([1, 4, 6, 4, 1], jnp.float32) / 16
    kernel = (line[:, None] * line)[:, :, None, None]

    def blur(x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    return blur(x) / blur(jnp.ones_like(x))


_compiled = jax.jit(apply, static_argnums=(0, 1))


def _is_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("RESOURCE_EXHAUSTED", "Out of memory")
    )
