"""What tests against Keras share: random weights, both ways, few compilations.

Networks here are abstract until they get weights, and layers in Keras begin
with zeros: initialisers compile for long, once for every shape.
"""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from seg import config, models

L = keras.layers
# What runs once need not run fast; it compiles in half the time.
FAST = {"xla_backend_optimization_level": 0}


def own_width(width):
    """A parameter of tests that take long: the width that a source has."""
    return pytest.param(width, marks=pytest.mark.slow)


# --------------------------------------------------------------------- ours
class _Key:
    """In place of `nnx.Rngs`, whose counting takes most of the time."""

    def params(self):
        return jax.random.key(0)


def abstract(make, *args, **kwargs):
    """A layer without values, which `copy` or `drawn` bring, in no time."""
    return nnx.eval_shape(lambda: make(*args, rngs=_Key(), **kwargs))


def empty(name, **knobs):
    """An abstract network."""
    return abstract(models.build, config.Model(name=name, **knobs))


def drawn(module, seed=5):
    """An abstract module with values: signals keep about their size."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-2].key in ("scale", "var"):
            return rng.uniform(0.7, 1.2, leaf.shape)
        values = rng.normal(size=leaf.shape)
        if leaf.ndim == 1:
            return 0.2 * values
        return values * np.sqrt(2 * leaf.shape[-1] / leaf.size)

    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    values = jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(draw(path, leaf), leaf.dtype), state
    )
    nnx.update(module, values)
    return module


def run(module, *args):
    """What the module gives, as one program."""
    return train(module, *args)[0]


def forward(module, *args):
    """What the module gives in prediction, as one program."""
    return run(models.predicting(module), *args)


def train(module, *args):
    """What the module gives, and the module as it is then, as one program."""
    graph, state = nnx.split(module)
    found, state = _run(graph, state, *args)
    return found, nnx.merge(graph, state)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def _run(graph, state, *args):
    module = nnx.merge(graph, state)
    return module(*args), nnx.state(module)


def n_values(name, kinds=(nnx.Param, nnx.BatchStat), **knobs):
    """Number of weights and running statistics."""
    state = nnx.state(empty(name, **knobs), kinds)
    return sum(x.size for x in jax.tree.leaves(state))


def same_both_ways(ours, plain, *args, **tolerances):
    """Two functions have the same values and gradients, for every argument.

    Of a loss that weighs every output differently.
    """
    weight = normal(*jax.eval_shape(ours, *args).shape, seed=9)

    def both(f, *args):
        y, pull = jax.vjp(f, *args)
        return y, *pull(weight)

    found, wanted = jax.jit(
        lambda *args: (both(ours, *args), both(plain, *args)),
        compiler_options=FAST,
    )(*args)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, **tolerances)


# -------------------------------------------------------------------- draws
def image(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -------------------------------------------------------------------- Keras
@contextlib.contextmanager
def blank():
    """Layers that are built inside, or in what this decorates, have zeros."""

    def zeros(self, shape, dtype=None, **_):
        return np.zeros(shape, dtype)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("VarianceScaling", "Zeros", "Ones"):
            kind = getattr(keras.initializers, name)
            patch.setattr(kind, "__call__", zeros)
        yield


def expected(theirs, *args, training=False):
    """What a layer or model of Keras gives, as one program; and in training
    what it leaves behind, by path.
    """
    step = jax.jit(
        functools.partial(theirs.stateless_call, training=training),
        compiler_options=FAST,
    )
    variables = theirs.trainable_variables, theirs.non_trainable_variables
    values = ([v.value for v in some] for some in variables)
    found, left = step(*values, *args)
    if not training:
        return found
    return found, {
        v.path: value for v, value in zip(variables[1], left, strict=True)
    }


def trained(theirs, ours, x):
    """Logits in training of both, and the means and variances they leave."""
    found, after = train(ours, x)
    wanted, changed = expected(theirs, x, training=True)
    return found["classes"], wanted, after, changed


def beside(ours, x, *layers):
    """What our layer and Keras' layers give with the same random weights."""
    with blank():
        theirs = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    randomise(theirs)
    copy_in_order(theirs.layers, [ours])
    return run(ours, x), expected(theirs, x)


def randomise(source, seed=3, gain=1.5):
    """New weights for a Keras model: signals keep their size, statistics are
    those of no batch.
    """
    rng = np.random.default_rng(seed)
    for layer in source.layers:
        weights = []
        for variable in layer.weights:
            shape, kind = variable.shape, variable.path.split("/")[-1]
            if kind in ("gamma", "moving_variance"):
                weights.append(rng.uniform(0.7, 1.2, shape))
            elif len(shape) == 1:
                weights.append(rng.normal(0, 0.2, shape))
            else:
                scale = np.sqrt(gain / _fan(layer, kind, shape))
                weights.append(rng.normal(0, scale, shape))
        if weights:
            layer.set_weights(weights)


def _fan(layer, kind, shape):
    """How many values a pixel of the output is a sum of."""
    if isinstance(layer, L.Conv2DTranspose):
        return np.prod(shape[:2]) * shape[3] / np.prod(layer.strides)
    if "depthwise" in kind or isinstance(layer, L.DepthwiseConv2D):
        return np.prod(shape[:2])
    return np.prod(shape[:-1])


# ------------------------------------------------------------- from theirs
def copy(theirs, ours):
    """A Keras layer's weights into the variables that hold them here."""
    weights = [np.asarray(v.value) for v in theirs.weights]
    if isinstance(theirs, L.Conv2DTranspose):  # (.., out, in)
        weights[0] = weights[0].transpose(0, 1, 3, 2)
    for weight, variable in zip(weights, ours, strict=True):
        assert weight.size == variable.size, theirs.name
        # depthwise; 2x2 pixels as channels; a dense layer as a 1x1 convolution
        variable.set_value(jnp.asarray(weight.reshape(variable.shape)))


def copy_in_order(theirs, ours):
    """Layers with weights, of Keras and ours, in the order of the signal.

    Ours may be variables by themselves: a list.
    """
    with_weights = [layer for layer in theirs if layer.weights]
    for source, layer in zip(with_weights, ours, strict=True):
        copy(source, layer if isinstance(layer, list) else variables(layer))


def copy_encoder(source, encoder):
    """The layers of `source`, an encoder in Keras, by name.

    Keras numbers its shortcuts on and on, model after model.
    """
    layers = {layer.name: layer for layer in source.layers if layer.weights}
    ours = encoder.keras_layers()
    for kind in ("conv2d", "batch_normalization"):
        pattern = re.compile(rf"{kind}(_\d+)?")
        found, wanted = (
            sorted(filter(pattern.fullmatch, names), key=lambda n: (len(n), n))
            for names in (layers, ours)
        )
        for name, theirs in zip(wanted, found, strict=False):
            layers[name] = layers.pop(theirs)
    for name, weights in ours.items():
        copy(layers[name], weights)


def variables(layer):
    """The variables of a layer in Keras' order."""
    if hasattr(layer, "keras_weights"):
        return layer.keras_weights()
    names = ("kernel", "scale", "bias")
    found = (getattr(layer, name, None) for name in names)
    return [variable for variable in found if variable is not None]
