"""The network on batches of tiles: logits to probabilities, compiled once.

An `Engine` holds a network's weights on the device and runs them in prediction
mode. One program is compiled for each shape of a batch, kept on disk for the
next process, and shared by all engines of one architecture: a validation in
the middle of training compiles nothing that an earlier one has compiled.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seg import compiler

_LOG = logging.getLogger(__name__)

# Windows for images smaller than the tile, as shares of the tile: few enough
# that a folder of odd sizes compiles little, close enough that little is
# computed in vain.
_SHARES = (0.25, 0.375, 0.5, 0.75)


class OutOfMemory(MemoryError):
    """Not even one window fits into the accelerator's memory."""


class Engine:
    """Probabilities of a network.

    Parameters
    ----------
    model : what `models.build` or `bundle.model` gives. Its weights are taken
        as they are now; later training does not change them.
    """

    def __init__(self, model: nnx.Module):
        compiler.enable_cache()
        self.stride: int = model.stride
        self._graph, state = split(model)
        self._state = jax.device_put(state)
        self._fits: dict[int, int] = {}  # window -> windows in one call

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Runs a batch of normalised tiles.

        Parameters
        ----------
        batch : float32 [B, h, w, C], h and w multiples of `stride`.

        Returns
        -------
        float32 [B, h, w, K]: one sigmoid, or a softmax over all classes.

        Raises
        ------
        OutOfMemory
            where one tile alone does not fit. Before that, the batch is halved
            until its parts fit, for this and all later calls.
        """
        window = batch.shape[1]
        n = self._fits.get(window, len(batch))
        while True:
            try:
                parts = [
                    self._call(batch[i : i + n])
                    for i in range(0, len(batch), n)
                ]
                return parts[0] if len(parts) == 1 else np.concatenate(parts)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not _is_memory(error):
                    raise
                if n == 1:
                    raise OutOfMemory(str(error).splitlines()[0]) from error
                n = (n + 1) // 2
                self._fits[window] = n
                _LOG.warning(
                    "out of memory: %d windows of %d px at a time", n, window
                )

    def _call(self, batch: np.ndarray) -> np.ndarray:
        return np.asarray(_compiled(self._graph, self._state, batch))

    def window(self, shape: tuple[int, int], tile: int) -> int:
        """The window for an image of this (H, W): at most `tile`, px.

        Rounded up to a multiple of `stride`; smaller than the tile where the
        whole image fits into less.
        """
        sizes = [round(share * tile) for share in _SHARES]
        need = next((s for s in sizes if s >= max(shape)), tile)
        return -(-need // self.stride) * self.stride


def split(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State]:
    """A network in prediction mode as structure and weights."""
    return nnx.split(
        nnx.view(
            model,
            use_running_average=True,
            deterministic=True,
            raise_if_not_found=False,
        )
    )


def apply(graph: nnx.GraphDef, state: nnx.State, batch: jax.Array) -> jax.Array:
    """Probabilities float32 [B, H, W, K] of a normalised batch; pure."""
    logits = nnx.merge(graph, state)(batch)["classes"].astype(jnp.float32)
    if logits.shape[-1] == 1:
        return jax.nn.sigmoid(logits)
    return jax.nn.softmax(logits)


_compiled = jax.jit(apply, static_argnums=0)


def _is_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("RESOURCE_EXHAUSTED", "Out of memory")
    )
