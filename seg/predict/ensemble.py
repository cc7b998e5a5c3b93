"""Several models as one: the mean of their probabilities.

Snapshots of one training (Huang et al. 2017, "Snapshot ensembles"), folds, or
whatever has the same classes. The mean is taken of each batch of windows, so
that engines, views, blending and slides are what they are for one model; each
model scales the intensities in its own way.
"""

import math
from collections.abc import Sequence

import numpy as np

from seg import config as config_lib
from seg.predict import bundle as bundle_lib
from seg.predict import engine

# What all must have in common; classes come first, as what a user knows best.
_COMMON = (
    "classes", "model.n_classes", "model.objects", "model.in_channels",
    "data.resize",
)  # fmt: skip


class Mean(engine.Engine):
    """The mean of engines; windows fit them all."""

    def __init__(self, engines: Sequence[engine.Engine]):
        super().__init__(math.lcm(*(one.stride for one in engines)))
        self.name = engines[0].name
        self.n_calls = min(one.n_calls for one in engines)
        self._engines = engines

    def run(self, batch: np.ndarray, stats: np.ndarray) -> np.ndarray:
        """See `Engine.run`."""
        found = self._engines[0].run(batch, stats)
        for one in self._engines[1:]:
            found = found + one.run(batch, stats)
        return found / np.float32(len(self._engines))


def joined(engines: Sequence[engine.Engine]) -> engine.Engine:
    """One engine as it is, several as their mean."""
    return Mean(engines) if len(engines) > 1 else engines[0]


def check(bundles: Sequence[bundle_lib.Bundle]) -> None:
    """Raises UserError where models cannot be averaged, naming why."""
    first, *others = (config_lib.to_flat(one.config) for one in bundles)
    for i, other in enumerate(others, 2):
        for path in _COMMON:
            if other[path] != first[path]:
                raise config_lib.UserError(
                    f"model 1 has {path}={first[path]}, model {i} "
                    f"{path}={other[path]}; only models with the same can be "
                    "averaged"
                )


def digest(bundles: Sequence[bundle_lib.Bundle]) -> str:
    """Who the models are; of one, its own digest."""
    return ",".join(map(bundle_lib.digest, bundles))
