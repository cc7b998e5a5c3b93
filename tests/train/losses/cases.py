"""What the tests of the losses share: which terms, on what, run how."""

import dataclasses
import functools

import jax
import numpy as np

from seg import config
from seg.train import losses

PIXELS = ["cross_entropy", "boundary_cross_entropy", "focal"]
REGIONS = [
    "dice", "log_cosh_dice", "generalized_dice", "tversky", "focal_tversky"
]  # fmt: skip
LOVASZ = {
    1: ["lovasz_hinge", "lovasz_symmetric", "lovasz_sigmoid"],
    3: ["lovasz_softmax"],
}
SIGMOID = [*PIXELS, "binary_cross_entropy", *REGIONS, *LOVASZ[1]]
SOFTMAX = [*PIXELS, *REGIONS, *LOVASZ[3]]
EVERY = [(1, name) for name in SIGMOID] + [(3, name) for name in SOFTMAX]

SHAPE = (3, 4, 5)
# compiling is most of what these tests do
QUICK = {"xla_backend_optimization_level": 0}


def sample(n_classes, seed=0, shape=SHAPE, ignored=0.2):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(*shape, n_classes)).astype(np.float32)
    truth = rng.integers(0, max(n_classes, 2), shape).astype(np.uint8)
    truth[rng.random(shape) < ignored] = losses.IGNORE
    return logits, truth


def unlike(n_classes):
    """Knobs that are not the defaults, for every term that has any."""
    return {
        "class_weights": (0.5, 2.0, 1.5)[: max(n_classes, 2)],
        "hinge": "elu",
        "focal_gamma": 1.5,
        "tversky": (0.6, 0.2),
        "tversky_gamma": 2.0,
        "boundary_width": 3,
        "boundary_weight": 4.0,
    }


def total(logits, classes, weight, loss, progress=0.0):
    outputs = {"classes": logits}
    return losses.total(outputs, classes, weight, loss, progress)


@functools.cache
def _jitted(names, knobs):
    """(logits, truth, weight) -> {name: (value, gradient)}, compiled once."""
    terms = {name: dataclasses.replace(knobs, terms=name) for name in names}

    def run(logits, truth, weight):
        return {
            name: jax.value_and_grad(total)(logits, truth, weight, loss)
            for name, loss in terms.items()
        }

    return jax.jit(run, compiler_options=QUICK)


def every(logits, truth, weight=None, names=None, **knobs):
    """{name: (value, gradient)} of the terms that fit the logits."""
    if names is None:
        names = SIGMOID if logits.shape[-1] == 1 else SOFTMAX
    if weight is None:
        weight = np.ones(len(logits), np.float32)
    f = _jitted(tuple(names), config.Loss(**knobs))
    return jax.tree.map(np.asarray, f(logits, truth, weight))


def value(logits, truth, terms, weight=None, **knobs):
    return float(every(logits, truth, weight, [terms], **knobs)[terms][0])
