"""A tiny network with weights that make its output vary."""

import numpy as np
import pytest
from flax import nnx

from seg import config, models
from seg.predict import bundle


@pytest.fixture(scope="session")
def make_bundle():
    """make_bundle(**knobs) -> Bundle of a U-Net of two levels, width 4.

    Knobs are given as model__n_classes=3. Drawn with NumPy: initialising a
    network compiles for seconds.
    """

    def make(seed=0, **knobs):
        changes = {
            "model.width": 4,
            "model.depth": 2,
            "model.norm": "batch",
            "predict.tile": 32,
            "predict.overlap": 0.25,
            "predict.batch_size": 4,
        }
        changes |= {k.replace("__", "."): v for k, v in knobs.items()}
        settings = config.check(config.replace(config.Config(), changes))
        network = nnx.eval_shape(
            lambda: models.build(settings.model, nnx.Rngs(0))
        )
        draw = np.random.default_rng(seed)
        weights = {
            "/".join(map(str, path)): (
                draw.uniform(0.5, 1.5, value.shape)
                if path[-1] in ("scale", "var")
                else draw.normal(0, 1, value.shape)
                / np.sqrt(np.prod(value.shape[:-1]) / 2)
            ).astype(np.float32)
            for path, value in nnx.to_flat_state(nnx.state(network))
        }
        # Probabilities on both sides of one half: there are objects.
        if "head/kernel" in weights:
            weights["head/kernel"][..., ::2, :] = -3
            weights["head/kernel"][..., 1::2, :] = 3
        return bundle.Bundle(settings, weights, {"licence": "CC0-1.0"})

    return make


@pytest.fixture(scope="session")
def tiny(make_bundle):
    """The bundle with one sigmoid."""
    return make_bundle()
